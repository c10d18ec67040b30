"""Who may do what: every endpoint with every kind of caller, the secrets, and the walls between TPPs."""

import base64
import hashlib
import http.client
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.routing import Rule

from app import create_app
from eventpoll.access import failed_logins
from eventpoll.access.door import hash_of, new_secret
from eventpoll.sets.event import Signed
from eventpoll.settings import Config
from harness import issuer
from harness.redis_servers import RedisServer
from harness.service import BANK, Reply, Server, basic
from harness.sets import set_of
from harness.waiting import wait_for

FORM = "application/x-www-form-urlencoded"
DOCS = ("", "/docs.css", "/docs.js", "/swagger-ui.css", "/swagger-ui-bundle.js")
LOOKS = ("/console/console.css", "/console/console.svg")
OPEN = {"/healthz", "/readyz", "/.well-known/jwks.json", "/openapi.json", *(f"/docs{name}" for name in DOCS), *LOOKS}
POLLS = ("/events", "/open-banking/v3.1/events", "/open-banking/v4.0/events")
MOMENT = re.compile(r"\b(?<!-)[0-9]{10,}\b(?!-)")  # ten digits in a row may stand in a jti too
WSO2_POLLS = ("/api/openbanking/event-notifications/events", "/api/fs/event-notifications/events")


def endpoints() -> Iterator[tuple[str, str]]:
    """Method and path of every endpoint that there is, as the application itself tells them."""
    rules: list[Rule] = list(create_app(Config.from_environ({})).url_map.iter_rules())
    for rule in rules:
        path = re.sub(r"<[^>]*\btpp>", "TPP", rule.rule)
        path = re.sub(r"<[^>]*\bjti>", "JTI", path)
        path = re.sub(r"<[^>]*>", "x", path)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield method, path


ALL = sorted(set(endpoints()))
BANKS = [(method, path) for method, path in ALL if path not in (*OPEN, *POLLS, *WSO2_POLLS)]
TPPS = [("POST", path) for path in (*POLLS, *WSO2_POLLS)]


class Scene:
    """Two TPPs, each with a SET that waits."""

    def __init__(self, server: Server) -> None:
        self.server = server
        mark = uuid.uuid4().hex[:8]
        self.a, self.b = f"auth-a-{mark}", f"auth-b-{mark}"
        for tpp in (self.a, self.b):
            server.tpp(tpp)
        self.jti_a, self.jti_b = server.push(self.a), server.push(self.b)

    def send(self, method: str, path: str, authorization: str | None) -> Reply:
        """A request that A could make, or the bank about A: right but for who asks."""
        path = path.replace("TPP", self.a).replace("JTI", self.jti_a)
        headers = {"Content-Type": "application/json"}
        body = b"{}"
        if path in WSO2_POLLS:
            headers = {"Content-Type": FORM, "x-wso2-client-id": self.a}
            body = b"request=e30="
        elif path in POLLS:
            body = b'{"returnImmediately":true}'
        if authorization is not None:
            headers["Authorization"] = authorization
        return self.server.request(method, path, body if method != "GET" else None, headers)

    def secret(self, tpp: str) -> str:
        return self.server.secrets[tpp]

    def untouched(self) -> bool:
        """Whether both SETs wait as they did."""
        return [self.server.bank("GET", f"/streams/{tpp}").json["pending"] for tpp in (self.a, self.b)] == [1, 1]


@pytest.fixture(scope="module")
def scene(shared_server: Server) -> Scene:
    return Scene(shared_server)


def encoded(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


STRANGERS: dict[str, Callable[[Scene], str | None]] = {
    "nobody": lambda scene: None,
    "an empty header": lambda scene: "",
    "the scheme alone": lambda scene: "Basic",
    "the scheme and a blank": lambda scene: "Basic ",
    "no base64": lambda scene: "Basic !!!!",
    "no colon": lambda scene: f"Basic {encoded(scene.a)}",
    "two words": lambda scene: f"{basic(scene.a, scene.secret(scene.a))} x",
    "no UTF-8": lambda scene: f"Basic {encoded(bytes([0xFF, 0x3A, 0xFF]))}",
    "a colon alone": lambda scene: basic("", ""),
    "a name that no TPP may have": lambda scene: basic("a}:stream", "x"),
    "a NUL": lambda scene: basic(f"{scene.a}\0", scene.secret(scene.a)),
    "a name in other case": lambda scene: basic(scene.a.upper(), scene.secret(scene.a)),
    "a name that has no stream": lambda scene: basic("nobody-here", scene.secret(scene.a)),
    "a wrong secret": lambda scene: basic(scene.a, new_secret()),
    "an empty secret": lambda scene: basic(scene.a, ""),
    "a secret and more": lambda scene: basic(scene.a, scene.secret(scene.a) + "x"),
    "a secret's beginning": lambda scene: basic(scene.a, scene.secret(scene.a)[:-1]),
    "the hash for the secret": lambda scene: basic(scene.a, hash_of(scene.secret(scene.a))),
    "another TPP's secret": lambda scene: basic(scene.a, scene.secret(scene.b)),
    "the bank's name, a TPP's secret": lambda scene: basic(BANK[0], scene.secret(scene.a)),
    "a TPP's name, the bank's password": lambda scene: basic(scene.a, BANK[1]),
    "the bank's name in other case": lambda scene: basic(BANK[0].upper(), BANK[1]),
    "the bank's name, an empty password": lambda scene: basic(BANK[0], ""),
    "Bearer, which is off": lambda scene: f"Bearer {scene.secret(scene.a)}",
    "Bearer with the bank's credentials": lambda scene: basic(*BANK).replace("Basic", "Bearer"),
    "Digest": lambda scene: f'Digest username="{scene.a}"',
    "a scheme that begins like Basic": lambda scene: basic(scene.a, scene.secret(scene.a)).replace("Basic", "Basics"),
}


def test_every_endpoint_is_in_the_matrix() -> None:
    """interface.md: the polls, the bank's calls, the open ones; what is neither poll nor open is the bank's."""
    assert set(TPPS) <= set(ALL)
    assert {("PUT", "/streams/TPP"), ("GET", "/streams"), ("DELETE", "/streams/TPP/sets/JTI")} <= set(BANKS)
    assert {("POST", f"{path.removesuffix('events')}create-events") for path in WSO2_POLLS} <= set(BANKS)


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_gets_401_and_a_challenge_everywhere(scene: Scene, stranger: str) -> None:
    """Decision 20; RFC 8936 section 3: WWW-Authenticate always. OBIE's 401 has no body."""
    for method, path in [*TPPS, *BANKS]:
        reply = scene.send(method, path, STRANGERS[stranger](scene))
        assert (reply.status, path) == (401, path), reply.body
        assert reply.headers["www-authenticate"].startswith("Basic "), path
        if path.startswith("/open-banking"):
            assert reply.body == b""
        elif path.startswith("/api"):
            assert list(reply.json) == ["error_description", "error"]
        else:
            assert set(reply.json) == {"err", "description"}
    assert scene.untouched()


@pytest.mark.parametrize(("method", "path"), BANKS)
def test_a_tpp_gets_403_for_what_is_the_banks(scene: Scene, method: str, path: str) -> None:
    """403 where known but not allowed, about its own stream as about another's; no challenge."""
    for tpp in (scene.a, scene.b):
        reply = scene.send(method, path, basic(tpp, scene.secret(tpp)))
        assert reply.status == 403, reply.body
        assert "www-authenticate" not in reply.headers
    assert scene.untouched()


@pytest.mark.parametrize(("method", "path"), BANKS)
def test_the_bank_is_let_in_to_what_is_its_own(shared_server: Server, method: str, path: str) -> None:
    """interface.md, "The bank". Something else may be wrong with these requests, but not who asks."""
    reply = Scene(shared_server).send(method, path, basic(*BANK))
    assert reply.status not in (401, 403, 404, 405, 500)


@pytest.mark.parametrize("path", POLLS)
def test_the_bank_polls_for_nobody_but_on_wso2s_paths(scene: Scene, path: str) -> None:
    """decisions.md, profile table: who is asking on the RFC's and OBIE's paths is a TPP."""
    reply = scene.send("POST", path, basic(*BANK))
    assert reply.status == 401
    assert "www-authenticate" in reply.headers
    assert scene.untouched()


@pytest.mark.parametrize("path", WSO2_POLLS)
def test_a_tpp_that_names_another_gets_403_and_learns_nothing(scene: Scene, path: str) -> None:
    """decisions.md, profile table; whether the other exists stays unsaid."""
    auth = (scene.b, scene.secret(scene.b))
    told = []
    for named in (scene.a, "nobody-here"):
        headers = {"Content-Type": FORM, "x-wso2-client-id": named}
        reply = scene.server.request("POST", path, "request=e30=", headers, auth)
        told.append((reply.status, reply.body))
    assert told[0] == told[1]
    assert told[0][0] == 403
    assert scene.untouched()


@pytest.mark.parametrize("path", [*POLLS, *WSO2_POLLS])
def test_a_tpp_polls_its_own_stream_and_sees_no_others(shared_server: Server, path: str) -> None:
    """decisions.md: a TPP's Basic user name is the name of its stream."""
    scene = Scene(shared_server)
    reply = scene.send("POST", path, basic(scene.a, scene.secret(scene.a)))
    assert (reply.status, list(reply.json["sets"])) == (200, [scene.jti_a])


@pytest.mark.parametrize("path", sorted(OPEN & {path for _, path in ALL}))
def test_what_is_open_asks_nobody_who_he_is(scene: Scene, path: str) -> None:
    """interface.md: "Anyone"; not even credentials that are wrong do harm."""
    for stranger in STRANGERS.values():
        assert scene.send("GET", path, stranger(scene)).status == 200


@pytest.mark.parametrize("scheme", ["basic", "BASIC", "bAsIc"])
def test_the_scheme_is_read_in_any_case(scene: Scene, scheme: str) -> None:
    """RFC 9110 section 11.1; clients.md, lesson 7."""
    encoded_credentials = basic(*BANK).partition(" ")[2]
    assert scene.send("GET", "/streams", f"{scheme} {encoded_credentials}").status == 200


def test_two_authorization_headers_are_401(shared_server: Server) -> None:
    """Which of two would count is for nobody to guess."""
    scene = Scene(shared_server)
    for first, second in ((BANK, (scene.a, "wrong")), ((scene.a, "wrong"), BANK)):
        connection = http.client.HTTPConnection("127.0.0.1", shared_server.port, timeout=10)
        connection.putrequest("GET", f"/streams/{scene.a}")
        connection.putheader("Authorization", basic(*first))
        connection.putheader("Authorization", basic(*second))
        connection.endheaders()
        assert connection.getresponse().status in (400, 401)
        connection.close()


@pytest.mark.parametrize("path", POLLS)
def test_who_is_not_let_in_is_told_nothing_about_his_request(scene: Scene, path: str) -> None:
    """401 comes before 400, 406 and 415: a stranger learns nothing from the order of checks."""
    authorization = {"Authorization": basic(scene.a, "wrong")}
    for headers, body in (
        ({"Content-Type": "application/json"}, b"{"),
        ({"Content-Type": "text/plain"}, b"{}"),
        ({"Content-Type": "application/json", "Accept": "text/html"}, b"{}"),
        ({"Content-Type": "application/json"}, b'{"maxEvents":-1}'),
        ({"Content-Type": "application/json"}, b'{"ack":[' + b'"x",' * 10_001 + b'"x"]}'),
    ):
        reply = scene.server.request("POST", path, body, {**headers, **authorization})
        assert (reply.status, "www-authenticate" in reply.headers) == (401, True)


# -- between TPPs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*POLLS, *WSO2_POLLS])
def test_a_tpp_can_neither_settle_nor_report_anothers_sets(shared_server: Server, path: str) -> None:
    """Decision 3: foreign jtis are like unknown ones. The answers tell the two apart in nothing."""
    scene = Scene(shared_server)
    shared_server.push(scene.b, "same-jti")
    told = []
    for jti in (scene.jti_b, "same-jti", "never-there"):
        members = f'"ack":["{jti}"],"setErrs":{{"{jti}":{{"err":"invalid_request","description":"x"}}}}'
        text = f'{{"returnImmediately":true,"maxEvents":0,{members}}}'
        headers = {"Content-Type": FORM if path in WSO2_POLLS else "application/json"}
        body = f"request={encoded(text)}" if path in WSO2_POLLS else text
        reply = shared_server.request("POST", path, body, headers, (scene.a, scene.secret(scene.a)))
        told.append((reply.status, reply.body))
    assert told[0] == told[1] == told[2]
    assert told[0][0] == 200
    stream = shared_server.bank("GET", f"/streams/{scene.b}").json
    assert (stream["pending"], stream["parked"], stream["acked"], stream["reported"]) == (2, 0, 0, 0)


def commands(server: Server, ask: Callable[[], Reply]) -> list[str]:
    """What Redis is told to do while we ask, with its numbers left out."""
    client = redis.Redis.from_url(server.environ["REDIS_URL"])
    end = uuid.uuid4().hex
    found: list[str] = []
    with client.monitor() as monitor:  # type: ignore[no-untyped-call]
        ask()
        client.echo(end)
        for told in monitor.listen():
            if end in told["command"]:
                break
            if "polled_at" not in told["command"] or "HMGET" in told["command"]:  # written once a second at most
                found.append(f"{told['client_type']} {MOMENT.sub('N', told['command'])}")
    client.close()
    return [each for each in found if each.startswith("lua") or "EVALSHA" in each]  # not how connections are made


@pytest.mark.parametrize("member", ['"ack":["JTI"]', '"setErrs":{"JTI":{"err":"x","description":"x"}}'])
def test_anothers_jti_costs_what_an_unknown_one_costs(shared_server: Server, member: str) -> None:
    """Nothing can be told by the clock: the store does the same for both, and looks at no stream but the TPP's own."""
    scene = Scene(shared_server)
    done = []
    for jti in (scene.jti_b, str(uuid.uuid4())):
        text = f'{{"returnImmediately":true,"maxEvents":0,{member.replace("JTI", jti)}}}'
        headers = {"Content-Type": "application/json"}
        ask = partial(shared_server.request, "POST", "/events", text, headers, (scene.a, scene.secret(scene.a)))
        for _ in range(20):  # both workers remember the secret then, and need no command to prove it
            ask()
        told = commands(shared_server, ask)
        assert any(f"{{{scene.a}}}" in each and jti in each for each in told)
        done.append([each.replace(jti, "JTI") for each in told])
    assert done[0] == done[1]
    assert not [each for each in done[0] if scene.b in each]


def test_a_wrong_secret_costs_what_an_unknown_name_costs(shared_server: Server) -> None:
    """One call of the store for each, and the same answer: nobody learns which TPPs there are."""
    scene = Scene(shared_server)
    told, headers = [], {"Content-Type": "application/json"}
    for name in (scene.a, scene.a[:-1] + "~"):
        ask = partial(shared_server.request, "POST", "/events", "{}", headers, (name, "wrong"))
        reply = ask()
        calls = [each for each in commands(shared_server, ask) if "EVALSHA" in each]
        told.append((len(calls), reply.status, reply.body))
    assert told[0] == told[1]
    assert told[0][:2] == (1, 401)


def test_one_jti_on_two_streams_is_two_sets(shared_server: Server) -> None:
    """RFC 8417 section 2.2: a jti is unique within a feed; an ack on one stream leaves the other."""
    scene = Scene(shared_server)
    for tpp in (scene.a, scene.b):
        shared_server.push(tpp, "shared", {"urn:test:for": {"tpp": tpp}})
    shared_server.poll(scene.a, {"ack": ["shared"], "maxEvents": 0, "returnImmediately": True})
    assert shared_server.bank("GET", f"/streams/{scene.a}/sets/shared").json["state"] == "settled"
    assert "shared" in shared_server.poll(scene.b, {"returnImmediately": True}).json["sets"]


def test_a_stream_named_like_the_banks_user_has_none_of_its_rights(shared_server: Server) -> None:
    """decisions.md, smaller ones; and the bank's credentials are not that stream's."""
    secret = shared_server.bank("PUT", f"/streams/{BANK[0]}").json["secret"]
    jti = shared_server.push(BANK[0])
    own = basic(BANK[0], secret)
    for method, path in (("GET", "/streams"), ("PUT", "/streams/mine"), ("GET", f"/streams/{BANK[0]}")):
        assert shared_server.request(method, path, headers={"Authorization": own}).status == 403
    headers = {"Content-Type": "application/json"}
    polled = shared_server.request("POST", "/events", '{"returnImmediately":true}', headers, (BANK[0], secret))
    assert list(polled.json["sets"]) == [jti]
    for path in POLLS:
        assert shared_server.request("POST", path, '{"returnImmediately":true}', headers, BANK).status == 401
    assert shared_server.bank("DELETE", f"/streams/{BANK[0]}?force=true").status == 204


ASKED: list[tuple[dict[str, str], str]] = [
    ({}, '{"returnImmediately":true}'),
    ({}, "no JSON"),
    ({"Content-Type": "text/plain"}, "{}"),
    ({"Accept": "text/html"}, "{}"),
]


@pytest.mark.parametrize("path", POLLS)
@pytest.mark.parametrize(
    "settings", [{}, {"EVENTPOLL_POLL_RATE": "2/minute"}, issuer.settings()], ids=["Basic", "a rate", "tokens too"]
)
def test_the_banks_password_on_a_tpps_path_is_as_good_as_a_wrong_one(
    environ: dict[str, str], app: Flask, monkeypatch: pytest.MonkeyPatch, path: str, settings: dict[str, str]
) -> None:
    """Issue 11, 5: the path told a right password (403) from a wrong one (401), from anywhere. Now status, body,
    headers, delays and the work of the store are the same, whatever else is wrong with the request."""
    naps: list[float] = []
    calls: list[Any] = []
    ours, sleep = threading.get_ident(), time.sleep

    def nap(seconds: float) -> None:
        if threading.get_ident() == ours:  # other threads, of earlier tests too, sleep as they like
            naps.append(seconds)
        else:
            sleep(seconds)

    monkeypatch.setattr("eventpoll.access.failed_logins.time.sleep", nap)
    app = create_app(Config.from_environ({**environ, **settings, "EVENTPOLL_FAILED_LOGIN_SECONDS": "10"}))
    service, client = app.extensions["eventpoll"], app.test_client()
    driver = service.transmitter.store.redis
    monkeypatch.setattr(driver, "execute_command", recorded(driver.execute_command, calls))

    def ask(name: str, password: str, headers: dict[str, str], body: str) -> tuple[Any, ...]:
        calls.clear()
        sent = {"Content-Type": "application/json", "x-fapi-interaction-id": "1", **headers}
        reply = client.post(path, data=body, headers={**sent, "Authorization": basic(name, password)})
        return reply.status, reply.data, dict(reply.headers), list(naps), len(calls)

    def told(password: str) -> list[tuple[Any, ...]]:
        naps.clear()
        service.door.slowing._failures.clear()
        return [ask(BANK[0], password, *asked) for asked in ASKED for _ in range(failed_logins.FREE // 2)]

    ask("somebody", "else", *ASKED[0])  # so that the store knows its scripts
    right, wrong = told(BANK[1]), told(BANK[1] + "x")
    assert right == wrong
    assert {status for status, *_ in right} == {"401 UNAUTHORIZED"}
    assert naps


def recorded(execute: Callable[..., Any], calls: list[Any]) -> Callable[..., Any]:
    """What executes commands, and notes that it did."""

    def execute_and_note(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return execute(*args, **options)

    return execute_and_note


# -- secrets ----------------------------------------------------------------------------------------------------


def everything_kept(url: str) -> bytes:
    """Every key in Redis, with all that it holds."""
    client: Any = redis.Redis.from_url(url)
    read: dict[bytes, Callable[[Any], Any]] = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"zset": lambda key: client.zrange(key, 0, -1),
        b"set": client.smembers,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"stream": client.xrange,
    }
    kept = b"".join(key + repr(read[client.type(key)](key)).encode() for key in client.scan_iter())
    client.close()
    return kept


def test_a_secret_has_256_bits_and_only_its_hash_is_kept(shared_server: Server, redis_server: RedisServer) -> None:
    """Issue 2: secrets made by us, 256 bits, only their SHA-256 stored; logs do not tell them either."""
    first = shared_server.tpp("keeper")
    second = shared_server.bank("POST", "/streams/keeper/secret", {"grace_seconds": 60}).json["secret"]
    shared_server.secrets["keeper"] = second
    assert shared_server.poll("keeper", {"returnImmediately": True}).status == 200
    kept = everything_kept(shared_server.environ["REDIS_URL"])
    assert kept
    for secret in (first, second):
        assert len(base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4))) == 32
        assert hashlib.sha256(secret.encode()).hexdigest().encode() in kept
        assert secret.encode() not in kept
        assert secret not in shared_server.log.read_text()
    assert BANK[1].encode() not in kept
    assert len({new_secret() for _ in range(100)}) == 100


def test_a_secret_is_shown_once(shared_server: Server) -> None:
    """interface.md: "the secret shown this once"; neither a change nor a look shows it or its hash."""
    secret = shared_server.tpp("shown-once")
    replies = [
        shared_server.bank("PUT", "/streams/shown-once", {"max_deliveries": 3}),
        shared_server.bank("PUT", "/streams/shown-once"),
        shared_server.bank("GET", "/streams/shown-once"),
        shared_server.bank("GET", "/streams?limit=1000"),
    ]
    for reply in replies:
        assert reply.status == 200
        assert secret.encode() not in reply.body
        assert hash_of(secret).encode() not in reply.body
        assert b'"secret"' not in reply.body
    assert shared_server.poll("shown-once", {"returnImmediately": True}).status == 200


def status_with(server: Server, tpp: str, secret: str) -> int:
    """What a poll with this secret answers."""
    headers = {"Content-Type": "application/json"}
    return server.request("POST", "/events", '{"returnImmediately":true}', headers, (tpp, secret)).status


def test_a_rotated_secret_is_dead_at_once_without_grace(shared_server: Server) -> None:
    """interface.md: grace_seconds is 0 by default."""
    old = shared_server.tpp("rotated")
    new = shared_server.bank("POST", "/streams/rotated/secret").json["secret"]
    assert new != old
    assert [status_with(shared_server, "rotated", secret) for secret in (old, new)] == [401, 200]


def test_a_rotated_secret_works_for_its_grace_and_no_longer(shared_server: Server) -> None:
    """interface.md: the old one works for another grace_seconds; one generation back, and no more."""
    first = shared_server.tpp("graced")
    second = shared_server.bank("POST", "/streams/graced/secret", {"grace_seconds": 3600}).json["secret"]
    assert [status_with(shared_server, "graced", secret) for secret in (first, second)] == [200, 200]
    third = shared_server.bank("POST", "/streams/graced/secret", {"grace_seconds": 0.5}).json["secret"]
    assert status_with(shared_server, "graced", first) == 401
    wait_for(lambda: status_with(shared_server, "graced", second) == 401)
    assert status_with(shared_server, "graced", third) == 200


def test_rotating_in_haste_ends_the_grace(shared_server: Server) -> None:
    """A secret that leaked is shut out by a rotation without grace, whatever grace was given before."""
    leaked = shared_server.tpp("leaked")
    between = shared_server.bank("POST", "/streams/leaked/secret", {"grace_seconds": 3600}).json["secret"]
    new = shared_server.bank("POST", "/streams/leaked/secret").json["secret"]
    assert [status_with(shared_server, "leaked", secret) for secret in (leaked, between, new)] == [401, 401, 200]


def test_a_stream_made_anew_knows_neither_old_secret_nor_old_sets(shared_server: Server) -> None:
    """interface.md: DELETE forgets."""
    old = shared_server.tpp("phoenix")
    shared_server.push("phoenix")
    assert shared_server.bank("DELETE", "/streams/phoenix?force=true").status == 204
    assert status_with(shared_server, "phoenix", old) == 401
    new = shared_server.tpp("phoenix")
    assert [status_with(shared_server, "phoenix", secret) for secret in (old, new)] == [401, 200]
    assert shared_server.poll("phoenix", {"returnImmediately": True}).json["sets"] == {}


# -- no bank ----------------------------------------------------------------------------------------------------


@pytest.fixture
def bankless(environ: dict[str, str], app: Flask) -> FlaskClient:
    """An application without credentials of the bank, on the store of `app`."""
    settings = {name: value for name, value in environ.items() if "_BANK_" not in name}
    return create_app(Config.from_environ(settings)).test_client()


@pytest.mark.parametrize(
    "authorization", [None, basic("", ""), basic("None", "None"), basic(*BANK), basic("bank", ""), "Basic Og=="]
)
def test_without_credentials_of_the_bank_its_calls_are_shut(bankless: FlaskClient, authorization: str | None) -> None:
    """interface.md: unset, no bank calls over HTTP."""
    headers = {} if authorization is None else {"Authorization": authorization}
    for method, path in BANKS:
        reply = bankless.open(path, method=method, headers=headers)
        assert reply.status_code == 401
        assert "WWW-Authenticate" in reply.headers


def test_without_credentials_of_the_bank_tpps_poll_all_the_same(bankless: FlaskClient) -> None:
    """Streams are made on the command line then."""
    transmitter = bankless.application.extensions["eventpoll"].transmitter
    secret = new_secret()
    transmitter.configure("alone", hash_of(secret), {})
    transmitter.push("alone", Signed(set_of("j")))
    auth = {"Authorization": basic("alone", secret)}
    reply = bankless.post("/events", json={"returnImmediately": True}, headers=auth)
    assert (reply.status_code, list(reply.get_json()["sets"])) == (200, ["j"])
    assert bankless.get("/streams", headers=auth).status_code == 403


def test_the_banks_name_and_password_may_hold_any_character(environ: dict[str, str], app: Flask) -> None:
    """RFC 7617 section 2: UTF-8, and a colon in the password."""
    settings = {**environ, "EVENTPOLL_BANK_USERNAME": "bänk", "EVENTPOLL_BANK_PASSWORD": "p:ä:ss "}
    client = create_app(Config.from_environ(settings)).test_client()
    assert client.get("/streams", headers={"Authorization": basic("bänk", "p:ä:ss ")}).status_code == 200
    assert client.get("/streams", headers={"Authorization": basic("bänk", "p:ä:ss")}).status_code == 401


def test_an_answer_to_the_bank_is_never_cached(shared_server: Server) -> None:
    """Decision 26: no-store, on errors and on the answer that holds the secret."""
    made = shared_server.bank("PUT", f"/streams/cache-{uuid.uuid4().hex[:6]}")
    refused = shared_server.request("GET", "/streams")
    assert (made.status, refused.status) == (201, 401)
    assert made.headers["cache-control"] == refused.headers["cache-control"] == "no-store"


def test_the_password_of_the_bank_may_come_from_a_file(environ: dict[str, str], app: Flask, tmp_path: Path) -> None:
    """interface.md: any setting with _FILE is read from that file; the line's end is not part of it."""
    file = tmp_path / "password"
    file.write_text("from-a-file\n")
    settings = {name: value for name, value in environ.items() if name != "EVENTPOLL_BANK_PASSWORD"}
    client = create_app(Config.from_environ({**settings, "EVENTPOLL_BANK_PASSWORD_FILE": str(file)})).test_client()
    assert client.get("/streams", headers={"Authorization": basic("bank", "from-a-file")}).status_code == 200
