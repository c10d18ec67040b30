"""An adversary's afternoon: slow clients, other hosts, proxies that are none, smuggled headers, other sites; and the
table of threats, whose tests are there."""

import ast
import base64
import http.client
import json
import re
import socket
import uuid
from collections.abc import Callable

import pytest

from harness import ROOT
from harness.service import BANK, Server, basic
from harness.waiting import wait_for

JSON = {"Content-Type": "application/json"}
FORM = "application/x-www-form-urlencoded"
OBIE = ("/open-banking/v3.1/events", "/open-banking/v4.0/events")
WSO2 = ("/api/openbanking/event-notifications/events", "/api/fs/event-notifications/events")


# -- the table --------------------------------------------------------------------------------------------------


def every_test() -> set[str]:
    """file::function of every test."""
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.add(f"{path.relative_to(ROOT)}::{node.name}")
    return found


def table() -> list[list[str]]:
    """The rows of the table in docs/security.md."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*) \|$", text, re.M)
    return [[cell.strip() for cell in row.split(" | ")] for row in rows if "::" in row]


def test_every_test_that_the_table_of_threats_names_is_there() -> None:
    """docs/security.md: threat, what stops it, the test that shows it. A renamed test is renamed there."""
    named = {name for row in table() for name in re.findall(r"`(tests/[\w/]+\.py::test_\w+)`", row[2])}
    assert len(named) > 30
    assert named - every_test() == set()


@pytest.mark.parametrize(
    "threat",
    [
        "ack",
        "read",
        "timing",
        "replay",
        "none",
        "HS256",
        "kid",
        "outage",
        "rotat",
        "smuggl",
        "compress",
        "nest",
        "slow",
        "log",
        "header",
        "markup",
    ],
)
def test_the_table_of_threats_holds_what_the_issue_names(threat: str) -> None:
    """Issue 4, "What it must show"; each row has a threat, what stops it, and a test."""
    rows = table()
    assert all(len(row) == 3 and all(row) for row in rows)
    assert any(threat.lower() in row[0].lower() for row in rows)


# -- hosts and proxies ------------------------------------------------------------------------------------------


def test_only_hosts_of_ours_are_answered_where_they_are_named(serve: Callable[..., Server]) -> None:
    """EVENTPOLL_TRUSTED_HOSTS: a Host that is not ours is refused, in the shape of the path."""
    server = serve(EVENTPOLL_TRUSTED_HOSTS="events.bank.example .tpp.example 127.0.0.1")
    server.tpp("tpp")
    for host, status in (
        ("events.bank.example", 200),
        ("events.bank.example:8443", 200),
        ("a.tpp.example", 200),
        ("evil.example", 400),
        ("events.bank.example.evil.example", 400),
        ("evil.example#events.bank.example", 400),
        ("", 400),
    ):
        reply = server.poll("tpp", {"returnImmediately": True}, headers={"Host": host})
        assert (reply.status, host) == (status, host)
        if status == 400:
            assert set(reply.json) == {"err", "description"}
            assert "evil" not in reply.body.decode()
    forwarded = {"Host": "events.bank.example", "X-Forwarded-Host": "evil.example"}
    assert server.poll("tpp", {"returnImmediately": True}, headers=forwarded).status == 200


NO_HOST = {
    "none": (b"", 400),
    "two": (b"Host: x\r\nHost: y\r\n", 400),
    "the same twice": (b"Host: x\r\nHost: x\r\n", 400),
    "one": (b"Host: x\r\n", 200),
    "an empty one": (b"Host:\r\n", 200),
}


@pytest.mark.parametrize("how", NO_HOST)
def test_a_request_of_http_1_1_has_one_host(shared_server: Server, how: str) -> None:
    """RFC 9112 section 3.2: 400 to any other, on every path; HTTP/1.0 knows no Host."""
    hosts, status = NO_HOST[how]
    reply = shared_server.raw(b"GET /healthz HTTP/1.1\r\n" + hosts + b"\r\n")
    assert reply.status == status
    if status == 400:
        assert reply.json["err"] == "invalid_request"
        assert reply.headers["connection"] == "close"
        for path in (b"/nothing", b"/events", b"/streams", b"/console"):
            assert shared_server.raw(b"GET " + path + b" HTTP/1.1\r\n" + hosts + b"\r\n").status == 400
    if how == "none":
        assert "Host" in reply.json["description"]
        assert shared_server.raw(b"GET /healthz HTTP/1.0\r\n\r\n").status == 200


def test_nothing_is_said_after_an_answer(shared_server: Server) -> None:
    """A body that nobody wanted and that is none closes the connection: a second answer would belong to no request."""
    head = b"POST /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", shared_server.port), 20) as connection:
        connection.sendall(head + b"no length\r\n")
        found = b""
        while piece := connection.recv(65536):
            found += piece
    assert found.startswith(b"HTTP/1.1 404 ")
    assert found.count(b"HTTP/1.1") == 1


def address_in_log(server: Server, headers: dict[str, str]) -> str:
    """The caller's address, as the log has it."""
    mark = str(uuid.uuid4())
    server.request("GET", "/healthz", headers={**headers, "x-fapi-interaction-id": mark})

    def found() -> list[str]:
        return [line for line in server.log.read_text().splitlines() if mark in line]

    return str(json.loads(wait_for(found)[0])["address"])


@pytest.mark.parametrize(
    ("hops", "forwarded", "address"),
    [
        ("0", "192.0.2.9", "127.0.0.1"),
        ("1", "192.0.2.9", "192.0.2.9"),
        ("1", "192.0.2.1, 192.0.2.9", "192.0.2.9"),
        ("2", "192.0.2.1, 192.0.2.9, 192.0.2.8", "192.0.2.9"),
        ("2", "192.0.2.9", "127.0.0.1"),
    ],
)
def test_forwarded_headers_count_only_as_configured(
    serve: Callable[..., Server], hops: str, forwarded: str, address: str
) -> None:
    """EVENTPOLL_PROXY_HOPS: of X-Forwarded-For so many from the right; what a client put before counts for nothing."""
    server = serve(EVENTPOLL_PROXY_HOPS=hops, EVENTPOLL_LOG="json")
    assert address_in_log(server, {"X-Forwarded-For": forwarded}) == address


@pytest.mark.parametrize("name", ["X-Forwarded-Prefix", "X-Script-Name", "SCRIPT_NAME", "PATH_INFO", "X-Original-URL"])
def test_no_header_moves_a_path(shared_server: Server, name: str) -> None:
    """What a caller says of paths is no address: a bank's call is not reached as an open one."""
    for text in ("/streams", "/healthz", "/events"):
        assert shared_server.request("GET", "/streams", headers={name: text}).status == 401


# -- headers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/.well-known/jwks.json", 200),
        ("GET", "/streams", 401),
        ("GET", "/nothing", 404),
        ("GET", "/events", 405),
        ("POST", "/open-banking/v4.0/events", 401),
        ("POST", WSO2[0], 401),
    ],
)
def test_every_answer_has_the_headers_that_keep_browsers_from_harm(
    shared_server: Server, method: str, path: str, status: int
) -> None:
    """OWASP secure headers: no sniffing, no scripts, no frames; and neither server nor version is told."""
    reply = shared_server.request(method, path)
    assert reply.status == status
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert "access-control-allow-origin" not in reply.headers
    assert not re.search(r"\d", reply.headers.get("server", ""))
    assert "set-cookie" not in reply.headers


MARKUP = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'


def test_markup_comes_back_as_json_and_nowhere_else(shared_server: Server) -> None:
    """Names and errors that TPPs send are shown to the bank as JSON, never as a page; and no name has a < in it."""
    shared_server.tpp("markup")
    jti = shared_server.push("markup", MARKUP)
    shared_server.poll("markup", {"returnImmediately": True, "setErrs": {jti: {"err": MARKUP, "description": MARKUP}}})
    for path in ("/streams/markup/sets?state=parked", "/nothing" + MARKUP.replace(" ", "%20").replace('"', "%22")):
        reply = shared_server.bank("GET", path)
        assert reply.headers["content-type"].startswith("application/json")
        assert reply.headers["x-content-type-options"] == "nosniff"
        reply.json  # noqa: B018  (it is JSON)
    assert shared_server.bank("PUT", "/streams/%3Cb%3E").status == 400


@pytest.mark.parametrize("sent", ["a\r\nSet-Cookie: x=y", "a\nSet-Cookie: x=y", "é", "\x00", "x" * 300, ""])
def test_an_interaction_id_makes_no_header_of_its_own(shared_server: Server, sent: str) -> None:
    """CWE-113: echoed only if it is safe to echo (decision 26)."""
    with socket.create_connection(("127.0.0.1", shared_server.port), 10) as connection:
        text = f"GET /healthz HTTP/1.1\r\nHost: x\r\nx-fapi-interaction-id: {sent}\r\nConnection: close\r\n\r\n"
        connection.sendall(text.encode("latin-1"))
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        answer.read()
    assert answer.status in (200, 400)
    assert answer.getheader("Set-Cookie") is None
    if answer.status == 200:
        assert sent.partition("\r\n")[0] == answer.getheader("x-fapi-interaction-id") or uuid.UUID(
            answer.getheader("x-fapi-interaction-id") or ""
        )


@pytest.mark.parametrize("path", WSO2)
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("x-wso2-client_id: smuggled-a", "x-wso2-client-id: smuggled-b"),
        ("x-wso2-client-id: smuggled-b", "x-wso2-client_id: smuggled-a"),
        ("x-wso2-client-id: smuggled-a", "x-wso2-client-id: smuggled-b"),
        ("X-WSO2-CLIENT_ID: smuggled-a", "x-wso2-client-id: smuggled-a"),
    ],
)
def test_the_two_spellings_of_wso2s_client_header_together_are_refused(
    shared_server: Server, path: str, first: str, second: str
) -> None:
    """Issue 4: a gateway that sets one spelling must not be outvoted by a client that sends the other."""
    for tpp in ("smuggled-a", "smuggled-b"):
        if tpp not in shared_server.secrets:
            shared_server.tpp(tpp)
            shared_server.push(tpp)
    body = b"request=e30="
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {basic(*BANK)}\r\nContent-Type: {FORM}\r\n"
    text = f"{head}{first}\r\n{second}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    reply = shared_server.raw(text)
    assert reply.status == 400
    assert b"sets" not in reply.body


@pytest.mark.parametrize(
    "text",
    [
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
        b"Content-Length: +2\r\n\r\n{}",
        b"Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_a_body_of_two_lengths_is_refused(shared_server: Server, text: bytes) -> None:
    """RFC 9112 section 6.3: request smuggling ends here, whatever a proxy made of it."""
    head = f"POST /events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: {basic('x', 'x')}\r\n"
    assert shared_server.raw(head.encode() + text).status in (400, 501)


# -- bombs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"ack":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"setErrs":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
        b'{"maxEvents":' + b"9" * 500_000 + b"}",
        b'{"ack":["' + b"\\ud800" * 10 + b'"]}',
    ],
)
@pytest.mark.parametrize("path", ["/events", "/open-banking/v4.0/events"])
def test_a_nesting_bomb_is_400(shared_server: Server, path: str, body: bytes) -> None:
    """Decision 16: never a 500, never a long silence."""
    if "bombed" not in shared_server.secrets:
        shared_server.tpp("bombed")
    auth = ("bombed", shared_server.secrets["bombed"])
    assert shared_server.request("POST", path, body, JSON, auth).status == 400
    if path == "/events":
        wrapped = b"request=" + base64.b64encode(body)[:1_000_000].replace(b"+", b"%2B")
        assert shared_server.request("POST", WSO2[0], wrapped, {"Content-Type": FORM}, auth).status == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/streams/numbered/sets", '{"events":{"urn:test:event":{}},"toe":%s}'),
        ("/streams/numbered/secret", '{"grace_seconds":%s}'),
        ("/streams/numbered/secret", '{"grace_seconds":-%s}'),
        ("/events", '{"returnImmediately":true,"maxEvents":-%s}'),
    ],
)
@pytest.mark.parametrize("digits", [400, 4000, 5000])
def test_a_number_without_end_is_400(shared_server: Server, path: str, body: str, digits: int) -> None:
    """Decision 16: beyond every float, and beyond what Python reads as a number at all."""
    if "numbered" not in shared_server.secrets:
        shared_server.tpp("numbered")
    auth = BANK if path != "/events" else ("numbered", shared_server.secrets["numbered"])
    assert shared_server.request("POST", path, body % ("9" * digits), JSON, auth).status == 400


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, identity", "zstd"])
def test_a_compressed_body_is_415_and_never_unpacked(shared_server: Server, encoding: str) -> None:
    """Decompression bombs: nothing is decompressed, anywhere."""
    if "packed" not in shared_server.secrets:
        shared_server.tpp("packed")
    auth = ("packed", shared_server.secrets["packed"])
    headers = {**JSON, "Content-Encoding": encoding}
    reply = shared_server.request("POST", "/events", b"\x1f\x8b" + b"x" * 100, headers, auth)
    assert (reply.status, reply.headers["accept-encoding"]) == (415, "identity")


NDJSON, SIGNED = "application/x-ndjson", "application/secevent+jwt"
BODIES = [
    *(("POST", path, JSON["Content-Type"]) for path in ("/events", *OBIE)),
    *(("POST", path, FORM) for path in WSO2),
    *(("POST", path.replace("/events", "/create-events"), FORM) for path in WSO2),
    ("PUT", "/streams/packed", JSON["Content-Type"]),
    ("POST", "/streams/packed/secret", JSON["Content-Type"]),
    ("POST", "/streams/packed/sets", JSON["Content-Type"]),
    ("POST", "/streams/packed/sets", SIGNED),
    ("POST", "/streams/packed/sets:batch", NDJSON),
    ("POST", "/console/streams/packed/requeue", FORM),
    ("POST", "/console/streams/packed/discard-all", FORM),
]


@pytest.mark.parametrize(("method", "path", "kind"), BODIES)
def test_who_sends_a_compressed_body_is_told_what_is_taken(
    shared_server: Server, method: str, path: str, kind: str
) -> None:
    """RFC 9110 section 15.5.16: Accept-Encoding, with a 415 for the encoding, and with no other (section 12.5.3)."""
    if "packed" not in shared_server.secrets:
        shared_server.tpp("packed")
    auth = ("packed", shared_server.secrets["packed"]) if path in ("/events", *OBIE, *WSO2) else BANK
    for headers, encoding in (
        ({"Content-Type": kind, "Content-Encoding": "gzip"}, "identity"),
        ({"Content-Type": "text/plain", "Content-Encoding": "gzip"}, None),
        ({"Content-Type": "text/plain"}, None),
    ):
        reply = shared_server.request(method, path, b"\x1f\x8b" + b"x" * 100, headers, auth)
        assert (reply.status, reply.headers.get("accept-encoding")) == (415, encoding)


# -- other sites ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "https://evil.example", "X-Forwarded-Host": "evil.example"},
    ],
)
def test_a_page_of_another_site_acts_for_nobody(shared_server: Server, headers: dict[str, str]) -> None:
    """decisions.md, smaller ones: 403, though the browser adds the credentials that it keeps."""
    if "browsed" not in shared_server.secrets:
        shared_server.tpp("browsed")
    assert shared_server.bank("PUT", "/streams/by-a-page", headers=headers).status == 403
    assert shared_server.bank("DELETE", "/streams/browsed", headers=headers).status == 403
    assert shared_server.poll("browsed", {"returnImmediately": True}, headers=headers).status == 403
    assert shared_server.bank("GET", "/streams/by-a-page").status == 404
