"""How often a TPP may poll (EVENTPOLL_POLL_RATE), and how slowly a wrong password is told."""

import math
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from limits import RateLimitItem
from limits.storage import RedisStorage
from limits.strategies import FixedWindowRateLimiter

from eventpoll.errors import Refused
from eventpoll.failures import errors
from eventpoll.store import Store


class Counters(RedisStorage):
    """The counters of limits, on the store's own client."""

    def __init__(self, client: Any) -> None:
        super(RedisStorage, self).__init__()
        self.key_prefix = "eventpoll:limits"
        self.storage = client
        self.initialize_storage("")

    def last(self, key: str, seconds: int) -> None:
        """Let a counter last so many seconds from now."""
        self.storage.expire(self.prefixed_key(key), seconds)


@dataclass(frozen=True)
class Rate:
    """So many polls of one TPP in so many seconds, counted in the store, so over all workers."""

    item: RateLimitItem
    store: Store

    @cached_property
    def counters(self) -> Counters:
        """Made when first asked, as a Cluster's nodes are only known then. Raises Unavailable."""
        return Counters(self.store.redis)

    @cached_property
    def limiter(self) -> FixedWindowRateLimiter:
        """What counts. Raises Unavailable."""
        return FixedWindowRateLimiter(self.counters)

    def count(self, tpp: str) -> dict[str, str]:
        """Count a poll: the RateLimit headers to answer with. Raises Refused (429), Unavailable."""
        with errors():
            let_in = self.limiter.hit(self.item, tpp)
            window = self.limiter.get_window_stats(self.item, tpp)
            reset = max(1, math.ceil(window.reset_time - time.time()))
            seconds = self.item.get_expiry()
            if reset > seconds + 1:  # the store's clock was set back: the window would last until it has caught up
                self.counters.last(self.item.key_for(tpp), seconds)
                reset = seconds
        headers = {
            "RateLimit-Policy": f'"poll";q={self.item.amount};w={seconds}',
            "RateLimit": f'"poll";r={max(0, window.remaining)};t={reset}',
        }
        if let_in:
            return headers
        raise Refused(
            "too_many",
            f"more than {self.item.amount} polls in {seconds} s: nothing of this one took effect",
            headers={**headers, "Retry-After": str(reset)},
        )


FREE = 20
REMEMBERED = 10_000
FORGOTTEN_SECONDS = 300.0
MOST_SLOWED = 200


class Slowing:
    """Wrong credentials are told more slowly the more come from one address under one name. Right ones never wait:
    nobody can lock a TPP out. Counted in each process."""

    def __init__(self, longest: float = 0.0) -> None:
        self._longest = longest  # seconds
        self._failures: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()
        self._slowed = 0
        self._lock = threading.Lock()

    def failed(self, address: str, name: str) -> None:
        """Count a failure, and wait as long as it deserves."""
        delay = self._count(address, name[:128])
        if delay and self._slowed < MOST_SLOWED:
            self._slowed += 1
            try:
                time.sleep(delay)
            finally:
                self._slowed -= 1

    def _count(self, address: str, name: str) -> float:
        now = time.monotonic()
        with self._lock:
            count, last = self._failures.pop((address, name), (0, now))
            count = 1 if now - last > FORGOTTEN_SECONDS else count + 1
            self._failures[address, name] = (count, now)
            while len(self._failures) > REMEMBERED:
                self._failures.popitem(last=False)
        return min(self._longest, 0.05 * 2.0 ** min(count - FREE, 10)) if count > FREE else 0.0
