"""`make demo`: the story is the service's own, and comes out as it is told."""

import subprocess
import sys
from pathlib import Path

from harness import ROOT
from harness.programs import environment


def test_the_story_is_played_to_its_end(tmp_path: Path) -> None:
    """Issue 7, 4: push, a long poll that wakes, ack, setErrs, requeue; nothing is left behind."""
    environ = environment() | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, str(ROOT / "demo/story.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "its held poll was answered" in done.stdout
    life = "pushed, delivered, reported, requeued, delivered, acknowledged; now settled."
    assert done.stdout.rstrip().endswith(life)
    assert list(tmp_path.glob("tmp*")) == []


def test_make_knows_it() -> None:
    """The command is in the list of commands."""
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "demo " in done.stdout
