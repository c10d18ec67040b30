"""Restarts under load, and what clients see of them. `python -m chaos.rolling` prints the table of docs/reliability.md.

Nothing is wrong meanwhile: no request is to be cut that was under way, none to be answered 5xx, no SET lost or doubled.
"""

import random
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from chaos.clients import Load, Pace
from chaos.faults import roll
from chaos.journal import Fault, Journal
from chaos.picture import take
from chaos.report import table
from chaos.run import documented, empty_inbox, say
from chaos.served import UNDER_WAY
from chaos.stage import Stage, stage
from chaos.verdict import Verdict, judge
from harness.nginx import AUTHORITY, Nginx
from harness.service import Server, start_server
from harness.waiting import wait_for

PACE = Pace(10, 0.1)
CALM = 2.0
"""Seconds of load before the first restart, and that count as part of each."""

FAIL_TIMEOUT = 11.0
"""nginx asks a server that was away again after 10 s: the next one goes no sooner."""


@dataclass(frozen=True)
class Way:
    """How clients come to the service, and how it is restarted, so many times; tells what to wait afterwards."""

    name: str
    nginx: bool
    restart: Callable[[Stage, list[Server]], float]
    times: int


def renew(made: Stage, others: list[Server]) -> float:
    """HUP: new workers, and the old ones end."""
    roll(made, 0)
    return CALM


def relieve(made: Stage, others: list[Server]) -> float:
    """SIGTERM to one gunicorn of two; it comes back, and the next time it is the other."""
    made.server.stop()
    made.restart_gunicorn()
    made.server, others[0] = others[0], made.server
    return FAIL_TIMEOUT


WAYS = (
    Way("`HUP`, three times", nginx=False, restart=renew, times=3),
    Way("`HUP`, three times, behind nginx", nginx=True, restart=renew, times=3),
    Way("SIGTERM to one of two gunicorns, then to the other, behind nginx", nginx=True, restart=relieve, times=2),
)


@dataclass
class Seen:
    """What became of one way."""

    way: Way
    journal: Journal
    verdict: Verdict
    mistakes: list[str]


def play(way: Way, seed: int, directory: Path) -> Seen:
    """One way, from its start to the verdict."""
    journal = Journal()
    with ExitStack() as stack:
        made = stack.enter_context(stage("single", directory, seed, mount=False))
        others, port, tls = list[Server](), made.port, None
        if way.restart is relieve:
            others.append(start_server(made.settings, directory / "other", workers=2))
            others[0].secrets = made.server.secrets
            stack.callback(lambda: others[0].stop())
        if way.nginx:
            nginx = stack.enter_context(before(made.server, others, directory / "nginx").running())
            tls, port = ssl.create_default_context(cadata=AUTHORITY.pem), lambda: nginx.port
        load = Load(journal, port, made.server.secrets, made.plain, PACE, seed, tls)
        load.start()
        time.sleep(CALM)
        for number in range(way.times):
            fault = Fault(way.name, time.monotonic(), float("inf"))
            journal.faults.append(fault)
            wait = way.restart(made, others)
            fault.ended = time.monotonic()
            say(f"{way.name}: {number + 1} took {fault.ended - fault.began:.1f} s")
            time.sleep(wait)
        load.stop("push")
        load.stop("poll")
        wait_for(lambda: empty_inbox(made), 60, 0.5)
        before_drain = take(made.clients())
        load.drain()
        return Seen(way, journal, judge(journal, before_drain, take(made.clients()), documented()), load.mistakes)


def before(server: Server, others: list[Server], directory: Path) -> Nginx:
    """nginx with deploy/nginx.conf, before one gunicorn or several."""
    nginx = Nginx(directory, server)
    file, line = directory / "eventpoll.conf", f"server 127.0.0.1:{server.port};"
    lines = " ".join(f"server 127.0.0.1:{each.port};" for each in (server, *others))
    file.write_text(file.read_text().replace(line, lines))
    return nginx


def figures(seen: Seen) -> list[str]:
    """Its row."""
    journal = seen.journal
    windows = [(each.began, each.ended + CALM) for each in journal.faults]

    def during(at: float) -> bool:
        return any(began <= at <= ended for began, ended in windows)

    answers = [each for each in journal.answers if during(each.at)]
    cut = [each for each in answers if each.status is None]
    held = [each for each in journal.polls if each.held and any(each.asked < at < each.answered for at, _ in windows)]
    times = [each.answered - each.sent for each in journal.pushes if during(each.answered)]
    times += [each.answered - each.asked for each in journal.polls if not each.held and during(each.answered)]
    return [
        seen.way.name,
        str(len(answers)),
        str(sum(each.status is not None and each.status >= 500 for each in answers)),
        str(len(cut)),
        str(sum(each.stale for each in cut)),
        str(sum(not each.stale and each.took <= UNDER_WAY for each in cut)),
        str(sum(not each.stale and each.took > UNDER_WAY for each in cut)),
        f"{sum(each.status == 200 for each in held)} of {len(held)}",
        f"{max(times):.2f}",
        str(len(seen.verdict.broken) + len(seen.mistakes)),
    ]


HEAD = [
    "restart",
    "requests",
    "5xx",
    "without an answer",
    "– on a connection that was closed before",
    "– as it was closed",
    "– under way",
    "held polls answered",
    "longest answer of the others, s",
    "violations",
]


def main() -> int:
    """Every way; 1 if anything was seen that is not to be."""
    seed = random.SystemRandom().randrange(10**6)
    with tempfile.TemporaryDirectory(prefix="eventpoll-rolling-") as name:
        found = [play(way, seed, Path(name) / str(number)) for number, way in enumerate(WAYS)]
    print("\n".join(table(HEAD, [figures(each) for each in found])))
    wrong = [text for each in found for text in (*each.verdict.broken, *each.mistakes)]
    print("\n".join(wrong[:50]))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
