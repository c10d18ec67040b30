"""make chaos: real servers, a load, faults one after the other, and then the verdict.

The table of contents:

  journal   everything sent and answered, with times      clients  the load; caller: a client's connection
  stage     the servers, in four arrangements             proxy    the network that can be broken
  faults    what is done to them                          picture  what lies in the store; order: whether it agrees
  verdict   the checks; served: how clients were served   report   the figures
"""

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from chaos import report
from chaos.clients import Load, Pace
from chaos.faults import KINDS, CannotBeDone, Kind
from chaos.journal import Fault, Journal
from chaos.picture import take, weigh
from chaos.stage import Stage, stage
from chaos.verdict import emptied, judge
from eventpoll.api.openapi import document
from eventpoll.store.errors import StoreError
from eventpoll.store.records import Rules
from eventpoll.store.store import Store
from harness import ROOT
from harness.waiting import wait_for

NETWORK = ("network", "replies")
"""How the names of faults begin that are between clients and service where there are several servers."""

MEMORY_ALLOWED = 4 * 1_048_576
"""Bytes that a server's data set may have grown by when nothing is left of it: tables that shrink later."""

SINGLE = (
    "kill -9 of Redis", "kill -9 of a gunicorn worker", "network cut", "SCRIPT FLUSH", "kill -9 of an inbox worker",
    "full memory", "SIGSTOP of Redis", "replies halved", "rolling restart (HUP)", "network silent", "full disk",
    "SIGSTOP of a gunicorn worker", "kill -9 of the gunicorn master", "clock steps", "clock a month off",
    "network slow", "SIGSTOP of an inbox worker", "restart of Redis", "kill -9 of Redis", "replies halved",
    "full memory", "kill -9 of a gunicorn worker", "full disk", "SCRIPT FLUSH", "kill -9 of Redis",
)  # fmt: skip
SENTINEL = (
    "kill -9 of a primary, failover", "kill -9 of a gunicorn worker", "network cut", "SCRIPT FLUSH",
    "SIGSTOP of a primary, failover", "kill -9 of an inbox worker", "replies halved", "rolling restart (HUP)",
    "kill -9 of a primary, failover", "full memory", "network silent",
)  # fmt: skip
WAITING = ("kill -9 of a primary, failover", "SIGSTOP of a primary, failover", "kill -9 of a gunicorn worker")
CLUSTER = (
    "slot migration", "kill -9 of a primary, failover", "kill -9 of a gunicorn worker", "SCRIPT FLUSH",
    "replies halved", "slot migration", "SIGSTOP of a primary, failover", "kill -9 of an inbox worker",
    "rolling restart (HUP)",
    "network cut", "kill -9 of a primary, failover", "full memory", "slot migration",
)  # fmt: skip


@dataclass(frozen=True)
class Form:
    """How long, how hard: `seconds` a fault lasts that has to be waited out, `calm` between two, SETs at least."""

    seconds: float
    calm: float
    sets: int
    pace: Pace
    mount: bool
    faults: dict[str, tuple[str, ...]]


FORMS = {
    "long": Form(
        10.0, 4.0, 30_000, Pace(200, 0.35), mount=True,
        faults={"single": SINGLE, "sentinel": SENTINEL, "waiting": WAITING, "cluster": CLUSTER},
    ),
    "short": Form(
        1.0, 0.5, 100, Pace(10, 0.2), mount=False,
        faults={
            "single": ("kill -9 of Redis", "kill -9 of a gunicorn worker", "network cut", "replies halved",
                       "kill -9 of an inbox worker", "full memory", "full disk", "SCRIPT FLUSH"),
            "sentinel": ("kill -9 of a primary, failover", "network cut"),
            "waiting": ("SIGSTOP of a primary, failover",),
            "cluster": ("slot migration", "kill -9 of a primary, failover", "SCRIPT FLUSH"),
        },
    ),
}  # fmt: skip


def inflict(made: Stage, kind: Kind, form: Form, journal: Journal) -> None:
    """One fault, from its beginning until everything answers again; it stands in the journal from the first moment.

    Raises CannotBeDone.
    """
    cuts = kind.cuts or (made.replicated and kind.name.startswith(NETWORK))
    fault = Fault(kind.name, time.monotonic(), float("inf"), kind.may_lose, kind.clock, cuts=cuts)
    journal.faults.append(fault)
    try:
        fault.note = kind.do(made, form.seconds) or ""
    except CannotBeDone:
        journal.faults.remove(fault)
        raise
    fault.ended = time.monotonic()
    wait_for(made.is_whole, 60, 0.2)
    wait_for(made.is_well, 60, 0.2)
    say(f"{kind.name}: {fault.ended - fault.began:.1f} s {fault.note}")


def empty_inbox(made: Stage) -> bool:
    """Whether the workers have done it all."""
    picture = take(made.clients())
    return not picture.inbox and not picture.taken


def forget_ended(made: Stage) -> None:
    """Have every ended jti forgotten, as it would be after the dedupe window: two sweeps, as there are two windows."""
    store = Store.open(made.url, made.directory, Rules(dedupe=0.001))
    for status in store.statuses():
        for _ in range(3):
            if status is not None:
                store.sweep(status.tpp)
                time.sleep(0.01)
    store.redis.close()


def documented() -> dict[str, set[int]]:
    """METHOD and path -> the statuses that /openapi.json tells of."""
    return {
        f"{method.upper()} {path}": {int(status) for status in call["responses"]}
        for path, calls in document()["paths"].items()
        for method, call in calls.items()
        if "responses" in call
    }


def play(kind: str, form: Form, seed: int, directory: Path) -> report.Round:
    """One arrangement, from its start to the verdict."""
    journal, left_out, began = Journal(waits=kind == "waiting"), [], time.monotonic()
    with stage(kind, directory, seed, mount=form.mount) as made:
        servers = sorted({_version(client.info("server")) for client in made.clients()})
        keys, memory = weigh(made.clients())
        load = Load(journal, made.port, made.server.secrets, made.plain, form.pace, seed)
        load.start()
        time.sleep(form.calm)
        try:
            for name in form.faults[kind]:
                try:
                    inflict(made, KINDS[name], form, journal)
                except CannotBeDone as reason:
                    left_out.append(f"{name}: {reason}.")
                time.sleep(form.calm)
            wait_for(lambda: len({(each.tpp, each.jti) for each in journal.pushes if each.taken}) >= form.sets, 900, 2)
        except AssertionError as error:  # it did not come back: the verdict may tell why
            load.mistakes.append(f"{journal.faults[-1].kind}: {error}")
        load.stop("push")
        load.stop("poll")
        try:
            wait_for(lambda: empty_inbox(made), 120, 0.5)
            before = take(made.clients())
            load.drain()
        except Exception as error:  # whatever it is: the verdict may tell why
            load.mistakes.append(f"drain: {error!r}")
            before = take(made.clients())
        after = take(made.clients())
        verdict = judge(journal, before, after, documented())
        try:
            forget_ended(made)
        except StoreError as error:
            load.mistakes.append(f"forget: {error!r}")
        time.sleep(1)
        keys_after, memory_after = weigh(made.clients())
        emptied(take(made.clients()), keys_after, memory_after - memory, MEMORY_ALLOWED * len(made.clients()), verdict)
    return report.Round(
        kind, journal, verdict, servers, time.monotonic() - began, left_out, (keys, keys_after),
        (memory, memory_after), load.mistakes,
    )  # fmt: skip


def _version(told: dict[str, object]) -> str:
    return f"Valkey {told['valkey_version']}" if "valkey_version" in told else f"Redis {told['redis_version']}"


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def main() -> int:
    """Run what the command line asks for; 1 if anything was broken."""
    parser = argparse.ArgumentParser(prog="python -m chaos.run", description=__doc__)
    parser.add_argument("--form", choices=FORMS, default="long")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="default: a new one")
    parser.add_argument("--only", default=",".join(report.ARRANGEMENTS), help="arrangements, with commas between")
    parser.add_argument("--fault", choices=KINDS, action="append", help="this one alone; may be given several times")
    parser.add_argument("--seconds", type=float, help="how long a fault lasts, if not as long as the form has it")
    parser.add_argument("--output", type=Path, help="default: chaos/RESULTS.md for the long form of all three")
    asked = parser.parse_args()
    form, kinds = FORMS[asked.form], asked.only.split(",")
    if asked.fault:
        form = replace(form, faults=dict.fromkeys(kinds, tuple(asked.fault)))
    if asked.seconds:
        form = replace(form, seconds=asked.seconds)
    say(f"Chaos, {asked.form} form, seed {asked.seed}")
    rounds = []
    with tempfile.TemporaryDirectory(prefix="eventpoll-chaos-") as name:
        for kind in kinds:
            say(f"On {report.ARRANGEMENTS[kind]}")
            rounds.append(play(kind, form, asked.seed, Path(name) / kind))
            found = rounds[-1]
            say(f"{found.sets} SETs, {len(found.journal.faults)} faults, {len(found.verdict.broken)} violations")
    text = report.write(rounds, f"make chaos{' CHAOS=short' * (asked.form == 'short')}", asked.seed)
    output = asked.output
    if output is None and asked.form == "long" and not asked.fault and len(kinds) == len(report.ARRANGEMENTS):
        output = ROOT / "chaos" / "RESULTS.md"
    if output:
        output.write_text(text, encoding="utf-8")
    print(text)
    return int(any(each.verdict.broken or each.mistakes for each in rounds))


if __name__ == "__main__":
    sys.exit(main())
