"""How a process hears from Redis which streams have something new: a subscription on one connection."""

import logging
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import redis

from eventpoll.store import keys
from eventpoll.store.errors import Unavailable, errors
from eventpoll.store.redis.connection import apart

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0
"""After so long without a word on the subscription, we ask whether the store is still there."""

FIRST_SECONDS, LONGEST_SECONDS = 0.1, 2.0
"""The pauses before what is no longer heard is asked for anew: each twice the one before, each a little shortened."""


def pause(seconds: float) -> float:
    """Sleep so long, or up to half of it less, that not all processes come back at one moment; the next pause."""
    time.sleep(seconds * random.uniform(0.5, 1.0))  # noqa: S311
    return min(2 * seconds, LONGEST_SECONDS)


def subscribe_commands(name: str, tpps: Iterable[str], at_once: int = 1000) -> list[tuple[str, ...]]:
    """A command for so many streams at a time; of one that is sharded all must lie in one slot."""
    channels = [keys.wake(tpp) for tpp in tpps]
    return [(name, *channels[first : first + at_once]) for first in range(0, len(channels), at_once)]


class Subscription:
    """One connection on which Redis says which streams have something new. `listen` and `leave` are safe to
    call while another thread waits in `heard`."""

    def __init__(self, client: redis.Redis) -> None:
        with errors():
            self._connection = apart(client)
            self._connection.connect()

    def listen(self, tpps: Iterable[str]) -> None:
        """Hear of these streams from now on; that it is so is itself heard, once for each."""
        self._send(*subscribe_commands("SUBSCRIBE", tpps))

    def leave(self, tpp: str) -> None:
        """No longer hear of this stream."""
        self._send(*subscribe_commands("UNSUBSCRIBE", [tpp]))

    def heard(self) -> str | None:
        """Wait for the next wake-up and say whose it is; None for what is not one. Raises Unavailable."""
        kind, tpp = self._read()
        return tpp if kind in (b"subscribe", b"message") else None

    def close(self) -> None:
        """Let go of the connection; a waiting `heard` raises."""
        self._connection.disconnect()

    def _read(self) -> tuple[bytes, str]:
        """What comes next: its kind, and the stream that it is about, if it is about one."""
        with self._connected():
            if not self._connection.can_read(timeout=HEARTBEAT_SECONDS):
                self._connection.send_command("PING")  # the answer, or the lack of it, shows a dead connection
            kind, channel, *_ = self._connection.read_response(disable_decoding=True)
        if not isinstance(channel, bytes) or b"{" not in channel:  # the answer to PING
            return b"", ""
        return kind, channel.split(b"{", 1)[1].split(b"}", 1)[0].decode()

    def _send(self, *commands: tuple[str, ...]) -> None:
        with self._connected():
            self._connection.send_packed_command(self._connection.pack_commands(commands))

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Once the connection has gone it is not to be used: the driver would make another, which hears nothing."""
        if not self._connection.is_connected:
            raise Unavailable("the connection of the subscription is gone")
        with errors():
            yield
