"""The bank's calls: streams and their settings, pushes, and what became of each SET."""

import base64
import json
import uuid
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from flask import Flask
from flask.testing import FlaskClient
from joserfc.jwk import ECKey
from werkzeug.test import TestResponse

from app import create_app
from eventpoll.settings import Config
from eventpoll.store import keys
from harness.service import BANK, ISSUER, Server, basic
from harness.sets import set_of

EVENTS: dict[str, Any] = {"urn:test:event": {}}
ERROR = {"err": "invalid_request", "description": "the events are not what they should be"}
OB = "http://openbanking.org.uk/"
OBIE_EVENT = {
    "sub": "https://bank.example/consents/7",
    "events": {
        "urn:uk:org:openbanking:events:resource-update": {
            "subject": {
                "subject_type": f"{OB}rid_{OB}rty",
                f"{OB}rid": "7",
                f"{OB}rty": "account-access-consent",
                f"{OB}rlk": [{"version": "v4.0", "link": "https://bank.example/consents/7"}],
            }
        }
    },
}


class BankClient:
    """The bank at Flask's test client, and the TPPs that it made."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client
        self.secrets: dict[str, str] = {}

    def call(self, method: str, path: str, value: Any = None, **options: Any) -> TestResponse:
        headers = {"Authorization": basic(*BANK), **options.pop("headers", {})}
        if value is not None:
            options["json"] = value
        return self.client.open(path, method=method, headers=headers, **options)

    def make(self, tpp: str = "tpp", **settings: Any) -> None:
        reply = self.call("PUT", f"/streams/{tpp}", settings or None)
        assert reply.status_code == 201, reply.text
        self.secrets[tpp] = reply.get_json()["secret"]

    def push(self, value: Any, tpp: str = "tpp") -> TestResponse:
        return self.call("POST", f"/streams/{tpp}/sets", value)

    def text(self, body: str | bytes, content_type: str = "application/json", tpp: str = "tpp") -> TestResponse:
        headers = {"Content-Type": content_type} if content_type else {}
        return self.call("POST", f"/streams/{tpp}/sets", data=body, headers=headers)

    def signed(self, secevent: str | bytes, tpp: str = "tpp") -> TestResponse:
        return self.text(secevent, "application/secevent+jwt", tpp)

    def fill(self, jtis: Iterable[str], tpp: str = "tpp") -> None:
        for jti in jtis:
            assert self.signed(set_of(jti), tpp).status_code == 202

    def poll(self, tpp: str = "tpp", **members: Any) -> dict[str, str]:
        headers = {"Authorization": basic(tpp, self.secrets[tpp])}
        reply = self.client.post("/events", json={"returnImmediately": True, **members}, headers=headers)
        assert reply.status_code == 200, reply.text
        sets: dict[str, str] = reply.get_json()["sets"]
        return sets

    def one(self, jti: str, tpp: str = "tpp") -> Any:
        return self.call("GET", f"/streams/{tpp}/sets/{quote(jti, safe='')}").get_json()

    def state(self, jti: str, tpp: str = "tpp") -> str:
        return str(self.one(jti, tpp)["state"])

    def stream(self, tpp: str = "tpp") -> Any:
        return self.call("GET", f"/streams/{tpp}").get_json()


@pytest.fixture
def bank(client: FlaskClient) -> BankClient:
    return BankClient(client)


def refused(reply: TestResponse, status: int, err: str | None = None) -> str:
    """Checks that it is a refusal in the bank's shape, and tells its description."""
    assert reply.status_code == status, reply.text
    assert reply.content_type.partition(";")[0] == "application/json"
    body = reply.get_json()
    assert set(body) == {"err", "description"}
    assert all(isinstance(value, str) and value for value in body.values())
    if err is not None:
        assert body["err"] == err
    return str(body["description"])


def claims_of(secevent: str) -> bytes:
    """The signed bytes of a SET's claims."""
    return base64.urlsafe_b64decode(secevent.split(".")[1] + "==")


# -- streams ----------------------------------------------------------------------------------------------------


def test_a_stream_is_made_with_201_and_changed_with_200(bank: BankClient) -> None:
    """interface.md: 201 {"tpp", "secret", …}; 200 on a change, without a secret."""
    made = bank.call("PUT", "/streams/tpp", {"redeliver_after": 1.5, "max_deliveries": 3})
    assert made.status_code == 201
    assert (made.get_json()["tpp"], made.get_json()["redeliver_after"]) == ("tpp", 1.5)
    assert len(made.get_json()["secret"]) >= 43
    changed = bank.call("PUT", "/streams/tpp", {"on_error": "redeliver", "audience": "client-7"})
    assert changed.status_code == 200
    view = changed.get_json()
    assert "secret" not in view
    kept = (view["redeliver_after"], view["max_deliveries"], view["on_error"], view["audience"])
    assert kept == (1.5, 3, "redeliver", "client-7")
    assert bank.stream() == view | {"oldest_seconds": bank.stream()["oldest_seconds"]}


def test_a_stream_without_a_body_has_the_services_settings(bank: BankClient) -> None:
    """interface.md: all members are optional; decisions 2, 4 and 6 have the defaults."""
    reply = bank.call("PUT", "/streams/tpp")
    assert reply.status_code == 201
    view = reply.get_json()
    assert (view["redeliver_after"], view["max_deliveries"], view["on_error"]) == (0, 0, "park")
    assert (view["set_profile"], view["audience"]) == ("rfc8417", "tpp")
    assert (view["pending"], view["in_flight"], view["parked"]) == (0, 0, 0)
    assert view["last_poll"] is view["last_push"] is None


def test_null_takes_a_setting_back_to_the_services_own(bank: BankClient) -> None:
    """A stream's own settings can be undone."""
    own: dict[str, Any] = {
        "redeliver_after": 9,
        "max_deliveries": 9,
        "on_error": "redeliver",
        "set_profile": "wso2",
        "audience": "x",
    }
    bank.make(**own)
    view = bank.call("PUT", "/streams/tpp", dict.fromkeys(own)).get_json()
    assert {name: view[name] for name in own} == {
        "redeliver_after": 0,
        "max_deliveries": 0,
        "on_error": "park",
        "set_profile": "rfc8417",
        "audience": "tpp",
    }


BAD_SETTINGS: list[Any] = [
    {"redeliver_after": -1},
    {"redeliver_after": "soon"},
    {"redeliver_after": "30"},
    {"redeliver_after": True},
    {"redeliver_after": [1]},
    {"redeliver_after": 1e300},
    {"max_deliveries": -1},
    {"max_deliveries": 1.5},
    {"max_deliveries": "3"},
    {"max_deliveries": True},
    {"max_deliveries": 10**30},
    {"on_error": "drop"},
    {"on_error": "PARK"},
    {"on_error": 1},
    {"set_profile": "ssf"},
    {"set_profile": ""},
    {"audience": ""},
    {"audience": 7},
    {"audience": ["a"]},
    {"audience": "x" * 2000},
    {"redeliver": 1},
    {"secret": "mine"},
    {"tpp": "other"},
    {"redeliver_after": 5, "on_error": "drop"},
    [],
    "x",
    7,
]


@pytest.mark.parametrize("settings", BAD_SETTINGS, ids=json.dumps)
def test_a_setting_that_is_wrong_is_400_and_changes_nothing(bank: BankClient, settings: Any) -> None:
    """decisions.md, smaller ones: wrong value 400. No stream is made, none is changed."""
    refused(bank.call("PUT", "/streams/new", settings), 400)
    refused(bank.call("GET", "/streams/new"), 404, "not_found")
    bank.make(redeliver_after=3)
    refused(bank.call("PUT", "/streams/tpp", settings), 400)
    assert bank.stream()["redeliver_after"] == 3


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe",
        b'{"redeliver_after":NaN}',
        b'{"redeliver_after":1e999}',
        b'{"audience":"\\ud800"}',
        b'{"max_deliveries":1,"max_deliveries":2}',
        b'{"audience":' + b"[" * 5000,
    ],
)
def test_settings_that_are_not_json_are_400(bank: BankClient, body: bytes) -> None:
    """Decision 16, for the bank's bodies as for the polls'."""
    reply = bank.call("PUT", "/streams/tpp", data=body, headers={"Content-Type": "application/json"})
    refused(reply, 400, "invalid_request")
    refused(bank.call("GET", "/streams/tpp"), 404)


GOOD_NAMES = ["a", "tpp-1", "A.z_~@:+-9", "x" * 128, "7umx5nTR33811QyQfi", "user@bank.example"]
BAD_NAMES = ["a b", "{a}", "a}b", "é", "x" * 129, "a\n", "a\0", "a,b", "a%", "a*", "a?b", "a#b", " a"]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_name_is_any_of_its_characters(bank: BankClient, name: str) -> None:
    """decisions.md: [A-Za-z0-9._~@:+-]{1,128}."""
    bank.make(name)
    assert bank.stream(name)["tpp"] == name
    bank.fill(["j"], name)
    if ":" not in name:  # a Basic user name holds no colon: RFC 7617 section 2
        assert list(bank.poll(name)) == ["j"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_no_tpp_may_have_is_400_in_every_call(bank: BankClient, name: str) -> None:
    """decisions.md: anything else is 400 wherever a name is given."""
    path = f"/streams/{quote(name, safe='')}"
    for method, call in (
        ("PUT", path),
        ("GET", path),
        ("DELETE", path),
        ("POST", f"{path}/secret"),
        ("GET", f"{path}/sets"),
        ("GET", f"{path}/sets/j"),
        ("DELETE", f"{path}/sets/j"),
        ("POST", f"{path}/sets/j/requeue"),
    ):
        refused(bank.call(method, call), 400, "invalid_request")
    refused(bank.push({"events": EVENTS}, quote(name, safe="")), 400, "invalid_request")
    assert bank.call("GET", "/streams").get_json()["streams"] == []


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "text/plain", "application/json; charset=latin-1"]
)
def test_settings_of_another_media_type_are_415(bank: BankClient, content_type: str) -> None:
    """Decision 21."""
    reply = bank.call("PUT", "/streams/tpp", data=b"{}", headers={"Content-Type": content_type})
    refused(reply, 415)


def test_an_unknown_stream_is_404_in_every_call(bank: BankClient) -> None:
    """decisions.md: unknown stream 404."""
    for method, path in (
        ("GET", "/streams/none"),
        ("DELETE", "/streams/none"),
        ("DELETE", "/streams/none?force=true"),
        ("POST", "/streams/none/secret"),
        ("GET", "/streams/none/sets"),
        ("GET", "/streams/none/sets/j"),
        ("DELETE", "/streams/none/sets/j"),
        ("POST", "/streams/none/sets/j/requeue"),
    ):
        refused(bank.call(method, path), 404, "not_found")
    refused(bank.push({"events": EVENTS}, "none"), 404, "not_found")
    refused(bank.signed(set_of("j"), "none"), 404, "not_found")


def test_a_stream_tells_how_it_stands(bank: BankClient) -> None:
    """interface.md: counts, ages of the oldest, settings, time of the last poll and of the last push."""
    bank.make()
    bank.fill(["a", "b", "c", "d"])
    bank.poll(maxEvents=3)
    bank.poll(maxEvents=0, ack=["a"], setErrs={"b": ERROR})
    view = bank.stream()
    assert (view["pending"], view["in_flight"], view["parked"]) == (1, 1, 1)
    counted = {name: view[name] for name in ("pushed", "delivered", "acked", "reported", "discarded", "expired")}
    assert counted == {"pushed": 4, "delivered": 3, "acked": 1, "reported": 1, "discarded": 0, "expired": 0}
    ages = view["oldest_seconds"]
    assert set(ages) == {"pending", "in_flight", "parked"}
    assert 0 <= ages["pending"] <= ages["in_flight"] <= ages["parked"] < 60
    assert view["created_at"] <= view["last_push"] <= view["last_poll"]
    assert view["last_poll"].endswith("Z")


def test_streams_are_listed_by_name_page_after_page(bank: BankClient) -> None:
    """interface.md: GET /streams; `next` says where to go on, and its absence that there is no more."""
    names = sorted(f"tpp-{i}" for i in range(7))
    for name in reversed(names):
        bank.make(name)
    whole = bank.call("GET", "/streams").get_json()
    assert [each["tpp"] for each in whole["streams"]] == names
    assert "next" not in whole
    assert {**whole["streams"][0], "oldest_seconds": {}} == {**bank.stream(names[0]), "oldest_seconds": {}}
    for limit in (1, 2, 3, 7):
        assert paged(bank, f"/streams?limit={limit}", "streams", "tpp") == names


def paged(bank: BankClient, path: str, member: str, name: str) -> list[str]:
    """Everything that a listing tells, page after page."""
    found: list[str] = []
    after = ""
    for _ in range(50):
        page = bank.call("GET", path + (f"&after={quote(after, safe='')}" if after else "")).get_json()
        found += [each[name] for each in page[member]]
        if "next" not in page:
            return found
        after = page["next"]
    raise AssertionError("the listing never ends")


def test_a_stream_half_made_hides_no_other(bank: BankClient, app: Flask) -> None:
    """A name is listed before its stream is made, in two steps: what fails between them must not cut the list."""
    app.extensions["eventpoll"].transmitter.store.redis.zadd(keys.STREAMS, {"ghost": 0})
    for name in ("a", "z"):
        bank.make(name)
    for limit in (1, 2, 3):
        assert paged(bank, f"/streams?limit={limit}", "streams", "tpp") == ["a", "z"]


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "1.5", "", "99999999999"])
def test_a_limit_that_is_none_is_400(bank: BankClient, limit: str) -> None:
    """decisions.md: wrong value 400."""
    bank.make()
    refused(bank.call("GET", f"/streams?limit={limit}"), 400)
    refused(bank.call("GET", f"/streams/tpp/sets?limit={limit}"), 400)


def test_a_stream_with_nothing_outstanding_is_deleted(bank: BankClient) -> None:
    """interface.md: 204, without a body; then there is none."""
    bank.make()
    bank.fill(["a"])
    bank.poll(ack=["a"], maxEvents=0)
    reply = bank.call("DELETE", "/streams/tpp")
    assert (reply.status_code, reply.data) == (204, b"")
    refused(bank.call("DELETE", "/streams/tpp"), 404)
    assert bank.call("GET", "/streams").get_json()["streams"] == []


@pytest.mark.parametrize("state", ["pending", "in_flight", "parked"])
def test_a_stream_with_sets_outstanding_is_deleted_only_by_force(bank: BankClient, state: str) -> None:
    """interface.md: 409 while SETs are outstanding, in whatever state."""
    bank.make()
    bank.fill(["a"])
    if state != "pending":
        bank.poll()
    if state == "parked":
        bank.poll(setErrs={"a": ERROR}, maxEvents=0)
    assert bank.state("a") == state
    for query in ("", "?force=false", "?force="):
        refused(bank.call("DELETE", f"/streams/tpp{query}"), 409, "conflict")
    assert bank.state("a") == state
    assert bank.call("DELETE", "/streams/tpp?force=true").status_code == 204
    bank.make()
    refused(bank.call("GET", "/streams/tpp/sets/a"), 404)
    assert bank.push({"events": EVENTS, "jti": "a"}).status_code == 201


def test_a_secret_is_made_anew(bank: BankClient) -> None:
    """interface.md: POST /streams/{tpp}/secret, with grace_seconds or without."""
    bank.make()
    for body in (None, {}, {"grace_seconds": 0}, {"grace_seconds": 1.5}):
        reply = bank.call("POST", "/streams/tpp/secret", body)
        assert reply.status_code in (200, 201)
        assert reply.get_json()["tpp"] == "tpp"
        assert reply.get_json()["secret"] != bank.secrets["tpp"]
        bank.secrets["tpp"] = reply.get_json()["secret"]
        assert bank.poll() == {}


@pytest.mark.parametrize(
    "body",
    [
        {"grace_seconds": -1},
        {"grace_seconds": "60"},
        {"grace_seconds": None},
        {"grace_seconds": True},
        {"grace": 1},
        [],
    ],
    ids=json.dumps,
)
def test_a_grace_that_is_wrong_is_400_and_the_secret_stays(bank: BankClient, body: Any) -> None:
    """decisions.md: wrong value 400."""
    bank.make()
    refused(bank.call("POST", "/streams/tpp/secret", body), 400)
    assert bank.poll() == {}


# -- push: events to mint ---------------------------------------------------------------------------------------


def test_an_event_is_minted_and_queued(bank: BankClient) -> None:
    """interface.md: 201 {"jti": …}."""
    bank.make(audience="client-7")
    reply = bank.push({"events": EVENTS})
    assert reply.status_code == 201
    assert list(reply.get_json()) == ["jti"]
    jti = reply.get_json()["jti"]
    claims = json.loads(claims_of(bank.poll()[jti]))
    assert (claims["jti"], claims["iss"], claims["aud"], claims["events"]) == (jti, ISSUER, "client-7", EVENTS)


def test_a_jti_of_the_banks_own_is_kept(bank: BankClient) -> None:
    """interface.md: "jti"?; up to 128 characters."""
    bank.make()
    for jti in ("a", "x" * 128, "ü" * 128, "a/b c%d?e#f"):
        reply = bank.push({"events": EVENTS, "jti": jti})
        assert (reply.status_code, reply.get_json()) == (201, {"jti": jti})
    assert list(bank.poll()) == ["a", "x" * 128, "ü" * 128, "a/b c%d?e#f"]


def test_the_same_events_again_are_200_and_no_second_set(bank: BankClient) -> None:
    """Decision 18: equal as JSON; members in another order are equal."""
    bank.make()
    assert bank.push({"jti": "j", "events": {"urn:a": {"x": 1, "y": [1, 2]}, "urn:b": {}}}).status_code == 201
    first = bank.poll()["j"]
    for events in ({"urn:a": {"x": 1, "y": [1, 2]}, "urn:b": {}}, {"urn:b": {}, "urn:a": {"y": [1, 2], "x": 1}}):
        reply = bank.push({"jti": "j", "events": events})
        assert (reply.status_code, reply.get_json()) == (200, {"jti": "j"})
    assert bank.poll() == {"j": first}
    assert bank.stream()["pushed"] == 1


@pytest.mark.parametrize(
    "events",
    [
        {"urn:a": {"x": 2}},
        {"urn:a": {"x": 1, "y": 1}},
        {"urn:a": {"x": "1"}},
        {"urn:a": {"x": True}},
        {"urn:b": {"x": 1}},
        {"urn:a": {"x": 1}, "urn:b": {}},
        {"urn:a": {}},
    ],
    ids=json.dumps,
)
def test_other_events_for_a_jti_are_409_and_the_first_are_kept(bank: BankClient, events: Any) -> None:
    """Decision 18. 1, "1" and true are not the same."""
    bank.make()
    bank.push({"jti": "j", "events": {"urn:a": {"x": 1}}})
    refused(bank.push({"jti": "j", "events": events}), 409, "conflict")
    assert json.loads(claims_of(bank.poll()["j"]))["events"] == {"urn:a": {"x": 1}}


def test_pushed_again_after_its_ack_it_is_a_repeat(bank: BankClient) -> None:
    """Decisions 3 and 18: the jti is remembered; nothing is delivered again."""
    bank.make()
    bank.push({"jti": "j", "events": EVENTS})
    bank.fill(["k"])
    bank.poll(ack=["j", "k"], maxEvents=0)
    assert bank.push({"jti": "j", "events": EVENTS}).status_code == 200
    assert bank.signed(set_of("k")).status_code == 202
    assert bank.poll() == {}


def test_events_and_claims_are_kept_to_the_letter(bank: BankClient) -> None:
    """Issue 2: events reach the TPP exactly as they were given: members, digits, escapes, order."""
    bank.make()
    events = '{"urn:z": {"b":1.10, "a" : 1E5,"n":123456789012345678901234567890,"e":"\\u00e9","é":"\\/"},"urn:a":{}}'
    sub_id = '{"format" : "opaque","id":"7"}'
    text = (
        f'{{ "txn":"t\\u0031" , "events" : {events} ,\n"sub_id":{sub_id}, "toe": 1516239022.50, "sub":"s", "jti":"j"}}'
    )
    assert bank.text(text).status_code == 201
    claims = claims_of(bank.poll()["j"]).decode()
    for piece in (f'"events":{events}', f'"sub_id":{sub_id}', '"toe":1516239022.50', '"sub":"s"', '"txn":"t\\u0031"'):
        assert piece in claims
    assert json.loads(claims)["txn"] == "t1"


BAD_EVENTS: dict[str, str] = {
    "no events": "{}",
    "events null": '{"events":null}',
    "events empty": '{"events":{}}',
    "events an array": '{"events":[{}]}',
    "events a string": '{"events":"urn:a"}',
    "an event a string": '{"events":{"urn:a":"x"}}',
    "an event null": '{"events":{"urn:a":null}}',
    "an event an array": '{"events":{"urn:a":[]}}',
    "a name empty": '{"events":{"":{}}}',
    "a name no URI": '{"events":{"resource update":{}}}',
    "a name with a blank": '{"events":{"urn:a b":{}}}',
    "a name twice": '{"events":{"urn:a":{},"urn:a":{}}}',
    "a member twice": '{"events":{"urn:a":{"x":1,"x":2}}}',
    "events twice": '{"events":{"urn:a":{}},"events":{"urn:a":{}}}',
    "a member unknown": '{"events":{"urn:a":{}},"aud":"x"}',
    "iss": '{"events":{"urn:a":{}},"iss":"x"}',
    "jti empty": '{"events":{"urn:a":{}},"jti":""}',
    "jti too long": json.dumps({"events": {"urn:a": {}}, "jti": "x" * 129}),
    "jti a number": '{"events":{"urn:a":{}},"jti":7}',
    "jti null": '{"events":{"urn:a":{}},"jti":null}',
    "jti with a line feed": '{"events":{"urn:a":{}},"jti":"a\\nb"}',
    "jti with a NUL": '{"events":{"urn:a":{}},"jti":"a\\u0000"}',
    "jti a lone surrogate": '{"events":{"urn:a":{}},"jti":"\\ud800"}',
    "a lone surrogate in an event": '{"events":{"urn:a":{"x":[{"y":"a\\ud83db"}]}}}',
    "a lone surrogate in a member's name": '{"events":{"urn:a":{"\\ud83d":1}}}',
    "a lone surrogate in an event's name": '{"events":{"urn:\\ud83d":{}}}',
    "surrogates the wrong way round": '{"events":{"urn:a":{"x":"\\udfe6\\ud83c"}}}',
    "a lone surrogate in sub": '{"events":{"urn:a":{}},"sub":"\\ud83d"}',
    "a lone surrogate in sub_id": '{"events":{"urn:a":{}},"sub_id":{"id":"\\ud83d"}}',
    "a lone surrogate in txn": '{"events":{"urn:a":{}},"txn":"\\ud83d"}',
    "sub a number": '{"events":{"urn:a":{}},"sub":7}',
    "sub null": '{"events":{"urn:a":{}},"sub":null}',
    "sub_id a string": '{"events":{"urn:a":{}},"sub_id":"x"}',
    "txn a number": '{"events":{"urn:a":{}},"txn":7}',
    "toe a string": '{"events":{"urn:a":{}},"toe":"1516239022"}',
    "toe true": '{"events":{"urn:a":{}},"toe":true}',
    "toe null": '{"events":{"urn:a":{}},"toe":null}',
    "NaN": '{"events":{"urn:a":{"x":NaN}}}',
    "Infinity": '{"events":{"urn:a":{}},"toe":Infinity}',
    "an array": "[]",
    "a string": '"x"',
    "null": "null",
    "nothing": "",
    "no JSON": "events",
    "cut off": '{"events":{"urn:a":{}}',
    "something behind": '{"events":{"urn:a":{}}} {}',
    "bottomless": '{"events":{"urn:a":' + '{"a":' * 20_000,
}


def test_a_byte_order_mark_is_named_in_the_refusal(bank: BankClient) -> None:
    """RFC 8259 section 8.1: of an event, of a SET, of what is within it, and of the first line of a batch."""
    bank.make()
    event = json.dumps({"events": EVENTS})
    inside = token("\ufeff{}".encode())
    for reply in (
        bank.text("\ufeff" + event),
        bank.signed("\ufeff".encode() + set_of("j").encode()),
        bank.signed(inside),
    ):
        assert "byte order mark" in refused(reply, 400, "invalid_request")
    for line in (event, set_of("j")):
        bad, good = told(batch(bank, ["\ufeff" + line, event]))
        assert (bad["status"], bad["err"], good["status"]) == (400, "invalid_request", 201)
        assert "byte order mark" in bad["description"]


def test_a_refusal_names_the_member_with_a_lone_surrogate(bank: BankClient) -> None:
    """jq and serde refuse such a text, so a TPP could not read the SET. A pair of surrogates is a character."""
    bank.make()
    for name, value in (("events", '{"urn:a":{"x":"\\ud800"}}'), ("sub", '"\\udfff"'), ("sub_id", '{"\\ud800":1}')):
        text = f'{{"events":{{"urn:a":{{}}}},"{name}":{value}}}' if name != "events" else f'{{"events":{value}}}'
        words = refused(bank.text(text), 400, "invalid_request")
        assert words == f"{name}: must be well-formed Unicode, without lone surrogates (\\ud800 to \\udfff)"
    assert "lone surrogate" in refused(bank.signed(BAD_SETS["a lone surrogate in an event"]), 400, "invalid_request")
    assert bank.text('{"events":{"urn:a":{"x":"\\ud83c\\udfe6"}},"jti":"j"}').status_code == 201
    assert json.loads(claims_of(bank.poll()["j"]))["events"] == {"urn:a": {"x": "🏦"}}


@pytest.mark.parametrize("case", BAD_EVENTS)
def test_an_event_that_is_not_one_is_400_and_queues_nothing(bank: BankClient, case: str) -> None:
    """decisions.md: wrong value 400; decision 16: strict JSON; decision 24: the RFC profile asks for a URI."""
    bank.make()
    refused(bank.text(BAD_EVENTS[case]), 400, "invalid_request")
    assert bank.stream()["pushed"] == 0


@pytest.mark.parametrize("depth", [*range(100, 1000, 60), *range(940, 1000, 4)])
def test_deep_nesting_is_taken_or_refused_and_never_our_fault(bank: BankClient, depth: int) -> None:
    """Decision 16: nesting bombs are 400, never 500; what was taken once is a repeat the second time."""
    bank.make()
    text = f'{{"jti":"j","events":{{"urn:a":{{"x":{"[" * depth}{"]" * depth}}}}}}}'
    first, second = bank.text(text).status_code, bank.text(text).status_code
    assert (first, second) in ((201, 200), (400, 400))


@pytest.mark.parametrize("name", ["resource-update", "any name", "é", "urn_uk_org_openbanking_events_resource-update"])
def test_a_profile_that_asks_for_no_uri_takes_any_name(bank: BankClient, name: str) -> None:
    """Decision 24: never a whitelist, any non-empty string."""
    bank.make(set_profile="wso2")
    assert bank.push({"events": {name: {}}}).status_code == 201


def test_a_stream_of_obies_asks_for_what_obie_asks(bank: BankClient) -> None:
    """standards.md 3.9: sub and subject are required; the refusal names what is missing."""
    bank.make(set_profile="obie")
    assert bank.push(OBIE_EVENT).status_code == 201
    assert "sub" in refused(bank.push({"events": OBIE_EVENT["events"]}), 400, "invalid_request")
    bare = {"sub": "x", "events": {"urn:uk:org:openbanking:events:resource-update": {}}}
    assert "subject" in refused(bank.push(bare), 400, "invalid_request")
    assert bank.push({"sub": "x", "events": {"urn:bank:custom": {}}}).status_code == 201


def test_minting_without_keys_is_refused_in_clear_words(environ: dict[str, str], app: Flask) -> None:
    """interface.md: unset, minting is refused with a clear error, and signed SETs still pass."""
    settings = {name: value for name, value in environ.items() if name != "EVENTPOLL_SIGNING_KEYS"}
    bank = BankClient(create_app(Config.from_environ(settings)).test_client())
    bank.make()
    assert "EVENTPOLL_SIGNING_KEYS" in refused(bank.push({"events": EVENTS}), 400)
    assert bank.signed(set_of("j")).status_code == 202
    assert bank.client.get("/.well-known/jwks.json").get_json() == {"keys": []}


@pytest.mark.parametrize("profile", ["obie", "wso2"])
def test_a_profile_that_no_key_can_sign_for_is_400(environ: dict[str, str], app: Flask, profile: str) -> None:
    """decisions.md, which key signs: none that can, 400 where a stream asks for that profile."""
    key = ECKey.generate_key("P-256", {"kid": "e"}).as_dict(private=True)
    settings = {**environ, "EVENTPOLL_SIGNING_KEYS": json.dumps({"keys": [key]})}
    bank = BankClient(create_app(Config.from_environ(settings)).test_client())
    refused(bank.call("PUT", "/streams/tpp", {"set_profile": profile}), 400)
    refused(bank.call("GET", "/streams/tpp"), 404)


# -- push: signed SETs ------------------------------------------------------------------------------------------


def test_a_signed_set_is_202_and_delivered_to_the_byte(bank: BankClient) -> None:
    """RFC 8935 section 2.2: 202, no body; decision 23: opaque bytes. A second push of it is 202 again."""
    bank.make()
    secevent = set_of("j", {"any name": {"z": 1.10}}, odd="é")
    for text in (secevent, secevent + "\n", secevent.encode()):
        reply = bank.signed(text)
        assert (reply.status_code, reply.data) == (202, b"")
    assert bank.poll() == {"j": secevent}
    assert bank.stream()["pushed"] == 1


def test_other_bytes_for_a_jti_are_409_and_the_first_are_kept(bank: BankClient) -> None:
    """Decision 18: signed SETs are compared byte by byte, the signature too; minted ones guard their jti alike."""
    bank.make()
    first = set_of("j")
    bank.signed(first)
    for other in (set_of("j", {"urn:other": {}}), first[:-1], set_of("j", iat=1)):
        refused(bank.signed(other), 409, "conflict")
    refused(bank.push({"jti": "j", "events": {"urn:other": {}}}), 409, "conflict")
    assert bank.push({"jti": "j", "events": EVENTS}).status_code == 200
    assert bank.poll() == {"j": first}


def test_a_media_type_with_a_parameter_is_the_media_type(bank: BankClient) -> None:
    """RFC 9110 section 8.3.1: parameters and case aside."""
    bank.make()
    assert bank.text(set_of("j"), "Application/SecEvent+JWT; charset=utf-8").status_code == 202
    assert bank.text('{"events":{"urn:a":{}}}', "Application/JSON; charset=UTF-8").status_code == 201


def token(payload: bytes, header: bytes = b'{"alg":"RS256"}') -> bytes:
    """Three base64url parts."""
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, payload, b"signature"))


BAD_SETS: dict[str, bytes] = {
    "nothing": b"",
    "a word": b"secevent",
    "JSON": b'{"jti":"j"}',
    "two parts": b".".join(set_of("j").encode().split(b".")[:2]),
    "four parts": set_of("j").encode() + b".x",
    "five parts": b"a.b.c.d.e",
    "no signature": set_of("j").encode().rpartition(b".")[0] + b".",
    "padding": set_of("j").encode() + b"=",
    "two SETs": f"{set_of('j')}\n{set_of('k')}".encode(),
    "not ASCII": set_of("j").encode() + b"\xe9",
    "a quote": set_of("j").encode() + b'"',
    "no JSON within": token(b"events"),
    "an array within": token(b"[]"),
    "a string within": token(b'"x"'),
    "no UTF-8 within": token(b'{"jti":"\xff","events":{"urn:a":{}}}'),
    "UTF-16 within": token('{"jti":"j","events":{"urn:a":{}}}'.encode("utf-16")),
    "NaN within": token(b'{"jti":"j","iat":NaN,"events":{"urn:a":{}}}'),
    "a jti twice within": token(b'{"jti":"i","jti":"j","events":{"urn:a":{}}}'),
    "bottomless within": token(b'{"jti":"j","events":' + b'{"a":' * 20_000),
    "no events": token(b'{"jti":"j"}'),
    "events empty": token(b'{"jti":"j","events":{}}'),
    "events an array": token(b'{"jti":"j","events":["urn:a"]}'),
    "no jti": token(b'{"events":{"urn:a":{}}}'),
    "jti a number": token(b'{"jti":7,"events":{"urn:a":{}}}'),
    "jti empty": token(b'{"jti":"","events":{"urn:a":{}}}'),
    "jti too long": set_of("x" * 129).encode(),
    "jti with a control character": set_of("a\x07b").encode(),
    "jti a lone surrogate": set_of("\ud800").encode(),
    "a lone surrogate in an event": set_of("j", {"urn:a": {"x": "\ud800"}}).encode(),
    "a lone surrogate in a claim's name": token(b'{"jti":"j","events":{"urn:a":{}},"\\ud800":1}'),
}


@pytest.mark.parametrize("case", BAD_SETS)
def test_a_set_that_is_not_one_is_400_as_rfc_8935_says(bank: BankClient, case: str) -> None:
    """RFC 8935 sections 2.3 and 2.4: invalid_request, as JSON with err and description. Nothing is queued."""
    bank.make()
    refused(bank.signed(BAD_SETS[case]), 400, "invalid_request")
    assert bank.stream()["pushed"] == 0


@pytest.fixture(scope="module")
def bank_key() -> rsa.RSAPrivateKey:
    """The key with which the bank itself signs."""
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def checking(environ: dict[str, str], app: Flask, bank_key: rsa.RSAPrivateKey) -> BankClient:
    """A service that checks the signatures of pushed SETs."""
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(bank_key.public_key())) | {"kid": "bank-1"}
    settings = {**environ, "EVENTPOLL_PUSH_JWKS": json.dumps({"keys": [public]})}
    bank = BankClient(create_app(Config.from_environ(settings)).test_client())
    bank.make()
    return bank


def test_a_signature_that_fits_is_taken(checking: BankClient, bank_key: rsa.RSAPrivateKey) -> None:
    """decisions.md: EVENTPOLL_PUSH_JWKS asks for the signature to be checked."""
    for jti, algorithm in (("a", "PS256"), ("b", "RS256")):
        secevent = jwt.encode({"jti": jti, "events": EVENTS}, bank_key, algorithm, {"kid": "bank-1"})
        assert checking.signed(secevent).status_code == 202
    assert list(checking.poll()) == ["a", "b"]


def test_a_signature_that_does_not_fit_is_refused_as_rfc_8935_says(
    checking: BankClient, bank_key: rsa.RSAPrivateKey
) -> None:
    """RFC 8935 section 2.4: invalid_key for a key that is not the bank's, authentication_failed for a bad signature."""
    claims = {"jti": "j", "events": EVENTS}
    good = jwt.encode(claims, bank_key, "PS256", {"kid": "bank-1"})
    header, _, signature = good.split(".")
    forged = jwt.encode({"jti": "j", "events": {"urn:forged": {}}}, bank_key, "PS256").split(".")[1]
    stranger = rsa.generate_private_key(65537, 2048)
    refused(checking.signed(f"{header}.{forged}.{signature}"), 400, "authentication_failed")
    refused(checking.signed(jwt.encode(claims, stranger, "PS256", {"kid": "bank-1"})), 400, "authentication_failed")
    refused(checking.signed(jwt.encode(claims, stranger, "PS256", {"kid": "other"})), 400, "invalid_key")
    assert checking.poll() == {}


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/jwt", "application/xml", "application/x-ndjson"]
)
def test_a_push_of_another_media_type_is_415(bank: BankClient, content_type: str) -> None:
    """Decision 21."""
    bank.make()
    refused(bank.text(set_of("j"), content_type), 415)


@pytest.mark.parametrize("content_type", ["application/json", "application/secevent+jwt"])
def test_a_push_over_a_mebibyte_is_413(bank: BankClient, content_type: str) -> None:
    """Decision 16."""
    bank.make()
    refused(bank.text(b"x" * (1_048_576 + 1), content_type), 413)


# -- what became of it ------------------------------------------------------------------------------------------


def test_sets_are_listed_by_state_oldest_first_page_after_page(bank: BankClient) -> None:
    """interface.md: ?state&limit&after; decisions.md: `after` takes the last jti seen, `next` is where to go on."""
    bank.make(redeliver_after=600)
    jtis = [f"j{i}" for i in (5, 3, 9, 1, 7, 2, 8, 0, 6)]
    bank.fill(jtis)
    bank.poll(maxEvents=6)
    bank.poll(maxEvents=0, setErrs=dict.fromkeys(reversed(jtis[:3]), ERROR))
    for state, expected in (("parked", jtis[:3]), ("in_flight", jtis[3:6]), ("pending", jtis[6:])):
        page = bank.call("GET", f"/streams/tpp/sets?state={state}").get_json()
        assert "next" not in page
        assert [each["jti"] for each in page["sets"]] == expected
        assert {each["state"] for each in page["sets"]} == {state}
        for limit in (1, 2, 3, 4):
            assert paged(bank, f"/streams/tpp/sets?state={state}&limit={limit}", "sets", "jti") == expected


def test_a_listing_tells_deliveries_times_and_errors(bank: BankClient) -> None:
    """interface.md: with deliveries, times, err and description; what is not there is left out."""
    bank.make(redeliver_after=600)
    bank.fill(["a", "b", "c"])
    bank.poll(maxEvents=2)
    bank.poll(maxEvents=0, setErrs={"a": ERROR})
    rows = {
        state: bank.call("GET", f"/streams/tpp/sets?state={state}").get_json()["sets"][0]
        for state in ("pending", "in_flight", "parked")
    }
    assert set(rows["pending"]) == {"jti", "state", "deliveries", "pushed_at"}
    assert rows["pending"]["deliveries"] == 0
    assert rows["in_flight"]["deliveries"] == 1
    assert rows["in_flight"]["pushed_at"] <= rows["in_flight"]["delivered_at"] < rows["in_flight"]["leased_until"]
    assert (rows["parked"]["err"], rows["parked"]["description"]) == (ERROR["err"], ERROR["description"])
    assert rows["parked"]["delivered_at"] <= rows["parked"]["parked_at"]


def test_a_page_goes_on_behind_a_jti_that_moved_meanwhile(bank: BankClient) -> None:
    """A listing that is read while the TPP polls neither fails nor begins anew."""
    bank.make()
    bank.fill(["a", "b", "c", "d"])
    page = bank.call("GET", "/streams/tpp/sets?limit=2").get_json()
    bank.poll(maxEvents=2)
    rest = bank.call("GET", f"/streams/tpp/sets?limit=2&after={page['next']}").get_json()
    assert [each["jti"] for each in rest["sets"]] == ["c", "d"]


@pytest.mark.parametrize("state", ["settled", "PENDING", "in-flight", "", "x"])
def test_a_state_that_is_none_is_400(bank: BankClient, state: str) -> None:
    """interface.md: pending, in_flight or parked."""
    bank.make()
    refused(bank.call("GET", f"/streams/tpp/sets?state={state}"), 400)


def test_going_on_behind_an_unknown_jti_is_404(bank: BankClient) -> None:
    """decisions.md: unknown jti 404."""
    bank.make()
    refused(bank.call("GET", "/streams/tpp/sets?after=nothing"), 404, "not_found")


def test_one_set_tells_its_whole_life(bank: BankClient) -> None:
    """interface.md: with its whole history; a settled one within the dedupe window says so."""
    bank.make()
    secevent = set_of("j")
    bank.signed(secevent)
    assert (bank.one("j")["state"], bank.one("j")["set"]) == ("pending", secevent)
    bank.poll()
    assert (bank.one("j")["state"], bank.one("j")["deliveries"]) == ("in_flight", 1)
    bank.poll(maxEvents=0, setErrs={"j": ERROR})
    parked = bank.one("j")
    assert (parked["state"], parked["err"], parked["set"]) == ("parked", ERROR["err"], secevent)
    reply = bank.call("POST", "/streams/tpp/sets/j/requeue")
    assert reply.status_code == 200
    assert (bank.one("j")["state"], bank.one("j")["deliveries"]) == ("pending", 0)
    assert bank.poll() == {"j": secevent}
    bank.poll(maxEvents=0, ack=["j"])
    settled = bank.one("j")
    assert settled["state"] == "settled"
    assert "set" not in settled
    happened = ["pushed", "delivered", "reported", "requeued", "delivered", "acknowledged"]
    assert [each["what"] for each in settled["history"]] == happened
    assert [each["by"] for each in settled["history"]] == ["bank", "rfc8936", "rfc8936", "bank", "rfc8936", "rfc8936"]
    assert sorted(each["at"] for each in settled["history"]) == [each["at"] for each in settled["history"]]
    assert settled["settled_at"] == settled["history"][-1]["at"]


def test_a_parked_set_is_discarded_for_good(bank: BankClient) -> None:
    """interface.md: DELETE discards a parked SET; its jti stays remembered (decision 3)."""
    bank.make()
    bank.fill(["j"])
    bank.poll(setErrs={"j": ERROR}, maxEvents=0)
    reply = bank.call("DELETE", "/streams/tpp/sets/j")
    assert (reply.status_code, reply.data) == (204, b"")
    assert bank.state("j") == "settled"
    assert [each["what"] for each in bank.one("j")["history"]][-1] == "discarded"
    assert bank.stream()["discarded"] == 1
    bank.fill(["j"])
    assert bank.poll() == {}
    refused(bank.call("DELETE", "/streams/tpp/sets/j"), 404, "not_found")


@pytest.mark.parametrize(("method", "call"), [("POST", "/requeue"), ("DELETE", "")])
def test_what_is_not_parked_is_neither_requeued_nor_discarded(bank: BankClient, method: str, call: str) -> None:
    """decisions.md: 409 for something not parked, 404 for a jti that is not there or is settled."""
    bank.make()
    bank.fill(["j"])
    refused(bank.call(method, f"/streams/tpp/sets/j{call}"), 409, "conflict")
    bank.poll()
    refused(bank.call(method, f"/streams/tpp/sets/j{call}"), 409, "conflict")
    bank.poll(ack=["j"], maxEvents=0)
    refused(bank.call(method, f"/streams/tpp/sets/j{call}"), 404, "not_found")
    refused(bank.call(method, f"/streams/tpp/sets/nothing{call}"), 404, "not_found")
    refused(bank.call("GET", "/streams/tpp/sets/nothing"), 404, "not_found")


def test_an_undelivered_set_is_parked_and_may_be_requeued(bank: BankClient) -> None:
    """Decisions 4 and 6: parked as undelivered; requeued, its count of deliveries starts at 0."""
    bank.make(max_deliveries=2)
    bank.fill(["j"])
    assert [list(bank.poll()) for _ in range(3)] == [["j"], ["j"], []]
    assert (bank.one("j")["state"], bank.one("j")["err"]) == ("parked", "undelivered")
    assert bank.call("POST", "/streams/tpp/sets/j/requeue").status_code == 200
    assert [list(bank.poll()) for _ in range(3)] == [["j"], ["j"], []]


ODD_JTIS = ["a/b", "a//b", "/a", "a/", "//", ".", "..", "../streams", "a%2Fb", "100%", "%", "a b", "a+b", "a?b", "a#b"]
ODD_JTIS += [
    "ü",
    "日本",
    "\N{MUSICAL SYMBOL G CLEF}",
    "requeue",
    "a/requeue",
    "/requeue",
    '"q"',
    "a;b",
    "a:b",
    "\\",
    "{j}",
    "x" * 128,
]


@pytest.mark.parametrize("jti", ODD_JTIS)
def test_any_jti_can_be_named_in_a_path(shared_server: Server, jti: str) -> None:
    """A jti is any string (RFC 7519 section 4.1.7); percent-encoded it fits into a path (RFC 3986 section 2.1)."""
    tpp = f"odd-{uuid.uuid4().hex[:12]}"
    shared_server.tpp(tpp)
    path = f"/streams/{tpp}/sets/{quote(jti, safe='')}"
    assert shared_server.push(tpp, jti) == jti
    pending = shared_server.bank("GET", path)
    assert (pending.status, pending.json["jti"], pending.json["state"]) == (200, jti, "pending")
    assert list(shared_server.poll(tpp, {"returnImmediately": True}).json["sets"]) == [jti]
    shared_server.poll(tpp, {"maxEvents": 0, "returnImmediately": True, "setErrs": {jti: ERROR}})
    requeued = shared_server.bank("POST", f"{path}/requeue")
    assert (requeued.status, requeued.json["jti"]) == (200, jti)
    shared_server.poll(tpp, {"maxEvents": 0, "returnImmediately": True, "setErrs": {jti: ERROR}})
    assert shared_server.bank("DELETE", path).status == 204
    assert shared_server.bank("GET", path).json["state"] == "settled"


def test_listings_go_on_behind_an_odd_jti(shared_server: Server) -> None:
    """`after` is a query's value, encoded as such."""
    tpp = f"odd-{uuid.uuid4().hex[:12]}"
    shared_server.tpp(tpp)
    for jti in ("a&b=c", "ü +", "/"):
        shared_server.push(tpp, jti)
    for jti, rest in (("a&b=c", ["ü +", "/"]), ("ü +", ["/"])):
        page = shared_server.bank("GET", f"/streams/{tpp}/sets?after={quote(jti, safe='')}").json
        assert [each["jti"] for each in page["sets"]] == rest


def test_over_a_socket_a_signed_set_arrives_to_the_byte(shared_server: Server) -> None:
    """RFC 8935 section 2.2 and decision 23, on real sockets, in every profile."""
    tpp = f"bytes-{uuid.uuid4().hex[:12]}"
    shared_server.tpp(tpp)
    secevent = set_of("j", {"any name": {"z": [1.10, "é"]}})
    headers = {"Content-Type": "application/secevent+jwt", "Accept": "application/json"}
    for _ in range(2):
        reply = shared_server.request("POST", f"/streams/{tpp}/sets", secevent, headers, BANK)
        assert (reply.status, reply.body) == (202, b"")
    other = shared_server.request("POST", f"/streams/{tpp}/sets", set_of("j", iat=1), headers, BANK)
    assert (other.status, other.json["err"]) == (409, "conflict")
    polls = [
        shared_server.poll(tpp, {"returnImmediately": True}, path)
        for path in ("/events", "/open-banking/v3.1/events", "/open-banking/v4.0/events")
    ]
    for poll in [*polls, shared_server.wso2(tpp, {})]:
        assert poll.json["sets"] == {"j": secevent}


def test_what_is_not_there_and_what_is_not_done_have_the_same_shape(bank: BankClient) -> None:
    """decisions.md: errors of the bank's calls are {"err", "description"}; decision 22: 405 with Allow."""
    bank.make()
    for method, path, allow in (
        ("POST", "/streams", "GET"),
        ("PATCH", "/streams/tpp", "DELETE, GET, PUT"),
        ("GET", "/streams/tpp/secret", "POST"),
        ("PUT", "/streams/tpp/sets", "GET, POST"),
    ):
        reply = bank.call(method, path)
        refused(reply, 405)
        assert set(reply.headers["Allow"].replace("HEAD", "").strip(", ").split(", ")) - {""} >= set(allow.split(", "))
    for path in ("/streams/", "/streams/tpp/none", "/stream", "/"):
        refused(bank.call("GET", path), 404)


def test_every_answer_to_the_bank_carries_an_interaction_id(bank: BankClient) -> None:
    """Decision 26: echoed if sent, else a fresh UUID; on errors too."""
    bank.make()
    for path in ("/streams", "/streams/none"):
        sent = bank.call("GET", path, headers={"x-fapi-interaction-id": "1af4c0e6b5da49f6b1aebf439e87c199"})
        assert sent.headers["x-fapi-interaction-id"] == "1af4c0e6b5da49f6b1aebf439e87c199"
        fresh = bank.call("GET", path).headers["x-fapi-interaction-id"]
        assert str(uuid.UUID(fresh)) == fresh


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_a_page_of_another_site_may_not_act_for_the_bank(bank: BankClient, headers: dict[str, str]) -> None:
    """decisions.md: unsafe requests from a browser on another site are 403; looking is not acting."""
    bank.make()
    for method, path in (("PUT", "/streams/new"), ("DELETE", "/streams/tpp"), ("POST", "/streams/tpp/secret")):
        refused(bank.call(method, path, headers=headers), 403)
    assert bank.call("GET", "/streams", headers=headers).status_code == 200
    assert [each["tpp"] for each in bank.call("GET", "/streams").get_json()["streams"]] == ["tpp"]


# -- batches ----------------------------------------------------------------------------------------------------


def batch(bank: BankClient, lines: Iterable[str | bytes], content_type: str = "application/x-ndjson") -> TestResponse:
    """A push of many lines."""
    body = b"\n".join(line.encode() if isinstance(line, str) else line for line in lines)
    headers = {"Content-Type": content_type}
    return bank.call("POST", "/streams/tpp/sets:batch", data=body, headers=headers)


def told(reply: TestResponse) -> list[Any]:
    """Its result lines."""
    assert reply.status_code == 200, reply.text
    assert reply.content_type.partition(";")[0] == "application/x-ndjson"
    return [json.loads(line) for line in reply.text.splitlines()]


def test_a_batch_takes_events_and_signed_sets_line_by_line(bank: BankClient) -> None:
    """interface.md: each line has its own result line, in order; what was there already is a repeat, as in a push."""
    bank.make()
    lines = [json.dumps({"jti": "a", "events": EVENTS}), set_of("b"), json.dumps({"events": EVENTS})]
    results = told(batch(bank, lines))
    assert [set(result) for result in results] == [{"jti", "status"}] * 3
    assert [result["jti"] for result in results[:2]] == ["a", "b"]
    assert list(bank.poll()) == [result["jti"] for result in results]
    again = told(batch(bank, lines[:2]))
    assert [result["jti"] for result in again] == ["a", "b"]
    assert bank.stream()["pushed"] == 3


BAD_LINES: list[str | bytes] = [
    "{",
    "nonsense",
    '{"events":{}}',
    '{"events":{"urn:a":{}},"jti":7}',
    '{"events":{"urn:a":{}},"jti":"\\ud800"}',
    '{"events":{"urn:a":{"x":"\\ud800"}}}',
    set_of("other", {"urn:a": {"\ud800": 1}}),
    "[]",
    "a.b.c",
    b"\xff\xfe",
    set_of("other", {"urn:conflict": {}}).replace("signature", "x") + "==",
    json.dumps({"jti": "first", "events": {"urn:other": {}}}),
    '{"a":' * 20_000,
]


@pytest.mark.parametrize("bad", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_hurts_no_other(bank: BankClient, bad: str | bytes) -> None:
    """decisions.md, batch: {"status", "err", "description"} in its place."""
    bank.make()
    results = told(batch(bank, [set_of("first"), bad, set_of("last")]))
    assert len(results) == 3
    assert [results[0]["jti"], results[2]["jti"]] == ["first", "last"]
    assert {"status", "err", "description"} <= set(results[1])
    assert list(bank.poll()) == ["first", "last"]


def test_a_batch_of_another_media_type_is_415_and_for_nobody_404(bank: BankClient) -> None:
    """Decision 21; decisions.md: unknown stream 404."""
    refused(batch(bank, [set_of("a")]), 404, "not_found")
    bank.make()
    refused(batch(bank, [set_of("a")], "application/json"), 415)
    assert told(batch(bank, [])) == []
    assert bank.poll() == {}


@pytest.mark.parametrize("octets", ["%FF", "%ED%A0%80", "%00", "%C3"])
def test_octets_that_are_no_utf_8_in_a_path_or_query_are_never_our_fault(shared_server: Server, octets: str) -> None:
    """RFC 3986 section 2.5: what is no text names nothing; 400 or 404, never 500."""
    shared_server.bank("PUT", "/streams/octets")
    for method, path in (
        ("GET", f"/streams/octets/sets/{octets}"),
        ("DELETE", f"/streams/octets/sets/{octets}"),
        ("POST", f"/streams/octets/sets/{octets}/requeue"),
        ("GET", f"/streams/octets/sets?after={octets}"),
        ("PUT", f"/streams/{octets}"),
    ):
        reply = shared_server.bank(method, path)
        assert reply.status in (400, 404), path
        assert set(reply.json) == {"err", "description"}
    assert shared_server.bank("GET", f"/streams?after={octets}").status in (200, 400)
