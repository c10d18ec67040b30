"""The results, written: what it ran on, each goal with what was reached, and every line."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median

from bench import load, polls, stored
from bench.goals import Goal, goals
from bench.results import Line, Results
from bench.servers import WORKERS
from bench.sizes import Size

PACKAGES = ("flask", "redis", "hiredis", "gunicorn", "gevent", "joserfc", "marshmallow")


def figure(value: float) -> str:
    """A figure with as many digits as one may believe: three, or all before the point."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def span(figures: Iterable[float]) -> str:
    """The least and the most of the rounds; empty where there was one round."""
    ordered = sorted(figures)
    return f"{figure(ordered[0])} to {figure(ordered[-1])}" if len(ordered) > 1 else ""


def table(head: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    """A Markdown table."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def machine() -> str:
    """What it ran on."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"{os.cpu_count()} cores, shared by the load, the workers and Redis; {memory:.0f} GiB of memory; "
        f"{platform.system()} {platform.release()}, {platform.machine()}"
    )


def versions(servers: Iterable[str]) -> str:
    """Whose figures these are."""
    names = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    return ", ".join([f"Python {platform.python_version()}", *names, *servers])


def goal_rows(results: Results, size: Size) -> Iterator[list[str]]:
    """A row for each goal, or for each part of it."""
    for goal in goals(size):
        try:
            found = list(goal.find(results))
        except KeyError as error:
            yield [goal.what, goal.wanted, _missing(results, goal, error), "", "not measured"]
            continue
        for number, one in enumerate(found):
            what, wanted = (goal.what, goal.wanted) if number == 0 else ("", "")
            reached = f"{figure(one.middle)} {one.what}".strip()
            yield [what, wanted, reached, span(one.figures), "yes" if one.reached else "**no**"]


def _missing(results: Results, goal: Goal, error: KeyError) -> str:
    if goal.of in results.missing:
        return f"not measured: {results.missing[goal.of]}"
    if results.failed:
        return "not measured: a part failed, see below"
    raise LookupError(f"no figure for the goal {goal.what!r}: {error}") from error


def ratio_rows(results: Results) -> Iterator[list[str]]:
    """Who asks and how, against the others, for each size of a page."""
    names = list(polls.loads(0))
    for line in results.of(polls.PART):
        what, _, who = line.name.partition(", ")
        if who not in names or who == "bare Flask":
            continue
        row = [f"{what}, {who}"]
        for other in ("RFC 8936, Basic", "bare Flask", "bare Redis"):
            if results.failed and (polls.PART, f"{what}, {other}") not in results.lines:
                row.append("")
                continue
            figures = results.ratios(polls.PART, line.name, f"{what}, {other}")
            row.append(figure(median(figures)))
        yield row


def line_rows(lines: Iterable[Line]) -> Iterator[list[str]]:
    """A row for each line of a part."""
    for line in lines:
        yield [line.name, f"{figure(line.middle)} {line.unit}", span(line.figures)]


def write(results: Results, size: Size, command: str, server: str, seconds: float) -> str:
    """All of it, as Markdown."""
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [
        "# Results of the benchmark",
        "",
        "Written by the benchmark itself; [README.md](README.md) says how to read it. Ratios of one run count,",
        "absolute figures move from day to day.",
        "",
        f"- **Run**: `{command}`, {today}, {seconds / 60:.1f} minutes, size {size.name}: "
        f"{size.rounds} rounds of {size.seconds:g} s for each line, in turn",
        f"- **Machine**: {machine()}",
        f"- **Versions**: {versions(_servers(results, server))}",
        f"- **Load**: {load.generator()}",
        f"- **Service**: gunicorn.conf.py as it stands, gevent, {WORKERS} workers; Redis on a Unix socket, append-only "
        "file, everysec, not rewritten meanwhile; SETs of 1 KB",
        "",
        "## Goals",
        "",
        *table(["what", "goal", "reached (median)", "rounds, least to most", "met"], goal_rows(results, size)),
        "",
        "## Ratios of polls/s",
        "",
        *table(["", "against RFC 8936, Basic", "against bare Flask", "against bare Redis"], ratio_rows(results)),
    ]
    if results.missing:
        lines += ["", "## Not measured", "", *(f"- {what}: {why}" for what, why in results.missing.items())]
    for part in results.parts():
        lines += ["", f"## {part[0].upper()}{part[1:]}", ""]
        lines += table(["", "median", "rounds, least to most"], line_rows(results.of(part)))
    return "\n".join(lines) + "\n"


def _servers(results: Results, server: str) -> Iterator[str]:
    yield server
    for line in results.of(stored.MEMORY):
        state, _, name = line.name.partition(", ")
        if state == "pending" and name != server:
            yield f"{name} (memory)"


def save(text: str, path: Path) -> None:
    """Keep it."""
    path.write_text(text, encoding="utf-8")
