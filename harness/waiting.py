"""Waiting for what is expected, and never for a time."""

import time
from collections.abc import Callable
from typing import Any


def wait_for(what: Callable[[], Any], seconds: float = 60.0, pause: float = 0.01) -> Any:
    """Return the first true answer of `what`. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := what():
            return answer
        time.sleep(pause)
    raise AssertionError(f"not within {seconds} s: {what}")


def early_in_the_hour() -> None:
    """Wait for the next hour if this one is nearly over, so that what is counted next is counted in one hour."""
    if (left := 3600 - time.time() % 3600) < 15:
        time.sleep(left + 0.1)
