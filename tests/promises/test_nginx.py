"""deploy/nginx.conf before the service: client certificates, headers that nobody may forge, polls that are held."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import pytest

from harness import issuer
from harness.certificates import Certificate
from harness.issuer import token
from harness.nginx import AUTHORITY, BANKS_OWN, INSIDE, NOW, OUTSIDE, Nginx
from harness.redis_servers import RedisServer
from harness.service import BANK, BANK_SETTINGS, Reply, Server, basic, start_server
from harness.waiting import wait_for
from tests.access.test_door import ALL, POLLS, WSO2_POLLS
from tests.web.test_slow import trickle

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
    with Nginx(tmp_path_factory.mktemp("proxy") / "nginx", service, BANKS_OWN).running() as nginx:
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


# -- what is whose ------------------------------------------------------------------------------------------------

JWKS = "/.well-known/jwks.json"
FROM_ANYWHERE = {*POLLS, *WSO2_POLLS, JWKS}


def seen(service: Server, address: str) -> list[str]:
    """The paths for which the service was asked from an address."""
    lines = [line for line in service.log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    return [said["path"] for said in map(json.loads, lines) if said["address"] == address]


def is_ours(reply: Reply) -> bool:
    """Whether the service answered, and not nginx."""
    return "x-fapi-interaction-id" in reply.headers


def test_from_outside_tpps_poll_and_read_the_keys_and_nothing_else(nginx: Nginx, service: Server) -> None:
    """Issue 11, 5: every route of the application, with the bank's password. A route that is added is the bank's, until
    nginx.conf names it."""
    asked = {"Authorization": basic(*BANK)}
    for method, path in ALL:
        path = path.replace("TPP", "nobody").replace("JTI", "a")
        from_outside = nginx.ask(method, path, None, asked, source=OUTSIDE)
        assert (is_ours(from_outside), path) == (path in FROM_ANYWHERE, path)
        assert from_outside.status == 403 or path in FROM_ANYWHERE, path
        assert is_ours(nginx.ask(method, path, None, asked)), path
    assert set(seen(service, OUTSIDE)) == FROM_ANYWHERE
    assert {path for _, path in ALL if "TPP" not in path} <= {*seen(service, INSIDE)}


NAMES = (
    "events",
    "a/events",
    "a%2Fevents",
    "a%2fevents",
    "/events",
    "%2Fevents",
    "open-banking/v3.1/events",
    "api%2Ffs%2Fevent-notifications%2Fevents",
    ".well-known/jwks.json",
    "../../../events",
    "..%2F..%2F..%2Fevents",
    "%2e%2e/%2E%2e/%2e./events",
    "../../../.well-known/jwks.json",
    "..%2f..%2f..%2fopen-banking%2fv4.0%2fevents",
    "events%0a",
    "events%00",
    "events%20HTTP",
)
"""What a jti or a stream may be called, so that its path looks like one that is open."""

DISGUISES = (
    "//{}",
    "/./{}",
    "/x/../{}",
    "/events/../{}",
    "/events%2F..%2F{}",
    "/events/..;/{}",
    "/events/..%5c{}",
    "/events//../{}",
    "/.well-known/jwks.json/../../{}",
    "/open-banking/v3.1/events/../../../{}",
    "/%2e/{}",
    "/%2F{}",
    "/{}/../events",
    "/{}/..",
    "/{}?/events",
    "/{}?x=/../events",
    "/{}%3F/events",
    "/{}#/events",
    "/{}%23/events",
    "/{};/events",
    "/{}/",
    "/{}/events",
    "/{}//",
    "/{}/.",
    "https://localhost/{}",
    "https://localhost/events/../{}",
)
"""Ways to write the path of a bank's call, so that nginx might read another one in it."""


def disguised() -> Iterator[str]:
    """Request targets that are not to be read as one of those that are open, or as those alone."""
    for path in sorted({path for _, path in ALL} - FROM_ANYWHERE):
        for name in NAMES if "JTI" in path else ("a",):
            yield path.replace("TPP", "tpp").replace("JTI", name)
        for name in NAMES if "TPP" in path else ():
            yield path.replace("TPP", name).replace("JTI", "a")
    for path in ("streams", "streams/tpp", "streams/tpp/sets/a", "console", "metrics", "healthz", "STREAMS", "streamS"):
        yield from (disguise.format(path) for disguise in DISGUISES)
    for path in FROM_ANYWHERE:
        yield from (path + more for more in ("/", "//", "/x", "%2F", "%00", "%0a", ";x", "/..", "/../streams"))
        yield from (path.replace("/", "//"), path.upper(), path.replace("/", "/%2e/"), path.replace("/", "%2F"))
        yield "/streams" + path


def test_no_way_to_write_a_path_gets_a_stranger_to_what_is_the_banks(nginx: Nginx, service: Server) -> None:
    """Issue 11, 5: streams and jtis that are called like poll paths, encoded and doubled slashes, dots, other case.
    Whatever nginx lets on is a path that is open, word for word."""
    head = f"Host: localhost\r\nAuthorization: {basic(*BANK)}\r\nConnection: close\r\n\r\n"
    targets = list(disguised())
    assert len(targets) > 300
    for target in targets:
        reply = nginx.raw(f"GET {target} HTTP/1.1\r\n{head}".encode(), OUTSIDE)
        assert reply.status in (400, 403, 405) or (reply.status == 200 and b'"keys"' in reply.body), target
    assert set(seen(service, OUTSIDE)) <= FROM_ANYWHERE


def test_tpps_poll_from_outside(nginx: Nginx, service: Server) -> None:
    """With a query or without: what nginx hands on is the poll's own path."""
    for target in (*POLLS, "/events?", "/events?x=1", "/%65vents", "/x/../events"):
        body = b'{"returnImmediately":true}'
        head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Authorization: {basic('tpp', service.secrets['tpp'])}\r\nContent-Length: {len(body)}\r\n\r\n"
        assert nginx.raw(head.encode() + body, OUTSIDE).status == 200, target


def test_every_answer_keeps_browsers_on_tls(nginx: Nginx) -> None:
    """Issue 11, 11: HSTS (RFC 6797), on nginx's own answers too."""
    for source, path, status in (
        (OUTSIDE, "/events", 405),
        (OUTSIDE, JWKS, 200),
        (OUTSIDE, "/streams", 403),
        (INSIDE, "/streams", 401),
        (INSIDE, "/console", 401),
        (INSIDE, "/nothing", 404),
    ):
        reply = nginx.ask("GET", path, source=source)
        assert (reply.status, reply.headers["strict-transport-security"]) == (status, "max-age=31536000")


# -- limits -------------------------------------------------------------------------------------------------------

HALF = b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"


def test_an_address_has_so_many_connections(service: Server, tmp_path: Path) -> None:
    """Issue 11, 4: limit_conn. Slow bodies are held by nginx, and so many of an address; the bank is not counted."""
    changes = {"eventpoll_connections 100": "eventpoll_connections 5", "body_timeout 10s": "body_timeout 60s"}
    with Nginx(tmp_path / "nginx", service, {**BANKS_OWN, **changes}).running() as nginx, ExitStack() as stack:
        asked = len(seen(service, OUTSIDE))
        for _ in range(5):
            stack.enter_context(nginx.opened(HALF, OUTSIDE))
        wait_for(lambda: nginx.ask("GET", JWKS, source=OUTSIDE).status == 429)
        assert nginx.ask("GET", JWKS, source="127.0.0.3").status == 200
        for _ in range(10):
            stack.enter_context(nginx.opened(HALF))
        assert nginx.ask("GET", JWKS).status == 200
        assert set(seen(service, OUTSIDE)[asked:]) <= {JWKS}


def test_an_address_asks_so_often(service: Server, tmp_path: Path) -> None:
    """limit_req; the bank is not counted."""
    changes = {**BANKS_OWN, "rate=50r/s": "rate=1r/m", "burst=100": "burst=2"}
    with Nginx(tmp_path / "nginx", service, changes).running() as nginx:
        assert [nginx.ask("GET", JWKS, source=OUTSIDE).status for _ in range(5)] == [200, 200, 200, 429, 429]
        assert [nginx.ask("GET", JWKS).status for _ in range(5)] == [200] * 5


def test_slow_headers_and_bodies_that_stop_are_cut(service: Server, tmp_path: Path) -> None:
    """client_header_timeout is for all headers together; client_body_timeout for each wait."""
    changes = {**BANKS_OWN, "header_timeout 10s": "header_timeout 1s", "body_timeout 10s": "body_timeout 1s"}
    with Nginx(tmp_path / "nginx", service, changes).running() as nginx, ExitStack() as stack:
        stopped = stack.enter_context(nginx.opened(HALF, OUTSIDE))
        trickled = stack.enter_context(nginx.opened(b"GET /healthz HTTP/1.1\r\nX-Long: ", OUTSIDE))
        trickle({trickled: ("headers", b"x")})
        while stopped.recv(65536):
            pass
