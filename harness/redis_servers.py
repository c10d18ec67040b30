"""Real Redis servers, with TLS or without."""

import signal
import socket
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from harness.ports import free_port
from harness.programs import redis_program
from harness.waiting import wait_for


class RedisServer:
    """A redis-server on a TCP port of its own, with an append-only file."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self.port = free_port()
        self.arguments = arguments
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "RedisServer":
        """Start the server on the existing files, and wait until it answers."""
        settings = [
            "--port",
            str(self.port),
            "--dir",
            str(self.directory),
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
        ]
        self.process = subprocess.Popen(
            [redis_program(), *settings, "--save", "", *self.arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(lambda: self.ask(b"PING").startswith(b"+PONG"), 30)
        return self

    def ask(self, command: bytes) -> bytes:
        """Return the raw reply to an inline command; b"" if the server does not answer."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
                connection.sendall(command + b"\r\n")
                return connection.recv(65536)
        except OSError:
            return b""

    def kill(self, how: int = signal.SIGKILL) -> None:
        """Send the signal `how` to the server, and wait until the server has ended."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait()
            self.process = None


@dataclass(frozen=True)
class Tls:
    """The files of a server that accepts only TLS with a client certificate. Its clients use the same certificate."""

    authority: str
    certificate: str
    key: str

    def settings(self, port: int) -> list[tuple[str, str]]:
        """Return the settings of a server or a Sentinel."""
        return [
            ("port", "0"),
            ("tls-port", str(port)),
            ("tls-ca-cert-file", self.authority),
            ("tls-cert-file", self.certificate),
            ("tls-key-file", self.key),
            ("tls-replication", "yes"),
        ]

    @property
    def options(self) -> dict[str, str]:
        """Return the options of a client by redis-py's names, which a REDIS_URL uses too."""
        return {"ssl_ca_certs": self.authority, "ssl_certfile": self.certificate, "ssl_keyfile": self.key}


class TlsRedisServer(RedisServer):
    """A server that accepts only TLS."""

    name = "127.0.0.1"
    """The name in its certificate."""

    def __init__(self, directory: Path, *arguments: str, tls: Tls) -> None:
        super().__init__(directory, *arguments)
        self.tls = tls
        ours = [word for name, text in tls.settings(self.port) for word in (f"--{name}", text)]
        self.arguments = (*ours, *arguments)
        self.url = self.url.replace("redis:", "rediss:")

    def ask(self, command: bytes) -> bytes:
        """Return the raw reply to an inline command; b"" if the server does not answer."""
        context = ssl.create_default_context(cafile=self.tls.authority)
        context.load_cert_chain(self.tls.certificate, self.tls.key)
        try:
            with (
                socket.create_connection(("127.0.0.1", self.port), 10) as plain,
                context.wrap_socket(plain, server_hostname=self.name) as connection,
            ):
                connection.sendall(command + b"\r\n")
                return connection.recv(65536)
        except OSError:
            return b""


def redis_server(directory: Path, *arguments: str, tls: Tls | None = None) -> RedisServer:
    """Return a server that is not started yet, with TLS or without."""
    directory.mkdir(parents=True, exist_ok=True)
    return TlsRedisServer(directory, *arguments, tls=tls) if tls else RedisServer(directory, *arguments)


def client_of(port: int, tls: Tls | None = None) -> Any:
    """Return a plain client of one server."""
    options: dict[str, Any] = {"ssl": True, **tls.options} if tls else {}
    return redis.Redis(port=port, decode_responses=True, **options)
