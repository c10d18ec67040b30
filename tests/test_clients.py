"""What real receivers send (tests/fixtures), and the faults that their transmitters have.

Where a receiver shows a Bearer token, its request is replayed here with the TPP's Basic credentials.
"""

import base64
import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from harness.service import BANK, Server, basic
from harness.sets import set_of

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("*.json"))
FORM = "application/x-www-form-urlencoded"
PATHS = [
    "/events",
    "/open-banking/v3.1/events",
    "/open-banking/v4.0/events",
    "/api/openbanking/event-notifications/events",
    "/api/fs/event-notifications/events",
]
ERROR = {"err": "invalid_request", "description": "not what it should be"}


def form_of(text: str) -> str:
    """The form field in which WSO2 takes JSON."""
    return "request=" + quote(base64.b64encode(text.encode()).decode(), safe="")


@dataclass
class Stream:
    """A stream of its own for one test, and the TPP that polls it on one path."""

    server: Server
    tpp: str
    path: str

    @property
    def own(self) -> tuple[str, str]:
        return self.tpp, self.server.secrets[self.tpp]

    def push(self, *jtis: str) -> None:
        headers = {"Content-Type": "application/secevent+jwt"}
        for jti in jtis:
            reply = self.server.request("POST", f"/streams/{self.tpp}/sets", set_of(jti), headers, BANK)
            assert reply.status == 202, reply.body

    def poll(self, **members: Any) -> Any:
        """An immediate poll in the path's profile: the answer's JSON."""
        text = json.dumps({"returnImmediately": True, **members})
        reply = self.server.request("POST", self.path, *self.said(text), self.own)
        assert reply.status == 200, reply.body
        return reply.json

    def said(self, text: str) -> tuple[str, dict[str, str]]:
        """A body and its header, as the path wants them."""
        form = self.path.startswith("/api/")
        return (form_of(text), {"Content-Type": FORM}) if form else (text, {"Content-Type": "application/json"})

    def state(self, jti: str) -> str:
        return str(self.one(jti)["state"])

    def one(self, jti: str) -> Any:
        return self.server.bank("GET", f"/streams/{self.tpp}/sets/{jti}").json


@pytest.fixture(params=PATHS)
def stream(request: pytest.FixtureRequest, shared_server: Server) -> Iterator[Stream]:
    """A new stream, on each path in turn."""
    tpp = f"peer-{uuid.uuid4().hex[:12]}"
    shared_server.tpp(tpp)
    yield Stream(shared_server, tpp, request.param)
    shared_server.bank("DELETE", f"/streams/{tpp}?force=true")


# -- what receivers send ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FIXTURES, ids=lambda file: file.stem)
def test_a_real_receiver_is_understood(shared_server: Server, file: Path) -> None:
    """clients.md: requests of receivers that others wrote, in their order, and what each must get."""
    fixture = json.loads(file.read_text())
    stream = Stream(shared_server, f"{file.stem}-{uuid.uuid4().hex[:8]}", fixture["path"])
    shared_server.tpp(stream.tpp)
    stream.push(*fixture["waiting"])
    for exchange in fixture["exchanges"]:
        text = json.dumps(exchange["body"], indent=exchange.get("indent"))
        headers = {name: value.replace("TPP", stream.tpp) for name, value in exchange["headers"].items()}
        credentials = basic(*(BANK if fixture.get("caller") == "bank" else stream.own))
        headers["Authorization"] = credentials.replace("Basic", fixture.get("scheme", "Basic"))
        body = form_of(text) if fixture.get("form") else text
        reply = shared_server.request("POST", stream.path, body, headers)
        expected = exchange["expect"]
        assert reply.status == expected["status"], (exchange["what"], reply.body)
        for name, value in expected.get("headers", {}).items():
            assert reply.headers[name] == value, exchange["what"]
        if "sets" in expected:
            assert reply.json["sets"] == {jti: set_of(jti) for jti in expected["sets"]}, exchange["what"]
            assert list(reply.json["sets"]) == expected["sets"], exchange["what"]
            assert reply.json["moreAvailable"] is expected["moreAvailable"], exchange["what"]
            assert reply.headers["content-type"].partition(";")[0] == "application/json"
            assert "content-encoding" not in reply.headers
    assert {jti: stream.state(jti) for jti in fixture["afterwards"]} == fixture["afterwards"]


def test_an_error_beside_an_ack_is_kept_for_the_operator(shared_server: Server) -> None:
    """clients.md, lesson 4; decision 5: ack wins, the error is recorded."""
    stream = Stream(shared_server, f"both-{uuid.uuid4().hex[:8]}", "/events")
    shared_server.tpp(stream.tpp)
    stream.push("a")
    stream.poll()
    stream.poll(ack=["a"], setErrs={"a": ERROR})
    kept = stream.one("a")
    assert (kept["state"], kept["err"], kept["description"]) == ("settled", ERROR["err"], ERROR["description"])


@pytest.mark.parametrize(
    "err",
    ["invalid_set", "delivery_failed", "processing_error", "invalid_state", "jwtIss", "processing_failed", "e" * 40],
)
def test_an_err_outside_the_registry_is_kept(stream: Stream, err: str) -> None:
    """clients.md, lesson 5: any string of 1 to 40 characters."""
    stream.push("a")
    stream.poll(maxEvents=0, setErrs={"a": {"err": err, "description": "x"}})
    assert (stream.one("a")["state"], stream.one("a")["err"]) == ("parked", err)


def test_every_receiver_of_the_list_has_its_fixture() -> None:
    """clients.md, "Wire expectations, client by client"."""
    names = {file.stem for file in FIXTURES}
    receivers = [
        "go-ssf",
        "gosignals-server",
        "gosignals-cli",
        "sgnl-new",
        "sgnl-old",
        "duo-guide",
        "oidf-suite",
        "easyssf",
    ]
    receivers += ["quarkus", "swift-ssf", "lab-rp2", "keycloak-receiver"]
    receivers += ["wso2-gateway-3", "wso2-gateway-4", "uk-ob-tpp-v3.1", "uk-ob-tpp-v4.0"]
    assert names >= set(receivers)


# -- faults found in peers (clients.md, at its end) -------------------------------------------------------------


def test_an_ack_counts_for_the_stream_of_who_sends_it_alone(stream: Stream) -> None:
    """Fault in WSO2, nevzatcirak and a Keycloak prototype: an ack without a client check."""
    other = Stream(stream.server, f"{stream.tpp}-b", stream.path)
    stream.server.tpp(other.tpp)
    stream.push("a")
    stream.poll()
    other.poll(ack=["a"], setErrs={"a": ERROR})
    assert stream.state("a") == "in_flight"


def test_max_events_0_means_none(stream: Stream) -> None:
    """Fault in goSignals, Keycloak, nevzatcirak and lab-matsuura: 0 as "no limit", 1, 10 or 100."""
    stream.push("a", "b")
    answer = stream.poll(maxEvents=0)
    assert (answer["sets"], answer["moreAvailable"]) == ({}, True)
    assert stream.one("a")["deliveries"] == 0


def test_a_negative_max_events_is_400_and_the_connection_lives(stream: Stream) -> None:
    """Fault in go-oidc, WSO2 and goSignals: it drops the connection, reaches SQL, or means "all"."""
    stream.push("a")
    with closing(HTTPConnection("127.0.0.1", stream.server.port, timeout=20)) as connection:
        for number, status in ((-1, 400), (-(2**31), 400), (-(10**17), 400), (1, 200)):
            body, headers = stream.said(json.dumps({"maxEvents": number, "returnImmediately": True}))
            connection.request("POST", stream.path, body, {**headers, "Authorization": basic(*stream.own)})
            reply = connection.getresponse()
            text = reply.read()
            assert reply.status == status, text
            assert reply.getheader("Connection", "keep-alive").lower() == "keep-alive"
    assert list(json.loads(text)["sets"]) == ["a"]


def test_a_jti_pushed_twice_is_not_delivered_again_after_its_ack(stream: Stream) -> None:
    """Fault in goSignals; decisions 3 and 18."""
    stream.push("a", "a")
    assert list(stream.poll()["sets"]) == ["a"]
    stream.push("a")
    stream.poll(ack=["a"], maxEvents=0)
    stream.push("a")
    answer = stream.poll()
    assert (answer["sets"], answer["moreAvailable"]) == ({}, False)


def test_a_poll_takes_nothing_away_before_the_ack(stream: Stream) -> None:
    """Fault in the conformance suite's own mock: what was polled is gone."""
    stream.push("a")
    assert [list(stream.poll()["sets"]) for _ in range(3)] == [["a"]] * 3
    assert stream.state("a") == "in_flight"


def test_a_long_poll_is_answered_200(stream: Stream) -> None:
    """Fault in duo-labs and ForgeRock: 404 or 501."""
    body, headers = stream.said(json.dumps({"returnImmediately": False}))
    reply = stream.server.request("POST", stream.path, body, headers, stream.own)
    assert (reply.status, reply.json) == (200, {"sets": {}, "moreAvailable": False})


def test_a_reported_error_is_shown_to_the_bank(stream: Stream) -> None:
    """Fault in goSignals and others: errors recorded, and never shown to anyone."""
    stream.push("a")
    stream.poll()
    stream.poll(maxEvents=0, setErrs={"a": ERROR})
    [row] = stream.server.bank("GET", f"/streams/{stream.tpp}/sets?state=parked").json["sets"]
    assert (row["jti"], row["err"], row["description"]) == ("a", ERROR["err"], ERROR["description"])
    assert stream.server.bank("GET", f"/streams/{stream.tpp}").json["parked"] == 1


def test_a_set_offered_again_has_the_same_bytes(stream: Stream) -> None:
    """Fault in WSO2, duo-labs and ForgeRock: signed anew at each poll. Minted ones, too (decision 23)."""
    jti = stream.server.push(stream.tpp)
    first = stream.poll()["sets"][jti]
    assert [stream.poll()["sets"][jti] for _ in range(3)] == [first] * 3
    elsewhere = stream.server.poll(stream.tpp, {"returnImmediately": True}).json["sets"][jti]
    assert elsewhere == first


def test_who_never_acknowledges_sees_every_set_all_the_same(stream: Stream) -> None:
    """Fault in WSO2: a client that never acks starves behind its first page (decision 1)."""
    jtis = [f"j{i}" for i in range(6)]
    stream.push(*jtis[:4])
    assert [list(stream.poll(maxEvents=2)["sets"]) for _ in range(2)] == [jtis[:2], jtis[2:4]]
    stream.push(*jtis[4:])
    assert list(stream.poll(maxEvents=3)["sets"]) == [*jtis[4:], jtis[0]]


def test_sets_come_in_the_order_in_which_they_were_pushed(stream: Stream) -> None:
    """Fault in WSO2 and ForgeRock: an arbitrary order (decision 1)."""
    jtis = [f"{n * 7919 % 100:02}" for n in range(30)]
    stream.push(*jtis)
    assert [jti for _ in range(3) for jti in stream.poll(maxEvents=10)["sets"]] == jtis


def test_an_unknown_ack_is_no_mistake(stream: Stream) -> None:
    """Fault in WSO2 4.x: the whole request fails, its first acks applied (decision 3)."""
    stream.push("a", "b")
    stream.poll()
    answer = stream.poll(ack=["never-there", "a", "a", "nor-this"], setErrs={"unknown": ERROR})
    assert list(answer["sets"]) == ["b"]
    assert stream.state("a") == "settled"


@pytest.mark.parametrize("wrong", [{"maxEvents": -1}, {"setErrs": {"b": {}}}, {"setErrs": []}, {"maxEvents": "many"}])
def test_a_request_that_is_refused_applies_none_of_its_acks(stream: Stream, wrong: dict[str, Any]) -> None:
    """Fault in ForgeRock: acks applied, then 501 (decision 16)."""
    stream.push("a", "b")
    stream.poll()
    body, headers = stream.said(json.dumps({"ack": ["a"], "setErrs": {"b": ERROR}, **wrong}))
    reply = stream.server.request("POST", stream.path, body, headers, stream.own)
    assert reply.status == 400
    assert (stream.state("a"), stream.state("b")) == ("in_flight", "in_flight")
