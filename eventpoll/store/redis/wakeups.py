"""Wake-ups from Redis for streams that have changed, through a subscription on one connection."""

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
"""After this time without a message, the subscription sends a PING to check its connection."""

FIRST_SECONDS, LONGEST_SECONDS = 0.1, 2.0
"""Shortest and longest pause before a new attempt to subscribe. Each pause doubles, and is shortened at random."""


def pause(seconds: float) -> float:
    """Sleep for 50 to 100 % of `seconds`, so that processes do not retry together. Return the next pause in seconds."""
    time.sleep(seconds * random.uniform(0.5, 1.0))  # noqa: S311
    return min(2 * seconds, LONGEST_SECONDS)


def subscribe_commands(name: str, tpps: Iterable[str], at_once: int = 1000) -> list[tuple[str, ...]]:
    """Return commands with up to `at_once` channels each. For a sharded command, all channels must be in one slot."""
    channels = [keys.wake(tpp) for tpp in tpps]
    return [(name, *channels[first : first + at_once]) for first in range(0, len(channels), at_once)]


class Subscription:
    """One connection on which Redis sends wake-ups for subscribed streams.

    Another thread may call `listen` and `leave` while one waits in `heard`.
    """

    def __init__(self, client: redis.Redis) -> None:
        with errors():
            self._connection = apart(client)
            self._connection.connect()

    def listen(self, tpps: Iterable[str]) -> None:
        """Subscribe to these streams. Each confirmation arrives as one wake-up of its stream."""
        self._send(*subscribe_commands("SUBSCRIBE", tpps))

    def leave(self, tpp: str) -> None:
        """Unsubscribe from this stream."""
        self._send(*subscribe_commands("UNSUBSCRIBE", [tpp]))

    def heard(self) -> str | None:
        """Wait for the next message. Return its TPP if it is a wake-up, else None. Raises Unavailable."""
        kind, tpp = self._read()
        return tpp if kind in (b"subscribe", b"message") else None

    def close(self) -> None:
        """Close the connection. A waiting `heard` raises Unavailable."""
        self._connection.disconnect()

    def _read(self) -> tuple[bytes, str]:
        """Return the kind and the TPP of the next message, both empty for a reply to PING."""
        with self._connected():
            if not self._connection.can_read(timeout=HEARTBEAT_SECONDS):
                self._connection.send_command("PING")  # the reply, or its absence, shows whether the connection works
            kind, channel, *_ = self._connection.read_response(disable_decoding=True)
        if not isinstance(channel, bytes) or b"{" not in channel:  # the reply to PING
            return b"", ""
        return kind, channel.split(b"{", 1)[1].split(b"}", 1)[0].decode()

    def _send(self, *commands: tuple[str, ...]) -> None:
        with self._connected():
            self._connection.send_packed_command(self._connection.pack_commands(commands))

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Raise Unavailable if the connection is closed. The driver would open another one without subscriptions."""
        if not self._connection.is_connected:
            raise Unavailable("the connection of the subscription is gone")
        with errors():
            yield
