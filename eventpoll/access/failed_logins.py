"""Delay the 401 for repeated wrong credentials of one address and name, and limit guesses of the bank's password."""

import ipaddress
import logging
import math
import threading
import time
from collections import OrderedDict

from eventpoll.errors import Refused

log = logging.getLogger(__name__)

FREE = 20
"""Failures of one address and name without consequence, for typing errors or a changed password."""

REMEMBERED = 10_000
"""Maximum number of pairs of address and name that a process remembers."""

FORGOTTEN_SECONDS = 300.0
MOST_SLOWED = 200
TOLD_SECONDS = 60.0
"""Minimum seconds between two log lines about refused logins."""

GUESSED = "too many wrong passwords came from this address: this one was not compared, try again later"


class Guesses:
    """Limits how often callers may guess the bank's password: FREE times at once, then once in `seconds`.

    A guess counts before the password is compared, so a caller that hangs up early learns no more than others. A right
    password takes its count back. Each process counts each pair of address and name separately, so that the bank's
    login needs no store.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        """Set the limit. One more guess is allowed every `seconds`; 0 turns the limit off."""
        self._seconds = seconds
        self._full_at: OrderedDict[tuple[str, str], float] = OrderedDict()  # when all FREE guesses are available again
        self._told = -math.inf
        self._lock = threading.Lock()

    def count(self, address: str, name: str) -> None:
        """Count a guess. Raises Refused (429) if the guess must not be compared; a refused guess does not count."""
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
        """Take back the count of one guess, because it was no failure."""
        key = (_network(address), name[:128])
        with self._lock:
            if key in self._full_at:
                self._full_at[key] -= self._seconds


class Slowing:
    """Delays the 401 for a wrong secret. The delay grows with the failures of one address and name.

    The delay protects the service from a client that repeats its mistake without a pause. It does not stop guessing,
    because a caller may hang up. A TPP's secret is safe through its 256 random bits, and Guesses limits guesses of the
    bank's password. Correct secrets never wait, so nobody can lock a TPP out. Each process counts for itself.
    """

    def __init__(self, longest: float = 0.0) -> None:
        self._longest = longest  # seconds
        self._failures: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()
        self._slowed = 0
        self._lock = threading.Lock()

    def failed(self, address: str, name: str) -> None:
        """Count a failure, then sleep for the delay of this address and name.

        At most MOST_SLOWED callers sleep at once. Further callers get no delay.
        """
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
    """Return the network that counts as one caller: an IPv4 address, or the /64 of an IPv6 address."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    return str(found.ipv4_mapped or ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))
