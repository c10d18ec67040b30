"""What a body costs: a large one is parsed once its sender is proven, and none holds up anybody else."""

import base64
import io
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from eventpoll.access import door
from eventpoll.access.failed_logins import Slowing
from eventpoll.profiles import rfc8936, wso2
from eventpoll.sets import json as sets_json
from eventpoll.sets.json import BODY_BYTES
from harness import issuer
from harness.issuer import bearer, token
from harness.service import BANK, Server, basic

JSON, FORM = "application/json", "application/x-www-form-urlencoded"
POLLS = {
    "/events": JSON,
    "/open-banking/v3.1/events": JSON,
    "/open-banking/v4.0/events": JSON,
    "/api/openbanking/event-notifications/events": FORM,
    "/api/fs/event-notifications/events": FORM,
}

SMALL, LARGE = 1_024, 16_385


# -- who is proven, and when --------------------------------------------------------------------------------------


class Counted:
    """The application, and what was done for a request: JSON parsed, commands of the store, failed logins."""

    def __init__(self, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
        self.client = app.test_client()
        self.parsed = self.commands = self.failures = 0
        store = app.extensions["eventpoll"].transmitter.store
        store.configure("tpp", door.hash_of("secret"), {})
        for where, name, counter in (
            (rfc8936, "read_object", "parsed"),
            (wso2, "read_json", "parsed"),
            (store, "_run", "commands"),
            (Slowing, "failed", "failures"),
        ):
            monkeypatch.setattr(where, name, self._counted(getattr(where, name), counter))

    def _counted(self, what: Callable[..., Any], counter: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            setattr(self, counter, getattr(self, counter) + 1)
            return what(*arguments, **options)

        return call

    def poll(self, path: str, text: bytes, authorization: str, chunked: bool = False) -> TestResponse:
        """A poll, counted alone. Chunked: its length is not said."""
        self.parsed = self.commands = self.failures = 0
        headers = {"Content-Type": POLLS[path], "Authorization": authorization, "x-wso2-client-id": "tpp"}
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
            environ = {"wsgi.input": io.BytesIO(text), "wsgi.input_terminated": True}
            return self.client.post(path, headers=headers, environ_overrides=environ)
        return self.client.post(path, data=text, headers=headers)


@pytest.fixture
def counted(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(app, monkeypatch)


def a_poll(path: str, length: int, text: str = "{}") -> bytes:
    """A body of exactly so many bytes, blanks before and behind the JSON."""
    if POLLS[path] == FORM:
        head = b"request=" + base64.b64encode(text.encode()).replace(b"=", b"%3D") + b"&x="
        return head + b"x" * (length - len(head))
    return text.encode().rjust(length)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", POLLS)
def test_a_large_body_of_a_stranger_is_not_parsed(counted: Counted, path: str, chunked: bool) -> None:
    """Issue 11, 2: what is not parsed cannot hold up a worker. One failed login is counted, as ever."""
    for length in (SMALL, LARGE, BODY_BYTES):
        reply = counted.poll(path, a_poll(path, length), basic("tpp", "wrong"), chunked)
        assert reply.status_code == 401
        assert (counted.parsed, counted.commands, counted.failures) == (0, 1, 1)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", POLLS)
def test_the_usual_poll_takes_one_round_trip(counted: Counted, path: str, chunked: bool) -> None:
    """The first poll of a TPP proves the secret in one more; it is remembered for a minute (ADR 0003)."""
    for secret, status, trips in (("secret", 200, (2, 1, 1)), ("wrong", 401, (1, 1, 1))):
        for length, expected in zip((SMALL, LARGE, BODY_BYTES), trips, strict=True):
            reply = counted.poll(
                path, a_poll(path, length, '{"returnImmediately":true}'), basic("tpp", secret), chunked
            )
            assert (reply.status_code, counted.commands, counted.failures) == (status, expected, status == 401)


@pytest.mark.parametrize("length", [SMALL, LARGE])
@pytest.mark.parametrize("path", POLLS)
def test_a_secret_is_proven_once_whatever_is_wrong_with_the_body(counted: Counted, path: str, length: int) -> None:
    """400 to a caller who is right, 401 to one who is not. A right secret is remembered."""
    for number, text in enumerate(("{", '{"maxEvents":-1}', '{"ack":1}', "[]")):
        for secret, status, trips in (("secret", 400, int(number == 0)), ("wrong", 401, 1)):
            reply = counted.poll(path, a_poll(path, length, text), basic("tpp", secret))
            assert (reply.status_code, counted.commands, counted.failures) == (status, trips, status == 401)


def test_the_bank_and_tokens_are_proven_without_the_store(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A password is compared and a signature checked on the spot: no round trip more, however large the body."""
    environ.update(issuer.settings())
    counted = Counted(request.getfixturevalue("app"), monkeypatch)
    text = '{"returnImmediately":true}'
    for path, authorization in (
        ("/events", bearer(token("tpp"))["Authorization"]),
        ("/api/fs/event-notifications/events", basic(*BANK)),
    ):
        reply = counted.poll(path, a_poll(path, BODY_BYTES, text), authorization)
        assert (reply.status_code, counted.parsed > 0, counted.commands) == (200, True, 1)
    strange = bearer(issuer.sign(issuer.claims(), key=issuer.STRANGER))["Authorization"]
    reply = counted.poll("/events", a_poll("/events", BODY_BYTES, text), strange)
    assert (reply.status_code, counted.parsed, counted.commands) == (401, 0, 0)


# -- over real sockets --------------------------------------------------------------------------------------------


@pytest.fixture
def alone(serve: Callable[..., Server], own_redis: Any) -> Server:
    """One worker, and its store."""
    server = serve(REDIS_URL=own_redis.url)
    server.tpp("tpp")
    return server


def worker_seconds(server: Server) -> float:
    """The processor's time that the server's workers have taken."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    stats = [Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split() for child in children]
    return sum(int(words[11]) + int(words[12]) for words in stats) / 100


def attack(length: int) -> bytes:
    """A string that does not end, full of escaped quotes; then more brackets than may be nested."""
    tail = b"[" * (sets_json.DEEPEST + 1)
    return b'"' + b'\\"' * ((length - len(tail)) // 2 - 1) + tail


@pytest.mark.parametrize("length", [20_000, 180_000, BODY_BYTES])
def test_one_request_stops_no_worker(alone: Server, length: int) -> None:
    """Issue 11, 2: of a stranger 20 KB took 2 s, and 180 KB the worker; of the TPP and the bank as well. Thirty such
    requests take a worker far less than one did, and somebody else is answered among them."""
    before, headers, text = worker_seconds(alone), {"Content-Type": JSON}, attack(length)
    asked = [
        ("/events", ("tpp", "wrong"), 401),
        ("/events", ("nobody", "x"), 401),
        ("/streams/tpp/sets", ("a", "b"), 401),
    ]
    asked += [("/events", ("tpp", alone.secrets["tpp"]), 400), ("/streams/tpp/sets", BANK, 400)]
    for _ in range(6):
        for path, credentials, status in asked:
            assert alone.request("POST", path, text, headers, credentials).status == status
        assert alone.request("GET", "/healthz").status == 200
    assert worker_seconds(alone) - before < 10  # one of 180 KB took 150


def test_a_body_in_chunks_of_a_byte_lets_others_have_their_turn(alone: Server) -> None:
    """A mebibyte so is six on the wire, and seconds of work. What has come already is read without a wait: between two
    reads the worker turns to others all the same."""
    head = f"POST /events HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\nAuthorization: {basic('tpp', 'wrong')}\r\n"
    answered = threading.Event()
    answer = b""

    def send() -> None:
        nonlocal answer
        with socket.create_connection(("127.0.0.1", alone.port), 300) as connection:
            connection.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * BODY_BYTES)
            connection.sendall(b"0\r\n\r\n")
            answer = connection.recv(12)
        answered.set()

    threading.Thread(target=send, daemon=True).start()
    served = 0
    while not answered.is_set():
        assert alone.request("GET", "/healthz", timeout=300).status == 200
        served += not answered.is_set()
    assert answer == b"HTTP/1.1 401"
    assert served > 10


def test_an_accept_header_of_many_fields_is_not_parsed(alone: Server) -> None:
    """Fields of one name are joined: 49 of 8 KB took a worker half a second, whoever sent them. JSON it is, then."""
    fields = "".join(f"Accept: {'a/b;q=1,' * 1000}\r\n" for _ in range(40))
    text = json.dumps({"returnImmediately": True})
    before = worker_seconds(alone)
    for secret, status in ((alone.secrets["tpp"], 200), ("wrong", 401)) * 5:
        head = f"POST /events HTTP/1.1\r\nHost: x\r\nAuthorization: {basic('tpp', secret)}\r\nContent-Type: {JSON}\r\n"
        reply = alone.raw(f"{head}{fields}Content-Length: {len(text)}\r\n\r\n{text}".encode())
        assert reply.status == status
    assert worker_seconds(alone) - before < 3
