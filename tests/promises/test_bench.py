"""The benchmark runs, and tells of everything that it was to measure. How fast anything is, no test says."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.goals import goals
from bench.sizes import SMOKE
from harness import ROOT
from harness.programs import children, environment, is_running
from harness.waiting import wait_for

PLAIN = environment(counted=False)
COMMAND = [sys.executable, "-m", "bench.run", "--smoke"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The results of the smallest run, as it writes them."""
    output = tmp_path_factory.mktemp("bench") / "RESULTS.md"
    done = subprocess.run(
        [*COMMAND, "--output", str(output)], cwd=ROOT, env=PLAIN, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return output.read_text(encoding="utf-8")


def section(written: str, name: str) -> str:
    """What stands under a heading."""
    (found,) = re.findall(rf"^## {re.escape(name)}\n(.*?)(?=^## |\Z)", written, re.M | re.S)
    return str(found)


def rows(text: str) -> list[list[str]]:
    """The rows of a table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_each_goal_has_a_line_with_a_figure(written: str) -> None:
    """Issue 5, goals: all thirteen. A peer that is not installed is named, with the reason, and has no figure."""
    told = rows(section(written, "Goals"))
    assert [row[0] for row in told if row[0]] == [goal.what for goal in goals(SMOKE)]
    assert len(goals(SMOKE)) == 13
    for what, _, reached, _, met in told:
        if reached.startswith("not measured"):
            assert "moto" in what
            assert "## Not measured" in written
        else:
            assert re.match(r"-?[0-9][0-9.,e-]*", reached), reached
            assert met in ("yes", "**no**")


def test_every_page_is_polled_for_in_each_profile_and_beside_bare_flask_and_bare_redis(written: str) -> None:
    """Issue 5, item 1: empty, 1, 10, 100 and 1000 SETs a poll; each profile; Basic and Bearer."""
    told = {row[0]: row[1] for row in rows(section(written, "Polls/s"))}
    for what in ("empty", "1 a poll", "10 a poll", "100 a poll", "1000 a poll"):
        for who in (
            "RFC 8936, Basic",
            "RFC 8936, Bearer",
            "OBIE, Basic",
            "WSO2, Basic",
            "bare Flask",
            "bare Redis",
        ):
            assert re.fullmatch(r"[0-9][0-9.,]* /s", told[f"{what}, {who}"])


def test_nothing_is_left_out_in_silence(written: str) -> None:
    """Each part has a section with figures; what was not measured stands under a heading of its own, with why."""
    for part in (
        "Pushes/s",
        "Held polls",
        "Append-only file",
        "Redis' bytes for a SET, against its size",
        "Growth",
        "Appendfsync",
        "Peers",
    ):
        assert rows(section(written, part)), part
    peers = " ".join(row[0] for row in rows(section(written, "Peers")))
    for peer in ("moto", "webdis"):
        assert peer in peers or peer in section(written, "Not measured")


def test_the_results_say_what_they_were_measured_on(written: str) -> None:
    """Issue 5, item 1: machine, versions and command stand beside the figures."""
    for words in (r"\d{4}-\d\d-\d\d", r"\d+ cores", "GiB", "Python 3", "gevent", "python -m bench.run"):
        assert re.search(words, written), words


def test_ctrl_c_ends_all_that_was_started(tmp_path: Path) -> None:
    """Each program runs in a session of its own, and is ended by its id; its files go too."""
    with subprocess.Popen(
        COMMAND, cwd=ROOT, env={**PLAIN, "TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as bench:
        try:
            assert bench.stderr is not None
            line = bench.stderr.readline()
            assert b"polls" in line, line
            started = children(bench.pid)
            assert len(started) >= 5
        finally:
            bench.send_signal(signal.SIGINT)
            bench.wait(60)
    wait_for(lambda: not any(map(is_running, started)))
    assert list(tmp_path.iterdir()) == []
