"""Held polls, and what wakes them.

A held poll is an entry in a dictionary and an event: no connection, and under gevent no thread. One subscription
for the process hears of every push and requeue on the streams that it holds polls for. Whoever is woken polls
again; who wakes them needs to tell nothing more.
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
"""Without gevent a waiting thread looks so often whether its client is still there."""


HUNG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
"""What a connection shows when its client is gone, under TLS too; nothing of it is read."""

real_poll = monkey.get_original("select", "poll")  # gevent's own would wait


class TooManyHeld(Exception):
    """As many polls are held as may be: on the `stream`, or in the whole worker."""

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
        """Whether the client hung up. It must be handed nothing then."""

    def wake(self) -> None:
        """Let it look again."""
        self._woken.set()

    def wait(self, seconds: float) -> None:
        """Until woken, the client hangs up, or the time is over."""
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
        watcher.stop()  # a next request that is there early is no news again and again
        if self._look():
            self._woken.set()

    def _look(self) -> bool:
        if self._client is not None and not self.gone:
            poller = real_poll()
            poller.register(self._client.fileno(), HUNG_UP)
            self.gone = bool(poller.poll(0))
        return self.gone


class Waiting:
    """The held polls of this process."""

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
        """Told of each poll that begins or ends to be held: how many are, and for how long this one was, at its end."""
        self.closing = False
        """Whether the process is about to end: nothing is held any more."""

    @contextmanager
    def held(self, tpp: str, client: socket.socket | None) -> Iterator[Hold]:
        """A place among the held polls, freed on leaving. The first wait ends at once when pushes are heard:
        what was pushed before that is then found by looking again. Raises TooManyHeld."""
        hold, begun = Hold(client), time.monotonic()
        self._enter(tpp, hold)
        try:
            self.watch(self._held, None)
            yield hold
        finally:
            self._leave(tpp, hold)
            self.watch(self._held, time.monotonic() - begun)

    def release(self) -> None:
        """Let all held polls go with an answer, and hold no more: the process is about to end."""
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
                hold.wake()  # heard already
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
                pass  # the listener sees it too, and begins anew

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
            except Exception:  # whatever it is: a listener that ends leaves every poll deaf
                log.exception("The wake-up subscription broke")
            with self._lock:
                self._subscription = None
            if subscription is not None:
                subscription.close()
            self._wake(list(self._holds))  # they look for themselves, and see that the store is away
            seconds = pause(seconds)
