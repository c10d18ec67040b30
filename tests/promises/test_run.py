"""`make run`: what a newcomer sees, and that what the screen says to paste works."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventpoll import __version__
from eventpoll.store.redis.embedded import Embedded
from harness import ROOT
from harness.ports import free_port
from harness.waiting import wait_for

NOT_TRACKED = shutil.ignore_patterns(".git", ".venv", ".data", ".hypothesis", "__pycache__", ".*_cache", ".coverage*")


class Run:
    """One `make run`, as from a terminal: a process group of its own, which Ctrl-C reaches as a whole."""

    def __init__(self, directory: Path, port: int, **environ: str) -> None:
        self.directory = directory
        self.port = port
        self.log = directory / "run.log"
        plain = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                ["make", "run"],
                cwd=directory,
                env={**plain, "PORT": str(port), "WEB_CONCURRENCY": "1", **environ},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def screen(self) -> str:
        """What stands on the terminal once the service is up."""

        def shown() -> str:
            text = self.log.read_text()
            assert self.process.poll() is None, text
            return text if "Ctrl-C stops everything" in text else ""

        return str(wait_for(shown, 60, 0.05))

    def lines(self) -> list[str]:
        """The curl lines of the screen."""
        return re.findall(r"^    (curl .*)$", self.screen(), re.M)

    def interrupt(self) -> None:
        """Ctrl-C."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(40)


def paste(line: str) -> Any:
    """What a line prints when pasted in a shell."""
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def store_answers(checkout: Path) -> bool:
    """Whether the embedded store of a checkout runs."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(Embedded(checkout / ".data").path) == 0


def listens(port: int) -> bool:
    """Whether somebody answers there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh copy of the tree, without .data; the installed packages are shared, to spare an install."""
    directory = tmp_path_factory.mktemp("checkout") / "eventpoll"
    shutil.copytree(ROOT, directory, ignore=NOT_TRACKED)
    (directory / ".venv").symlink_to(sys.prefix)
    return directory


@pytest.fixture(scope="module")
def running(checkout: Path) -> Iterator[Run]:
    """`make run` in it, until the last test that needs it has stopped it."""
    run = Run(checkout, free_port())
    yield run
    run.interrupt()


def test_the_screen_says_where_it_serves_and_what_waits(running: Run) -> None:
    """PORT is respected; the line of the log says which store is used and whether it is durable."""
    screen = running.screen()
    assert f"eventpoll serves on http://127.0.0.1:{running.port}." in screen
    assert "demo-tpp: 3." in screen
    assert "Store: embedded under .data" in screen
    assert "durable: each write is on disk" in screen
    assert len(running.lines()) == 6


def test_every_line_of_the_screen_works_when_pasted(running: Run) -> None:
    """Poll, ack, the OBIE poll, the WSO2 poll, push and status, one after the other as a newcomer does it."""
    poll, ack, obie, wso2, push, status = running.lines()

    first = paste(poll)
    assert (len(first["sets"]), first["moreAvailable"]) == (2, True)
    acked = next(iter(first["sets"]))
    assert acked in ack  # the ack line names the SET that the poll returned first
    assert paste(ack) == {"sets": {}, "moreAvailable": True}
    left = paste(obie)
    assert len(left["sets"]) == 2
    assert acked not in left["sets"]
    again = paste(wso2)
    assert list(again) == ["moreAvailable", "sets"]
    assert set(again["sets"]) == set(left["sets"])
    jti = paste(push)["jti"]
    stood = paste(status)
    assert (stood["tpp"], stood["pending"], stood["in_flight"], stood["acked"]) == ("demo-tpp", 1, 2, 1)
    assert jti in paste(poll)["sets"]


def test_the_operators_commands_work_beside_it(running: Run) -> None:
    """Issue 12, 3: `make shell` has its settings and its store, so that a push mints; flask works there too."""
    running.screen()
    event = json.dumps({"jti": "from-the-shell", "events": {"urn:test:event": {}}})
    lines = [
        f"echo '{event}' | eventpoll push demo-tpp --json",
        "eventpoll --version",
        "flask eventpoll peek demo-tpp from-the-shell --json",
    ]
    plain = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        ["make", "shell"],
        cwd=running.directory,
        env={**plain, "SHELL": "/bin/sh"},
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    pushed, version, found = done.stdout.splitlines()
    assert json.loads(pushed) == {"jti": "from-the-shell", "status": "queued"}
    assert version == f"eventpoll {__version__}"
    assert json.loads(found)["state"] == "pending"
    assert json.loads(found)["set"].count(".") == 2


def test_a_port_in_use_is_said_at_once(running: Run, tmp_path: Path) -> None:
    """One clear line that names the port and the way out, no five tries."""
    running.screen()
    plain = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        ["make", "run"],
        cwd=running.directory,
        env={**plain, "PORT": str(running.port)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert f"Port {running.port} cannot be used (Address already in use)" in done.stderr
    assert "make run PORT=" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_setting_stops_it_with_a_line_for_each_mistake(checkout: Path) -> None:
    """The same lines as gunicorn --check-config, no stack trace."""
    plain = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environ = {**plain, "PORT": "none", "EVENTPOLL_ON_ERROR": "drop"}
    done = subprocess.run(["make", "run"], cwd=checkout, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "PORT: must be a whole number from 1 to 65535" in done.stderr
    assert "EVENTPOLL_ON_ERROR: must be one of park, redeliver" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_stops_everything_and_a_second_run_has_what_the_first_one_left(running: Run, checkout: Path) -> None:
    """SIGINT to the process group, as a terminal sends it: gunicorn and the store end. The store's files stay."""
    poll, *_, status = running.lines()
    before = paste(status)
    assert store_answers(checkout)
    running.interrupt()
    wait_for(lambda: not store_answers(checkout), 20, 0.05)
    assert not listens(running.port)
    assert "Traceback" not in running.log.read_text()

    second = Run(checkout, free_port())
    try:
        poll, *_, status = second.lines()
        after = paste(status)
        outstanding = before["pending"] + before["in_flight"]
        assert f"demo-tpp: {outstanding}." in second.screen()
        assert after["pending"] + after["in_flight"] == outstanding
        assert (after["pushed"], after["acked"]) == (before["pushed"], before["acked"])
        assert paste(poll)["sets"]
    finally:
        second.interrupt()
    wait_for(lambda: not store_answers(checkout), 20, 0.05)


def test_an_empty_demo_stream_is_filled_again(checkout: Path) -> None:
    """Whoever acknowledged everything yesterday has something to poll today."""
    run = Run(checkout, free_port())
    try:
        ack, obie = run.lines()[1:3]
        jtis = list(paste(obie)["sets"])
        paste(re.sub(r'"ack": \[.*?\]', f'"ack": {json.dumps(jtis)}', ack))
    finally:
        run.interrupt()
    run = Run(checkout, free_port())
    try:
        assert "demo-tpp: 3." in run.screen()
        assert len(paste(run.lines()[0])["sets"]) == 2
    finally:
        run.interrupt()


def test_settings_of_the_environment_win_over_the_demos_own(checkout: Path) -> None:
    """The demo fills in only what is left open, and its screen says what is in force."""
    environ = {"EVENTPOLL_BANK_USERNAME": "ann", "EVENTPOLL_BANK_PASSWORD_FILE": str(checkout / "password")}
    (checkout / "password").write_text("it's hers\n")
    run = Run(checkout, free_port(), **environ)
    try:
        assert paste(run.lines()[-1])["tpp"] == "demo-tpp"
    finally:
        run.interrupt()


def test_make_help_lists_the_commands() -> None:
    """`make` alone, and `make help`: every command with what it does."""
    for arguments in (["make"], ["make", "help"]):
        done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60)
        named = {line.split()[0] for line in done.stdout.splitlines() if line and not line.startswith("make")}
        assert {"run", "test", "lint", "fix", "help"} <= named
