"""What every answer carries, and how whatever goes wrong is told."""

import uuid

import pytest
from flask import Flask, abort, redirect
from flask.testing import FlaskClient
from werkzeug.wrappers import Response

from eventpoll.api.refusals import DESCRIPTIONS
from eventpoll.errors import Refused
from eventpoll.store.commands import Commands
from eventpoll.store.errors import Unavailable
from harness.service import Server, basic

RFC, OBIE, WSO2 = "/events", "/open-banking/v3.1/events", "/api/fs/event-notifications/events"


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """From now on the store fails so."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Commands, "_ask", fail)


def poll(client: FlaskClient, path: str = RFC, **headers: str) -> Response:
    """A poll that reaches the store."""
    form = path == WSO2
    media_type = "application/x-www-form-urlencoded" if form else "application/json"
    sent = {"Authorization": basic("tpp-1", "secret"), "Content-Type": media_type, **headers}
    return client.post(path, data="request=e30=" if form else "{}", headers=sent)


@pytest.mark.parametrize("path", ["/healthz", "/.well-known/jwks.json", "/nothing", RFC, OBIE, WSO2])
def test_every_answer_carries_the_common_headers(client: FlaskClient, path: str) -> None:
    """Decision 26, on success and error alike."""
    headers = client.get(path).headers
    assert headers["Cache-Control"]
    assert str(uuid.UUID(headers["x-fapi-interaction-id"])) == headers["x-fapi-interaction-id"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert len(headers.getlist("x-fapi-interaction-id")) == 1


def test_what_may_be_cached_says_so_itself(client: FlaskClient) -> None:
    """Decision 26 is about polls: public keys may be kept for a while."""
    assert "max-age" in client.get("/.well-known/jwks.json").headers["Cache-Control"]
    assert client.get("/healthz").headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("sent", ["x", "1af4c0e6b5da49f6b1aebf439e87c199", "~" * 256, '<b>"&'])
def test_a_safe_interaction_id_is_echoed(client: FlaskClient, sent: str) -> None:
    """Decision 26: whatever its form."""
    assert client.get("/healthz", headers={"x-fapi-interaction-id": sent}).headers["x-fapi-interaction-id"] == sent


@pytest.mark.parametrize("sent", ["", "\t", "\x7f", "ü", "x" * 257])
def test_an_unsafe_interaction_id_is_not_echoed(client: FlaskClient, sent: str) -> None:
    """Decision 26: if it is safe to echo."""
    told = client.get("/healthz", headers={"x-fapi-interaction-id": sent}).headers["x-fapi-interaction-id"]
    assert str(uuid.UUID(told)) == told


@pytest.mark.parametrize("path", [RFC, OBIE, WSO2])
def test_a_store_that_is_away_is_503_with_whole_seconds_to_wait(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Decision 19; easyssf and go-ssf read Retry-After as whole seconds only."""
    failing(monkeypatch, Unavailable("ECONNREFUSED 10.0.0.7:6379"))
    reply = poll(client, path)
    assert reply.status_code == 503
    assert int(reply.headers["Retry-After"]) > 0
    assert b"10.0.0.7" not in reply.data
    assert "x-fapi-interaction-id" in reply.headers


@pytest.mark.parametrize("path", [RFC, OBIE, WSO2])
def test_a_mistake_of_ours_is_500_and_tells_nothing_of_it(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    """OBIE: UnexpectedError must not leak; the log has it all."""
    failing(monkeypatch, RuntimeError("secret of the house"))
    reply = poll(client, path)
    assert reply.status_code == 500
    assert b"secret of the house" not in reply.data
    assert DESCRIPTIONS[500].encode() in reply.data
    assert "secret of the house" in caplog.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://[::1"},
        {"Origin": "https://localhost.evil.example"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"},
    ],
    ids=str,
)
def test_an_unsafe_request_from_another_site_is_403(client: FlaskClient, headers: dict[str, str]) -> None:
    """Decisions, smaller ones: by Sec-Fetch-Site or Origin."""
    assert poll(client, **headers).status_code == 403
    assert client.put("/streams/x", json={}, headers=headers).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
        {"Origin": "https://localhost"},
    ],
    ids=str,
)
def test_our_own_site_and_no_site_may_ask(client: FlaskClient, headers: dict[str, str]) -> None:
    """The TLS proxy may speak https where we hear http; the 401 is of a stream that is not there."""
    assert poll(client, **headers).status_code == 401


def test_a_safe_request_from_another_site_is_let_through(client: FlaskClient) -> None:
    """Decisions, smaller ones: unsafe requests alone are refused."""
    assert client.get("/healthz", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200
    assert client.head("/healthz", headers={"Origin": "https://evil.example"}).status_code == 200


def test_the_challenge_of_a_401_is_kept_without_a_body(client: FlaskClient) -> None:
    """Decision 20: WWW-Authenticate always; no body for OBIE."""
    reply = client.post(OBIE, data="{}", content_type="application/json")
    assert (reply.status_code, reply.data) == (401, b"")
    assert "Content-Type" not in reply.headers
    assert reply.headers["WWW-Authenticate"].startswith("Basic ")


@pytest.mark.parametrize(
    ("status", "code"), [(400, "invalid_request"), (418, "invalid_request"), (502, "server_error")]
)
def test_what_flask_refuses_has_our_shape(app: Flask, status: int, code: str) -> None:
    """house.md: every refusal, wherever it starts; a status that we never choose is kept."""
    app.add_url_rule("/abort", "abort", lambda: abort(status))
    reply = app.test_client().get("/abort")
    assert reply.status_code == status
    assert reply.get_json()["err"] == code
    assert reply.get_json()["description"]


def test_a_redirect_of_flasks_stays_one(app: Flask) -> None:
    """Flask hands its routing's redirects past the error shapes; the common headers are on them too."""
    app.add_url_rule("/slash/", "slash", lambda: "here")
    reply = app.test_client().get("/slash")
    assert reply.status_code == 308
    assert reply.headers["Location"].endswith("/slash/")
    assert "x-fapi-interaction-id" in reply.headers


def test_a_page_beside_ours_keeps_its_own_cache_control(app: Flask) -> None:
    """What a view says of caching is not written over."""

    def page() -> Response:
        response = redirect("/healthz")
        response.headers["Cache-Control"] = "private"
        return response

    app.add_url_rule("/page", "page", page)
    assert app.test_client().get("/page").headers["Cache-Control"] == "private"


@pytest.mark.parametrize("path", [RFC, OBIE, WSO2])
def test_405_tells_the_method_that_is_allowed(client: FlaskClient, path: str) -> None:
    """Decision 22."""
    for method in ("GET", "OPTIONS", "PUT"):
        reply = client.open(path, method=method)
        assert (reply.status_code, reply.headers["Allow"]) == (405, "POST")


def test_a_refusal_reads_as_its_description() -> None:
    """The text of the exception is for the caller to read."""
    assert str(Refused("malformed", "what is wrong")) == "what is wrong"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"SECRET /events\r\n\r\n", 400),
        (b"GET /healthz HTTP/9.9\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nAuthorization : Basic SECRET\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nAuthorization: Basic\r\n SECRET\r\n\r\n", 400),
        (b"GET /" + b"SECRET" * 1000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"SECRET" * 2000 + b"\r\n\r\n", 431),
        (b"POST /events HTTP/1.1\r\nTransfer-Encoding: SECRET\r\n\r\n", 501),
        (b"POST /events HTTP/1.1\r\nExpect: SECRET\r\n\r\n", 417),
    ],
)
def test_what_is_no_request_is_told_in_our_shape_too(shared_server: Server, text: bytes, status: int) -> None:
    """Issue 2, 3: every refusal has its one shape. What was sent, a secret perhaps, is neither sent back nor logged."""
    reply = shared_server.raw(text)
    assert (reply.status, reply.headers["content-type"]) == (status, "application/json")
    assert set(reply.json) == {"err", "description"}
    assert uuid.UUID(reply.headers["x-fapi-interaction-id"])
    assert reply.headers["cache-control"] == "no-store"
    assert b"SECRET" not in reply.body
    assert "SECRET" not in shared_server.log.read_text()
