"""What others on the machine get of SETs, keys and secrets: nothing, or a warning says so."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from eventpoll.store.errors import Unavailable
from eventpoll.store.records import Rules
from eventpoll.store.redis import embedded, private_folder
from eventpoll.store.redis.embedded import Embedded
from eventpoll.store.store import Store
from harness import ROOT
from harness.sets import set_of

OTHER = 65_534
"""nobody, on most systems."""

STRANGER = """
import os, socket, sys
from pathlib import Path
path, heard, user = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
if os.geteuid() == 0:
    os.setuid(user)
path.parent.mkdir(exist_ok=True)
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(str(path))
    path.chmod(0o777)
    listener.listen()
    print("listens", flush=True)
    while True:
        connection, _ = listener.accept()
        told = connection.recv(65536)
        with heard.open("ab") as file:
            file.write(told)
        connection.sendall(b"+PONG\\r\\n")
"""
"""Who listens where our server should, answers as it does, and writes down what it is told."""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary directory as /tmp is: anybody may make something in it."""
    with tempfile.TemporaryDirectory(prefix="t") as name:
        Path(name).chmod(0o1777)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


@pytest.fixture
def stranger(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Have another user listen at a path; what that one was told goes to the file that is returned.

    Root becomes another user for it. Who is not root cannot: there our own side believes that it is another one.
    """
    heard = temporary / "heard"
    processes: list[subprocess.Popen[str]] = []

    def listen(path: str) -> Path:
        command = [sys.executable, "-c", STRANGER, path, str(heard), str(OTHER)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "listens\n"
        if os.geteuid() != 0:
            monkeypatch.setattr(os, "geteuid", lambda: OTHER)
            monkeypatch.setattr(embedded, "START_SECONDS", 1.0)
        return heard

    yield listen
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("deep", [True, False], ids=["long path", "open directory"])
def test_who_listens_first_where_our_server_should_gets_nothing(
    stranger: Callable[[str], Path], temporary: Path, deep: bool
) -> None:
    """Issue 11, 9: under a long path the socket lies in the temporary directory; and .data may be open to others."""
    directory = temporary / ("d" * 100 if deep else "data")
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    here = Embedded(directory)
    heard = stranger(here.path)
    store = Store.open(None, directory, Rules())
    alone = os.geteuid() != 0  # then a server of ours is taken for a stranger's, too
    refused = pytest.raises(Unavailable, match=r"remove it|gets nothing from us")
    with (
        refused if deep or alone else nullcontext()
    ):  # its folder cannot be had; else it is closed, and ours takes over
        store.configure("tpp", "hash", {})
        store.push("tpp", "jti-1", set_of("jti-1"))
    assert not heard.exists() or heard.read_bytes() == b""
    store.redis.close()
    store.redis.connection_pool.connection_kwargs["embedded"].leave()


@pytest.mark.parametrize("deep", [True, False], ids=["long path", "open directory"])
def test_push_set_gives_nothing_to_who_listens_first(temporary: Path, deep: bool) -> None:
    """bank/push-set finds the socket by the same rule, and looks whose it is.

    An `id` of the test's own makes it another user's program: so who listens is a stranger to it.
    """
    root = temporary / ("d" * 100 if deep else "data")
    for part in ("bank/push-set", "eventpoll/store/lua/push.lua"):
        (root / part).parent.mkdir(parents=True)
        shutil.copy2(ROOT / part, root / part)
    (root / ".data").mkdir()
    (temporary / "id").write_text(f"#!/bin/sh\necho {OTHER}\n")
    (temporary / "id").chmod(0o755)
    path = Path(Embedded(root / ".data").path.replace(f"eventpoll-{os.getuid()}-", f"eventpoll-{OTHER}-"))
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
        done = subprocess.run(
            [root / "bank" / "push-set", "tpp-1"],
            input=set_of("jti-1"),
            capture_output=True,
            text=True,
            env={"PATH": f"{temporary}:{os.environ['PATH']}", "TMPDIR": str(temporary)},
            timeout=30,
        )
        with pytest.raises(BlockingIOError):  # nobody came
            listener.accept()
    assert done.returncode == 1
    assert "is not ours" in done.stderr


def test_a_directory_that_was_open_is_closed_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """.data may have been made with the usual umask: whoever copies the file of the store has every SET."""
    directory = tmp_path / "data"
    directory.mkdir()
    directory.chmod(0o755)
    here = Embedded(directory)
    here.join()
    here.leave()
    assert mode(directory) == 0o700
    assert f"{directory} was open to other users: it is closed now" in caplog.text
    caplog.clear()
    here.join()
    here.leave()
    assert caplog.text == ""


def test_a_directory_that_cannot_be_closed_is_told_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is another user's, as a volume may be: the store works, and each start says who may read it."""
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)
    tmp_path.chmod(0o770)
    here = Embedded(tmp_path)
    here.join()
    here.leave()
    assert "Other users may read the SETs of the embedded store" in caplog.text
    assert f"belongs to the user {tmp_path.stat().st_uid}" in caplog.text


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_is_made_or_closed_or_refused(tmp_path: Path) -> None:
    """For its owner alone, whatever the umask; never through a link, which another may have laid."""
    before = os.umask(0)
    try:
        assert not private_folder.folder(tmp_path / "new")
    finally:
        os.umask(before)
    assert mode(tmp_path / "new") == 0o700
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o751)
    assert private_folder.folder(tmp_path / "open")
    assert mode(tmp_path / "open") == 0o700
    (tmp_path / "link").symlink_to(tmp_path / "new")
    with pytest.raises(PermissionError, match="is a link: remove it"):
        private_folder.folder(tmp_path / "link")
    with pytest.raises(PermissionError, match=r"belongs to the user \d+: remove it, or give it to \d+"):
        private_folder.folder(tmp_path / "new", {OTHER})
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        private_folder.folder(tmp_path / "file")


@pytest.mark.parametrize("arguments", [("keygen", "--alg", "ES256"), ("add-tpp", "tpp"), ("add-tpp", "tpp", "--json")])
def test_a_secret_that_goes_to_a_file_is_its_owners_alone(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """`flask eventpoll keygen > keys.json` under the usual umask makes a file that everyone reads."""
    file = tmp_path / "secret"
    file.touch(0o644)
    file.chmod(0o644)
    done = run(tmp_path, arguments, file)
    assert done.returncode == 0, done.stderr
    assert mode(file) == 0o600
    assert "its mode is 0600 now" in done.stderr
    assert len(file.read_text().splitlines()) in (1, 2)
    assert json.loads(file.read_text()) if arguments[0] == "keygen" else "secret" in file.read_text()


def test_what_is_no_secret_leaves_the_files_mode(tmp_path: Path) -> None:
    """A report may be meant for others."""
    file = tmp_path / "streams"
    file.touch(0o644)
    file.chmod(0o644)
    done = run(tmp_path, ("streams",), file)
    assert (done.returncode, done.stderr) == (0, "")
    assert mode(file) == 0o644


def run(directory: Path, arguments: tuple[str, ...], output: Path) -> "subprocess.CompletedProcess[str]":
    """An operator's command, whose output a shell sends to a file."""
    command = [sys.executable, "-m", "flask", "--app", str(ROOT / "wsgi.py"), "eventpoll", *arguments]
    environ = {name: os.environ[name] for name in ("PATH", "COVERAGE_PROCESS_CONFIG") if name in os.environ}
    with output.open("wb") as file:
        return subprocess.run(
            command, cwd=directory, env=environ, stdout=file, stderr=subprocess.PIPE, text=True, timeout=120
        )


def test_a_file_that_cannot_be_closed_is_told_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is another user's, or on a file system without modes: who gives away the secret knows it."""
    from eventpoll.cli import output

    def refuse(descriptor: int, mode: int) -> None:
        raise PermissionError

    with (tmp_path / "secret").open("w") as file:
        os.fchmod(file.fileno(), 0o644)
        monkeypatch.setattr(sys, "stdout", file)
        monkeypatch.setattr(os, "fchmod", refuse)
        output.close_output()
    assert "WARNING: the secret goes to a file that others can read" in capsys.readouterr().err


def test_a_folder_for_counts_that_is_anothers_stops_the_start(tmp_path: Path) -> None:
    """Anybody may make a folder of that name in /tmp: one line says what to do, and nothing is written into it."""
    script = textwrap.dedent(f"""
        import importlib.util, os, sys
        spec = importlib.util.spec_from_file_location("conf", {str(ROOT / "gunicorn.conf.py")!r})
        conf = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(conf)
        conf.COUNTS.symlink_to({str(tmp_path)!r})
        conf.make_counts()
    """)
    environ = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "cannot be made (File exists): remove it, or set TMPDIR" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if not path.is_symlink()) == []


def test_a_temporary_directory_with_a_long_path_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel allows some 107 bytes for the path of a socket: then its folder lies in /tmp."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("t" * 100)))
    path = embedded.Embedded(tmp_path / ("d" * 120)).path
    assert path.startswith(f"/tmp/eventpoll-{os.getuid()}-")
    assert len(path.encode()) <= 100
