"""Load: wrk with the scripts in wrk/ where it is installed, else a client of our own in Python, which is slower."""

import os
import re
import selectors
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

from bench.client import Connection, jtis, poll_body, request_text
from bench.sets import JTI_CHARACTERS, SET_CHARACTERS

SCRIPTS = Path(__file__).resolve().parent / "wrk"
WRK = None if os.environ.get("BENCH_LOAD") == "python" else shutil.which("wrk")
THREADS, CONNECTIONS, FOR_LARGE_PAGES = 2, 32, 8
LARGE = 100
STRETCHES = (1, 4, 16)
STOPS = 60


class BadLoad(Exception):
    """A round in which something was answered that does not count, or the SETs ran out."""


@dataclass(frozen=True)
class Load:
    """What is asked, again and again. Without a body it is a GET."""

    script: str  # fixed, poll or push
    path: str
    body: str | None = None
    content_type: str = "application/json"
    authorization: str = ""
    page: int = 0
    form: bool = False
    file: Path | None = None

    def environ(self) -> dict[str, str]:
        """The same, as the scripts read it."""
        found = {
            "BENCH_SCRIPTS": str(SCRIPTS),
            "BENCH_PATH": self.path,
            "BENCH_TYPE": self.content_type,
            "BENCH_AUTHORIZATION": self.authorization,
            "BENCH_PAGE": str(self.page),
            "BENCH_FORM": str(int(self.form)),
            "BENCH_JTI": str(JTI_CHARACTERS),
            "BENCH_SET": str(SET_CHARACTERS),
            "BENCH_FILE": str(self.file or ""),
        }
        return found if self.body is None else {**found, "BENCH_BODY": self.body}


def generator() -> str:
    """What makes the load."""
    if WRK is None:
        return f"a Python client, {CONNECTIONS} connections (wrk is not installed: absolute figures are too low)"
    told = subprocess.run([WRK, "-v"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"\d+\.\d+\S*", told)
    return (
        f"wrk {version.group() if version else ''}, {THREADS} threads, {CONNECTIONS} connections, "
        f"{FOR_LARGE_PAGES} for pages of {LARGE} and more"
    )


def run(url: str, load: Load, seconds: float) -> float:
    """Requests/s. Raises BadLoad where one of them was not answered as it should be."""
    seconds = max(seconds, load.page / 2500)
    connections = FOR_LARGE_PAGES if load.page >= LARGE else CONNECTIONS
    for stretch in STRETCHES:  # a large page may take longer than a short round
        requests, elapsed, wrong, told = (_wrk if WRK else _python)(url, load, seconds * stretch, connections)
        if requests or wrong:
            break
    if wrong or not requests:
        raise BadLoad(f"{load.path}, {load.page} a page: {requests} answered, {wrong} wrong or run dry. {told}")
    return requests / elapsed


def _wrk(url: str, load: Load, seconds: float, connections: int) -> tuple[int, float, int, str]:
    """Its own time ends it only where we cannot: it counts whole seconds."""
    arguments = [str(WRK), "-t", str(THREADS), "-c", str(connections), "-d", f"{seconds + 60:.0f}s"]
    process = subprocess.Popen(
        [*arguments, "--timeout", "20s", "-s", str(SCRIPTS / f"{load.script}.lua"), url],
        env={**os.environ, **load.environ()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        time.sleep(seconds)
        told = _stopped(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode == -signal.SIGINT:
        return 0, 0.0, 0, "wrk was stopped before it had begun"
    found = re.search(r"^BENCH (\d+) (\d+) \d+ (\d+) (\d+) (\d+)", told, re.M)
    if found is None:
        raise BadLoad(f"wrk said: {told}")
    requests, micros, *wrong = map(int, found.groups())
    return requests, micros / 1e6, sum(wrong), told


def _stopped(process: "subprocess.Popen[str]") -> str:
    """What wrk says at its end. It may miss one signal, just before it begins to wait for it."""
    for _ in range(STOPS):
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=0.5)[0]
        except subprocess.TimeoutExpired:
            continue
    raise BadLoad("wrk does not end")


def _python(url: str, load: Load, seconds: float, connections: int) -> tuple[int, float, int, str]:
    """Make the load of wrk/*.lua. Return requests, seconds, how many were answered wrongly, and nothing to tell."""
    acks: deque[bytes] = deque()
    lines = iter(load.file.read_bytes().splitlines() if load.file else ())
    fixed = load.body.encode() if load.body is not None else None

    bodies: dict[str, Callable[[], bytes | None]] = {
        "fixed": lambda: fixed,
        "poll": lambda: poll_body(load.page, acks.popleft() if acks else b"", load.form),
        "push": lambda: next(lines, b"ran out"),
    }
    ask = bodies[load.script]
    chosen = selectors.DefaultSelector()
    opened = [Connection(urlsplit(url).port or 80) for _ in range(connections)]
    answered = wrong = 0
    start = perf_counter()
    for connection in opened:
        chosen.register(connection.socket, selectors.EVENT_READ, connection)
        connection.socket.sendall(request_text(load.path, ask(), load.content_type, load.authorization))
    while perf_counter() - start < seconds:
        for key, _ in chosen.select(1):
            connection = key.data
            if (body := connection.heard()) is None:
                continue
            answered += 1
            if load.script == "poll":
                found = jtis(body, load.page)
                acks.append(b",".join(found))
                wrong += not found
            wrong += connection.status >= 400
            connection.socket.sendall(request_text(load.path, ask(), load.content_type, load.authorization))
    elapsed = perf_counter() - start
    for connection in opened:
        connection.close()
    return answered, elapsed, wrong, ""
