"""Guard against steps of the store's clock, so that no step makes a SET expire.

This module compares three times:

- The store's clock orders SETs and ends leases.
- This process's own clock must be near the store's. If it is not, nobody can know which of the two is wrong. The Lua
  commands then deliver and accept nothing (WrongClock).
- The watermark is the time that has certainly passed. It grows with the monotonic clock, which nobody can set. The
  store keeps it for processes that start later.

SETs expire, and ended jtis are forgotten, by the earlier of the store's clock and the watermark.

The store's clock is ahead of the watermark in two cases: someone set it forward, or no process of ours ran for a time.
Nothing distinguishes the two. So the watermark catches up once the clock has been ahead for as long as it is ahead.
After a step of 31 days, nothing expires because of the step for 31 days.
After a stop of six hours, SETs expire up to six hours late.
"""

import logging
import math
import time
from dataclasses import dataclass
from threading import Thread
from typing import Any

import redis

from eventpoll.store import keys
from eventpoll.store.errors import Unavailable, WrongClock, errors
from eventpoll.store.records import LANE
from eventpoll.store.redis.connection import node_of, nodes

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
"""Interval, in seconds, at which a process compares the clocks. In between, it uses its monotonic clock."""

RETRY_SECONDS = 5.0
SLACK_SECONDS = 1.0
"""Seconds by which two clocks may drift apart between two comparisons. A larger difference means that one was set."""

WATERMARK, AHEAD_SINCE = b"watermark", b"ahead_since"
"""Members of the sorted set keys.CLOCK; their scores are milliseconds."""


NEVER = 10**13
"""Milliseconds, about three hundred years."""


@dataclass(frozen=True)
class Known:
    """Result of a comparison, in seconds: the watermark `mark` at the monotonic time `at`.

    `skew` is how far our clock was ahead of the store's.
    """

    mark: float
    at: float
    skew: float

    def watermark(self) -> float:
        """Return the current watermark: `mark` plus the monotonic time since then."""
        return self.mark + time.monotonic() - self.at


class Clock:
    """Compares the store's clock with ours. `most` is the largest allowed difference, in seconds.

    `ahead` is how far the store's clock was ahead of the watermark at the last comparison, in seconds.
    """

    def __init__(self, client: redis.Redis, most: float) -> None:
        self.most = most
        self.ahead = 0.0
        self._client = client
        self._known: Known | None = None
        self._next_look = -math.inf

    def ours(self) -> tuple[int, int]:
        """Return our clock and the largest allowed difference, both in seconds, for the Lua commands to compare."""
        return round(time.time()), round(self.most)

    def late(self) -> int:
        """Return by how many milliseconds the clocks are ahead of the watermark. SETs expire later by this much.

        The first call reads the store's clock. Later comparisons run in a thread, so that no caller waits for one.
        Until a first comparison succeeds, nothing expires.
        """
        now = time.monotonic()
        if now >= self._next_look:
            first = self._next_look < 0
            self._next_look = now + RETRY_SECONDS  # keeps other callers from starting the same comparison
            if first:
                self.look()
            else:
                Thread(target=self.look, name="eventpoll-clock", daemon=True).start()
        if self._known is None:
            return NEVER
        # Use our own clock: if both clocks were just set, no comparison has seen the store's new time yet.
        ahead = time.time() - self._known.skew - self._known.watermark()
        return round(ahead * 1000) if ahead > SLACK_SECONDS else 0

    def look(self) -> None:
        """Compare the clocks and save the watermark. Never raises Unavailable: without a watermark nothing expires."""
        try:
            clock, kept = self._ask()
            if abs(clock - time.time()) > self.most:
                return  # the next comparison follows after RETRY_SECONDS
            self._compare(clock, kept.get(WATERMARK), kept.get(AHEAD_SINCE))
        except Unavailable as error:
            log.debug("The store's clock could not be looked at: %s", error)
        else:
            self._next_look = time.monotonic() + LOOK_SECONDS

    def check(self) -> None:
        """Raise WrongClock unless the clock of each server that stores streams is near ours. Raises Unavailable."""
        for server in _servers(self._client):
            asked = time.time()
            with errors():
                told = _seconds(server.time())
            if mistake := self.mistake(told, distance(told, asked, time.time())):
                raise WrongClock(mistake)

    def mistake(self, clock: float, skew: float) -> str | None:
        """Return an error text if a server's `clock`, `skew` seconds ahead of ours, is wrong, else None."""
        if clock * 1_000_000 >= LANE:
            return "the store's clock is past May 2041, which its order of SETs cannot hold: set it right"
        if abs(skew) > self.most:
            return (
                f"the store's clock is {skew:+.0f} s from this machine's, more than EVENTPOLL_MAX_CLOCK_SKEW_SECONDS"
                f" ({self.most:g}): set the one that is wrong; until then polls and pushes get 503"
            )
        return None

    def _ask(self) -> tuple[float, dict[bytes, float]]:
        with errors():
            pipeline = node_of(self._client, keys.CLOCK).pipeline(transaction=False)
            pipeline.time()
            pipeline.zrange(keys.CLOCK, 0, -1, withscores=True)
            told, kept = pipeline.execute()
        return _seconds(told), {member: score / 1000 for member, score in kept}

    def _compare(self, clock: float, kept: float | None, since: float | None) -> None:
        marks = [] if kept is None else [kept]
        if self._known is not None:
            marks.append(self._known.watermark())
        mark = max(marks, default=clock)
        self.ahead = clock - mark
        at_start = self._known is None and self.ahead <= self.most  # stopped so briefly that the clock may be right
        if self.ahead <= SLACK_SECONDS or at_start or (since is not None and mark - since >= self.ahead):
            mark, self.ahead = clock, 0.0
        self._known = Known(mark, time.monotonic(), time.time() - clock)
        self._keep(mark, kept, since)

    def _keep(self, mark: float, kept: float | None, since: float | None) -> None:
        found: dict[bytes, float] = {}
        if kept is None or mark < kept - SLACK_SECONDS or mark > kept + LOOK_SECONDS / 2:
            found[WATERMARK] = round(mark * 1000)
        if self.ahead and since is None:
            found[AHEAD_SINCE] = round(mark * 1000)
            log.warning(
                "The store's clock is %.0f s ahead of the time that has passed while we looked. For as long SETs expire"
                " by that time. If the clock is wrong, set it right before.",
                self.ahead,
            )
        with errors():
            if found:
                self._client.zadd(keys.CLOCK, found)
            if since is not None and not self.ahead:
                self._client.zrem(keys.CLOCK, AHEAD_SINCE)


def distance(told: float, asked: float, answered: float) -> float:
    """Return the least number of seconds by which the other clock is ahead of ours.

    `told` is the other clock's time, read between our times `asked` and `answered`. A slow answer adds no distance.
    """
    return told - min(max(told, asked), answered)


def _servers(client: redis.Redis) -> list[redis.Redis]:
    with errors():
        return nodes(client)


def _seconds(told: Any) -> float:
    seconds, micros = told
    return int(seconds) + int(micros) / 1e6
