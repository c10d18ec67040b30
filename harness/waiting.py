"""Wait for a condition, never for a fixed time."""

import time
from collections.abc import Callable
from typing import Any


def wait_for(what: Callable[[], Any], seconds: float = 60.0, pause: float = 0.01) -> Any:
    """Call `what` every `pause` seconds, and return its first true answer. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := what():
            return answer
        time.sleep(pause)
    raise AssertionError(f"not within {seconds} s: {what}")


def early_in_the_hour() -> None:
    """Wait for the next hour if this hour is nearly over, so that the next counts fall into one hour."""
    if (left := 3600 - time.time() % 3600) < 15:
        time.sleep(left + 0.1)
