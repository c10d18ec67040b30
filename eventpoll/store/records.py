"""Value types of the store, and functions that read replies of the Lua commands."""

import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

HAPPENINGS = {
    "d": "delivered",
    "e": "reported",
    "u": "undelivered",
    "q": "requeued",
    "a": "acknowledged",
    "x": "discarded",
    "t": "expired",
}
#: The families of events, named as the OAuth scopes of UK Open Banking. The first is for SETs without a family.
FAMILIES = ("", "accounts", "payments", "fundsconfirmations")
EVERY_FAMILY = "0123"
UNKNOWN = "unknown"
"""Stands for a letter in a record that this version does not know. A newer version or a script wrote it."""

LANE = 2**51

#: The counters of each stream, in the order in which forget.lua returns them.
COUNTERS = ("pushed", "delivered", "acked", "reported", "discarded", "expired")

BY = {"r": "rfc8936", "o": "obie", "w": "wso2", "b": "bank", "s": "service"}

ERROR_BYTES = {"err": 240, "description": 1536}
"""Maximum bytes of each member of a reported error in the store: six for each character that OBIE allows."""


@dataclass(frozen=True)
class Rules:
    """Defaults of the service for streams without settings of their own. Times are in seconds."""

    redeliver_after: float = 0.0
    max_deliveries: int = 0
    on_error: str = "park"
    retention: float = 30 * 86400.0
    dedupe: float = 86400.0
    wait_replicas: int = 0
    wait: float = 1.0
    max_clock_skew: float = 3600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Result of a poll: (jti, SET) pairs in the order of delivery, and the number of acks and errors applied."""

    sets: list[tuple[bytes, bytes]]
    more: bool
    wait: float | None  # seconds until the next lease ends, None without a lease
    stale: bool  # True if sweep has something to remove
    acked: int
    reported: int


@dataclass(frozen=True)
class Happening:
    """One entry in the history of a SET."""

    at: datetime
    what: str
    by: str


@dataclass(frozen=True)
class SetRecord:
    """A SET with its history. `state` is pending, in_flight, parked, settled or expired."""

    jti: str
    state: str
    deliveries: int
    history: list[Happening]
    leased_until: datetime | None = None
    error: Mapping[str, str] = field(default_factory=dict)  # err and description: none, one or both
    secevent: str | None = None
    scope: str = ""


@dataclass(frozen=True)
class Status:
    """Status of a stream: the number of SETs in each state, and the stream's fields."""

    tpp: str
    pending: int
    in_flight: int
    parked: int
    oldest: dict[str, float | None]  # seconds since the oldest SET of each state was pushed
    fields: dict[str, str]


@dataclass(frozen=True)
class Pushed:
    """Outcome of a push: `queued`, `repeated` or `kept`. With `kept`, the field is the SET that has this jti already.

    `stale` is True if sweep has something to remove.
    """

    outcome: str
    kept: str | None = None
    stale: bool = False


def pushed(reply: list[bytes]) -> Pushed:
    """Parse a reply of push.lua."""
    if reply == [b"queued"]:
        return QUEUED
    outcome, *more = [part.decode() for part in reply]
    return Pushed(outcome, more[0] if outcome == "kept" else None, stale=more == ["stale"])


@dataclass(frozen=True)
class Hour:
    """Counts of a stream in the hour that begins `at`."""

    at: datetime
    pushed: int
    delivered: int
    acked: int


@dataclass(frozen=True)
class Facts:
    """Facts that a server reports about itself. `clock` is in seconds.

    `settings` is empty if CONFIG is not allowed. `program` is the path of its executable, "" if not reported.
    """

    name: str
    version: str
    clock: float
    settings: dict[str, str]
    program: str = ""

    @property
    def durability(self) -> str:
        """Return a text on which writes a crash of the server may lose."""
        kept = {
            ("yes", "always"): "durable: each write is on disk before it is answered",
            ("yes", "everysec"): "durable: a crash may take the last second or two",
            ("yes", "no"): "not durable: the operating system writes when it likes (appendfsync no)",
        }.get((self.settings.get("appendonly", ""), self.settings.get("appendfsync", "")))
        if kept is not None:
            return kept
        return "NOT DURABLE: no append-only file" if self.settings else "durability unknown: CONFIG is not allowed"


QUEUED = Pushed("queued")


def _when(milliseconds: float) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def error_text(error: Mapping[str, str]) -> bytes:
    """Return a reported error as the store keeps it: JSON, with each member cut to its ERROR_BYTES."""
    members = [
        b'"%b": "%b"' % (name.encode(), _cut(error[name], most)) for name, most in ERROR_BYTES.items() if name in error
    ]
    return b"{" + b", ".join(members) + b"}"


def _cut(text: str, most: int) -> bytes:
    """Return the longest prefix of a text whose JSON, without the quotes, has at most `most` bytes."""

    def written(length: int) -> bytes:
        return json.dumps(text[:length], ensure_ascii=False).encode("utf-8", "backslashreplace")[1:-1]

    whole = written(len(text))
    if len(whole) <= most:
        return whole
    return written(bisect_right(range(len(text)), most, key=lambda length: len(written(length))) - 1)


def set_record(jti: str, state: str, record: bytes, lease: bytes, secevent: bytes = b"") -> SetRecord:
    """Parse a record in the format of poll.lua. `state` is the state that the store reports."""
    head, _, error = record.decode(errors="replace").partition("\n")
    place, deliveries, trail = head.split(" ", 2)
    family, order = divmod(int(place), LANE)
    history = [Happening(_when(order // 1000), "pushed", "bank")]
    for happening in filter(None, trail.split(",")):
        what, by = HAPPENINGS.get(happening[-2], UNKNOWN), BY.get(happening[-1], UNKNOWN)
        history.append(Happening(_when(int(happening[:-2])), what, by))
    if state == "settled" and history[-1].what == "expired":
        state = "expired"
    return SetRecord(
        jti,
        state,
        int(deliveries),
        history,
        _when(int(lease) % LANE / 1000) if lease else None,
        _error(error) if error else {},
        secevent.decode() or None,
        FAMILIES[family],
    )


def _error(text: str) -> dict[str, str]:
    """Return `err` and `description` of an error, each only if it is present and is a string.

    A script that runs poll.lua may have written any text. A text that is not a JSON object becomes the description.
    """
    try:
        error = json.loads(text)
    except (ValueError, RecursionError):
        error = None
    if not isinstance(error, dict):
        return {"description": text}
    return {name: error[name] for name in ("err", "description") if isinstance(error.get(name), str)}


def status(tpp: str, reply: list[Any]) -> Status:
    """Parse a reply of status.lua."""
    now, pending, in_flight, parked, *rest = reply
    oldest = {
        state: max(0.0, (int(now) * 1000 - int(order)) / 1e6) if order else None
        for state, order in zip(("pending", "in_flight", "parked"), rest[:3], strict=True)
    }
    fields = {rest[i].decode(): rest[i + 1].decode() for i in range(3, len(rest), 2)}
    return Status(tpp, pending, in_flight, parked, oldest, fields)


HOURS = 24
"""Number of hours, with the current one, for which a stream's notes give the counts."""


def hours(fields: Mapping[str, str], now: datetime) -> list[Hour]:
    """Return the counts of a stream for each of the last HOURS hours, the latest last.

    The count of an hour is the difference between two notes of the counters.
    """
    notes = [[int(number) for number in note.split()] for note in filter(None, fields.get("hours", "").split(","))]
    stood = [note[1:] for note in notes] + [[int(fields.get(name, 0)) for name in ("pushed", "delivered", "acked")]]
    counted: dict[int, list[int]] = {}
    for (hour, *_), before, after in zip(notes, stood, stood[1:], strict=False):
        counts = counted.setdefault(hour, [0, 0, 0])
        counted[hour] = [sum(each) - less for *each, less in zip(counts, after, before, strict=True)]
    last = max([int(now.timestamp()) // 3600, *counted])
    return [Hour(_when(hour * 3_600_000), *counted.get(hour, (0, 0, 0))) for hour in range(last - HOURS + 1, last + 1)]


STATES = ("pending", "in_flight", "parked")
