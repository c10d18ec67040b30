"""The short way to one server: a command and its reply, on connections kept for that alone.

redis-py's own way serves every command and every kind of server; on a poll, most of what it does is for others. Here
are its connections without its pool, its retries and its measurements: see bench/PROFILE.md for what that spares.
"""

import select
from collections import deque
from typing import Any

import redis
from gevent import monkey
from redis.sentinel import SentinelManagedConnection

from eventpoll.connection import Cluster, EmbeddedConnection

KINDS = (redis.Connection, redis.UnixDomainSocketConnection, EmbeddedConnection, SentinelManagedConnection)

KEPT = 32
"""Connections that are kept; who finds none free goes the ordinary way, and waits there."""

ANYTHING = select.POLLIN | getattr(select, "POLLRDHUP", 0)

real_poll = monkey.get_original("select", "poll")  # gevent's own would wait


class RoundTrips:
    """Commands to the server of a client, each answered before its connection serves another."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._pool = client.connection_pool
        self._idle: deque[Any] = deque([None] * KEPT)

    @staticmethod
    def serve(client: Any) -> bool:
        """Whether the client is of a kind that this is for: not a Cluster's, which asks more than one server, and not
        TLS, where a quiet connection may have something to read."""
        return not isinstance(client, Cluster) and client.connection_pool.connection_class in KINDS

    def ask(self, *command: str | int | bytes) -> Any:
        """The reply to a command, as redis-py reads it. Raises what redis-py raises."""
        try:
            connection = self._idle.pop()
        except IndexError:
            return self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        try:
            if connection is None:
                connection = self._pool.connection_class(**self._pool.connection_kwargs)
                connection.connect()
            elif not _is_quiet(connection):  # the server closed it
                connection.disconnect()
                connection.connect()
            connection.send_packed_command(connection.pack_command(*command), check_health=False)
            reply = connection.read_response()
        except redis.ResponseError:  # a reply as good as any
            self._idle.append(connection)
            raise
        except BaseException:  # the reply may still come: nobody else must read it for his own
            if connection is not None:
                connection.disconnect()
            self._idle.append(None)
            raise
        self._idle.append(connection)
        return reply

    def close(self) -> None:
        """Let go of the connections that serve nobody at the moment."""
        for place, connection in enumerate(self._idle):
            if connection is not None:
                connection.disconnect()
                self._idle[place] = None


def _is_quiet(connection: Any) -> bool:
    poller = real_poll()
    poller.register(connection._sock.fileno(), ANYTHING)
    return not poller.poll(0)
