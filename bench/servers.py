"""The programs that are measured, each started here and ended here by its id, also on Ctrl-C."""

import atexit
import contextlib
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bench.resp import RedisError, Wire
from harness.ports import free_port
from harness.programs import children, environment, gunicorn, redis_program
from harness.waiting import wait_for

FILES = 65_536
WORKERS = 2


def raise_limits() -> int:
    """Let this process and those it starts open as many files as they may; how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (max(hard, FILES), hard):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            return most
    return soft


class Programs:
    """What we started."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen[bytes]] = []
        atexit.register(self.end_all)

    def start(self, arguments: list[str], directory: Path, environ: Mapping[str, str] | None = None) -> "Program":
        """Start a program with exactly these settings; what it says goes to a file in `directory`."""
        with (directory / f"{Path(arguments[0]).name}-{len(self.running)}.log").open("wb") as output:
            # A session of its own: Ctrl-C reaches us alone, and we end it.
            process = subprocess.Popen(
                arguments,
                cwd=directory,
                env={**environment(counted=False), **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.running.append(process)
        return Program(process, Path(output.name))

    def end_all(self) -> None:
        """End what still runs, the last first."""
        end(*reversed(self.running))
        self.running.clear()


def end(*processes: subprocess.Popen[bytes], how: int = signal.SIGTERM) -> None:
    """End programs, and wait until they have."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(how)
    for process in processes:
        try:
            process.wait(8)
        except subprocess.TimeoutExpired:
            for child in children(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            process.kill()
            process.wait()


class Program:
    """A program that we started."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    def check(self) -> None:
        """Raises RuntimeError, with what it said, where it has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.process.args!r} ended: {self.log.read_text(errors='replace')[-2000:]}")


class Redis:
    """A server on a Unix socket, with an append-only file."""

    def __init__(self, programs: Programs, directory: Path, program: str | None = None) -> None:
        self.programs = programs
        self.directory = directory
        self.program = program or redis_program()
        self.path = str(directory / "redis.sock")
        directory.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        """Start it on the files that are there, and wait until they are read."""
        # No rewrite of the file meanwhile: it would fall upon whoever is measured just then.
        settings = {
            "port": "0",
            "unixsocket": self.path,
            "dir": str(self.directory),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "auto-aof-rewrite-percentage": "0",
        }
        arguments = [self.program, *(part for name, value in settings.items() for part in (f"--{name}", value))]
        self.running = self.programs.start(arguments, self.directory)
        wait_for(self._ready, pause=0.002)
        self.wire = Wire(self.path)

    def _ready(self) -> bool:
        self.running.check()
        try:
            wire = Wire(self.path)
        except (OSError, RedisError):
            return False
        wire.close()
        return True

    def url(self, db: int = 0) -> str:
        """Its REDIS_URL."""
        return f"unix://{self.path}?db={db}"

    def name(self) -> str:
        """What it is."""
        told = self.wire.info("server")
        return f"Valkey {told['valkey_version']}" if "valkey_version" in told else f"Redis {told['redis_version']}"

    def memory(self) -> int:
        """Bytes that its keys take, with what keeping them costs; not the buffers of clients and of the file."""
        told = self.wire.info("memory")
        return int(told["used_memory"]) - int(told["mem_clients_normal"]) - int(told["mem_aof_buffer"])

    def file_bytes(self) -> int:
        """What its append-only file takes on the disk."""
        return sum(path.stat().st_size for path in (self.directory / "appendonlydir").iterdir())

    def end(self, how: int = signal.SIGTERM) -> None:
        """End it; SIGKILL leaves it no time for anything."""
        self.wire.close()
        end(self.running.process, how=how)


class Web:
    """gunicorn with the service's own gunicorn.conf.py, two workers."""

    def __init__(self, programs: Programs, directory: Path, environ: Mapping[str, str], app: str = "wsgi:app") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        settings = {"PORT": str(self.port), "WEB_CONCURRENCY": str(WORKERS), **environ}
        self.running = programs.start(gunicorn(app), directory, settings)
        self.url = f"http://127.0.0.1:{self.port}"

    def ready(self) -> "Web":
        """Wait until all its workers answer."""
        wait_for(lambda: self.answers("/healthz") and len(self.workers()) == WORKERS)
        return self

    def answers(self, path: str) -> bool:
        """Whether it answers 200 there."""
        self.running.check()
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
                return connection.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def workers(self) -> list[int]:
        """The ids of its workers."""
        return children(self.running.process.pid)

    def resident(self) -> int:
        """Bytes of memory that its workers have in use."""
        sizes = [Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in self.workers()]
        return sum(map(int, sizes)) * os.sysconf("SC_PAGE_SIZE")

    def busy(self) -> float:
        """Seconds of processor time that its workers have used."""
        threads = [thread for pid in self.workers() for thread in Path(f"/proc/{pid}/task").iterdir()]
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9

    def end(self) -> None:
        """End it."""
        end(self.running.process)
