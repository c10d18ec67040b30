"""The chaos, in its short form, on each arrangement of servers: `make chaos` runs the long one."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from chaos import rolling
from chaos.faults import KINDS
from chaos.run import FORMS
from harness import ROOT
from harness.programs import environment

PLAIN = environment(counted=False)


@pytest.mark.parametrize("arrangement", ["single", "waiting", "cluster"])
def test_nothing_that_was_promised_is_broken_by_faults(arrangement: str, tmp_path: Path) -> None:
    """Issue 6, item 4: real servers, a load, faults; zero violations, and a figure for each fault."""
    output = tmp_path / "RESULTS.md"
    command = [sys.executable, "-m", "chaos.run", "--form", "short", "--seed", "8936", "--only", arrangement]
    done = subprocess.run(
        [*command, "--output", str(output)],
        cwd=ROOT,
        env=PLAIN,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = output.read_text(encoding="utf-8")
    assert "seed 8936" in told
    assert re.search(r"^\| violations \| 0 \|$", told, re.M)
    for name in FORMS["short"].faults[arrangement]:
        assert f"\n| {name}" in told


def test_a_rolling_restart_under_load_cuts_nobody(tmp_path: Path) -> None:
    """Issue 6, item 3: held polls let go with an answer, what is under way finished, no 5xx, nothing lost."""
    seen = rolling.play(replace(rolling.WAYS[0], times=1), 8936, tmp_path / "stage")
    assert (seen.verdict.broken, seen.mistakes) == ([], [])
    row = dict(zip(rolling.HEAD, rolling.figures(seen), strict=True))
    assert int(row["requests"]) > 0
    assert (row["5xx"], row["– under way"], row["violations"]) == ("0", "0", "0")
    answered, held = row["held polls answered"].split(" of ")
    assert 0 < int(held) == int(answered)


def test_one_fault_alone_may_be_played(tmp_path: Path) -> None:
    """docs/reliability.md: for who breaks the code on purpose, or looks for what broke it."""
    output = tmp_path / "RESULTS.md"
    command = [sys.executable, "-m", "chaos.run", "--form", "short", "--seed", "8936", "--only", "single"]
    command += ["--fault", "rolling restart (HUP)", "--seconds", "0.5", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, env=PLAIN, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\| faults \| 1 \|$", output.read_text(encoding="utf-8"), re.M)


def test_the_long_form_is_as_long_as_was_asked_for() -> None:
    """Issue 6: at least 100 000 SETs, and 20 faults of at least eight kinds."""
    faults = [name for each in FORMS["long"].faults.values() for name in each]
    assert FORMS["long"].sets * len(FORMS["long"].faults) >= 100_000
    assert len(faults) >= 20
    assert len(set(faults)) >= 8
    assert set(faults) == set(KINDS)


def test_every_kind_of_fault_stands_in_the_table_of_what_may_be_lost() -> None:
    """Issue 6, item 5: docs/reliability.md says of each what it may take."""
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert [name for name in KINDS if f"`{name}`" not in text] == []
