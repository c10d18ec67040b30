"""The figures of a run, as chaos/RESULTS.md has them."""

import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from chaos.journal import MARGIN, Fault, Journal
from chaos.verdict import Verdict

ARRANGEMENTS = {
    "single": "one server, appendfsync always",
    "sentinel": "a primary, a replica, three Sentinels",
    "waiting": "the same, with EVENTPOLL_WAIT_REPLICAS=1",
    "cluster": "a Cluster of three primaries, each with a replica",
}


LOSSES = ("lost push", "lost entry", "lost ack", "came after its ack")


@dataclass
class Trouble:
    """What clients saw of one fault: 5xx and requests without an answer, and for how long from its beginning."""

    fault: Fault
    errors: int
    silent: int
    lasted: float
    answered: int
    lost: int


@dataclass
class Round:
    """One arrangement, done with."""

    kind: str
    journal: Journal
    verdict: Verdict
    servers: list[str]
    seconds: float
    left_out: list[str] = field(default_factory=list)
    keys: tuple[int, int] = (0, 0)
    memory: tuple[int, int] = (0, 0)
    mistakes: list[str] = field(default_factory=list)

    @property
    def sets(self) -> int:
        """How many SETs were taken: by a push, or by the inbox."""
        pushed = {(push.tpp, push.jti) for push in self.journal.pushes if push.taken}
        return len(pushed) + sum(entry.number is not None for entry in self.journal.entries)


def troubles(journal: Journal, verdict: Verdict) -> list[Trouble]:
    """Each fault, with what went wrong from its beginning until the next one began."""
    found = []
    moments = [at for kind in LOSSES for at in verdict.excused.get(kind, {}).values()]
    faults = sorted(journal.faults, key=lambda fault: fault.began)
    ends = [fault.began for fault in faults[1:]] + [float("inf")]
    for fault, end in zip(faults, ends, strict=True):
        answers = [each for each in journal.answers if fault.began <= each.at < end]
        errors = [each for each in answers if each.status is None or each.status >= 500]
        silent = sum(each.status is None for each in errors)
        lasted = max((each.at - fault.began for each in errors), default=0.0)
        lost = sum(fault.began - MARGIN <= at < end - MARGIN for at in moments)
        found.append(Trouble(fault, len(errors) - silent, silent, lasted, len(answers) - len(errors), lost))
    return found


def write(rounds: Iterable[Round], command: str, seed: int) -> str:
    """The whole document."""
    rounds = list(rounds)
    sets, faults = sum(each.sets for each in rounds), [fault for each in rounds for fault in each.journal.faults]
    broken = sum(len(each.verdict.broken) for each in rounds)
    lines = [
        "# What the last run of the chaos found",
        "",
        f"Written by `{command}`, seed {seed}, on {platform.system()} with {os.cpu_count()} cores.",
        "What is promised under each fault stands in [docs/reliability.md](../docs/reliability.md).",
        "",
        f"**{sets} SETs, {len(faults)} faults of {len({fault.kind for fault in faults})} kinds, {broken} violations.**",
        "",
        *table(
            ["", *(ARRANGEMENTS[each.kind] for each in rounds)],
            [[name, *(str(value(each)) for each in rounds)] for name, value in ROWS],
        ),
    ]
    for each in rounds:
        lines += ["", f"## Faults on {ARRANGEMENTS[each.kind]}", "", *_faults(each)]
        lines += [f"- Not done here: {text}" for text in each.left_out]
        lines += [f"- **{text}**" for text in (*each.verdict.broken[:50], *each.mistakes)]
    return "\n".join(lines) + "\n"


ROWS: list[tuple[str, Callable[[Round], object]]] = [
    ("servers", lambda each: ", ".join(each.servers)),
    ("seconds", lambda each: round(each.seconds)),
    ("SETs taken", lambda each: each.sets),
    ("– signed", lambda each: _ways(each, "signed")),
    ("– minted", lambda each: _ways(each, "event")),
    ("– in batches", lambda each: _ways(each, "batch")),
    ("– by the inbox", lambda each: sum(entry.number is not None for entry in each.journal.entries)),
    ("pushes repeated", lambda each: _repeats(each)),
    ("polls answered 200", lambda each: sum(poll.status == 200 for poll in each.journal.polls)),
    ("SETs delivered", lambda each: sum(len(poll.sets) for poll in each.journal.polls)),
    ("acks that hold", lambda each: len({(p.tpp, j) for p in each.journal.polls if p.settled for j in p.ack})),
    ("errors reported", lambda each: len({(p.tpp, j) for p in each.journal.polls if p.settled for j in p.errs})),
    ("requeued, discarded", lambda each: _cares(each)),
    ("requests answered, 503, cut", lambda each: _answers(each)),
    ("faults", lambda each: len(each.journal.faults)),
    ("violations", lambda each: len(each.verdict.broken)),
    ("pushes lost by a failover", lambda each: _excused(each, "lost push")),
    ("inbox entries lost by a failover", lambda each: _excused(each, "lost entry")),
    ("acks lost by a failover", lambda each: _excused(each, "lost ack", "came after its ack")),
    ("leases not kept, by a clock or a failover", lambda each: len(each.verdict.excused.get("lease", ()))),
    ("keys before the load, and when all was settled and forgotten", lambda each: "{} → {}".format(*each.keys)),
    ("bytes of the data set, likewise", lambda each: "{} → {}".format(*each.memory)),
]


def _excused(each: Round, *kinds: str) -> str:
    lost = {text for kind in kinds for text in each.verdict.excused.get(kind, {})}
    return "– (none may be)" if each.kind == "single" else str(len(lost))


def _ways(each: Round, way: str) -> int:
    return len({(push.tpp, push.jti) for push in each.journal.pushes if push.taken and push.way == way})


def _repeats(each: Round) -> int:
    return len(each.journal.pushes) - len({(push.tpp, push.jti) for push in each.journal.pushes})


def _answers(each: Round) -> str:
    told = Counter(answer.status for answer in each.journal.answers)
    return f"{told.total()}, {told[503]}, {told[None]}"


def _cares(each: Round) -> str:
    done = Counter(care.what for care in each.journal.cares if care.status in (200, 204))
    return f"{done['requeue']}, {done['discard']}"


def _faults(each: Round) -> list[str]:
    rows = []
    for trouble in troubles(each.journal, each.verdict):
        fault = trouble.fault
        rows.append(
            [
                fault.kind + (f" ({fault.note})" if fault.note else ""),
                f"{fault.ended - fault.began:.1f}",
                str(trouble.errors),
                str(trouble.silent),
                f"{trouble.lasted:.1f}",
                str(trouble.answered),
                str(trouble.lost) if fault.may_lose else "0",
            ]
        )
    return table(["fault", "lasted, s", "5xx", "cut", "last of them after, s", "answered well", "lost"], rows)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of Markdown."""
    bar = "|" + "---|" * len(head)
    return ["| " + " | ".join(head) + " |", bar, *("| " + " | ".join(row) + " |" for row in rows)]
