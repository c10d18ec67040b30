"""The service as the Procfile starts it, and its callers: a bank, TPPs and gateways."""

import base64
import http.client
import json
import signal
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import contract
from harness.ports import free_port
from harness.programs import environment, gunicorn
from harness.waiting import wait_for

BANK = ("bank", "bank-password")
ISSUER = "https://bank.example"
BANK_SETTINGS = {
    "EVENTPOLL_BANK_USERNAME": BANK[0],
    "EVENTPOLL_BANK_PASSWORD": BANK[1],
    "EVENTPOLL_ISSUER": ISSUER,
}
"""The settings of a service for this bank."""


@dataclass
class Reply:
    """A complete HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """gunicorn, as the Procfile starts it, on a real socket."""

    port: int
    environ: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes]
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        timeout: float = 40,
    ) -> Reply:
        """Make one request on a connection of its own, and check the answer against /openapi.json.

        The request has only the given headers, and the one for `auth`. `timeout` is in seconds.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            sent = dict(headers or {})
            if auth is not None:
                sent["Authorization"] = basic(*auth)
            connection.request(method, path, body.encode() if isinstance(body, str) else body, sent)
            answer = connection.getresponse()
            reply = Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()
        contract.check(method, path, reply.status, reply.headers, reply.body)
        return reply

    def raw(self, text: bytes) -> Reply:
        """Return the answer to exactly these bytes."""
        with socket.create_connection(("127.0.0.1", self.port), 20) as connection:
            connection.sendall(text)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def bank(self, method: str, path: str, value: Any = None, **options: Any) -> Reply:
        """Make a call as the bank, with a JSON body if `value` is given."""
        headers = {"Content-Type": "application/json"} if value is not None else {}
        body = json.dumps(value) if value is not None else None
        return self.request(method, path, body, {**headers, **options.pop("headers", {})}, BANK, **options)

    def tpp(self, name: str, **settings: Any) -> str:
        """Make a stream, and keep its secret for `poll`."""
        reply = self.bank("PUT", f"/streams/{name}", settings)
        assert reply.status == 201, reply.body
        self.secrets[name] = reply.json["secret"]
        return self.secrets[name]

    def push(self, tpp: str, jti: str | None = None, events: Any = None) -> str:
        """Mint one SET, and return its jti."""
        event = {"events": events or {"urn:test:event": {}}, **({"jti": jti} if jti else {})}
        reply = self.bank("POST", f"/streams/{tpp}/sets", event)
        assert reply.status in (200, 201), reply.body
        return str(reply.json["jti"])

    def poll(self, tpp: str, value: Any = None, path: str = "/events", **options: Any) -> Reply:
        """Poll as a TPP, in JSON."""
        body = json.dumps({} if value is None else value)
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        return self.request("POST", path, body, headers, (tpp, self.secrets[tpp]), **options)

    def wso2(self, tpp: str, value: Any, path: str = "/api/openbanking/event-notifications/events") -> Reply:
        """Poll for a TPP as the bank's WSO2 gateway does."""
        text = base64.b64encode(json.dumps(value).encode()).decode()
        headers = {"Content-Type": "application/x-www-form-urlencoded", "x-wso2-client-id": tpp}
        return self.request("POST", path, "request=" + text.replace("+", "%2B"), headers, BANK)

    def stop(self, how: int = signal.SIGTERM, seconds: float = 40) -> int:
        """Send the signal `how` to the master, wait until it has ended, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(seconds)


def basic(username: str, password: str) -> str:
    """Return an Authorization header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def start_server(environ: Mapping[str, str], directory: Path, workers: int = 1, port: int | None = None) -> Server:
    """Start gunicorn with exactly these settings, and wait until it answers.

    `directory` is its working directory, where .data would be. Without `port`, the service gets a free port.
    """
    port = port or free_port()
    directory.mkdir(parents=True, exist_ok=True)
    settings = {**environment(), "PORT": str(port), "WEB_CONCURRENCY": str(workers), **environ}
    log = directory / f"gunicorn-{port}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(gunicorn("wsgi:app"), cwd=directory, env=settings, stdout=output, stderr=output)
    server = Server(port, dict(environ), log, process)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return server.request("GET", "/healthz", timeout=5).status == 200
        except OSError:
            return False

    wait_for(answers, 60, 0.05)
    return server
