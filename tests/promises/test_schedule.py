"""The suite on several processes: what takes long comes first, and its tests run side by side."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness import ROOT
from harness.programs import environment
from harness.schedule import LONG

HOOKS = """
from harness import schedule

def pytest_collection_modifyitems(items):
    schedule.longest_first(items)

def pytest_xdist_make_scheduler(config, log):
    return schedule.scheduler(config, log)
"""
LONG_FILE = """
import os, pytest
from harness.waiting import wait_for

@pytest.mark.parametrize("mine, other", [("a", "b"), ("b", "a")])
def test_both_run_at_once(mine, other):
    with open(mine, "x"):
        pass
    wait_for(lambda: os.path.exists(other), 60)
"""
SHORT_FILE = """
import os, pytest

@pytest.mark.parametrize("number", range(5))
def test_these_come_later(number):
    assert os.path.exists("a") and os.path.exists("b")
"""


@pytest.mark.parametrize("name", LONG)
def test_a_file_that_comes_first_is_there(name: str) -> None:
    """Whoever renames a file says so in harness/schedule.py."""
    assert len(list((ROOT / "tests").rglob(f"{name}.py"))) == 1


def test_long_tests_come_first_and_run_side_by_side(tmp_path: Path) -> None:
    """xdist alone would give both to one process, after the file that has more tests."""
    (tmp_path / "conftest.py").write_text(HOOKS)
    (tmp_path / f"{LONG[0]}.py").write_text(LONG_FILE)
    (tmp_path / "test_answers.py").write_text(SHORT_FILE)
    options = ["-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path), *options, str(tmp_path)],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "7 passed" in done.stdout, done.stdout + done.stderr
