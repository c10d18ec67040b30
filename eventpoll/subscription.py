"""The one connection of a process on which Redis says which streams have something new."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import redis

from eventpoll import keys
from eventpoll.connection import apart
from eventpoll.failures import Unavailable, errors

HEARTBEAT_SECONDS = 15.0
"""After so long without a word on the subscription, we ask whether the store is still there."""


class Subscription:
    """One connection on which Redis says which streams have something new. `listen` and `leave` are safe to
    call while another thread waits in `heard`."""

    def __init__(self, client: redis.Redis) -> None:
        with errors():
            self._connection = apart(client)
            self._connection.connect()

    def listen(self, tpps: Iterable[str]) -> None:
        """Hear of these streams from now on; that it is so is itself heard, once for each."""
        self._send("SUBSCRIBE", tpps)

    def leave(self, tpp: str) -> None:
        """No longer hear of this stream."""
        self._send("UNSUBSCRIBE", [tpp])

    def heard(self) -> str | None:
        """Wait for the next wake-up and say whose it is; None for what is not one. Raises Unavailable."""
        with self._connected():
            if not self._connection.can_read(timeout=HEARTBEAT_SECONDS):
                self._connection.send_command("PING")  # the answer, or the lack of it, shows a dead connection
            kind, channel, *_ = self._connection.read_response(disable_decoding=True)
        if kind not in (b"subscribe", b"message"):
            return None
        return str(channel.split(b"{", 1)[1].split(b"}", 1)[0].decode())

    def close(self) -> None:
        """Let go of the connection; a waiting `heard` raises."""
        self._connection.disconnect()

    def _send(self, command: str, tpps: Iterable[str]) -> None:
        channels = [keys.wake(tpp) for tpp in tpps]
        for first in range(0, len(channels), 1000):
            with self._connected():
                self._connection.send_command(command, *channels[first : first + 1000])

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Once the connection has gone it is not to be used: the driver would make another, which hears nothing."""
        if not self._connection.is_connected:
            raise Unavailable("the connection of the subscription is gone")
        with errors():
            yield
