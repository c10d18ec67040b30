"""The programs that the harness starts: their environment, command lines and processes."""

import os
import shutil
import sys
from pathlib import Path

from eventpoll.store.redis.embedded import binary
from harness import ROOT

INHERITED = ("PATH", "HOME", "LANG")
COVERAGE = "COVERAGE_PROCESS_CONFIG"


def environment(*, counted: bool = True) -> dict[str, str]:
    """Return the few of our environment variables that a program needs. Its settings come only from the caller.

    With `counted`, coverage measures what the program runs, which takes time.
    """
    names = (*INHERITED, COVERAGE) if counted else INHERITED
    return {name: os.environ[name] for name in names if name in os.environ}


def redis_program() -> str:
    """Return the redis-server on PATH, or else pip's Valkey."""
    return shutil.which("redis-server") or binary()


def gunicorn(*arguments: str, config: Path = ROOT / "gunicorn.conf.py") -> list[str]:
    """Return the command line that serves this checkout from any directory."""
    return [sys.executable, "-m", "gunicorn", "--config", str(config), "--pythonpath", str(ROOT), *arguments]


def children(pid: int) -> list[int]:
    """Return the ids of the processes that a process started; [] if it has ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
