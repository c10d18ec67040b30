"""How far the store's clock can be trusted, so that no step of it takes a SET away.

Three times are compared. The store's clock orders SETs and ends leases. This process's own clock must be near it: if
it is not, nobody can say which of the two is wrong, and the Lua commands give and take nothing (WrongClock). The
watermark says how much time has surely passed: it grows with the monotonic clock, which nobody can set, and is kept
in the store for processes that start later. SETs expire, and ended jtis are forgotten, by the earlier of the store's
clock and the watermark.

The store's clock is ahead of the watermark after it was set forward, and after a time in which no process of ours
ran. Nothing tells these two apart. So the watermark follows as soon as the clock has been ahead for as long as it is
ahead: nothing expires by a step of 31 days for 31 days, and after a stop of six hours SETs expire up to six hours late.
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
"""How often a process compares the clocks, beside its calls. In between, its monotonic clock tells the time."""

RETRY_SECONDS = 5.0
SLACK_SECONDS = 1.0
"""What two clocks may differ by from one look to the next without one of them being set."""

WATERMARK, AHEAD_SINCE = b"watermark", b"ahead_since"
"""Members of the sorted set keys.CLOCK; their scores are milliseconds."""


NEVER = 10**13
"""Milliseconds: some three hundred years."""


@dataclass(frozen=True)
class Known:
    """What a look found out: the watermark `mark` at the monotonic time `at`, and how far our clock was ahead of the
    store's."""

    mark: float
    at: float
    skew: float

    def watermark(self) -> float:
        """Return the watermark of now: time has passed since."""
        return self.mark + time.monotonic() - self.at


class Clock:
    """The store's clock beside ours. `most` is how far they may differ, in seconds; `ahead` how far the store's clock
    was ahead of the watermark when it was last looked at."""

    def __init__(self, client: redis.Redis, most: float) -> None:
        self.most = most
        self.ahead = 0.0
        self._client = client
        self._known: Known | None = None
        self._next_look = -math.inf

    def ours(self) -> tuple[int, int]:
        """Return what the Lua commands compare: our clock, and how near the store's must be, in seconds."""
        return round(time.time()), round(self.most)

    def late(self) -> int:
        """Return by how many milliseconds the clocks are ahead of the watermark: SETs expire so much later.

        The first call looks at the store's clock. Later looks are made beside the callers: none waits for one. As
        long as the store could not be asked, nothing expires.
        """
        now = time.monotonic()
        if now >= self._next_look:
            first = self._next_look < 0
            self._next_look = now + RETRY_SECONDS  # others do not look meanwhile
            if first:
                self.look()
            else:
                Thread(target=self.look, name="eventpoll-clock", daemon=True).start()
        if self._known is None:
            return NEVER
        # By our own clock: if both were set just now, nobody has looked at the store's yet.
        ahead = time.time() - self._known.skew - self._known.watermark()
        return round(ahead * 1000) if ahead > SLACK_SECONDS else 0

    def look(self) -> None:
        """Compare the clocks, and keep the watermark in the store. Never raises: without it nothing expires."""
        try:
            clock, kept = self._ask()
            if abs(clock - time.time()) > self.most:
                return  # and look again soon
            self._compare(clock, kept.get(WATERMARK), kept.get(AHEAD_SINCE))
        except Unavailable as error:
            log.debug("The store's clock could not be looked at: %s", error)
        else:
            self._next_look = time.monotonic() + LOOK_SECONDS

    def check(self) -> None:
        """Raise WrongClock unless each server that keeps streams has a clock near ours. Raises Unavailable."""
        for server in _servers(self._client):
            asked = time.time()
            with errors():
                told = _seconds(server.time())
            if mistake := self.mistake(told, distance(told, asked, time.time())):
                raise WrongClock(mistake)

    def mistake(self, clock: float, skew: float) -> str | None:
        """Return what is wrong with a server's clock, `skew` seconds ahead of ours, and what to do; or None."""
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
        at_start = self._known is None and self.ahead <= self.most  # we were away for so little that it may be right
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
    """Return by how much a clock that told its time between two moments of ours is at the least ahead of ours, in
    seconds. That an answer took long makes none."""
    return told - min(max(told, asked), answered)


def _servers(client: redis.Redis) -> list[redis.Redis]:
    with errors():
        return nodes(client)


def _seconds(told: Any) -> float:
    seconds, micros = told
    return int(seconds) + int(micros) / 1e6
