"""deploy/nginx.conf before the service: client certificates, headers that nobody may forge, polls that are held."""

import http.client
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from bench.servers import free_port
from tests import issuer
from tests.certificates import Certificate
from tests.conftest import BANK, ROOT, RedisServer, Reply, Server, basic, start_server, wait_for
from tests.issuer import bearer, token

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
NOW = '{"returnImmediately": true}'
AUTHORITY = Certificate("Authority")
TPP, OTHER = Certificate("tpp", AUTHORITY), Certificate("other", AUTHORITY)
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
        self.command = [
            PROGRAM,
            "-p",
            str(directory),
            "-c",
            str(directory / "nginx.conf"),
            "-e",
            str(directory / "log"),
        ]

    def check(self) -> "subprocess.CompletedProcess[str]":
        """What nginx says of the file."""
        return subprocess.run([*self.command, "-t"], capture_output=True, text=True, timeout=60)

    @contextmanager
    def running(self) -> Iterator["Nginx"]:
        """For a while."""
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
        """One request, with the certificate that is shown."""
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
        """A poll with a token."""
        named = {name.replace("__", "-"): value for name, value in headers.items()}
        return self.ask("POST", "/events", body, {**JSON, **bearer(text), **named}, shown)


@pytest.fixture(scope="module")
def service(redis_server: RedisServer, signing_keys: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service, with the settings that the file's head asks for."""
    settings = {
        "REDIS_URL": redis_server.url.removesuffix("0") + "5",
        "EVENTPOLL_BANK_USERNAME": BANK[0],
        "EVENTPOLL_BANK_PASSWORD": BANK[1],
        "EVENTPOLL_ISSUER": "https://bank.example",
        "EVENTPOLL_SIGNING_KEYS": signing_keys,
        "EVENTPOLL_CLIENT_CERT_HEADER": "Client-Cert",
        "EVENTPOLL_PROXY_HOPS": "1",
        "EVENTPOLL_LONG_POLL_SECONDS": "20",
        "EVENTPOLL_LOG": "json",
        **issuer.settings(),
    }
    server = start_server(settings, tmp_path_factory.mktemp("served"))
    server.tpp("tpp")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def nginx(service: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with Nginx(tmp_path_factory.mktemp("proxy") / "nginx", service).running() as nginx:
        yield nginx


def test_nginx_takes_the_file(service: Server, tmp_path: Path) -> None:
    """Issue 6, 6: nginx -t has nothing to say against it."""
    done = Nginx(tmp_path / "nginx", service).check()
    assert (done.returncode, "[warn]" in done.stderr) == (0, False), done.stderr


@pytest.mark.parametrize(
    ("shown", "bound", "status"),
    [(TPP, TPP, 200), (OTHER, TPP, 401), (None, TPP, 401), (TPP, None, 200), (None, None, 200)],
    ids=["its own", "another", "none", "not bound", "not bound, none"],
)
def test_a_bound_token_needs_its_certificate(
    nginx: Nginx, shown: Certificate | None, bound: Certificate | None, status: int
) -> None:
    """RFC 8705 section 3: the certificate of the TLS handshake, as nginx hands it over."""
    assert nginx.poll(token(**(bound.bound if bound else {})), shown).status == status


@pytest.mark.parametrize("shown", [None, OTHER], ids=["none", "another"])
@pytest.mark.parametrize("name", ["Client__Cert", "Client_Cert", "client__cert"])
def test_a_certificate_cannot_be_forged_from_outside(nginx: Nginx, name: str, shown: Certificate | None) -> None:
    """Behind a proxy: nginx overwrites the header, also where there is no certificate; spelt with _ it is another."""
    assert nginx.poll(token(**TPP.bound), shown, **{name: TPP.escaped()}).status == 401
    assert nginx.poll(token(**TPP.bound), TPP, **{name: OTHER.escaped()}).status == 200


def test_a_certificate_of_another_authority_is_refused(nginx: Nginx) -> None:
    """Whose certificates are taken at all says tpp-authorities.pem."""
    assert nginx.poll(token(), Certificate("stranger")).status == 400


def test_an_address_cannot_be_forged_from_outside(nginx: Nginx, service: Server) -> None:
    """EVENTPOLL_PROXY_HOPS=1: one value is believed, and nginx writes it."""
    reply = nginx.poll(token(), X__Forwarded__For="203.0.113.9", Forwarded="for=203.0.113.9")
    mark = reply.headers["x-fapi-interaction-id"]
    (line,) = [json.loads(line) for line in service.log.read_text().splitlines() if mark in line]
    assert line["address"] == "127.0.0.1"


def test_the_headers_of_wso2_arrive(nginx: Nginx, service: Server) -> None:
    """spec/wso2.md: x-wso2-client_id has an underscore, which nginx drops unless told."""
    service.push("tpp", "for-wso2")
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "x-wso2-client_id": "tpp",
        "Authorization": basic(*BANK),
    }
    path = "/api/openbanking/event-notifications/events"
    reply = nginx.ask("POST", path, "request=eyJyZXR1cm5JbW1lZGlhdGVseSI6dHJ1ZX0%3D", headers)
    assert (reply.status, list(reply.json["sets"])) == (200, ["for-wso2"])
    assert nginx.poll(token(), body='{"ack": ["for-wso2"], "returnImmediately": true}').json["sets"] == {}


def test_a_long_poll_is_held_and_woken(nginx: Nginx, service: Server) -> None:
    """docs/operations.md: nginx waits longer than a poll is held."""
    service.tpp("holder")
    replies: list[Reply] = []
    polling = Thread(target=lambda: replies.append(nginx.poll(token("holder"), body="{}")))
    polling.start()
    wait_for(lambda: service.bank("GET", "/streams/holder").json["last_poll"])
    assert replies == []
    service.push("holder", "woken")
    polling.join(15)
    assert list(replies[0].json["sets"]) == ["woken"]


def test_a_batch_may_be_large_and_nothing_else(nginx: Nginx) -> None:
    """docs/operations.md: 16 MiB for a batch, 1 MiB for the rest; results come line by line."""
    lines = "".join(
        json.dumps({"jti": f"batch-{number}", "events": {"urn:test:event": {"filler": "x" * 100_000}}}) + "\n"
        for number in range(30)
    )
    headers = {**NDJSON, "Authorization": basic(*BANK)}
    reply = nginx.ask("POST", "/streams/tpp/sets:batch", lines, headers)
    assert [json.loads(line)["status"] for line in reply.body.splitlines()] == [201] * 30
    assert nginx.poll(token(), body=" " * 1_100_000 + NOW).status == 413
    acks = json.dumps({"ack": [f"batch-{number}" for number in range(30)], "returnImmediately": True})
    assert nginx.poll(token(), body=acks).status == 200


@pytest.mark.parametrize("path", ["/streams", "/streams/tpp/sets:batch", "/metrics", "/console", "/console/x"])
def test_the_banks_calls_are_for_the_banks_network(service: Server, tmp_path: Path, path: str) -> None:
    """Even with the bank's password nobody else gets there; polls and keys are for everyone."""
    with Nginx(tmp_path / "nginx", service, bank="192.0.2.0/24").running() as elsewhere:
        assert elsewhere.ask("GET", path, None, {"Authorization": basic(*BANK)}).status == 403
        assert elsewhere.poll(token()).status == 200
        assert elsewhere.ask("GET", "/.well-known/jwks.json").status == 200
