"""Clients that send or take slowly, and clients that bring many connections: whom they hold up, and for how long."""

import http.client
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gevent.socket
import pytest

from eventpoll.web.connections import Connection
from harness import ROOT
from harness.certificates import Certificate
from harness.ports import free_port
from harness.redis_servers import RedisServer
from harness.service import BANK, Server, basic, start_server
from harness.waiting import wait_for
from tests.access.test_certificates import AUTHORITY

LONGEST = 20.0
"""Seconds in which a slow client must have been let go: many times what the setting of these tests says."""

HEAD = b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: %s\r\n"
KNOWN = HEAD % basic(*BANK).encode()
BATCH = KNOWN.replace(b"/events", b"/streams/slow/sets:batch").replace(b"/json", b"/x-ndjson")


@pytest.fixture(scope="module")
def impatient(
    redis_server: RedisServer, signing_keys: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One worker that waits two seconds for a request: long enough for an honest one on a busy machine."""
    environ = {
        "REDIS_URL": redis_server.url.removesuffix("0") + "13",
        "EVENTPOLL_BANK_USERNAME": BANK[0],
        "EVENTPOLL_BANK_PASSWORD": BANK[1],
        "EVENTPOLL_ISSUER": "https://bank.example",
        "EVENTPOLL_SIGNING_KEYS": signing_keys,
        "EVENTPOLL_LONG_POLL_SECONDS": "4",
        "EVENTPOLL_FAILED_LOGIN_SECONDS": "0",
        "EVENTPOLL_REQUEST_SECONDS": "2",
    }
    server = start_server(environ, tmp_path_factory.mktemp("impatient"))
    server.tpp("slow")
    yield server
    server.stop()


def connect(port: int, sent: bytes, source: str = "127.0.0.1") -> socket.socket:
    """A client that has sent so much."""
    connection = socket.create_connection(("127.0.0.1", port), LONGEST, (source, 0))
    connection.sendall(sent)
    return connection


def trickle(connections: Mapping[socket.socket, tuple[str, bytes]], pause: float = 0.1) -> None:
    """Send a byte of its text on each connection, pause, and so on, until the server has closed all of them."""
    deadline, sent, left = time.monotonic() + LONGEST, 0, dict(connections)
    while left:
        assert time.monotonic() < deadline, f"still served after {sent} bytes: {[how for how, _ in left.values()]}"
        readable, _, _ = select.select(left, [], [], pause)
        for connection, (_, text) in list(left.items()):
            try:
                if connection in readable and not connection.recv(65536):
                    raise ConnectionResetError
                connection.sendall(text[sent % len(text)].to_bytes())
            except OSError:
                connection.close()
                del left[connection]
        sent += 1


STOPPED = {
    "nothing": b"",
    "half a line": b"POST /ev",
    "half the headers": HEAD % b"x",
    "half a body": KNOWN + b"Content-Length: 100\r\n\r\n{",
    "half a chunk": KNOWN + b"Transfer-Encoding: chunked\r\n\r\n64\r\n{",
    "half a batch": BATCH + b"Content-Length: 100\r\n\r\n{",
}

ASKED = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

TRICKLES = {
    "a line": (b"GET /", b"x"),
    "headers": (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: ", b"x"),
    "headers, once a request was answered": (ASKED + b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: ", b"x"),
    "a body": (KNOWN + b"Content-Length: 100000\r\n\r\n{", b" "),
    "a body of a made-up name": (HEAD % basic("made-up", "x").encode() + b"Content-Length: 100000\r\n\r\n{", b" "),
    "a chunk": (KNOWN + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n", b" "),
    "chunks": (KNOWN + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "the length of a chunk": (KNOWN + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "what follows the last chunk": (KNOWN + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nX: ", b"x"),
    "a batch": (BATCH + b"Content-Length: 100000\r\n\r\n", b"x\n"),
    "a batch in chunks": (BATCH + b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\nx\n\r\n"),
    "a body that nobody wants": (KNOWN.replace(b"/events", b"/nothing") + b"Content-Length: 100000\r\n\r\n", b" "),
}


def test_slow_clients_hold_up_nobody_and_are_let_go(impatient: Server) -> None:
    """Slowloris: each holds a connection, no worker; after a while not even that."""
    slow = [connect(impatient.port, sent) for sent in STOPPED.values() for _ in range(20)]
    for _ in range(5):
        assert impatient.request("GET", "/healthz").status == 200
    for connection in slow:
        while connection.recv(65536):  # an answer perhaps, and then the end
            pass
        connection.close()
    assert impatient.process.poll() is None


def test_a_byte_now_and_then_renews_nothing(impatient: Server) -> None:
    """Issue 11, 4: there is one time for the whole request, until its body is in."""
    trickle({connect(impatient.port, begun): (how, text) for how, (begun, text) in TRICKLES.items() for _ in range(5)})
    assert impatient.request("GET", "/healthz").status == 200


def test_a_body_that_nobody_wants_and_that_does_not_end_is_cut(impatient: Server) -> None:
    """Who sends fast is read for as long as a batch may be, so as to come to the answer, and no longer."""
    head = KNOWN.replace(b"/events", b"/nothing") + b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"100000\r\n" + bytes(1_048_576) + b"\r\n"
    with connect(impatient.port, head) as connection, pytest.raises(OSError, match=r"(?i)reset|pipe"):
        connection.sendall(100 * chunk)


def test_who_was_too_slow_stands_in_the_log(impatient: Server) -> None:
    """docs/operations.md: what did not reach the service, or was no request."""
    connection = connect(impatient.port, b"GET /healthz HTTP/1.1\r\n")
    assert connection.recv(65536) == b""
    connection.close()
    words = "Unreadable request from 127.0.0.1: it came too slowly"
    wait_for(lambda: words in impatient.log.read_text(encoding="utf-8"))
    assert "Traceback" not in impatient.log.read_text(encoding="utf-8")


def test_a_connection_may_rest_for_longer_than_a_request_may_take(impatient: Server) -> None:
    """Between two requests of a connection there is keepalive; a held poll has its own time."""
    secret = basic("slow", impatient.secrets["slow"])
    connection = http.client.HTTPConnection("127.0.0.1", impatient.port, timeout=30)
    for body in ("{}", '{"returnImmediately": true}'):
        connection.request("POST", "/events", body, {"Content-Type": "application/json", "Authorization": secret})
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["sets"]) == (200, {})
        address = connection.sock.getsockname()
        time.sleep(3)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    assert connection.sock.getsockname() == address
    connection.close()


def pieces(text: bytes, size: int, pause: float) -> Iterator[bytes]:
    """A body that comes steadily."""
    for begin in range(0, len(text), size):
        yield text[begin : begin + size]
        time.sleep(pause)


def test_a_slow_line_brings_a_large_body_whole(serve: Callable[..., Server]) -> None:
    """Issue 11, 4: who goes on steadily is not cut, though the whole takes longer than EVENTPOLL_REQUEST_SECONDS."""
    server = serve(EVENTPOLL_REQUEST_SECONDS="4")
    secret = server.tpp("steady")
    lines = [json.dumps({"jti": str(number), "events": {"urn:x": {"filler": "x" * 100_000}}}) for number in range(40)]
    batch = ("/streams/steady/sets:batch", "application/x-ndjson", basic(*BANK), "".join(f"{line}\n" for line in lines))
    poll = ("/events", "application/json", basic("steady", secret), '{"maxEvents": 0}' + " " * 1_000_000)

    def send(kind: tuple[str, str, str, str], chunked: bool) -> tuple[int, bytes]:
        path, media, who, text = kind
        headers = {"Content-Type": media, "Authorization": who}
        if not chunked:
            headers["Content-Length"] = str(len(text))
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        body = pieces(text.encode(), len(text) // 20 + 1, 0.3)
        connection.request("POST", path, body, headers, encode_chunked=chunked)
        answer = connection.getresponse()
        return answer.status, answer.read()

    kinds = [(batch, True), (batch, False), (poll, True), (poll, False)]
    with ThreadPoolExecutor(len(kinds)) as threads:
        found = list(threads.map(send, *zip(*kinds, strict=True)))
    assert [status for status, _ in found] == [200] * len(kinds)
    for _, results in found[:2]:
        assert {json.loads(line)["status"] for line in results.splitlines()} <= {200, 201}
        assert len(results.splitlines()) == 40


def test_a_slow_line_takes_a_large_answer_whole(impatient: Server) -> None:
    """The same for the other direction: 8 MiB need no more than a line of half a megabit a second."""
    secret = impatient.tpp("taker")
    lines = [json.dumps({"jti": str(n), "events": {"urn:x": {"filler": "x" * 60_000}}}) for n in range(100)]
    headers = {"Content-Type": "application/x-ndjson"}
    body = "".join(f"{line}\n" for line in lines)
    assert impatient.request("POST", "/streams/taker/sets:batch", body, headers, BANK).status == 200
    head = KNOWN.replace(basic(*BANK).encode(), basic("taker", secret).encode()) + b"Content-Length: 2\r\n\r\n{}"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.settimeout(LONGEST)
        connection.connect(("127.0.0.1", impatient.port))
        connection.sendall(head)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        found = b""
        while piece := answer.read(65_536):
            found += piece
            time.sleep(0.03)
    assert len(json.loads(found)["sets"]) == 100


def test_who_takes_nothing_of_an_answer_is_let_go() -> None:
    """To gunicorn it is a client that hung up: no traceback in the log."""
    ours, theirs = gevent.socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with pytest.raises(ConnectionResetError) as caught:
        Connection(ours, 0.1).sendall(b"x" * 60_000)
    assert caught.value.errno is not None
    ours.close()
    theirs.close()


# -- under TLS of our own -----------------------------------------------------------------------------------------


@pytest.fixture
def tls(environ: dict[str, str], redis_server: RedisServer, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A worker that ends TLS itself and waits two seconds: its port, its log."""
    certfile, keyfile = Certificate("localhost", AUTHORITY).files(tmp_path)
    port, log = free_port(), tmp_path / "gunicorn.log"
    settings = {**environ, "REDIS_URL": redis_server.url.removesuffix("0") + "13", "EVENTPOLL_REQUEST_SECONDS": "2"}
    settings |= {"PATH": os.environ["PATH"], "PORT": str(port), "WEB_CONCURRENCY": "1"}
    command = [sys.executable, "-m", "gunicorn", "--config", str(ROOT / "gunicorn.conf.py"), "--pythonpath", str(ROOT)]
    command += ["--certfile", certfile, "--keyfile", keyfile, "wsgi:app"]
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=tmp_path, env=settings, stdout=output, stderr=output)
    wait_for(lambda: answers(port), 60, 0.05)
    yield port, log
    process.send_signal(signal.SIGTERM)
    process.wait(40)


def answers(port: int) -> bool:
    """Whether somebody else is answered."""
    context = ssl.create_default_context(cadata=AUTHORITY.pem)
    connection = http.client.HTTPSConnection("localhost", port, timeout=5, context=context)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


class Records:
    """A TLS client that gives its records away, to be sent in any way."""

    def __init__(self) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cadata=AUTHORITY.pem)
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def hello(self) -> bytes:
        """The first of its handshake."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.outgoing.read()

    def shake_hands(self, connection: socket.socket) -> None:
        """The whole handshake, at once."""
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.sendall(self.outgoing.read())
                self.incoming.write(connection.recv(65536))
        connection.sendall(self.outgoing.read())

    def record(self, text: bytes) -> bytes:
        """What carries a text."""
        self.tls.write(text)
        return self.outgoing.read()


def test_slow_handshakes_hold_up_nobody_and_are_let_go(tls: tuple[int, Path]) -> None:
    """The same under TLS of our own, before there is a request. The log has a line of each, and no traceback."""
    port, log = tls
    slow = [connect(port, sent) for sent in (b"", b"\x16\x03\x01") * 20]
    assert answers(port)
    for connection in slow:
        while connection.recv(65536):
            pass
        connection.close()
    assert answers(port)
    text = log.read_text(encoding="utf-8")
    assert "No TLS with 127.0.0.1: too slow" in text
    assert "Traceback" not in text


def test_a_byte_of_tls_now_and_then_renews_nothing(tls: tuple[int, Path]) -> None:
    """A handshake has one time as well, and a record has no time of its own beside that of its request."""
    port, _ = tls
    shaken, connection = Records(), connect(port, b"")
    shaken.shake_hands(connection)
    record = shaken.record(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 8000)
    trickle({connection: ("a record", record), connect(port, b""): ("a handshake", Records().hello())})
    assert answers(port)


# -- many connections ---------------------------------------------------------------------------------------------

BOUND = {"EVENTPOLL_MAX_CONNECTIONS_PER_ADDRESS": "5"}


def asks(port: int, source: str) -> int:
    """The status of a request from an address."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30, source_address=(source, 0))
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    finally:
        connection.close()


def test_an_address_has_so_many_connections_and_no_more(serve: Callable[..., Server]) -> None:
    """Issue 11, 4. Others are served; and so is that address, once it has let one go."""
    server = serve(**BOUND, EVENTPOLL_TRUSTED_PROXIES="192.0.2.1")
    with ExitStack() as stack:
        many = [stack.enter_context(connect(server.port, b"GET /", "127.0.0.2")) for _ in range(5)]
        refused = wait_for(lambda: refusal(server.port, "127.0.0.2"))
        assert refused.getheader("Retry-After") == "5"
        assert json.loads(refused.read())["err"] == "too_many_requests"
        assert asks(server.port, "127.0.0.3") == 200
        many[0].close()
        wait_for(lambda: asks(server.port, "127.0.0.2") == 200)


def refusal(port: int, source: str) -> Any:
    """The answer of one connection more, which asks nothing; None where it is no 429."""
    with connect(port, b"", source) as connection:
        connection.settimeout(1)
        answer = http.client.HTTPResponse(connection)
        try:
            answer.begin()
        except TimeoutError:
            return None
        return answer if answer.status == 429 else None


@pytest.mark.parametrize(
    "settings",
    [
        {**BOUND, "EVENTPOLL_TRUSTED_PROXIES": "127.0.0.2"},
        {**BOUND, "EVENTPOLL_TRUSTED_PROXIES": "192.0.2.1", "EVENTPOLL_PROXY_HOPS": "1"},
        {"EVENTPOLL_MAX_CONNECTIONS_PER_ADDRESS": "0", "EVENTPOLL_TRUSTED_PROXIES": "192.0.2.1"},
    ],
    ids=["a proxy that is named", "any proxy", "no bound"],
)
def test_a_proxy_speaks_for_many(serve: Callable[..., Server], settings: dict[str, str]) -> None:
    """Behind one every TPP comes from its address."""
    server = serve(**settings)
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(server.port, b"GET /", "127.0.0.2"))
        assert asks(server.port, "127.0.0.2") == 200


def test_handshakes_count_as_connections(
    environ: dict[str, str], redis_server: RedisServer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Else an address would have any number of them, each a second or so."""
    environ |= {**BOUND, "EVENTPOLL_TRUSTED_PROXIES": "192.0.2.1"}
    port, log = request.getfixturevalue("tls")
    with ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(connect(port, b"\x16\x03\x01", "127.0.0.2"))
        wait_for(lambda: "No TLS with 127.0.0.2: too many connections" in log.read_text(encoding="utf-8"))
        assert answers(port)
