"""Whether clients were served as is promised; not where the fault was between them and the service."""

from collections.abc import Iterator

from chaos.clients import QUIET
from chaos.journal import Journal

LONGEST = 17.0
"""Seconds that an answer may take, whatever the store does: the 4 of a held poll, and two commands that time out."""

UNDER_WAY = 0.5
"""Seconds after which a request was surely being worked on. One that is cut sooner may have met a connection as it
was closed, which no server can avoid, and which proxies and clients repeat."""

WOKEN, HEALED = 2.0, 3.0
"""Seconds after a push in which a poll that was held is answered; and after a fault in which that may not be so."""


def neglect(journal: Journal) -> Iterator[tuple[str, str]]:
    """What they were not to see: the kind, and a line."""
    for each in journal.answers:
        if journal.cutting(each.at - each.took, each.at):
            continue
        if each.took > LONGEST:
            yield "slow", f"{each.call}: {each.status or 'no answer'} after {each.took:.1f} s"
        elif each.status is None and each.took > UNDER_WAY:
            yield "cut", f"{each.call}: after {each.took:.1f} s"
    yield from refused_acks(journal)
    yield from deaf(journal)


def refused_acks(journal: Journal) -> Iterator[tuple[str, str]]:
    """A full memory lets acks through that ask for nothing: they free some."""
    for fault in journal.faults:
        if fault.kind == "full memory":
            for poll in journal.polls:
                if poll.most == 0 and poll.status == 503 and fault.began < poll.asked and poll.answered < fault.ended:
                    yield "ack refused", f"to {poll.tpp}, in a full memory"


def deaf(journal: Journal) -> Iterator[tuple[str, str]]:
    """A poll that is held on a quiet stream is answered when something is pushed to it."""
    for tpp in QUIET:
        held = [poll for poll in journal.polls if poll.tpp == tpp.name and poll.held and poll.status == 200]
        for push in journal.pushes:
            if push.tpp != tpp.name or push.status != 201:
                continue
            for poll in held:
                late = poll.asked < push.sent - 0.2 and push.answered + WOKEN < poll.answered
                if late and journal.calm(poll.asked, poll.answered, HEALED):
                    yield "deaf", f"{tpp.name} waited {poll.answered - push.answered:.1f} s for {push.jti}"
