"""Real parts for the tests: a Redis of our own, gunicorn on a real socket, a client that speaks plain HTTP."""

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from flask import Flask
from flask.testing import FlaskClient
from joserfc.jwk import RSAKey

from app import create_app
from bench.servers import free_port
from config import Config
from eventpoll.embedded import binary
from eventpoll.records import Rules
from eventpoll.store import Store
from tests import contract

ROOT = Path(__file__).resolve().parent.parent
BANK = ("bank", "bank-password")
ISSUER = "https://bank.example"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where shared_server keeps its SETs, if not in a server of the suite's own: a Cluster, say."""
    parser.addoption("--store", metavar="REDIS_URL", help="the store of the server that most tests share")


def wait_for(what: Callable[[], Any], seconds: float = 10.0, pause: float = 0.01) -> Any:
    """The first true answer of `what`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := what():
            return answer
        time.sleep(pause)
    raise AssertionError(f"not within {seconds} s: {what}")


def early_in_the_hour() -> None:
    """So that what is counted next is counted in one hour."""
    if (left := 3600 - time.time() % 3600) < 15:
        time.sleep(left + 0.1)


class RedisServer:
    """A real redis-server (the one on PATH, else pip's) on a TCP port of its own, with an append-only file."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self.port = free_port()
        self.arguments = arguments
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "RedisServer":
        program = shutil.which("redis-server") or binary()
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
            [program, *settings, "--save", "", *self.arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(lambda: self.ask(b"PING").startswith(b"+PONG"), 30)
        return self

    def ask(self, command: bytes) -> bytes:
        """One inline command, raw; empty where nobody answers."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
                connection.sendall(command + b"\r\n")
                return connection.recv(65536)
        except OSError:
            return b""

    def kill(self, how: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all tests that leave it as it is."""
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server for one test, to be killed, filled or made read-only."""
    server = RedisServer(tmp_path).start()
    yield server
    server.kill()


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[Store]:
    """A store on the real server, empty before and after."""
    store = Store.open(redis_server.url, Path(), Rules())
    store.redis.flushall()
    yield store
    store.redis.flushall()
    store.redis.close()


@pytest.fixture(scope="session")
def signing_keys() -> str:
    """A JWK Set with one RSA key, private."""
    return json.dumps({"keys": [RSAKey.generate_key(2048, {"kid": "test-1"}).as_dict(private=True)]})


@pytest.fixture
def environ(signing_keys: str) -> dict[str, str]:
    """The settings of a bank that mints."""
    return {
        "EVENTPOLL_BANK_USERNAME": BANK[0],
        "EVENTPOLL_BANK_PASSWORD": BANK[1],
        "EVENTPOLL_ISSUER": ISSUER,
        "EVENTPOLL_SIGNING_KEYS": signing_keys,
        "EVENTPOLL_LONG_POLL_SECONDS": "1",
        "EVENTPOLL_FAILED_LOGIN_SECONDS": "0",
    }


@pytest.fixture
def app(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Flask:
    """The application on fakeredis: for the wire's unit tests, which need no server."""
    client = fakeredis.FakeRedis(version=(7,))
    monkeypatch.setattr("eventpoll.store.connect", lambda url, data_dir: client)
    app = create_app(Config.from_environ(environ))
    app.testing = True
    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """Flask's test client. It lets header names with _ through: what depends on that belongs over a real socket."""
    return app.test_client()


@dataclass
class Reply:
    """An HTTP answer, read whole."""

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
        """One request on a connection of its own; nothing is added but Authorization where `auth` is given."""
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
        """What is answered to these very bytes."""
        with socket.create_connection(("127.0.0.1", self.port), 20) as connection:
            connection.sendall(text)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def bank(self, method: str, path: str, value: Any = None, **options: Any) -> Reply:
        """A call of the bank's, with a JSON body."""
        headers = {"Content-Type": "application/json"} if value is not None else {}
        body = json.dumps(value) if value is not None else None
        return self.request(method, path, body, {**headers, **options.pop("headers", {})}, BANK, **options)

    def tpp(self, name: str, **settings: Any) -> str:
        """Make a stream; its secret is remembered for `poll`."""
        reply = self.bank("PUT", f"/streams/{name}", settings)
        assert reply.status == 201, reply.body
        self.secrets[name] = reply.json["secret"]
        return self.secrets[name]

    def push(self, tpp: str, jti: str | None = None, events: Any = None) -> str:
        """Mint one SET; its jti."""
        event = {"events": events or {"urn:test:event": {}}, **({"jti": jti} if jti else {})}
        reply = self.bank("POST", f"/streams/{tpp}/sets", event)
        assert reply.status in (200, 201), reply.body
        return str(reply.json["jti"])

    def poll(self, tpp: str, value: Any = None, path: str = "/events", **options: Any) -> Reply:
        """A TPP's JSON poll."""
        body = json.dumps({} if value is None else value)
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        return self.request("POST", path, body, headers, (tpp, self.secrets[tpp]), **options)

    def wso2(self, tpp: str, value: Any, path: str = "/api/openbanking/event-notifications/events") -> Reply:
        """The bank's WSO2 poll for a TPP, as a gateway sends it."""
        text = base64.b64encode(json.dumps(value).encode()).decode()
        headers = {"Content-Type": "application/x-www-form-urlencoded", "x-wso2-client-id": tpp}
        return self.request("POST", path, "request=" + text.replace("+", "%2B"), headers, BANK)

    def stop(self, how: int = signal.SIGTERM, seconds: float = 40) -> int:
        """Signal the master and wait for its end; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(seconds)


def basic(username: str, password: str) -> str:
    """An Authorization header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def start_server(environ: Mapping[str, str], directory: Path, workers: int = 1, port: int | None = None) -> Server:
    """Start gunicorn in `directory` (where .data would be) with exactly these settings, and wait until it answers."""
    port = port or free_port()
    directory.mkdir(parents=True, exist_ok=True)
    plain = {
        name: os.environ[name] for name in ("PATH", "HOME", "LANG", "COVERAGE_PROCESS_CONFIG") if name in os.environ
    }
    settings = {**plain, "PORT": str(port), "WEB_CONCURRENCY": str(workers), **environ}
    log = directory / f"gunicorn-{port}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "gunicorn",
                "--config",
                str(ROOT / "gunicorn.conf.py"),
                "--pythonpath",
                str(ROOT),
                "wsgi:app",
            ],
            cwd=directory,
            env=settings,
            stdout=output,
            stderr=output,
        )
    server = Server(port, dict(environ), log, process)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return server.request("GET", "/healthz", timeout=5).status == 200
        except OSError:
            return False

    wait_for(answers, 60, 0.05)
    return server


@pytest.fixture(scope="session")
def shared_server(
    redis_server: RedisServer,
    signing_keys: str,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Iterator[Server]:
    """One gunicorn with two workers for all tests that leave it as it is; each test makes streams of its own."""
    environ = {
        "REDIS_URL": pytestconfig.getoption("--store") or redis_server.url.removesuffix("0") + "1",
        "EVENTPOLL_BANK_USERNAME": BANK[0],
        "EVENTPOLL_BANK_PASSWORD": BANK[1],
        "EVENTPOLL_ISSUER": ISSUER,
        "EVENTPOLL_SIGNING_KEYS": signing_keys,
        "EVENTPOLL_LONG_POLL_SECONDS": "2",
        "EVENTPOLL_FAILED_LOGIN_SECONDS": "0",
    }
    server = start_server(environ, tmp_path_factory.mktemp("shared"), workers=2)
    yield server
    server.stop()


@pytest.fixture
def serve(environ: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers with settings of the test's own: serve(EVENTPOLL_MAX_EVENTS="2", workers=2)."""
    servers: list[Server] = []

    def start(workers: int = 1, directory: Path | None = None, **settings: str) -> Server:
        server = start_server({**environ, **settings}, directory or tmp_path / "served", workers)
        servers.append(server)
        return server

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.stop(signal.SIGTERM)


def set_of(jti: str, events: Any = None, **claims: Any) -> str:
    """A SET as a bank may have signed it: its form is right, its signature is not ours to judge."""
    payload = {
        "iss": "https://bank.example",
        "iat": 1516239022,
        "jti": jti,
        "events": events or {"urn:test:event": {}},
        **claims,
    }
    parts = [json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "secevent+jwt"}, payload)] + [b"signature"]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
