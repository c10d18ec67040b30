"""Held polls, and the wake-ups that end their wait.

A held poll is an entry in a dictionary and an event. It needs no Redis connection, and under gevent no thread.
Each process has one subscription, which receives a wake-up for every push and requeue on the streams with held polls.
A woken poll reads the store again, so a wake-up carries only the name of the stream.
"""

import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent import monkey

from eventpoll.store.errors import Unavailable
from eventpoll.store.redis.wakeups import FIRST_SECONDS, Subscription, pause

log = logging.getLogger(__name__)

SLICE_SECONDS = 0.5
"""Without gevent, a waiting thread checks at this interval, in seconds, whether its client is still connected."""


HUNG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
"""Poll flags of a connection whose client has closed it, also under TLS. The check reads no bytes."""

real_poll = monkey.get_original("select", "poll")  # not gevent's replacement, which would wait


class TooManyHeld(Exception):
    """The limit on held polls is reached. `where` is "stream" for one stream or "worker" for the whole worker."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where


class Hold:
    """One held poll."""

    __slots__ = ("_client", "_woken", "gone")

    def __init__(self, client: socket.socket | None) -> None:
        self._client = client
        self._woken = threading.Event()
        self.gone = False
        """True once the client has closed the connection. The service must not deliver SETs to it then."""

    def wake(self) -> None:
        """End the current wait, so that the poll reads the store again."""
        self._woken.set()

    def wait(self, seconds: float) -> None:
        """Wait until `wake` is called, the client closes the connection, or `seconds` have passed."""
        if self._client is None:
            self._woken.wait(seconds)
        elif monkey.is_module_patched("socket"):
            watcher = gevent.get_hub().loop.io(self._client.fileno(), 1)
            watcher.start(self._readable, watcher)
            try:
                self._woken.wait(seconds)
            finally:
                watcher.stop()
                watcher.close()
        else:
            deadline = time.monotonic() + seconds
            while not self._look() and (left := deadline - time.monotonic()) > 0:
                if self._woken.wait(min(left, SLICE_SECONDS)):
                    break
        self._woken.clear()
        self._look()

    def _readable(self, watcher: Any) -> None:
        watcher.stop()  # else a pipelined next request would call this again at each turn of the loop
        if self._look():
            self._woken.set()

    def _look(self) -> bool:
        if self._client is not None and not self.gone:
            poller = real_poll()
            poller.register(self._client.fileno(), HUNG_UP)
            self.gone = bool(poller.poll(0))
        return self.gone


class Waiting:
    """Registry of the held polls of this process."""

    def __init__(self, subscribe: Callable[[], Subscription], per_stream: int, per_worker: int) -> None:
        self._subscribe = subscribe
        self._per_stream = per_stream
        self._per_worker = per_worker
        self._holds: dict[str, set[Hold]] = {}
        self._held = 0
        self._lock = threading.Lock()
        self._subscription: Subscription | None = None
        self._listener: threading.Thread | None = None
        self.watch: Callable[[int, float | None], None] = lambda held, seconds: None
        """Called with (count, None) when a hold starts and (count, seconds held) when it ends."""
        self.closing = False
        """True while the process shuts down. New polls are then not held."""

    @contextmanager
    def held(self, tpp: str, client: socket.socket | None) -> Iterator[Hold]:
        """Register a held poll, yield its Hold, and remove it on exit.

        The first wait ends as soon as the subscription is active. The poll then reads the store again, and so finds
        SETs pushed before that moment. Raises TooManyHeld.
        """
        hold, begun = Hold(client), time.monotonic()
        self._enter(tpp, hold)
        try:
            self.watch(self._held, None)
            yield hold
        finally:
            self._leave(tpp, hold)
            self.watch(self._held, time.monotonic() - begun)

    def release(self) -> None:
        """Answer all held polls and hold no more, because the process is about to end."""
        self.closing = True
        self._wake(list(self._holds))

    def __len__(self) -> int:
        return self._held

    def _enter(self, tpp: str, hold: Hold) -> None:
        with self._lock:
            others = self._holds.get(tpp, ())
            if self._held >= self._per_worker:
                raise TooManyHeld("worker")
            if len(others) >= self._per_stream:
                raise TooManyHeld("stream")
            self._holds.setdefault(tpp, set()).add(hold)
            self._held += 1
            if self._listener is None:
                self._listener = threading.Thread(target=self._listen, name="eventpoll-wake", daemon=True)
                self._listener.start()
            elif others:
                hold.wake()  # the process is subscribed to this stream already
            else:
                self._tell(lambda subscription: subscription.listen([tpp]))

    def _leave(self, tpp: str, hold: Hold) -> None:
        with self._lock:
            self._held -= 1
            self._holds[tpp].discard(hold)
            if not self._holds[tpp]:
                del self._holds[tpp]
                self._tell(lambda subscription: subscription.leave(tpp))

    def _tell(self, what: Callable[[Subscription], None]) -> None:
        if self._subscription is not None:
            try:
                what(self._subscription)
            except Unavailable:
                pass  # the listener thread gets the same error and subscribes again

    def _wake(self, tpps: list[str]) -> None:
        for tpp in tpps:
            for hold in list(self._holds.get(tpp, ())):
                hold.wake()

    def _listen(self) -> None:
        seconds = FIRST_SECONDS
        while True:
            subscription = None
            try:
                subscription = self._subscribe()
                with self._lock:
                    self._subscription = subscription
                    subscription.listen(list(self._holds))
                while True:
                    if (tpp := subscription.heard()) is not None:
                        self._wake([tpp])
                    seconds = FIRST_SECONDS
            except Unavailable as error:
                log.warning("The wake-up subscription is down: %s", error)
            except Exception:  # any error: if the listener ended, no held poll would receive wake-ups
                log.exception("The wake-up subscription broke")
            with self._lock:
                self._subscription = None
            if subscription is not None:
                subscription.close()
            self._wake(list(self._holds))  # they read the store again, and find out whether it is available
            seconds = pause(seconds)
