"""`make shell`: a shell in which `eventpoll` and `flask eventpoll` have the settings and the store of `make run`."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

sys.path.insert(0, str(HERE.parent))
from demo.settings import DATA, fill_in  # noqa: E402

fill_in()
os.environ["PATH"] = os.pathsep.join([str(HERE / "bin"), str(HERE.parent / ".venv" / "bin"), os.environ["PATH"]])
if sys.stdin.isatty():
    print(f"Try: eventpoll streams. Stay in this folder, as the store is in {DATA}/ here. Leave with exit.", flush=True)
shell = os.environ.get("SHELL") or "/bin/sh"
os.execv(shell, [shell])
