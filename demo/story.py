"""`make demo`: the whole life of a SET, with real requests to a real server in a folder of its own."""

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BANK, TPP = "bank:bank-secret", "demo-tpp:demo-secret"
EVENT = {"urn:uk:org:openbanking:events:resource-update": {"subject": "acc-1"}}


def say(who: str, what: str) -> None:
    """Print a line of the story."""
    print(f"{who:>5}  {what}", flush=True)


class Wire:
    """The address of the server, and requests to it."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    def ask(self, who: str, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Make one request, and return the parsed answer. Raises OSError, also for an error status."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Authorization": "Basic " + base64.b64encode(who.encode()).decode()}
        if body is not None:
            headers["Content-Type"] = "application/json"
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status >= 400:
                raise OSError(f"{method} {path}: {answer.status} {text.decode()}")
            return json.loads(text) if text else None

    def told(self, who: str, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Make a request as `ask` does, and print the request and its answer as lines of the story."""
        name = "bank" if who == BANK else "TPP"
        say(name, f"{method} {path} {json.dumps(body) if body is not None else ''}".rstrip())
        answer = self.ask(who, method, path, body)
        text = json.dumps(answer)
        say("", f"→ {text if len(text) < 150 else text[:150] + '…'}")
        return answer

    def is_up(self) -> bool:
        """Return whether the server answers yet."""
        try:
            return bool(self.ask(BANK, "GET", "/readyz"))
        except (OSError, http.client.HTTPException):
            return False


def progress(what: str, until: Any, seconds: float = 180) -> None:
    """Print dots until `until` returns true. Exits with a message after `seconds`."""
    print(f"       {what} ", end="", flush=True)
    deadline = time.monotonic() + seconds
    while not until():
        if time.monotonic() > deadline:
            sys.exit(" it takes too long: see the log above")
        print(".", end="", flush=True)
        time.sleep(0.2)
    print(" yes.", flush=True)


def story(wire: Wire) -> None:
    """Play the story from a push to the last ack."""
    say("", "Three SETs wait for the TPP from the start. It fetches them, settles two, and cannot read the third.")
    sets = list(wire.told(TPP, "POST", "/events", {"returnImmediately": True})["sets"])
    errors = {sets[2]: {"err": "invalid_key", "description": "unknown kid"}}
    settled = {"ack": sets[:2], "setErrs": errors, "maxEvents": 0, "returnImmediately": True}
    wire.told(TPP, "POST", "/events", settled)

    print()
    say("", "Nothing waits any more. The next poll is held, until the bank pushes an event: minted and signed here.")
    answers: list[tuple[float, Any]] = []

    def hold() -> None:
        answers.append((0.0, wire.ask(TPP, "POST", "/events", {})))
        answers.append((time.monotonic(), None))

    poll = threading.Thread(target=hold)
    poll.start()
    say("TPP", "POST /events {}")
    meanwhile = time.monotonic() + 1.5
    progress("held, and no answer yet", lambda: time.monotonic() > meanwhile and poll.is_alive())
    begun = time.monotonic()
    jti = wire.told(BANK, "POST", "/streams/demo-tpp/sets", {"events": EVENT, "jti": "news"})["jti"]
    poll.join(30)
    took = 1000 * (answers[1][0] - begun)
    say("TPP", f"→ its held poll was answered, {took:.0f} ms after the push began: {list(answers[0][1]['sets'])}")
    wire.told(TPP, "POST", "/events", {"ack": [jti], "maxEvents": 0, "returnImmediately": True})

    print()
    say("", "What went wrong is not out of sight: the bank sees it, mends it, and puts the SET back.")
    wire.told(BANK, "GET", "/streams/demo-tpp/sets?state=parked")
    wire.told(BANK, "POST", f"/streams/demo-tpp/sets/{sets[2]}/requeue")
    again = list(wire.told(TPP, "POST", "/events", {"returnImmediately": True})["sets"])
    wire.told(TPP, "POST", "/events", {"ack": again, "maxEvents": 0, "returnImmediately": True})
    life = wire.ask(BANK, "GET", f"/streams/demo-tpp/sets/{sets[2]}")
    say("", "Its whole life: " + ", ".join(each["what"] for each in life["history"]) + f"; now {life['state']}.")


def main() -> None:
    """Start the server, play the story, and stop the server."""
    wire = Wire()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        names = ("PATH", "HOME", "LANG", "TMPDIR")
        environ = {name: os.environ[name] for name in names if name in os.environ}
        environ |= {"PORT": str(wire.port), "WEB_CONCURRENCY": "1"}
        command = [sys.executable, "-m", "gunicorn", "--config", str(ROOT / "demo/gunicorn.conf.py")]
        with log.open("wb") as output:
            server = subprocess.Popen(
                [*command, "--pythonpath", str(ROOT), "wsgi:app"], cwd=folder, env=environ, stdout=output, stderr=output
            )
        try:
            progress("The service starts", lambda: server.poll() is not None or wire.is_up())
            if server.poll() is not None:
                sys.exit(log.read_text())
            story(wire)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(40)


if __name__ == "__main__":
    main()
