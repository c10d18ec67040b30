"""What was sent, what was answered, and what was done to the servers meanwhile; times are the monotonic clock's.

A status is None where no answer came, or only a part of one: then nothing is known of what was asked.
"""

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass, field, replace

EVENT = "urn:chaos:event"
MARGIN = 2.0
"""Seconds around a fault in which replication may have lagged behind what was answered."""


@dataclass(slots=True)
class Push:
    """One SET that was sent to a stream, once; a push that is repeated is another one with the same jti."""

    tpp: str
    jti: str
    way: str  # signed, event, or batch
    sent: float
    answered: float
    status: int | None

    @property
    def taken(self) -> bool:
        """Whether the service said that it has it."""
        return self.status in (200, 201, 202)


@dataclass(slots=True)
class Handed:
    """A SET in an answer: its bytes in short, and the mark that its event bears, "tpp/number"."""

    jti: str
    digest: bytes
    mark: str


@dataclass(slots=True)
class Poll:
    """One poll, with what it settled and what it got."""

    tpp: str
    asked: float
    answered: float
    status: int | None
    ack: tuple[str, ...] = ()
    errs: tuple[str, ...] = ()
    most: int = 100
    lease: float = 0.0
    sets: tuple[Handed, ...] = ()
    held: bool = False

    @property
    def settled(self) -> bool:
        """Whether its acks and errors hold: 429 says so too, where it is held polls that are too many."""
        return self.status in (200, 429)


@dataclass(slots=True)
class Care:
    """What the bank did to one parked SET: requeue or discard."""

    tpp: str
    jti: str
    what: str
    sent: float
    answered: float
    status: int | None


@dataclass(slots=True)
class Entry:
    """A raw event added to the inbox: its id, or None where no answer came; `refused` where the answer was no."""

    tpp: str
    mark: str
    sent: float
    answered: float
    number: str | None
    refused: bool = False


@dataclass(slots=True)
class Answer:
    """The status of any request, for the count of what went wrong and for how long."""

    at: float
    call: str  # METHOD and path as /openapi.json has it
    status: int | None
    took: float = 0.0
    stale: bool = False  # its connection was closed before it was sent: a client that looks takes another


@dataclass(slots=True)
class Fault:
    """What was done, from when to when. `may_lose`: a replica took over, which may lack what was answered before.
    `cuts`: it was between clients and service, or ended or stopped the process that served them."""

    kind: str
    began: float
    ended: float
    may_lose: bool = False
    clock: bool = False
    note: str = ""
    cuts: bool = False


@dataclass
class Journal:
    """Everything of one run. Lists, as appending to them needs no lock."""

    pushes: list[Push] = field(default_factory=list)
    polls: list[Poll] = field(default_factory=list)
    cares: list[Care] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    waits: bool = False
    """Whether a push is answered only when a replica has it: then no takeover may lose one."""

    def until(self, at: float) -> "Journal":
        """What it held at that moment; all faults."""
        return replace(
            self,
            polls=[each for each in self.polls if each.answered <= at],
            cares=[each for each in self.cares if each.answered <= at],
        )

    def lossy(self, at: float) -> bool:
        """Whether what was answered then may be gone, as the documents say of replicas."""
        return any(each.may_lose and each.began - MARGIN <= at <= each.ended + MARGIN for each in self.faults)

    def stepped(self, begin: float, end: float) -> bool:
        """Whether a clock was stepped, or a replica took over, in that time: then leases are not what they were."""
        return any(
            (each.clock or each.may_lose) and each.began - MARGIN <= end and begin <= each.ended + MARGIN
            for each in self.faults
        )

    def calm(self, begin: float, end: float, after: float) -> bool:
        """Whether no fault was in that time, nor so many seconds before it."""
        return not any(each.began <= end and begin <= each.ended + after for each in self.faults)

    def cutting(self, begin: float, end: float) -> bool:
        """Whether a fault in that time was between clients and service."""
        return any(each.cuts and each.began <= end and begin <= each.ended + MARGIN for each in self.faults)


def handed(jti: str, secevent: str) -> Handed:
    """A SET as it came, in short."""
    return Handed(jti, hashlib.blake2b(secevent.encode(), digest_size=8).digest(), mark_of(secevent))


def mark_of(secevent: str) -> str:
    """The mark that a SET's event bears; empty where there is none."""
    try:
        body = secevent.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return str(claims["events"][EVENT]["mark"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return ""
