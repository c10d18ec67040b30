"""The lines of the Procfile, run as a platform runs them: by a shell, with PORT, stopped by SIGTERM to all at once."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import redis

from harness import ROOT
from harness.ports import free_port
from harness.programs import environment
from harness.redis_servers import RedisServer
from harness.service import Server
from harness.waiting import wait_for

LINES = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text(encoding="utf-8").splitlines())
GRACE_SECONDS = 30
"""Between SIGTERM and SIGKILL on Heroku; systemd and Kubernetes have theirs from deploy/."""

EVENTS = json.dumps({"urn:test:event": {}})


class Platform:
    """What starts the processes of the Procfile, each in a process group of its own."""

    def __init__(self, environ: dict[str, str], log: Path) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.port = free_port()
        self.environ = {**environment(), "PATH": path, "PORT": str(self.port), "WEB_CONCURRENCY": "2", **environ}
        self.log = log
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, **settings: str) -> "subprocess.Popen[bytes]":
        """The process of that line."""
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                ["sh", "-c", f"exec {LINES[name]}"],
                cwd=ROOT,
                env={**self.environ, **settings},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def web(self) -> Server:
        """The web process, once it answers on PORT."""
        server = Server(self.port, {}, self.log, self.start("web"))

        def answers() -> bool:
            assert server.process.poll() is None, self.log.read_text()
            try:
                return server.request("GET", "/readyz").status == 200
            except OSError:
                return False

        wait_for(answers, 30, 0.05)
        return server

    def stop(self, process: "subprocess.Popen[bytes]") -> int:
        """SIGTERM to every process of the group; the exit code, within the platform's patience."""
        os.killpg(process.pid, signal.SIGTERM)
        return process.wait(GRACE_SECONDS)


@pytest.fixture
def platform(own_redis: RedisServer, environ: dict[str, str], tmp_path: Path) -> Iterator[Platform]:
    """A platform with a store."""
    settings = {**environ, "REDIS_URL": own_redis.url, "EVENTPOLL_LONG_POLL_SECONDS": "25"}
    platform = Platform(settings, tmp_path / "platform.log")
    yield platform
    for process in platform.running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_processes_are_those_that_platforms_know() -> None:
    """interface.md: release, web and worker; release is Heroku's name for what runs before each start."""
    assert sorted(LINES) == ["release", "web", "worker"]


def test_a_release_passes_on_a_good_store(platform: Platform) -> None:
    """interface.md, check: what would hurt in production."""
    assert platform.start("release").wait(60) == 0, platform.log.read_text()


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ({"REDIS_URL": "redis://127.0.0.1:1"}, "store is not available"),
        ({"EVENTPOLL_ON_ERROR": "drop"}, "EVENTPOLL_ON_ERROR: must be one of park, redeliver"),
        ({"EVENTPOLL_ISSUER": ""}, "nothing can be minted"),
    ],
)
def test_a_release_that_would_hurt_is_stopped(platform: Platform, broken: dict[str, str], told: str) -> None:
    """Any other exit code keeps the platform on the release before."""
    assert platform.start("release", **broken).wait(60) != 0
    assert told in platform.log.read_text()


def test_a_store_that_forgets_stops_a_release(platform: Platform, own_redis: RedisServer) -> None:
    """The add-on of a platform may come without an append-only file."""
    assert own_redis.ask(b"CONFIG SET appendonly no").startswith(b"+OK")
    assert platform.start("release").wait(60) == 1
    assert "appendonly is not yes" in platform.log.read_text()


def test_web_and_worker_serve_together_and_end_when_told(platform: Platform, own_redis: RedisServer) -> None:
    """Issue 6, 6: an event from the inbox reaches a poll that web holds; SIGTERM ends both within the grace period,
    with 0, and answers what is held."""
    server, worker = platform.web(), platform.start("worker")
    wait_for(lambda: platform.log.read_text().count("Booting worker") == 2)  # WEB_CONCURRENCY
    server.tpp("one")
    replies: list[Any] = []
    polling = in_the_background(lambda: replies.append(server.poll("one")))
    wait_for(lambda: own_redis.ask(b"PUBSUB CHANNELS eventpoll:*").count(b"{one}"))
    with redis.Redis.from_url(own_redis.url, decode_responses=True) as client:
        entry = client.xadd("eventpoll:inbox", {"tpp": "one", "events": EVENTS})
        polling.join(20)
        (jti,) = replies.pop().json["sets"]
        assert jti == f"inbox-{entry}"

        polling = in_the_background(lambda: replies.append(server.poll("one", {"ack": [jti]})))
        wait_for(lambda: client.hget("eventpoll:{one}:stream", "acked") == "1")
    assert [platform.stop(worker), platform.stop(server.process)] == [0, 0], platform.log.read_text()
    polling.join(5)
    assert (replies[0].status, replies[0].json) == (200, {"sets": {}, "moreAvailable": False})
    assert "Traceback" not in platform.log.read_text()


def in_the_background(what: Callable[[], None]) -> Thread:
    thread = Thread(target=what)
    thread.start()
    return thread
