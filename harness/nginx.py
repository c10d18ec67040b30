"""nginx with deploy/nginx.conf before the service."""

import http.client
import os
import shutil
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
"""The authority whose certificates nginx takes."""

NOW = '{"returnImmediately": true}'
PROGRAM = shutil.which("nginx", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin") or "nginx"


class Nginx:
    """nginx with deploy/nginx.conf as it stands, but for the port, the place of its files and where the service is."""

    def __init__(self, directory: Path, service: Server, bank: str = "127.0.0.0/8") -> None:
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
            ("allow 127.0.0.0/8", f"allow {bank}"),
        ):
            assert ours in text
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
        """Have nginx check its files."""
        return subprocess.run([*self.command, "-t"], capture_output=True, text=True, timeout=60)

    @contextmanager
    def running(self) -> Iterator["Nginx"]:
        """Run it for a while."""
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
    ) -> Reply:
        """Make one request, with the certificate that is shown."""
        context = ssl.create_default_context(cadata=AUTHORITY.pem)
        if shown is not None:
            context.load_cert_chain(*shown.files(self.directory))
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=30, context=context)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def poll(self, text: str, shown: Certificate | None = None, body: str = NOW, **headers: str) -> Reply:
        """Poll with a token."""
        named = {name.replace("__", "-"): value for name, value in headers.items()}
        return self.ask("POST", "/events", body, {"Content-Type": "application/json", **bearer(text), **named}, shown)
