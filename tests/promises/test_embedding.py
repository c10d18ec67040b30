"""docs/embedding.md: its application runs, under the worker classes that it names."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import eventpoll
from harness import ROOT
from harness.ports import free_port
from harness.programs import environment
from harness.redis_servers import RedisServer
from harness.service import BANK, Server, basic
from harness.waiting import wait_for

PAGE = (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8")
(APPLICATION,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
LOGGED_IN = {"Session": "yes"}
ONCE = "Polls are answered at once: this server handles one request at a time"


@contextmanager
def bank(directory: Path, environ: dict[str, str], *arguments: str) -> Iterator[Server]:
    """Serve the page's application, from a folder with a config.py that must not be imported."""
    (directory / "bank.py").write_text(APPLICATION, encoding="utf-8")
    (directory / "config.py").write_text("raise SystemExit('this is the config.py of the bank')\n", encoding="utf-8")
    port, log = free_port(), directory / "bank.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", *arguments, "bank:app"],
            cwd=directory,
            env={**environment(), "PYTHONPATH": str(ROOT), **environ},
            stdout=output,
            stderr=output,
        )
    server = Server(port, environ, log, process)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return server.request("GET", "/healthz-of-nobody").status == 401
        except OSError:
            return False

    try:
        wait_for(answers, 60, 0.05)
        yield server
    finally:
        server.stop()


@pytest.fixture
def settings(own_redis: RedisServer, environ: dict[str, str]) -> dict[str, str]:
    """A store of its own, and holds that outlive the test."""
    return {**environ, "REDIS_URL": own_redis.url, "EVENTPOLL_LONG_POLL_SECONDS": "28"}


def stream(server: Server) -> dict[str, str]:
    """Make the TPP's stream below the prefix; return the headers of its polls."""
    made = server.request("PUT", "/secevents/streams/tpp-1", auth=BANK)
    assert made.status == 201
    return {"Authorization": basic("tpp-1", made.json["secret"]), "Content-Type": "application/json"}


def of_the_bank(server: Server, path: str, **headers: str) -> bytes:
    """The body of a page of the bank's own, which no document of eventpoll's describes."""
    lines = [f"GET {path} HTTP/1.1", "Host: bank.example", *(f"{name}: {value}" for name, value in headers.items())]
    return server.raw("\r\n".join([*lines, "", ""]).encode()).body


def test_the_banks_application_and_eventpoll_leave_each_other_alone(settings: dict[str, str], tmp_path: Path) -> None:
    """Issue 12, 3: config.py, /healthz, /docs, error handlers and a login hook of the bank's, and a prefix.

    Its synchronous worker answers polls at once, and says so once.
    """
    with bank(tmp_path, settings) as server:
        assert of_the_bank(server, "/healthz") == b"the bank is well"
        assert of_the_bank(server, "/docs") == b"<h1>Log in to the bank</h1>"
        assert of_the_bank(server, "/docs", **LOGGED_IN) == b"the bank's own pages"
        ours = server.request("GET", "/secevents/healthz")
        assert ours.json == {"status": "ok", "version": eventpoll.__version__}
        assert server.request("GET", "/secevents/docs").status == 200
        assert server.request("GET", "/secevents/nothing").body == b"<h1>Log in to the bank</h1>"

        headers = stream(server)
        for _ in range(2):  # nothing waits, and nobody asks for returnImmediately
            assert server.request("POST", "/secevents/events", "{}", headers).json == {
                "sets": {},
                "moreAvailable": False,
            }
        assert server.log.read_text().count(ONCE) == 1
        pushed = server.request("POST", "/accounts/a-1/close", headers=LOGGED_IN).json["jti"]
        assert list(server.request("POST", "/secevents/events", "{}", headers).json["sets"]) == [pushed]

        wso2 = server.request("POST", "/secevents/api/fs/event-notifications/events")
        assert list(wso2.json) == ["error_description", "error"]
        obie = server.request("POST", "/secevents/open-banking/v4.0/events", "no JSON", headers)
        assert obie.json["Errors"][0]["ErrorCode"] == "U010"
        page = server.request("GET", "/secevents/console", headers={"Accept": "text/html"}, auth=BANK)
        assert b'href="/secevents/console/search"' in page.body
        for address in re.findall(r'(?:href|src)="([^"#]+)"', page.body.decode()):
            assert server.request("GET", address, auth=BANK).status == 200
        refused = server.request("GET", "/secevents/console", headers={"Accept": "text/html"})
        assert (refused.status, refused.headers["content-type"]) == (401, "text/html; charset=utf-8")


def test_with_threads_polls_are_held(settings: dict[str, str], tmp_path: Path) -> None:
    """A push wakes the poll; the log has nothing to say."""
    with bank(tmp_path, settings, "--worker-class", "gthread", "--threads", "4") as server:
        headers, metrics = stream(server), "/secevents/metrics"
        curl = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
        with subprocess.Popen(
            ["curl", "-sS", "-d", "{}", *curl, f"{server.url}/secevents/events"],
            stdout=subprocess.PIPE,
        ) as polling:
            wait_for(lambda: b"eventpoll_held_polls 1.0" in server.request("GET", metrics, auth=BANK).body, 30, 0.05)
            pushed = server.request("POST", "/accounts/a-1/close", headers=LOGGED_IN).json["jti"]
            assert pushed.encode() in polling.communicate(timeout=60)[0]
        assert ONCE not in server.log.read_text()


def test_the_page_names_every_part_and_every_claim() -> None:
    """A part or an argument that is added stands in the page."""
    from eventpoll.sets.event import EventSchema

    assert {part for part in eventpoll.PARTS if f"`{part}`" not in PAGE} == set()
    assert {name for name in EventSchema().fields if f"`{name}`" not in PAGE} == set()
