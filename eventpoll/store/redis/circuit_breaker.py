"""Circuit breaker: fail fast while Redis does not answer."""

import random
import time
from types import TracebackType

import redis

FAILURES = 3
FIRST_SECONDS, LONGEST_SECONDS = 0.1, 2.0


class StillAway(redis.ConnectionError):
    """Redis timed out a moment ago, so this command was not sent."""


class Circuit:
    """Context manager around every call of `Commands`. Raises StillAway while the circuit is open.

    Three timeouts in a row open the circuit. Then one caller at a time tries again after a pause, and all others fail
    at once. The pause doubles from 0.1 to 2 s and varies at random, so that processes do not retry together.
    The first answer closes the circuit. Immediate errors, refused connections included, do not open it.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._next_try = 0.0  # monotonic seconds

    def __enter__(self) -> None:
        if self._failures >= FAILURES:
            now = time.monotonic()
            if now < self._next_try:
                raise StillAway("the store said nothing a moment ago")
            self._next_try = now + self._pause()  # callers that arrive during this try fail at once

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, redis.TimeoutError) or isinstance(getattr(error, "__cause__", None), redis.TimeoutError):
            self._failures += 1
            self._next_try = time.monotonic() + self._pause()
        elif not isinstance(error, StillAway):
            self._failures = 0

    def _pause(self) -> float:
        longest = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(self._failures - FAILURES, 10))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311
