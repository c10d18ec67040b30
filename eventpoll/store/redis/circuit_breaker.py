"""What spares callers the wait for a store that says nothing."""

import random
import time
from types import TracebackType

import redis

FAILURES = 3
FIRST_SECONDS, LONGEST_SECONDS = 0.1, 2.0


class StillAway(redis.ConnectionError):
    """The store said nothing a moment ago: it is not asked again yet."""


class Circuit:
    """Around every Lua command. After three in a row that timed out it lets one caller try at a time, after a pause
    that doubles from 0.1 to 2 s, each pause a little other than that of the next process; the rest are told at once.
    The first answer ends it. A store that refuses, be it the connection, costs nobody a wait, and is asked each time.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._next_try = 0.0  # monotonic seconds

    def __enter__(self) -> None:
        if self._failures >= FAILURES:
            now = time.monotonic()
            if now < self._next_try:
                raise StillAway("the store said nothing a moment ago")
            self._next_try = now + self._pause()  # who comes while this one tries is not let in

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, redis.TimeoutError) or isinstance(getattr(error, "__cause__", None), redis.TimeoutError):
            self._failures += 1
            self._next_try = time.monotonic() + self._pause()
        elif not isinstance(error, StillAway):
            self._failures = 0

    def _pause(self) -> float:
        longest = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(self._failures - FAILURES, 10))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311
