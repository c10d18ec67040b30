"""Whatever comes over the wire: no 5xx, no hang, each refusal in its shape, and nothing broken afterwards.

Hypothesis writes the requests, good ones and bad ones, on every endpoint that the application has, and sends them
over a plain socket to gunicorn.
"""

import base64
import hashlib
import http.client
import io
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode

import pytest
from flask import Flask
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from eventpoll.profiles import all_profiles, of_path
from eventpoll.profiles.obie import Obie
from eventpoll.store.records import FAMILIES, Rules
from eventpoll.store.store import Store
from harness import issuer
from harness.issuer import token
from harness.redis_servers import RedisServer
from harness.service import BANK, Reply, Server, basic
from harness.sets import set_of
from tests.promises.test_model import check_whole, contents
from tests.promises.test_properties import any_polls, check_shape, damaged, mostly, values

pytestmark = pytest.mark.no_cover  # tracing Hypothesis takes longer than the tests do

SETTINGS = settings(derandomize=True, max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))

PROFILES = all_profiles()
POLLED, LOST = "fuzz-1", "fuzz-2"
"""Streams: the one keeps its secret, the other may lose it and be taken away."""

TYPES = (
    "application/json",
    "application/json; charset=utf-8",
    "application/x-www-form-urlencoded",
    "application/x-ndjson",
    "application/secevent+jwt",
    "text/plain",
    "application/json; charset=utf-16",
    "multipart/form-data; boundary=x",
    "",
)
ODD_SEGMENTS = (
    "",
    ".",
    "..",
    "%00",
    "%2e%2e",
    "a%2Fb",
    "%ff%fe",
    "%",
    "%zz",
    "a" * 300,
    "{fuzz-1}",
    "%7Bfuzz-1%7D:sets",
    "é",
)


@dataclass(frozen=True)
class Asked:
    """A request, byte for byte. `sound` where HTTP itself has nothing against it."""

    method: str
    target: str
    text: bytes
    sound: bool

    @property
    def path(self) -> str:
        path = unquote(self.target.partition("?")[0])
        return "/" + path.lstrip("/")  # gunicorn takes //x for /x


nearly = partial(mostly, times=9)


# -- bodies ---------------------------------------------------------------------------------------------------------

json_polls = any_polls.map(lambda poll: json.dumps(poll).encode())
forms = st.tuples(st.sampled_from(["request", "request", "other"]), mostly(json_polls, st.binary())).map(
    lambda pair: urlencode({pair[0]: _base64(pair[1])}).encode()
)
jtis = st.sampled_from(["a", "b", "c", "é/ü", "a b"])
signed = st.builds(lambda jti, version: set_of(jti, {"urn:x": {"v": version}}).encode(), jtis, st.integers(0, 1))
events = st.fixed_dictionaries(
    {"events": mostly(st.just({"urn:test:event": {}}), values)},
    optional={
        "jti": nearly(jtis, values),
        "toe": nearly(st.integers(), values),
        "scope": nearly(st.sampled_from(FAMILIES[1:]), values),
    },
).map(lambda event: json.dumps(event).encode())
stream_settings = st.fixed_dictionaries(
    {},
    optional={
        "redeliver_after": mostly(st.sampled_from([0, 0.01]), values),
        "max_deliveries": mostly(st.integers(0, 3), values),
        "on_error": mostly(st.sampled_from(["park", "redeliver"]), values),
        "grace_seconds": values,
        "other": values,
    },
).map(lambda settings: json.dumps(settings).encode())
lines = st.lists(st.one_of(events, signed, damaged()), max_size=5).map(b"\n".join)
bombs = st.sampled_from(
    [
        b"[" * 200_000,
        b'{"ack":' + b'{"a":' * 50_000,
        b'{"maxEvents":' + b"9" * 20_000 + b"}",
        b'{"ack":["' + b"a" * 1_048_576 + b'"]}',
        b"request=" + b"A" * 1_048_576,
        b"&" * 100_000,
        b"\x1f\x8b\x08\x00" + b"\x00" * 100,
        b"\xff\xfe{\x00}\x00",
    ]
)
BODIES: dict[str, st.SearchStrategy[bytes]] = {
    "application/json": st.one_of(json_polls, json_polls, events, stream_settings),
    "application/x-www-form-urlencoded": forms,
    "application/x-ndjson": lines,
    "application/secevent+jwt": signed,
}
any_body = st.one_of(*BODIES.values(), damaged(), st.binary(), bombs, st.just(b""))


def _base64(text: bytes) -> str:
    return base64.b64encode(text).decode()


# -- requests -------------------------------------------------------------------------------------------------------


@st.composite
def requests(draw: st.DrawFn, routes: list[tuple[str, str]], secrets: dict[str, str]) -> Asked:
    """A request that is mostly right, or wrong in a place or two."""
    rule, method = draw(st.sampled_from(routes))
    method = draw(
        mostly(st.just(method), st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]))
    )
    usual = LOST if method == "DELETE" or rule.endswith("/secret") else POLLED
    tpp = draw(nearly(st.just(usual), st.sampled_from([LOST, "nobody", *ODD_SEGMENTS])))
    jti = draw(nearly(jtis.map(quote), st.sampled_from(ODD_SEGMENTS)))
    target = rule.replace("<tpp>", tpp).replace("<eventpoll_jti:jti>", jti)
    target = draw(nearly(st.just(target), st.sampled_from([target + "/", "/" + target, target + "/x", target.upper()])))
    target += draw(
        mostly(st.just(""), st.sampled_from(["?limit=1", "?limit=-1", "?after=%ff", "?state=parked&x", "?"]))
    )

    kind = draw(nearly(st.just(_type_of(rule, method)), st.sampled_from(TYPES)))
    body = draw(nearly(BODIES.get(kind.partition(";")[0], any_body), any_body))
    headers = [("Host", "127.0.0.1"), ("Content-Type", kind)] if kind else [("Host", "127.0.0.1")]
    headers += draw(nearly(st.just([*_who(rule, secrets)]), st.sampled_from(_others(secrets))))
    headers += draw(nearly(st.just([]), st.lists(st.sampled_from(ODD_HEADERS), max_size=3)))
    framing = draw(nearly(st.sampled_from(["length", "chunked"]), st.sampled_from([*FRAMINGS])))
    framed, sound = FRAMINGS[framing](body)
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)
    text = head.encode("utf-8") + b"Connection: close\r\n" + framed
    if framing in ("length", "chunked") and draw(st.integers(0, 9)) == 0:  # and once more on the same connection
        text = text.replace(b"Connection: close\r\n", b"", 1) + text
    return Asked(method, target, text, sound and "%zz" not in target and target.isascii())


def _type_of(rule: str, method: str) -> str:
    if rule.startswith("/api/"):
        return "application/x-www-form-urlencoded"
    return "application/x-ndjson" if rule.endswith(":batch") else "application/json" if method != "GET" else ""


TOKENS = [token(POLLED), token(POLLED, "payments"), token(LOST, "openid"), token("the-bank", "eventpoll:bank accounts")]
BOUND = token(POLLED, cnf={"x5t#S256": hashlib.sha256(b"x").hexdigest()})


def _who(rule: str, secrets: dict[str, str]) -> list[tuple[str, str]]:
    """Those who may ask it."""
    polled = [profile.path for profile in PROFILES if not rule.startswith("/api/")]
    if rule in polled:
        return [("Authorization", basic(POLLED, secrets[POLLED]))]
    if rule.startswith("/api/"):
        named = [("x-wso2-client-id", POLLED), ("x-wso2-resource-id", "resource")]
        return [("Authorization", basic(*BANK)), *named]
    return [("Authorization", basic(*BANK))]


def _others(secrets: dict[str, str]) -> list[list[tuple[str, str]]]:
    return [
        [],
        [("Authorization", basic(*BANK))],
        [("Authorization", basic(POLLED, secrets[POLLED])), ("x-wso2-client-id", LOST)],
        [("Authorization", basic(LOST, secrets[LOST]))],
        [("Authorization", basic(POLLED, "wrong"))],
        [("Authorization", basic(*BANK)), ("x-wso2-client_id", POLLED), ("x-wso2-client-id", LOST)],
        [("Authorization", basic(*BANK)), ("x-wso2-client-id", "{fuzz-1}")],
        [("Authorization", "Bearer e30.e30.e30")],
        *([("Authorization", f"Bearer {text}"), ("x-wso2-client-id", POLLED)] for text in TOKENS),
        [("Authorization", f"Bearer {BOUND}"), ("Client-Cert", ":eA==:")],
        [("Authorization", "Basic ÿ=="), ("Authorization", "Basic YTpi")],
    ]


ODD_HEADERS = [
    ("Accept", "text/html"),
    ("Accept", "application/json;q=x, */*;q=0.1;q"),
    ("Accept-Encoding", "gzip;q=1e9"),
    ("Content-Encoding", "gzip"),
    ("Expect", "100-continue"),
    ("Origin", "https://elsewhere.example"),
    ("Sec-Fetch-Site", "cross-site"),
    ("x-fapi-interaction-id", "a" * 500),
    ("x-fapi-interaction-id", "\x7fé"),
    ("x-idempotency-key", "é" * 200),
    ("x-wso2-resource-id", "{}"),
    ("Cookie", "a=b; " * 100),
    ("Range", "bytes=0-1,5-"),
    ("If-Match", '"x'),
    ("X-Forwarded-For", "::1, x"),
    ("X-HTTP-Method-Override", "DELETE"),
    ("Forwarded", "for=unknown;host=x"),
    ("Client-Cert", ":eA==:"),
]


def _length(body: bytes) -> tuple[bytes, bool]:
    return b"Content-Length: %d\r\n\r\n" % len(body) + body, True


def _chunked(body: bytes) -> tuple[bytes, bool]:
    pieces = [body[at : at + 60_000] for at in range(0, len(body), 60_000)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n", True


FRAMINGS: dict[str, Callable[[bytes], tuple[bytes, bool]]] = {
    "length": _length,
    "chunked": _chunked,
    "none": lambda body: (b"\r\n", True),
    "ends early": lambda body: (b"Content-Length: %d\r\n\r\n" % (len(body) + 10) + body, True),
    "goes on": lambda body: (b"Content-Length: %d\r\n\r\n" % (len(body) // 2) + body, True),
    "ends in a chunk": lambda body: (b"Transfer-Encoding: chunked\r\n\r\nff\r\n" + body[:200], True),
    "no chunk": lambda body: (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + body, True),
    "both": lambda body: (b"Content-Length: %d\r\n" % len(body) + _chunked(body)[0], False),
    "two lengths": lambda body: (b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n" + body, False),
    "minus": lambda body: (b"Content-Length: -1\r\n\r\n" + body, False),
    "huge": lambda body: (b"Content-Length: 99999999999999999999\r\n\r\n" + body, True),
    "coded": lambda body: (b"Transfer-Encoding: gzip, chunked\r\n\r\n" + body, False),
    "folded": lambda body: (b"X-A: b\r\n c\r\n\r\n" + body, False),
}


class Text(io.BytesIO):
    """What came over the socket; more answers than one are read from it."""

    def makefile(self, mode: str) -> "Text":
        return self

    def close(self) -> None:
        """Not yet: the next answer may follow."""


OURS = b"\r\nContent-Security-Policy:"
"""What the application's answers have, and those to what gunicorn cannot read have not."""


def send(port: int, asked: Asked) -> list[Reply]:
    """Send, hang up our half, and read every answer to the end."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        try:
            connection.sendall(asked.text)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # a refusal need not wait for the rest of a body
        text, broken_off = b"", False
        try:
            while piece := connection.recv(65_536):
                text += piece
        except ConnectionResetError:  # a body that nobody asked for was left unread
            broken_off = True
    source, replies = Text(text), []
    while source.tell() < len(text):
        bare = asked.method if text.find(OURS, source.tell()) >= 0 else "GET"  # gunicorn's own have a body
        answer = http.client.HTTPResponse(source, method=bare)  # type: ignore[arg-type]
        answer.begin()
        try:
            body = answer.read()
        except http.client.IncompleteRead:
            if broken_off:
                break
            raise
        replies.append(Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body))
    return replies


def check(asked: Asked, reply: Reply) -> None:
    """What every answer keeps to."""
    assert reply.headers["x-fapi-interaction-id"]
    if "content-security-policy" not in reply.headers:  # gunicorn's own
        assert reply.status in (400, 414, 417, 431) or (reply.status == 501 and not asked.sound), (asked, reply)
        check_shape(PROFILES[0], reply.body)
        return
    assert reply.status < 500, (asked, reply)
    if reply.status < 400 or asked.method == "HEAD":
        return
    if f"{asked.path}/".startswith("/console/") and b"\r\nAccept: text/html\r\n" in asked.text:  # a browser's: a page
        assert reply.headers["content-type"] == "text/html; charset=utf-8"
        assert reply.body.startswith(b"<!doctype html>")
        return
    profile = of_path(PROFILES, asked.path)
    if isinstance(profile, Obie) and reply.status == 401:
        assert reply.body == b""
    else:
        assert reply.headers["content-type"] == profile.content_type
        check_shape(profile, reply.body)


@pytest.fixture
def fuzzed(serve: Callable[..., Server], redis_server: RedisServer) -> Server:
    """A server with the two streams, and polls that are hardly held."""
    url = redis_server.url.removesuffix("0") + "6"
    tokens = {**issuer.settings(), "EVENTPOLL_CLIENT_CERT_HEADER": "Client-Cert"}
    server = serve(REDIS_URL=url, EVENTPOLL_LONG_POLL_SECONDS="0.02", workers=2, **tokens)
    for name in (POLLED, LOST):
        server.tpp(name)
    return server


def test_whatever_is_asked_is_answered_and_breaks_nothing(fuzzed: Server, app: Flask) -> None:
    """decision 16: 400, never 500; decision 26: every answer says which it is. And each SET is in one state."""
    routes = [(rule.rule, method) for rule in app.url_map.iter_rules() for method in sorted(rule.methods or ())]
    routes += [(rule, method) for rule, method in routes if rule.endswith(("events", "/sets", ":batch"))] * 3
    statuses: dict[int, int] = {}
    who = basic(POLLED, fuzzed.secrets[POLLED])
    head = f"POST /events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {who}\r\nConnection: close\r\n"
    too_large = Asked("POST", "/events", head.encode() + _length(b'{"ack":["' + b"a" * 1_048_576 + b'"]}')[0], True)

    @SETTINGS
    @given(asked=requests(routes, fuzzed.secrets))
    @example(asked=too_large)  # of these there may be none among those that are drawn
    def ask(asked: Asked) -> None:
        for reply in send(fuzzed.port, asked):
            check(asked, reply)
            statuses[reply.status] = statuses.get(reply.status, 0) + 1

    ask()
    assert {200, 400, 401, 403, 404, 405, 413, 415} <= set(statuses), "the requests have grown dull"
    assert "Traceback" not in fuzzed.log.read_text()
    store = Store.open(fuzzed.environ["REDIS_URL"], Path(), Rules())
    for status in store.streams():
        check_whole(contents(store, status.tpp))
    store.redis.close()
    fuzzed.tpp("afterwards")
    jti = fuzzed.push("afterwards")
    assert list(fuzzed.poll("afterwards", {"returnImmediately": True}).json["sets"]) == [jti]
    last: Any = fuzzed.poll("afterwards", {"ack": [jti], "returnImmediately": True}).json
    assert last == {"sets": {}, "moreAvailable": False}
