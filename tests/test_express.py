"""Polls by the express way, and by Flask's: nobody can tell them apart."""

import base64
import json
from typing import Any

import fakeredis
import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import eventpoll
from app import create_app
from config import Config
from eventpoll import answers
from harness.service import BANK, basic
from harness.sets import set_of

AS_BANK = {"Authorization": basic(*BANK)}
PATHS = ("/events", "/open-banking/v3.1/events", "/open-banking/v4.0/events", "/api/fs/event-notifications/events")
ID = {"x-fapi-interaction-id": "of-the-caller"}

SETTINGS = Config(bank_username=BANK[0], bank_password=BANK[1], long_poll_seconds=0)


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each application keeps its SETs in a fakeredis of its own."""
    monkeypatch.setattr("eventpoll.store.connect", lambda url, data_dir: fakeredis.FakeRedis(version=(7,)))


def with_tpp(app: Flask) -> tuple[FlaskClient, str]:
    """A client of an application that has a TPP with three SETs, and the TPP's secret."""
    client = app.test_client()
    made = client.put("/streams/tpp-1", json={"redeliver_after": 60}, headers=AS_BANK)
    assert made.status_code in (200, 201), made.text
    for number in range(3):
        kind = {"Content-Type": "application/secevent+jwt"}
        pushed = client.post("/streams/tpp-1/sets", data=set_of(f"event-{number}"), headers={**AS_BANK, **kind})
        assert pushed.status_code == 202
    return client, made.json["secret"]  # type: ignore[index]


def through_flask() -> Flask:
    """The same application without the express way."""
    app = Flask("flask")
    eventpoll.init_app(app, SETTINGS)
    answers.init_app(app)
    return app


def body(path: str, members: Any) -> tuple[bytes, str]:
    """A poll's body in the profile of its path, and its type."""
    text = json.dumps(members).encode()
    if "api/fs" in path:
        return b"request=" + base64.urlsafe_b64encode(text), "application/x-www-form-urlencoded"
    return text, "application/json"


CASES: dict[str, tuple[Any, dict[str, str]]] = {
    "two SETs": ({"maxEvents": 2, "returnImmediately": True}, {}),
    "the third, and one settled": ({"ack": ["event-0"], "returnImmediately": True}, {}),
    "an error reported": ({"setErrs": {"event-1": {"err": "jwtIss"}}, "returnImmediately": True}, {}),
    "nothing left": ({"ack": ["event-2"], "returnImmediately": True}, {}),
    "no id of the caller's": ({"returnImmediately": True}, {"x-fapi-interaction-id": ""}),
    "a member of a wrong type": ({"maxEvents": "two"}, {}),
    "no object": ([], {}),
    "wrong credentials": ({}, {"Authorization": basic("tpp-1", "wrong")}),
    "no credentials": ({}, {"Authorization": ""}),
    "the bank's credentials": ({}, AS_BANK),
    "a page of another site": ({}, {"Origin": "https://elsewhere.example"}),
    "a type that is none": ({}, {"Content-Type": "text/plain"}),
    "an answer that is not JSON": ({}, {"Accept": "text/html"}),
    "a body that is compressed": ({}, {"Content-Encoding": "gzip"}),
}


def told(reply: TestResponse) -> tuple[int, dict[str, str], bytes]:
    """All that a client can see; of an id of our own making, that there is one."""
    headers = {name.lower(): value for name, value in reply.headers.items()}
    assert len(headers) == len(list(reply.headers))
    if headers["x-fapi-interaction-id"] != ID["x-fapi-interaction-id"]:
        headers["x-fapi-interaction-id"] = "ours"
    return reply.status_code, headers, reply.data


@pytest.mark.parametrize("path", PATHS)
def test_both_ways_tell_the_same(path: str) -> None:
    """Status, headers and body, to the letter, of polls that go well and of those that do not."""
    ways = [with_tpp(create_app(SETTINGS)), with_tpp(through_flask())]
    for name, (members, changed) in CASES.items():
        answers_told = []
        for client, secret in ways:
            text, kind = body(path, members)
            headers = {"Authorization": basic("tpp-1", secret), "Content-Type": kind, **ID, **changed}
            sent = {name: value for name, value in headers.items() if value}
            answers_told.append(told(client.post(path, data=text, headers=sent)))
        assert answers_told[0] == answers_told[1], name


def test_a_poll_that_goes_well_does_not_pass_flask(monkeypatch: pytest.MonkeyPatch) -> None:
    """performance.md: Flask's dispatch costs a third of an empty poll."""
    app = create_app(SETTINGS)
    client, secret = with_tpp(app)

    def dispatched() -> None:
        raise AssertionError("this one went through Flask")

    monkeypatch.setattr(app, "full_dispatch_request", dispatched)
    reply = client.post("/events", json={"returnImmediately": True}, headers={"Authorization": basic("tpp-1", secret)})
    assert reply.status_code == 200
    assert len(reply.json["sets"]) == 3  # type: ignore[index]


def test_who_hooks_into_the_application_sees_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook that somebody adds means every request."""
    app, seen = create_app(SETTINGS), []

    @app.after_request
    def see(response: Response) -> Response:
        seen.append(response.status_code)
        return response

    client, secret = with_tpp(app)
    seen.clear()
    asked = {"json": {"returnImmediately": True}, "headers": {"Authorization": basic("tpp-1", secret)}}
    assert len(client.post("/events", **asked).json["sets"]) == 3  # type: ignore[index]
    assert seen == [200]


def test_a_host_that_is_not_trusted_is_refused_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """EVENTPOLL_TRUSTED_HOSTS is for polls as well."""
    app = create_app(Config(bank_username=BANK[0], bank_password=BANK[1], trusted_hosts=("localhost",)))
    client, secret = with_tpp(app)
    asked = {"json": {"returnImmediately": True}, "headers": {"Authorization": basic("tpp-1", secret)}}
    assert client.post("/events", **asked, base_url="http://elsewhere.example").status_code == 400
    assert client.post("/events", **asked).status_code == 200


def test_a_mistake_of_ours_is_told_once_and_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    """What goes wrong on the express way is logged and told by the one place that does so."""
    app = create_app(SETTINGS)
    client, secret = with_tpp(app)
    app.extensions["eventpoll"].transmitter.store.poll = None  # not callable
    reply = client.post("/events", json={"returnImmediately": True}, headers={"Authorization": basic("tpp-1", secret)})
    assert (reply.status_code, "NoneType" in reply.text) == (500, False)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "Unexpected: POST '/events'"
    ]


def test_only_whole_paths_and_posts_are_taken() -> None:
    """The rest is Flask's: other methods, other paths, one with a slash behind it."""
    client, _ = with_tpp(create_app(SETTINGS))
    assert client.get("/events").status_code == 405
    assert client.post("/events/").status_code == 404
    assert client.post("/api/fs/event-notifications/events/").status_code == 401
