"""How often a TPP may poll (EVENTPOLL_POLL_RATE), and how often credentials may be guessed."""

import ipaddress
import logging
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

log = logging.getLogger(__name__)


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
"""Failures from one address under one name that have no consequence: typing errors, a password that has changed."""

REMEMBERED = 10_000
"""Pairs of address and name that are kept at most, in each process."""

FORGOTTEN_SECONDS = 300.0
MOST_SLOWED = 200
TOLD_SECONDS = 60.0
"""A line of the log about refused logins comes so often at most."""

GUESSED = "too many wrong passwords came from this address: this one was not compared, try again later"


class Guesses:
    """Limits how often the bank's password is guessed: FREE times at once, then once in so many seconds.

    A guess is counted before the password is compared, so whoever hangs up early learns no more than others. A right
    password takes its count back. Each pair of an address and a name is counted by itself, in each process: the
    bank's login needs no store.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        """`seconds`: after how many a further guess is free; 0 turns the limit off."""
        self._seconds = seconds
        self._full_at: OrderedDict[tuple[str, str], float] = OrderedDict()  # when all FREE guesses are free again
        self._told = -math.inf
        self._lock = threading.Lock()

    def count(self, address: str, name: str) -> None:
        """Count a guess. Raises Refused (429): this guess must not be compared; it does not count either."""
        if not self._seconds:
            return
        key, now = (_network(address), name[:128]), time.monotonic()
        with self._lock:
            until_full = max(0.0, self._full_at.get(key, now) - now)
            wait = until_full - (FREE - 1) * self._seconds
            if wait <= 0:
                self._full_at[key] = now + until_full + self._seconds
                self._full_at.move_to_end(key)
                while len(self._full_at) > REMEMBERED:
                    self._full_at.popitem(last=False)
                return
            tell = now - self._told >= TOLD_SECONDS
            self._told = now if tell else self._told
        if tell:
            log.warning(
                "Too many wrong passwords of %r came from %s: logins from there under this name get 429 for a while. "
                "If this is the address of your proxy, set EVENTPOLL_PROXY_HOPS.",
                name[:128],
                key[0],
            )
        raise Refused("too_many", GUESSED, headers={"Retry-After": str(math.ceil(wait))})

    def forgive(self, address: str, name: str) -> None:
        """Take a count back: it was no failure."""
        key = (_network(address), name[:128])
        with self._lock:
            if key in self._full_at:
                self._full_at[key] -= self._seconds


class Slowing:
    """Delays the 401 for a wrong secret, the more failures come from one address under one name the longer.

    The delay spares the service a client that repeats its mistake without a pause. It is no defence against guessing,
    as a caller may hang up: a TPP's secret has 256 random bits, and
    Guesses limits those at the bank's password. Right secrets never wait, so nobody can lock a TPP out.
    Counted in each process.
    """

    def __init__(self, longest: float = 0.0) -> None:
        self._longest = longest  # seconds
        self._failures: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()
        self._slowed = 0
        self._lock = threading.Lock()

    def failed(self, address: str, name: str) -> None:
        """Count a failure, and wait as long as it deserves."""
        delay = self._count(_network(address), name[:128])
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


def _network(address: str) -> str:
    """Return what one caller has of addresses: an IPv4 address, or the 64 bits that an IPv6 network begins with."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    return str(found.ipv4_mapped or ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))
