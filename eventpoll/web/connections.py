"""Limits on clients: how long a connection may keep a worker waiting, and how many connections an address may have."""

import errno
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent

SLOWEST = 65_536
"""Bytes a second. A client that sends or takes this many on average may take longer than
EVENTPOLL_REQUEST_SECONDS."""

UNWANTED_BYTES = 17 * 1_048_576
"""Maximum bytes of a body that are read and discarded after its answer: the largest batch, with its chunks."""


class Pace:
    """The time for which a client has kept the worker waiting in one direction, and the time that is left.

    Our own work does not count, so that no client is late because the store is slow.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.moved, self.waited = 0, 0.0  # bytes, seconds

    def left(self) -> float:
        """Return the seconds for which the worker still waits; zero or less if the time is over."""
        return max(self.seconds, self.moved / SLOWEST) - self.waited


class Connection:
    """A client's socket. A client that is too slow looks to gunicorn like one that hung up.

    A request, headers and body, must arrive within `seconds`. It may take longer if SLOWEST bytes a second arrive on
    average, and no pause is as long as `seconds`. The time is for the whole request: no byte restarts it. The
    answer has the same time.
    """

    def __init__(self, sock: Any, seconds: float) -> None:
        self.socket, self.seconds = sock, seconds
        self.late = False
        self.begin()  # the time of the first request begins with the connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self.socket, name)

    def begin(self) -> None:
        """Start the time of a request now."""
        self.resting, self.coming, self.going = False, Pace(self.seconds), Pace(self.seconds)

    def rest(self) -> None:
        """Start the time of the next request with its first byte. The caller limits the wait for that byte."""
        self.resting = True

    def recv(self, size: int) -> bytes:
        """Return at most `size` bytes; none at the end of the connection, and none once the client is late."""
        if self.late:
            return b""
        piece: bytes | None = None
        if self.resting:
            piece = self.socket.recv(size)
            self.begin()
        else:
            began, seconds = time.monotonic(), min(self.seconds, self.coming.left())
            # gevent.Timeout, because a timeout of the socket would restart with each part of a TLS record.
            with gevent.Timeout(max(seconds, 0.0), False):  # type: ignore[arg-type]
                piece = self.socket.recv(size)
            self.coming.waited += time.monotonic() - began
            self.late = piece is None
        self.coming.moved += len(piece or b"")
        return piece or b""

    def sendall(self, data: bytes) -> None:
        """Send all of `data`. Raises ConnectionResetError if the client takes it too slowly."""
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
        """Read and discard the rest of a body, so that the client goes on to read its answer.

        Return whether the whole rest arrived, in fewer than UNWANTED_BYTES.
        """
        left = UNWANTED_BYTES
        try:
            while left > 0 and (piece := body.read(65_536)):
                left -= len(piece)
        except Exception:  # a chunk is malformed, or the connection broke off
            return False
        return left > 0


class TooMany(OSError):
    """An address already has as many connections as it may have."""


class Addresses:
    """Counts the connections of each address in this process.

    `most`: the connections that an address may have, 0 for any number. `is_proxy` returns whether an address is exempt.
    """

    def __init__(self, most: int, is_proxy: Callable[[str], bool]) -> None:
        self.most, self.is_proxy = most, is_proxy
        self.connections: Counter[str] = Counter()

    @contextmanager
    def one_more(self, addr: Any) -> Iterator[None]:
        """Count a connection for as long as the block runs.

        `addr`: the address as accept() returns it. Raises TooMany if the address has too many connections. A proxy may
        have any number, because it connects for many clients.
        """
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
    """Return the IP address in an address from accept() or getpeername(); an empty text for a Unix socket."""
    return str(unmapped(addr)[0]) if isinstance(addr, tuple) else ""


def unmapped(addr: Any) -> Any:
    """Return an address from accept(), without the ::ffff: of a peer that speaks IPv4 to an IPv6 socket."""
    if isinstance(addr, tuple) and addr[0].startswith("::ffff:") and "." in addr[0]:
        return addr[0].removeprefix("::ffff:"), addr[1]
    return addr
