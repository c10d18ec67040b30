"""Pipelined commands to one server: concurrent callers share one connection, and their commands are sent together.

redis-py uses a connection, a send and a wake-up for each command. On a poll that costs more than the command itself.
This module uses redis-py's connections without its pool; bench/PROFILE.md shows the savings.
It works under gevent only, where no other greenlet runs between two lines.
"""

import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import gevent
import hiredis
import redis
from gevent.event import AsyncResult
from gevent.hub import Waiter
from redis.exceptions import InvalidResponse, ReadOnlyError
from redis.sentinel import SentinelManagedConnection

from eventpoll.store.redis.cluster import Cluster
from eventpoll.store.redis.connection import EmbeddedConnection

KINDS = (redis.Connection, redis.UnixDomainSocketConnection, EmbeddedConnection, SentinelManagedConnection)
READ_BYTES = 262_144
READABLE, WRITABLE = 1, 2

Command = tuple[str | int | bytes, ...]


class RoundTrips:
    """Sends commands to the server of a client, over a connection that opens at first use."""

    def __init__(self, client: redis.Redis) -> None:
        self._pool = client.connection_pool
        self._line: Line | None = None
        self._opening: AsyncResult[Line] | None = None

    @staticmethod
    def serve(client: Any) -> bool:
        """Return True if this class supports the client.

        A Cluster is unsupported, because it has more than one server. TLS is unsupported, because decrypted bytes may
        wait in the SSL buffer while the socket looks idle.
        """
        return not isinstance(client, Cluster) and client.connection_pool.connection_class in KINDS

    def ask(self, *command: str | int | bytes) -> Any:
        """Return the reply to a command. Raises the exceptions of redis-py."""
        (reply,) = self.ask_many([command])
        if isinstance(reply, Exception):
            raise reply
        return reply

    def ask_many(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to commands in order. If the server refuses a command, its reply is the error.

        Without a reply, raises redis-py's ConnectionError or TimeoutError; the commands may have run.
        """
        line = self._line
        if line is None or line.ended:
            line = self._open()
        return line.ask(commands)

    def _open(self) -> "Line":
        """Open a connection and return it. Concurrent callers wait for the same one."""
        if self._opening is not None:
            return cast(Line, self._opening.get())
        opening: AsyncResult[Line] = AsyncResult()
        self._opening = opening
        try:
            connection = self._pool.connection_class(**self._pool.connection_kwargs)
            connection.connect()
            self._line = line = Line(connection)
        except BaseException as error:
            opening.set_exception(error if isinstance(error, Exception) else redis.ConnectionError("given up"))
            raise
        finally:
            self._opening = None
        opening.set(line)
        return line


class Line:
    """One connection. It sends the commands of one turn of gevent's loop together at its end. Replies arrive in order.

    Any protocol error or timeout closes the connection, so that no reply can be matched to the wrong command.
    """

    def __init__(self, connection: Any) -> None:
        self.ended = False
        self._connection = connection
        self._file = connection._sock.fileno()
        os.set_blocking(self._file, False)
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=connection._parser.parse_error)
        self._buffer = bytearray(READ_BYTES)
        self._asked: deque[Asked] = deque()
        self._unsent: deque[memoryview] = deque()
        self._packed: list[bytes] = []
        self._heard = 0.0  # monotonic seconds
        self._loop = gevent.get_hub().loop
        self._readable = self._loop.io(self._file, READABLE)
        self._writable = self._loop.io(self._file, WRITABLE)
        self._clock = self._loop.timer(connection.socket_timeout / 5, connection.socket_timeout / 5, ref=False)
        self._readable.start(self._read)
        self._clock.start(self._look)

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to commands, errors included. Raises ConnectionError, TimeoutError."""
        packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]
        asked = Asked(len(commands))
        if not self._packed and not self._unsent:
            self._loop.run_callback(self._send)
        self._packed += packed
        self._asked.append(asked)
        return asked.waiter.get()

    # -- callbacks of the loop, which must not block ----------------------------------------------------------------

    def _send(self) -> None:
        if self.ended:
            return
        if self._packed:
            self._unsent.append(memoryview(b"".join(self._packed)))
            self._packed.clear()
        self._writable.stop()
        while self._unsent:
            try:
                sent = os.write(self._file, self._unsent[0])
            except BlockingIOError:
                self._writable.start(self._send)
                return
            except OSError as error:
                self._end(redis.ConnectionError, f"cannot be written to: {error.strerror}")
                return
            if sent < len(self._unsent[0]):
                self._unsent[0] = self._unsent[0][sent:]  # a memoryview, so that the rest is not copied at each send
            else:
                self._unsent.popleft()

    def _read(self) -> None:
        try:
            count = os.readv(self._file, [self._buffer])
        except BlockingIOError:
            return
        except OSError as error:
            self._end(redis.ConnectionError, f"cannot be read from: {error.strerror}")
            return
        if not count:
            self._end(redis.ConnectionError, "closed by the server")
            return
        self._heard = time.monotonic()
        self._reader.feed(self._buffer, 0, count)  # type: ignore[arg-type]
        while not self.ended:
            try:
                reply = self._reader.gets()
            except InvalidResponse:
                self._end(redis.ConnectionError, "says what is no reply")
                return
            if reply is False:
                return
            self._hand(reply)

    def _hand(self, reply: Any) -> None:
        if not self._asked:
            self._end(redis.ConnectionError, "says what was not asked")
            return
        asked = self._asked[0]
        asked.replies.append(reply)
        whole = len(asked.replies) == asked.wanted
        if whole:
            self._asked.popleft()
        if isinstance(reply, ReadOnlyError):  # this server is now a replica: a new connection finds the primary
            self._end(redis.ConnectionError, "leads to a replica")
        if whole:
            asked.waiter.switch(asked.replies)

    def _look(self) -> None:
        timeout = self._connection.socket_timeout
        if self._asked and max(self._asked[0].since, self._heard) + timeout < time.monotonic():
            self._end(redis.TimeoutError, "said nothing for too long")

    def _end(self, kind: type[redis.RedisError], what: str) -> None:
        if self.ended:
            return
        self.ended = True
        for watcher in (self._readable, self._writable, self._clock):
            watcher.stop()
            watcher.close()
        self._connection.disconnect()
        while self._asked:
            self._asked.popleft().waiter.throw(kind(f"the connection {what}"))


class Asked:
    """Commands in flight, and the waiter for their replies."""

    __slots__ = ("replies", "since", "waiter", "wanted")

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.replies: list[Any] = []
        self.since = time.monotonic()
        self.waiter: Waiter[list[Any]] = Waiter()
