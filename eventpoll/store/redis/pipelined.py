"""The short way to one server: what many callers ask at a time goes out together, on one connection.

redis-py's own way gives each command a connection, a send and a wake-up of its own; on a poll that costs more than
the command. Here its connections are used as they are, without its pool: see bench/PROFILE.md for what that spares.
For gevent alone, where nobody else runs between two lines.
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
    """Commands to the server of a client, on a connection that is made when it is first needed."""

    def __init__(self, client: redis.Redis) -> None:
        self._pool = client.connection_pool
        self._line: Line | None = None
        self._opening: AsyncResult[Line] | None = None

    @staticmethod
    def serve(client: Any) -> bool:
        """Whether the client is of a kind that this is for: not a Cluster's, which asks more than one server, and not
        TLS, where what was read is not yet what was said."""
        return not isinstance(client, Cluster) and client.connection_pool.connection_class in KINDS

    def ask(self, *command: str | int | bytes) -> Any:
        """The reply to a command. Raises what redis-py raises."""
        (reply,) = self.ask_many([command])
        if isinstance(reply, Exception):
            raise reply
        return reply

    def ask_many(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to commands, in order; of one that the server refused, its error. Raises what redis-py raises
        where there is none, ConnectionError or TimeoutError: what was asked may have been done."""
        line = self._line
        if line is None or line.ended:
            line = self._open()
        return line.ask(commands)

    def _open(self) -> "Line":
        """A new connection; who wants one meanwhile waits for the same."""
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
    """One connection. What is asked in one turn of gevent's loop is sent at its end; the replies come in that order.

    Whatever else comes, or does not come in time, ends it: a reply must never be read for another's.
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
        """The replies to commands, errors among them. Raises ConnectionError, TimeoutError."""
        packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]
        asked = Asked(len(commands))
        if not self._packed and not self._unsent:
            self._loop.run_callback(self._send)
        self._packed += packed
        self._asked.append(asked)
        return asked.waiter.get()

    # -- called by the loop, which must not wait --------------------------------------------------------------------

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
                self._unsent[0] = self._unsent[0][sent:]  # a view: what is left is not copied at each piece
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
        if isinstance(reply, ReadOnlyError):  # no primary any more: another connection finds the one that is
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
    """Commands under way, and who waits for their replies."""

    __slots__ = ("replies", "since", "waiter", "wanted")

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.replies: list[Any] = []
        self.since = time.monotonic()
        self.waiter: Waiter[list[Any]] = Waiter()
