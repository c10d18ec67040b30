"""The inbox's workers, as the Procfile starts them."""

import json
import subprocess
import sys
from pathlib import Path

from joserfc.jwk import ECKey

from harness import ROOT
from harness.programs import environment
from harness.service import ISSUER

KEY = json.dumps({"keys": [ECKey.generate_key("P-256", {"kid": "inbox"}).as_dict(private=True)]})
"""The JWK Set with which the workers sign."""


class Workers:
    """Worker processes on one store."""

    def __init__(self, url: str, log: Path) -> None:
        self.environ = {
            **environment(),
            "FLASK_APP": str(ROOT / "wsgi.py"),
            "REDIS_URL": url,
            "EVENTPOLL_ISSUER": ISSUER,
            "EVENTPOLL_SIGNING_KEYS": KEY,
        }
        self.log = log
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
        """Start one more worker process."""
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "flask", "eventpoll", "worker", *arguments],
                cwd=self.log.parent,
                env={**self.environ, **settings},
                stdout=output,
                stderr=output,
            )
        self.running.append(process)
        return process

    def once(self, **settings: str) -> None:
        """Run one worker until the inbox is empty. Raises AssertionError with the log if the worker fails."""
        assert self.start("--once", **settings).wait(60) == 0, self.log.read_text()

    def stop(self) -> None:
        """Kill the workers that still run."""
        for process in self.running:
            if process.poll() is None:
                process.kill()
                process.wait()
