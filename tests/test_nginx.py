"""deploy/nginx.conf before the service: client certificates, headers that nobody may forge, polls that are held."""

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from harness import issuer
from harness.certificates import Certificate
from harness.issuer import token
from harness.nginx import AUTHORITY, NOW, Nginx
from harness.redis_servers import RedisServer
from harness.service import BANK, BANK_SETTINGS, Reply, Server, basic, start_server
from harness.waiting import wait_for

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
TPP, OTHER = Certificate("tpp", AUTHORITY), Certificate("other", AUTHORITY)


@pytest.fixture(scope="module")
def service(redis_server: RedisServer, signing_keys: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service, with the settings that the file's head asks for."""
    settings = {
        "REDIS_URL": redis_server.url.removesuffix("0") + "5",
        **BANK_SETTINGS,
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
