"""The limit on a TPP's polls (EVENTPOLL_POLL_RATE), counted in the store."""

import logging
import math
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from limits import RateLimitItem
from limits.storage import RedisStorage
from limits.strategies import FixedWindowRateLimiter

from eventpoll.errors import Refused
from eventpoll.store.errors import errors
from eventpoll.store.store import Store

log = logging.getLogger(__name__)


class Counters(RedisStorage):
    """The counters of the library `limits`, on the store's own client.

    The library's constructor runs completely, because the library's error handling needs every attribute that it sets.
    The constructor opens no connection. Its client is replaced, because that client supports neither Cluster nor
    Sentinel and ignores our settings.
    """

    def __init__(self, client: Any) -> None:
        super().__init__("redis://", key_prefix="eventpoll:limits")
        self.storage = client
        self.initialize_storage("")

    def last(self, key: str, seconds: int) -> None:
        """Make a counter expire `seconds` from now."""
        self.storage.expire(self.prefixed_key(key), seconds)


@dataclass(frozen=True)
class Rate:
    """A limit on the polls of one TPP in a number of seconds. The store counts, so that all workers share the limit."""

    item: RateLimitItem
    store: Store

    @cached_property
    def counters(self) -> Counters:
        """Return the counters. Raises Unavailable.

        They are made on first use, because the nodes of a Cluster are only known then.
        """
        return Counters(self.store.redis)

    @cached_property
    def limiter(self) -> FixedWindowRateLimiter:
        """Return the limiter, which counts in fixed windows. Raises Unavailable."""
        return FixedWindowRateLimiter(self.counters)

    def count(self, tpp: str) -> dict[str, str]:
        """Count a poll, and return the RateLimit headers for its answer. Raises Refused (429), Unavailable."""
        with errors():
            let_in = self.limiter.hit(self.item, tpp)
            window = self.limiter.get_window_stats(self.item, tpp)
            reset = max(1, math.ceil(window.reset_time - time.time()))
            seconds = self.item.get_expiry()
            if reset > seconds + 1:  # the store's clock was set back: the window would last until it catches up
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
