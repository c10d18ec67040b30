"""EVENTPOLL_LOG=json: one line a request, enough to settle a dispute, with nothing in it that must not be there."""

import http.client
import json
import socket
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from app import create_app
from config import Config
from eventpoll import requestlog
from harness import issuer
from harness.issuer import bearer, token
from harness.redis_servers import RedisServer
from harness.service import BANK, BANK_SETTINGS, Reply, Server, basic, start_server
from harness.sets import set_of
from harness.waiting import wait_for

JSON = {"Content-Type": "application/json"}
NOW = {"returnImmediately": True}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
WSO2 = "/api/openbanking/event-notifications/events"
MEMBERS = {
    "time",
    "method",
    "path",
    "profile",
    "tpp",
    "status",
    "sets",
    "acked",
    "reported",
    "ms",
    "address",
    "x-fapi-interaction-id",
}


@pytest.fixture(scope="module")
def server(redis_server: RedisServer, signing_keys: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two workers that write their lines to one place."""
    environ = {
        "REDIS_URL": redis_server.url.removesuffix("0") + "11",
        **BANK_SETTINGS,
        "EVENTPOLL_SIGNING_KEYS": signing_keys,
        "EVENTPOLL_LONG_POLL_SECONDS": "1",
        "EVENTPOLL_LOG": "json",
        "EVENTPOLL_FAILED_LOGIN_SECONDS": "0",
        **issuer.settings(),
    }
    server = start_server(environ, tmp_path_factory.mktemp("requestlog"), workers=2)
    server.tpp("tpp")
    yield server
    server.stop()


def lines(server: Server) -> list[dict[str, Any]]:
    """Every line that is one of ours."""
    return [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]


def line_of(server: Server, reply: Reply) -> dict[str, Any]:
    """The line of an answer, found by its interaction id."""
    mark = reply.headers["x-fapi-interaction-id"]

    def found() -> list[dict[str, Any]]:
        return [line for line in lines(server) if line["x-fapi-interaction-id"] == mark]

    (line,) = wait_for(found)
    assert isinstance(line, dict)
    return line


@pytest.mark.parametrize(
    ("path", "profile"),
    [("/events", "rfc8936"), ("/open-banking/v3.1/events", "obie_v3"), ("/open-banking/v4.0/events", "obie_v4")],
)
def test_a_poll_is_one_line_with_all_that_a_dispute_needs(server: Server, path: str, profile: str) -> None:
    """Issue 4: method, path, profile, TPP, status, counts of SETs, acks and errors, milliseconds, interaction id."""
    jtis = [server.push("tpp") for _ in range(4)]
    server.poll("tpp", NOW, path)
    errors = {jtis[2]: {"err": "invalid_key", "description": "x"}}
    reply = server.poll("tpp", {**NOW, "ack": [jtis[0], jtis[1], "unknown"], "setErrs": errors}, path)
    line = line_of(server, reply)
    assert set(line) == MEMBERS
    told = {name: line[name] for name in ("method", "path", "profile", "tpp", "status", "sets", "acked", "reported")}
    assert told == {
        "method": "POST",
        "path": path,
        "profile": profile,
        "tpp": "tpp",
        "status": 200,
        "sets": 1,
        "acked": 2,
        "reported": 1,
    }
    assert isinstance(line["ms"], float)
    assert line["address"] == "127.0.0.1"
    server.poll("tpp", {"ack": jtis, "maxEvents": 0, "returnImmediately": True})


def test_a_poll_of_the_bank_for_a_tpp_names_the_tpp(server: Server) -> None:
    """On WSO2's paths the stream is what a dispute is about."""
    line = line_of(server, server.wso2("tpp", {}))
    assert (line["profile"], line["tpp"], line["status"]) == ("wso2_3", "tpp", 200)


def test_the_line_of_a_held_poll_tells_how_long_it_was_held(server: Server) -> None:
    """Milliseconds are those of the whole request."""
    server.tpp("held")
    assert line_of(server, server.poll("held", {}))["ms"] >= 900


def test_the_interaction_id_is_the_callers(server: Server) -> None:
    """Decision 26: the TPP's own id finds the line."""
    mark = str(uuid.uuid4())
    reply = server.poll("tpp", NOW, headers={"x-fapi-interaction-id": mark})
    assert line_of(server, reply)["x-fapi-interaction-id"] == mark


REFUSED: dict[str, tuple[str, str, str | bytes, dict[str, str], int, str | None, str | None]] = {
    "no credentials": ("POST", "/events", "{}", JSON, 401, "rfc8936", None),
    "a bad token": ("POST", "/open-banking/v4.0/events", "{}", {**JSON, **bearer("x")}, 401, "obie_v4", None),
    "a wrong secret": ("POST", "/events", "{}", {**JSON, "Authorization": basic("tpp", "x")}, 401, "rfc8936", "tpp"),
    "no scope": ("POST", "/events", "{}", {**JSON, **bearer(token("tpp", "x"))}, 403, "rfc8936", None),
    "a bad body": ("POST", "/events", "{", {**JSON, **bearer(token("tpp"))}, 400, "rfc8936", "tpp"),
    "a bad member": ("POST", "/events", '{"maxEvents":-1}', {**JSON, **bearer(token("tpp"))}, 400, "rfc8936", "tpp"),
    "a bad type": (
        "POST",
        "/events",
        "{}",
        {"Content-Type": "text/plain", **bearer(token("tpp"))},
        415,
        "rfc8936",
        "tpp",
    ),
    "WSO2's words": ("POST", WSO2, "request=", {**FORM, **bearer(token("tpp"))}, 400, "wso2_3", "tpp"),
    "another method": ("GET", "/events", "", {}, 405, None, None),
    "nothing there": ("GET", "/nothing", "", {}, 404, None, None),
    "no stream": ("GET", "/streams/nobody", "", {"Authorization": basic(*BANK)}, 404, None, "nobody"),
    "the bank's": ("GET", "/streams/tpp", "", bearer(token("tpp")), 403, None, "tpp"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_refused_request_has_its_line_too(server: Server, what: str) -> None:
    """Issue 4: errors as well; what is not known is null, and no member is missing."""
    method, path, body, headers, status, profile, tpp = REFUSED[what]
    reply = server.request(method, path, body, headers)
    assert reply.status == status
    line = line_of(server, reply)
    assert set(line) - {"caller"} == MEMBERS
    assert (line["method"], line["path"], line["status"]) == (method, path, status)
    assert (line["profile"], line["tpp"]) == (profile, tpp)
    assert (line["sets"], line["acked"], line["reported"]) == (0, 0, 0)


def test_a_call_of_the_banks_names_the_stream_and_who_called(server: Server) -> None:
    """Who pushed what to whom, and when."""
    line = line_of(server, server.bank("POST", "/streams/tpp/sets", {"events": {"urn:test:event": {}}}))
    assert (line["tpp"], line["caller"], line["status"]) == ("tpp", "bank", 201)
    assert line["path"] == "/streams/tpp/sets"


def test_every_request_has_exactly_one_line(server: Server) -> None:
    """Two workers, two places where lines are written from, and one line each."""
    marks = {str(uuid.uuid4()) for _ in range(40)}
    for number, mark in enumerate(sorted(marks)):
        path = ("/events", "/healthz", "/nothing", "/streams")[number % 4]
        server.request("GET", path, headers={"x-fapi-interaction-id": mark})

    def told() -> list[str]:
        return [line["x-fapi-interaction-id"] for line in lines(server) if line["x-fapi-interaction-id"] in marks]

    wait_for(lambda: len(told()) >= len(marks))
    assert sorted(told()) == sorted(marks)


def test_no_secret_no_token_and_no_set_is_in_the_log(server: Server) -> None:
    """Issue 4: no secret, token or SET in logs, of whatever kind of request, good or refused."""
    text = token("tpp", jti="to-be-looked-for")
    secret = server.secrets["tpp"]
    signed = set_of("signed-1", {"urn:secret:event": {"iban": "GB33BUKB20201555555555"}})
    server.request("POST", "/streams/tpp/sets", signed, {"Content-Type": "application/secevent+jwt"}, BANK)
    server.request("POST", "/streams/tpp/sets", signed + "!", {"Content-Type": "application/secevent+jwt"}, BANK)
    server.bank("POST", "/streams/tpp/sets", {"events": {"urn:secret:event": {"iban": "GB33BUKB20201555555555"}}})
    polled = server.poll("tpp", NOW).json["sets"]
    assert polled
    for headers in (bearer(text), bearer(text + "x"), {"Authorization": basic("tpp", secret + "x")}):
        for body in ("{}", "{", signed, json.dumps(NOW)):
            server.request("POST", "/events", body, {**JSON, **headers})
    server.request("POST", f"/events?access_token={text}", "{}", JSON)
    server.request("POST", "/events", "{}", {**JSON, "Cookie": f"session={secret}"})
    new = server.bank("POST", "/streams/tpp/secret", {"grace_seconds": 3600}).json["secret"]
    log = server.log.read_text()
    forbidden = [secret, new, BANK[1], basic("tpp", secret).partition(" ")[2], basic(*BANK).partition(" ")[2]]
    forbidden += [text, text.rpartition(".")[2], signed, signed.split(".")[1], "GB33BUKB20201555555555"]
    forbidden += [each.split(".")[1] for each in polled.values()]
    assert [word for word in forbidden if word in log] == []
    server.secrets["tpp"] = new


COLON = "urn:tpp:1"

MISPLACED = {
    "a colon behind the secret": "{name}:{secret}:",
    "two colons behind it": "{name}:{secret}::",
    "a word behind it": "{name}:{secret}:x",
    "a line's end behind it": "{name}:{secret}:\n",
    "two colons before it": "{name}::{secret}",
    "the name twice": "{name}:{name}:{secret}:",
}
ASKED = [
    ("POST", "/events", "{}"),
    ("POST", "/events", "{"),
    ("POST", "/open-banking/v3.1/events", "{}"),
    ("POST", WSO2, "request=e30="),
    ("GET", "/streams", ""),
    ("PUT", "/streams/tpp", "{}"),
    ("GET", "/console", ""),
    ("GET", "/metrics", ""),
]


@pytest.mark.parametrize("form", MISPLACED)
@pytest.mark.parametrize("who", ["tpp", "bank"])
def test_a_secret_beside_a_misplaced_colon_is_not_in_the_log(server: Server, who: str, form: str) -> None:
    """Issue 11, 6: what stands before the last colon may be a secret. Until it is proven who asks, no more of a name is
    logged than what stands before its first colon."""
    secret = server.secrets["tpp"] if who == "tpp" else BANK[1]
    credentials, before = MISPLACED[form].format(name=who, secret=secret), server.log.stat().st_size
    for method, path, body in ASKED:
        kind = FORM if path == WSO2 else JSON
        name, _, word = credentials.partition(":")
        reply = server.request(method, path, body, {**kind, "Authorization": basic(name, word)})
        assert reply.status == 401
        line = line_of(server, reply)
        assert line["tpp"] in (who, "tpp", None)
        assert line.get("caller", who) == who
    assert secret.encode() not in server.log.read_bytes()[before:]


ADDRESSES = {
    "absolute": "http://bank:{secret}@127.0.0.1/events",
    "absolute, no path": "http://bank:{secret}@127.0.0.1",
    "absolute, a query": "http://127.0.0.1/streams?user=bank:{secret}",
    "without its scheme": "//bank:{secret}@127.0.0.1/events",
    "without its slashes": "bank:{secret}@127.0.0.1/events",
    "without its name": "{secret}@127.0.0.1/events",
    "behind a slash": "/bank:{secret}@127.0.0.1/events",
    "as a stream": "/streams/bank:{secret}@127.0.0.1/sets",
    "as a fragment": "/events#bank:{secret}",
}


@pytest.mark.parametrize("form", ADDRESSES)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_a_secret_in_an_address_is_not_in_the_log(server: Server, form: str, method: str) -> None:
    """RFC 3986 section 3.2.1: credentials in a URL. Whoever joins URLs wrongly sends them as a path."""
    target, before = ADDRESSES[form].format(secret=BANK[1]), server.log.stat().st_size
    mark = str(uuid.uuid4())
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nx-fapi-interaction-id: {mark}\r\nContent-Length: 0\r\n"
    reply = server.raw(f"{head}Connection: close\r\n\r\n".encode())
    assert 400 <= reply.status < 500
    server.request("GET", "/healthz", headers={"x-fapi-interaction-id": f"{mark}-after"})
    wait_for(lambda: f"{mark}-after" in server.log.read_text())
    assert BANK[1].encode() not in server.log.read_bytes()[before:]


def test_a_name_with_a_colon_is_logged_whole_once_it_is_proven(server: Server) -> None:
    """Issue 11, 6: clients of some authorization servers have such names. What is proven is no secret."""
    secret = server.tpp(COLON)
    line = line_of(server, server.poll(COLON, NOW))
    assert (line["status"], line["tpp"]) == (200, COLON)
    for body in ("{", '{"maxEvents":-1}', json.dumps({"ack": ["x"] * 10_001})):
        headers = {**JSON, "Authorization": basic(COLON, secret)}
        line = line_of(server, server.request("POST", "/events", body, headers))
        assert (line["status"], line["tpp"]) == (400, COLON)
    line = line_of(server, server.request("POST", "/events", "{}", {**JSON, "Authorization": basic(COLON, "wrong")}))
    assert (line["status"], line["tpp"]) == (401, "urn")
    line = line_of(server, server.request("POST", "/events", "{}", {**JSON, **bearer(token(COLON, "x"))}))
    assert (line["status"], line["tpp"]) == (403, None)
    line = line_of(server, server.request("GET", f"/streams/{COLON}", "", {"Authorization": basic(COLON, secret)}))
    assert (line["status"], line["tpp"], line["caller"]) == (403, COLON, COLON)
    line = line_of(server, server.bank("GET", f"/streams/{COLON}"))
    assert (line["status"], line["tpp"], line["caller"]) == (200, COLON, BANK[0])
    assert line["path"] == f"/streams/{COLON}"


INJECTIONS = [
    ("GET", "/nothing%0A%7B%22forged%22%3Atrue%7D", {}),
    ("GET", "/streams/a%0D%0A%7B%22forged%22%3Atrue%7D", {"Authorization": basic(*BANK)}),
    ("GET", "/nothing%E2%80%A8%7B%22forged%22%3Atrue%7D", {}),
    ("GET", "/nothing%1B%5B2J%00%08%7F", {}),
    ("GET", "/nothing%FF%FE%ED%A0%80", {}),
    ("POST", "/events", {**JSON, "Authorization": basic('a\n{"forged":true}', "x")}),
    ("POST", "/events", {**JSON, **bearer(issuer.sign({**issuer.claims(), "client_id": 'a\n{"forged":true}'}))}),
    ("POST", WSO2, {**FORM, "Authorization": basic(*BANK), "x-wso2-client-id": 'a"} {"forged":true}'}),
    ("GET", "/nothing", {"x-fapi-interaction-id": 'x"}\t{"forged":true}'}),
    ("GET", "/nothing", {"X-Forwarded-For": '1.2.3.4"} {"forged":true}'}),
]


@pytest.mark.parametrize("number", range(len(INJECTIONS)))
def test_nothing_that_a_caller_sends_makes_a_line_of_its_own(server: Server, number: int) -> None:
    """CWE-117: through the path, a header, the name of a TPP, an interaction id."""
    method, path, headers = INJECTIONS[number]
    assert server.request(method, path, "{}" if method == "POST" else None, headers).status in (400, 401, 404)
    wait_for(lambda: lines(server)[-1]["path"] is not None)
    text = server.log.read_bytes()
    assert not any(byte < 32 and byte != 10 for byte in text)
    assert text.isascii()
    assert not [line for line in lines(server) if "forged" in line or set(line) - {"caller"} != MEMBERS]
    assert not [line for line in text.splitlines() if line.startswith(b'{"forged"')]


def test_an_interaction_id_with_a_line_break_goes_nowhere(server: Server) -> None:
    """Sent raw, as no library would: refused, or a header of its own, and no line of the log."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        broken = b'x-fapi-interaction-id: a\n{"forged":true}\r\n'
        connection.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\n" + broken + b"Connection: close\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        answer.read()
    assert answer.status in (400, 404)
    assert not [line for line in lines(server) if "forged" in line]


def test_a_path_without_end_is_cut(server: Server) -> None:
    """A line stays short enough to be written in one piece."""
    reply = server.request("GET", "/" + "x" * 3000)
    assert len(line_of(server, reply)["path"]) == requestlog.LONGEST_PATH


def test_by_default_nothing_is_written(shared_server: Server) -> None:
    """EVENTPOLL_LOG=none: a proxy in front has its own log."""
    reply = shared_server.request("GET", "/healthz")
    assert reply.headers["x-fapi-interaction-id"] not in shared_server.log.read_text()


def test_a_log_that_cannot_be_written_costs_no_answer(
    app: Flask, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk must not turn an answer with SETs in it, which count as delivered, into a 500."""

    class Full:
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    client = create_app(Config.from_environ({**environ, "EVENTPOLL_LOG": "json"})).test_client()
    monkeypatch.setattr("sys.stdout", Full())
    assert client.get("/healthz").status_code == 200
