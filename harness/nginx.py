"""nginx with deploy/nginx.conf in front of the service."""

import http.client
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from harness import ROOT
from harness.certificates import Certificate
from harness.issuer import bearer
from harness.ports import free_port
from harness.service import Reply, Server
from harness.waiting import wait_for

AUTHORITY = Certificate("Authority")
"""The authority whose certificates nginx accepts."""

NOW = '{"returnImmediately": true}'
INSIDE, OUTSIDE = "127.0.0.1", "127.0.0.2"
"""The address of the bank, with BANKS_OWN, and the address of another client."""
BANKS_OWN = {"127.0.0.0/8 1": f"{INSIDE} 1"}
PROGRAM = shutil.which("nginx", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin") or "nginx"


class Nginx:
    """nginx with deploy/nginx.conf, unchanged but for the port, file paths, the service's address and `changes`.

    `changes` maps a text of the file to its replacement.
    """

    def __init__(self, directory: Path, service: Server, changes: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.directory = directory
        directory.mkdir()
        certificate, key = Certificate("localhost", AUTHORITY).files(directory)
        Path(certificate).rename(directory / "server.pem")
        Path(key).rename(directory / "server.key")
        (directory / "tpp-authorities.pem").write_text(AUTHORITY.pem)
        text = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
        for ours, theirs in (
            ("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl"),
            ("server 127.0.0.1:8000", f"server 127.0.0.1:{service.port}"),
            ("/etc/nginx/eventpoll", str(directory)),
            *(changes or {}).items(),
        ):
            assert ours in text, ours
            text = text.replace(ours, theirs)
        (directory / "eventpoll.conf").write_text(text)
        places = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{name}_temp_path {directory}/{name};\n" for name in places)
        (directory / "nginx.conf").write_text(
            ("user root;\n" if os.geteuid() == 0 else "")
            + f"daemon off;\npid {directory}/pid;\nevents {{}}\n"
            + f"http {{\naccess_log off;\n{temporary}include {directory}/eventpoll.conf;\n}}\n"
        )
        configuration, log = str(directory / "nginx.conf"), str(directory / "log")
        self.command = [PROGRAM, "-p", str(directory), "-c", configuration, "-e", log]

    def check(self) -> "subprocess.CompletedProcess[str]":
        """Let nginx check its files, and return the finished process."""
        return subprocess.run([*self.command, "-t"], capture_output=True, text=True, timeout=60)

    @contextmanager
    def running(self) -> Iterator["Nginx"]:
        """Run nginx until the block ends."""
        process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: (self.directory / "pid").exists(), 10)
            yield self
        finally:
            process.terminate()
            process.wait(20)

    def ask(
        self,
        method: str,
        path: str,
        body: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        shown: Certificate | None = None,
        source: str = INSIDE,
    ) -> Reply:
        """Make one request from the address `source`, with `shown` as the client certificate."""
        context = ssl.create_default_context(cadata=AUTHORITY.pem)
        if shown is not None:
            context.load_cert_chain(*shown.files(self.directory))
        connection = http.client.HTTPSConnection(
            "localhost", self.port, timeout=30, context=context, source_address=(source, 0)
        )
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    @contextmanager
    def opened(self, sent: bytes, source: str = INSIDE) -> Iterator[ssl.SSLSocket]:
        """Open a connection from the address `source`, and send exactly these bytes on it."""
        context = ssl.create_default_context(cadata=AUTHORITY.pem)
        with (
            socket.create_connection(("127.0.0.1", self.port), 30, (source, 0)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(sent)
            yield connection

    def raw(self, sent: bytes, source: str = INSIDE) -> Reply:
        """Return the answer to exactly these bytes."""
        with self.opened(sent, source) as connection:
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def poll(self, text: str, shown: Certificate | None = None, body: str = NOW, **headers: str) -> Reply:
        """Poll with a token."""
        named = {name.replace("__", "-"): value for name, value in headers.items()}
        return self.ask("POST", "/events", body, {"Content-Type": "application/json", **bearer(text), **named}, shown)
