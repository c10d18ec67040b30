"""The connections of clients: how long one may keep a worker waiting, and how many an address may have."""

import errno
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent

SLOWEST = 65_536
"""Bytes a second. Who sends or takes so many on average has longer than EVENTPOLL_REQUEST_SECONDS."""

UNWANTED_BYTES = 17 * 1_048_576
"""How much of a body is thrown away after its answer: a batch of the largest size, with its chunks."""


class Pace:
    """How long a client has kept the worker waiting in one direction, and how long it still may.

    The time of our own work does not count: no client is late because the store is slow.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.moved, self.waited = 0, 0.0  # bytes, seconds

    def left(self) -> float:
        """Seconds for which the worker still waits."""
        return max(self.seconds, self.moved / SLOWEST) - self.waited


class Connection:
    """A client's socket. To gunicorn, a client that is too slow is one that hung up.

    A request, headers and body, comes within `seconds`, or at SLOWEST bytes a second and without a pause of `seconds`.
    The time is that of the whole request: a byte renews nothing. The answer has the same time.
    """

    def __init__(self, sock: Any, seconds: float) -> None:
        self.socket, self.seconds = sock, seconds
        self.late = False
        self.begin()  # who connects has something to ask

    def __getattr__(self, name: str) -> Any:
        return getattr(self.socket, name)

    def begin(self) -> None:
        """Have the time of a request begin now."""
        self.resting, self.coming, self.going = False, Pace(self.seconds), Pace(self.seconds)

    def rest(self) -> None:
        """Have the time of the next request begin with its first byte. The caller limits the wait for that byte."""
        self.resting = True

    def recv(self, size: int) -> bytes:
        """Return the next bytes; none at the end, and none once the client is late."""
        if self.late:
            return b""
        piece: bytes | None = None
        if self.resting:
            piece = self.socket.recv(size)
            self.begin()
        else:
            began, seconds = time.monotonic(), min(self.seconds, self.coming.left())
            # gevent.Timeout, as a timeout of the socket's would begin anew with each part of a TLS record.
            with gevent.Timeout(max(seconds, 0.0), False):  # type: ignore[arg-type]
                piece = self.socket.recv(size)
            self.coming.waited += time.monotonic() - began
            self.late = piece is None
        self.coming.moved += len(piece or b"")
        return piece or b""

    def sendall(self, data: bytes) -> None:
        """Send all of it. Raises ConnectionResetError where the client takes it too slowly."""
        began = time.monotonic()
        self.going.moved += len(data)
        self.socket.settimeout(max(self.going.left(), 0.001))
        try:
            self.socket.sendall(data)
        except TimeoutError:
            raise ConnectionResetError(errno.ECONNRESET, "the client does not take its answer") from None
        finally:
            self.going.waited += time.monotonic() - began
            self.socket.settimeout(None)

    def drained(self, body: Any) -> bool:
        """Read what is left of a body, so that its client comes to the answer; return whether all of it came."""
        left = UNWANTED_BYTES
        try:
            while left > 0 and (piece := body.read(65_536)):
                left -= len(piece)
        except Exception:  # a chunk is none, or the connection broke off
            return False
        return left > 0


class TooMany(OSError):
    """An address has as many connections as it may have."""


class Addresses:
    """How many connections each address has in this process; `most` is how many it may have, 0 for any number."""

    def __init__(self, most: int, is_proxy: Callable[[str], bool]) -> None:
        self.most, self.is_proxy = most, is_proxy
        self.connections: Counter[str] = Counter()

    @contextmanager
    def one_more(self, addr: Any) -> Iterator[None]:
        """Count a connection while it lasts; `addr` is as accept() returns it. Raises TooMany, but not for a proxy:
        it speaks for many."""
        address = address_of(addr)
        self.connections[address] += 1
        try:
            if self.most and self.connections[address] > self.most and not self.is_proxy(address):
                raise TooMany("too many connections")
            yield
        finally:
            self.connections[address] -= 1
            if not self.connections[address]:
                del self.connections[address]


def address_of(addr: Any) -> str:
    """The address in what accept() returns; empty for a Unix socket."""
    return str(addr[0]) if isinstance(addr, tuple) else ""
