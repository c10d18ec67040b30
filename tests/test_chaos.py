"""The chaos, in its short form, on each arrangement of servers: `make chaos` runs the long one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.faults import KINDS
from chaos.run import FORMS
from tests.conftest import ROOT

PLAIN = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "COVERAGE_PROCESS_CONFIG") if name in os.environ}


@pytest.mark.parametrize("arrangement", ["single", "waiting", "cluster"])
def test_nothing_that_was_promised_is_broken_by_faults(arrangement: str, tmp_path: Path) -> None:
    """Issue 6, item 4: real servers, a load, faults; zero violations, and a figure for each fault."""
    output = tmp_path / "RESULTS.md"
    command = [sys.executable, "-m", "chaos.run", "--form", "short", "--seed", "8936", "--only", arrangement]
    done = subprocess.run(
        [*command, "--output", str(output)], cwd=ROOT, env=PLAIN, capture_output=True, text=True, timeout=115
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = output.read_text(encoding="utf-8")
    assert "seed 8936" in told
    assert re.search(r"^\| violations \| 0 \|$", told, re.M)
    for name in FORMS["short"].faults[arrangement]:
        assert f"\n| {name}" in told


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
