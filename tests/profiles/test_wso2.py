"""WSO2's dialect on real sockets: its own list of tests by their ids, its words to the letter, its SETs."""

import base64
import json
import re
import signal
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import jwt
import pytest

from harness.redis_servers import RedisServer
from harness.service import BANK, BANK_SETTINGS, ISSUER, Reply, Server, start_server

FORM = "application/x-www-form-urlencoded"
BASES = {3: "/api/openbanking/event-notifications", 4: "/api/fs/event-notifications"}
CONSENT = "5396b6c0-7d2f-4d0e-9d68-0a6f0c1c7b7e"
C3 = {
    "urn_uk_org_openbanking_events_resource-update": {"resourceID": CONSENT, "ref": "ref-1"},
    "urn_uk_org_openbanking_events_consent-authorization-revoked": {
        "ref": "ref-2",
        "attributes": ["firstname", "lastname", "email", "status", "phone"],
    },
    "urn:ietf:params:scim:event:create": {"ref": "ref-3", "attributes": ["id", "name"], "resourceID": CONSENT},
}
ERROR = {"err": "jwtIss", "description": "Issuer is invalid or could not be verified"}


@dataclass(frozen=True)
class Gateway:
    """What stands between a TPP and WSO2's internal calls: it speaks one generation with one spelling."""

    server: Server
    generation: int
    spelling: str  # _ or -: what stands before the last id

    @property
    def client_header(self) -> str:
        return f"x-wso2-client{self.spelling}id"

    @property
    def resource_header(self) -> str:
        return f"x-wso2-resource{self.spelling}id"

    @property
    def own_spelling(self) -> str:
        """How the generation itself spells the end of its headers, as its errors have it."""
        return "_id" if self.generation == 3 else "-id"

    def send(
        self,
        call: str,
        body: bytes | str | None,
        headers: Mapping[str, str],
        auth: tuple[str, str] | None = BANK,
        **options: Any,
    ) -> Reply:
        sent = {name: value for name, value in {"Content-Type": FORM, **headers}.items() if value}
        return self.server.request("POST", f"{BASES[self.generation]}/{call}", body, sent, auth, **options)

    def poll(self, tpp: str, value: Any, **options: Any) -> Reply:
        return self.send("events", field(value), {self.client_header: tpp}, **options)

    def create(self, tpp: str, events: Any, headers: Mapping[str, str] | None = None, **options: Any) -> Reply:
        named = {self.client_header: tpp, self.resource_header: CONSENT}
        return self.send("create-events", field(events), {**named, **(headers or {})}, **options)


def encoded(value: Any) -> str:
    """Base64 of a value's JSON; of a text as it is."""
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.b64encode(text.encode()).decode()


def field(value: Any) -> str:
    """The body as WSO2's own test client sends it: the base64 is not URL-encoded."""
    return "request=" + encoded(value)


def error(code: str, description: str) -> bytes:
    """WSO2's error body, to the byte."""
    return json.dumps({"error_description": description, "error": code}, separators=(",", ":")).encode()


def payload_of(secevent: str) -> bytes:
    """The signed bytes of a SET's claims."""
    return base64.urlsafe_b64decode(secevent.split(".")[1] + "==")


@pytest.fixture(
    params=[(3, "_"), (3, "-"), (4, "_"), (4, "-")],
    ids=["3.x client_id", "3.x client-id", "4.x client_id", "4.x client-id"],
)
def gateway(request: pytest.FixtureRequest, shared_server: Server) -> Gateway:
    """Both generations, and in each both spellings."""
    return Gateway(shared_server, *request.param)


@pytest.fixture(params=[3, 4], ids=["3.x", "4.x"])
def generation(request: pytest.FixtureRequest, shared_server: Server) -> Gateway:
    """Both generations, each with its own spelling."""
    return Gateway(shared_server, request.param, "_" if request.param == 3 else "-")


@pytest.fixture
def tpp(shared_server: Server) -> str:
    """A new stream whose SETs are WSO2's."""
    name = f"wso2-{uuid.uuid4().hex[:12]}"
    shared_server.tpp(name, set_profile="wso2")
    return name


@pytest.fixture(scope="module")
def migrated(
    redis_server: RedisServer, signing_keys: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server for those who come from WSO2: empty is 404. Other profiles' polls are held for long."""
    environ = {
        "REDIS_URL": redis_server.url.removesuffix("0") + "2",
        **BANK_SETTINGS,
        "EVENTPOLL_SIGNING_KEYS": signing_keys,
        "EVENTPOLL_LONG_POLL_SECONDS": "28",
        "EVENTPOLL_WSO2_EMPTY_STATUS": "404",
    }
    server = start_server(environ, tmp_path_factory.mktemp("migrated"))
    yield server
    server.stop(signal.SIGTERM)


# -- WSO2's own list --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("authorization", ["Basic garbage", "Basic !!!!", "Basic YWRtaW46d3Jvbmc="])
def test_p01_a_poll_with_garbage_for_credentials_is_401(gateway: Gateway, tpp: str, authorization: str) -> None:
    """WSO2 test P01; the challenge is RFC 9110 section 11.6.1."""
    headers = {gateway.client_header: tpp, "Authorization": authorization}
    reply = gateway.send("events", field({}), headers, auth=None)
    assert reply.status == 401
    assert reply.headers["www-authenticate"].startswith("Basic")


def test_p02_a_poll_without_credentials_is_401(gateway: Gateway, tpp: str) -> None:
    """WSO2 test P02."""
    reply = gateway.poll(tpp, {}, auth=None)
    assert reply.status == 401
    assert "www-authenticate" in reply.headers


@pytest.mark.parametrize("sent", ["absent", "blank"])
def test_p03_a_poll_that_names_no_client_is_400_in_wso2s_words(gateway: Gateway, sent: str) -> None:
    """WSO2 test P03; a blank header counts as missing (wso2.md 1.3), and the words name the generation's spelling."""
    path = f"{BASES[gateway.generation]}/events"
    headers = {"Content-Type": FORM, **({gateway.client_header: " "} if sent == "blank" else {})}
    reply = gateway.server.request("POST", path, field({}), headers, BANK)
    assert reply.status == 400
    assert reply.body == error("missing_request_header", f"Missing header x-wso2-client{gateway.own_spelling}")


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "multipart/form-data; boundary=x", FORM + "x"]
)
def test_p04_a_poll_in_another_media_type_is_415(gateway: Gateway, tpp: str, content_type: str) -> None:
    """WSO2 test P04; decision 21: the same in every profile."""
    body = json.dumps({"maxEvents": 1})
    headers = {gateway.client_header: tpp, "Content-Type": content_type}
    assert gateway.send("events", body, headers).status == 415


def test_p05_a_poll_without_a_media_type_is_415(gateway: Gateway, tpp: str) -> None:
    """WSO2 test P05."""
    assert gateway.send("events", field({}), {gateway.client_header: tpp, "Content-Type": ""}).status == 415


@pytest.mark.parametrize("body", [None, b"", b"other=e30="])
def test_p06_a_poll_without_the_field_is_400_in_wso2s_words(gateway: Gateway, tpp: str, body: bytes | None) -> None:
    """WSO2 test P06."""
    reply = gateway.send("events", body, {gateway.client_header: tpp})
    assert reply.status == 400
    assert reply.body == error("missing_request_payload", "No request payload found")


@pytest.mark.parametrize("body", ["request=", "request=%20", "request=%0D%0A", "request=[]"])
def test_p07_a_poll_with_an_empty_field_is_400_in_wso2s_words(gateway: Gateway, tpp: str, body: str) -> None:
    """WSO2 test P07; what is removed before the blank check: wso2.md 1.3, step 2."""
    reply = gateway.send("events", body, {gateway.client_header: tpp})
    assert reply.status == 400
    assert reply.body == error("invalid_request_payload", "Request payload cannot be empty")


def test_e01_to_e04_six_notifications_are_created_polled_acknowledged_and_reported(gateway: Gateway, tpp: str) -> None:
    """WSO2 tests E01 to E04, in their order, with the exact ids and counts that WSO2's suite leaves out."""
    made = []
    for _ in range(6):
        reply = gateway.create(tpp, C3)  # E01
        assert reply.status == 201
        assert list(reply.json) == ["notificationsID"]
        made.append(reply.json["notificationsID"])
    assert len(set(made)) == 6

    first = gateway.poll(tpp, {"returnImmediately": True, "maxEvents": 2})  # E02
    assert (first.status, first.json["moreAvailable"], list(first.json["sets"])) == (200, True, made[:2])

    settle = {"ack": [made[0]], "setErrs": {made[1]: ERROR}}
    second = gateway.poll(tpp, {"returnImmediately": True, "maxEvents": 2, **settle})  # E03
    assert (second.status, second.json["moreAvailable"], list(second.json["sets"])) == (200, True, made[2:4])

    settle = {"ack": [made[2]], "setErrs": {made[3]: ERROR}}
    third = gateway.poll(tpp, {"returnImmediately": True, "maxEvents": 0, **settle})  # E04
    assert third.status == 200
    assert third.body == b'{"moreAvailable":true,"sets":{}}'

    stream = gateway.server.bank("GET", f"/streams/{tpp}").json
    assert (stream["pending"], stream["in_flight"], stream["parked"], stream["acked"]) == (2, 0, 2, 2)
    parked = gateway.server.bank("GET", f"/streams/{tpp}/sets?state=parked").json["sets"]
    assert [(each["jti"], each["err"], each["description"]) for each in parked] == [
        (jti, ERROR["err"], ERROR["description"]) for jti in (made[1], made[3])
    ]


def test_c01_creating_three_types_answers_201_with_a_uuid(gateway: Gateway, tpp: str) -> None:
    """WSO2 test C01; the id is a UUID and is the jti (wso2.md 1.6)."""
    reply = gateway.create(tpp, C3)
    assert reply.status == 201
    assert reply.headers["content-type"].startswith("application/json")
    jti = reply.json["notificationsID"]
    assert str(uuid.UUID(jti)) == jti
    assert list(gateway.poll(tpp, {}).json["sets"]) == [jti]


def test_c02_creating_without_a_client_is_400_in_wso2s_words(gateway: Gateway, tpp: str) -> None:
    """WSO2 test C02."""
    reply = gateway.create(tpp, C3, {gateway.client_header: ""})
    assert reply.status == 400
    assert reply.body == error("missing_request_header", f"Missing header x-wso2-client{gateway.own_spelling}")


def test_c03_creating_without_credentials_is_401(gateway: Gateway, tpp: str) -> None:
    """WSO2 test C03."""
    assert gateway.create(tpp, C3, auth=None).status == 401


def test_c04_creating_with_garbage_for_credentials_is_401(gateway: Gateway, tpp: str) -> None:
    """WSO2 test C04."""
    reply = gateway.create(tpp, C3, {"Authorization": "Basic garbage"}, auth=None)
    assert reply.status == 401
    assert "www-authenticate" in reply.headers


def test_c05_creating_without_a_resource_is_400_in_wso2s_words(gateway: Gateway, tpp: str) -> None:
    """WSO2 test C05."""
    reply = gateway.create(tpp, C3, {gateway.resource_header: ""})
    assert reply.status == 400
    assert reply.body == error("missing_request_header", f"Missing header x-wso2-resource{gateway.own_spelling}")


def test_c06_creating_without_a_body_is_400_in_wso2s_words(gateway: Gateway, tpp: str) -> None:
    """WSO2 test C06."""
    reply = gateway.send("create-events", None, {gateway.client_header: tpp, gateway.resource_header: CONSENT})
    assert reply.status == 400
    assert reply.body == error("missing_request_payload", "No request payload found")


# -- reading the field ------------------------------------------------------------------------------------------

PLUS = {"maxEvents": 1, "note": "~~~>>>~~~"}


def spelt(how: str, value: Any) -> str:
    """The field's base64 as some client may write it."""
    text = encoded(value)
    wrapped = "\n".join(text[i : i + 20] for i in range(0, len(text), 20))
    ways = {
        "not URL-encoded": text,
        "URL-encoded": quote(text, safe=""),
        "without padding": text.rstrip("="),
        "wrapped at line feeds": wrapped,
        "wrapped at CRLF": wrapped.replace("\n", "\r\n"),
        "wrapped, URL-encoded": quote(wrapped, safe=""),
        "wrapped with a backslash and an n": wrapped.replace("\n", "\\n"),
        "wrapped with both backslashed": wrapped.replace("\n", "\\r\\n"),
        "in a list's brackets": f"[{text}]",
        "with blanks around": f"%20{quote(text, safe='')}%20",
    }
    return ways[how]


@pytest.mark.parametrize(
    "how",
    [
        "not URL-encoded",
        "URL-encoded",
        "without padding",
        "wrapped at line feeds",
        "wrapped at CRLF",
        "wrapped, URL-encoded",
        "wrapped with a backslash and an n",
        "wrapped with both backslashed",
        "in a list's brackets",
        "with blanks around",
    ],
)
def test_base64_is_read_however_a_client_writes_it(generation: Gateway, tpp: str, how: str) -> None:
    """wso2.md 1.3 steps 2 and 4; a + that is not URL-encoded comes as a space and breaks WSO2 itself, not us."""
    made = [generation.server.push(tpp) for _ in range(2)]
    assert "+" in encoded(PLUS)
    assert encoded(PLUS).endswith("=")
    reply = generation.send("events", "request=" + spelt(how, PLUS), {generation.client_header: tpp})
    assert reply.status == 200, reply.body
    assert (list(reply.json["sets"]), reply.json["moreAvailable"]) == (made[:1], True)


BAD_FIELDS = {
    "no base64": "request=%%%",
    "a letter that base64 has not": "request=e30*",
    "one character left over": "request=e30=e",
    "the URL-safe alphabet": "request=" + base64.urlsafe_b64encode(json.dumps(PLUS).encode()).decode(),
    "JSON that is not encoded": "request={}",
    "base64 of what is not UTF-8": "request=/////w==",
    "two fields": f"{field({})}&{field({})}",
    "no JSON": field("maxEvents: 2"),
    "single quotes": field("{'maxEvents': 2}"),
    "bare names": field("{maxEvents: 2}"),
    "a trailing comma": field('{"maxEvents": 2,}'),
    "something after the object": field('{"maxEvents": 2} x'),
    "a member twice": field('{"maxEvents": 2, "maxEvents": 3}'),
    "NaN": field('{"maxEvents": NaN}'),
    "bottomless nesting": field('{"a":' * 5000),
    "an array": field([]),
    "a string": field('"maxEvents"'),
    "a number": field(3),
    "null": field("null"),
}


@pytest.mark.parametrize("case", BAD_FIELDS)
def test_a_field_that_cannot_be_read_is_400_in_wso2s_words(generation: Gateway, tpp: str, case: str) -> None:
    """wso2.md 1.5, and 400 where WSO2 itself falls over with 500; strict JSON: decision 16."""
    reply = generation.send("events", BAD_FIELDS[case], {generation.client_header: tpp})
    assert reply.status == 400
    assert reply.headers["content-type"] == "application/json; charset=utf-8"
    assert reply.body == error("invalid_request_payload", "Error in the request payload")


BAD_MEMBERS: dict[str, Any] = {
    "ack is a string": {"ack": "JTI"},
    "ack is an object": {"ack": {"JTI": True}},
    "setErrs is an array": {"setErrs": ["JTI"]},
    "setErrs is a string": {"setErrs": "JTI"},
    "an error is a string": {"setErrs": {"JTI": "jwtIss"}},
    "an error is null": {"setErrs": {"JTI": None}},
    "err is missing": {"setErrs": {"JTI": {"description": "no"}}},
    "description is missing": {"setErrs": {"JTI": {"err": "jwtIss"}}},
    "description is null": {"setErrs": {"JTI": {"err": "jwtIss", "description": None}}},
    "err is a number": {"setErrs": {"JTI": {"err": 3, "description": "no"}}},
    "maxEvents is a fraction": {"maxEvents": 2.5},
    "maxEvents is a word": {"maxEvents": "abc"},
    "maxEvents is a fraction in quotes": {"maxEvents": "2.5"},
    "maxEvents is blank": {"maxEvents": ""},
    "maxEvents is true": {"maxEvents": True},
    "maxEvents is a list": {"maxEvents": [3]},
    "maxEvents is negative": {"maxEvents": -1},
    "maxEvents is negative in quotes": {"maxEvents": "-1"},
}


@pytest.mark.parametrize("case", BAD_MEMBERS)
def test_a_member_of_the_wrong_kind_is_400_and_settles_nothing(generation: Gateway, tpp: str, case: str) -> None:
    """wso2.md 1.3 step 7 (500 there); decisions 9 and 16: nothing of a refused request takes effect."""
    jti, other = (generation.server.push(tpp) for _ in range(2))
    members = json.loads(json.dumps(BAD_MEMBERS[case]).replace("JTI", jti))
    reply = generation.poll(tpp, {"ack": [other], **members})
    assert reply.status == 400
    assert reply.body == error("invalid_request_payload", "Error in the request payload")
    stream = generation.server.bank("GET", f"/streams/{tpp}").json
    assert (stream["pending"], stream["in_flight"], stream["parked"], stream["acked"]) == (2, 0, 0, 0)


@pytest.mark.parametrize(("asked", "given"), [("3", 3), (3, 3), ("+2", 2), (0, 0), ("0", 0), (999_999, 4), ("007", 4)])
def test_max_events_may_be_a_number_or_one_in_quotes(
    generation: Gateway, tpp: str, asked: str | int, given: int
) -> None:
    """wso2.md 1.3: Integer.parseInt of what stands there; decision 9."""
    made = [generation.server.push(tpp) for _ in range(4)]
    reply = generation.poll(tpp, {"maxEvents": asked})
    assert (list(reply.json["sets"]), reply.json["moreAvailable"]) == (made[:given], given < 4)


@pytest.mark.parametrize("value", [True, False, "false", "whatever", None, 0, 1.5, [], {}])
def test_return_immediately_of_any_kind_is_taken_and_never_waits(migrated: Server, value: Any) -> None:
    """wso2.md 1.3 step 7: the member is never read; decision 10: always immediate. A hold here would be 28 s."""
    gateway = Gateway(migrated, 4, "-")
    tpp = f"now-{uuid.uuid4().hex[:8]}"
    migrated.tpp(tpp)
    assert gateway.poll(tpp, {"returnImmediately": value}, timeout=20).status == 404
    jti = migrated.push(tpp)
    assert list(gateway.poll(tpp, {"returnImmediately": value}, timeout=20).json["sets"]) == [jti]


def test_unknown_members_are_ignored(generation: Gateway, tpp: str) -> None:
    """wso2.md 1.3 step 7: there is no schema validation."""
    jti = generation.server.push(tpp)
    assert list(generation.poll(tpp, {"timeoutSecs": 3, "sets": {}, "acks": ["x"]}).json["sets"]) == [jti]


@pytest.mark.parametrize("megabytes", [1.2, 3])
def test_a_body_over_a_mebibyte_is_413(generation: Gateway, tpp: str, megabytes: float) -> None:
    """Decision 16: 413 for size, measured on the JSON that the field holds."""
    reply = generation.poll(tpp, {"note": "x" * int(megabytes * 1_048_576)})
    assert reply.status == 413
    assert list(reply.json) == ["error_description", "error"]


# -- who is polled for ------------------------------------------------------------------------------------------


def test_a_client_that_has_no_stream_is_told_so_in_wso2s_words(generation: Gateway) -> None:
    """wso2.md 1.3 step 8: the two dots and the blank at the end are real."""
    reply = generation.poll("nobody-here", {})
    assert reply.status == 400
    words = "A client was not found for the client id : 'nobody-here' in the database.. "
    assert reply.body == error("invalid_request", words)


def test_both_spellings_with_different_values_are_refused(gateway: Gateway, tpp: str) -> None:
    """Two names for one header are how a TPP would slip its own past a gateway that sets the other."""
    victim = f"{tpp}-victim"
    gateway.server.tpp(victim)
    jti = gateway.server.push(victim)
    both = {"x-wso2-client_id": tpp, "x-wso2-client-id": victim}
    for headers in (both, dict(reversed(both.items()))):
        for auth in (BANK, (tpp, gateway.server.secrets[tpp])):
            reply = gateway.send("events", field({"ack": [jti]}), headers, auth)
            assert reply.status in (400, 403), reply.body
            assert list(reply.json) == ["error_description", "error"]
    assert gateway.server.bank("GET", f"/streams/{victim}").json["pending"] == 1


@pytest.mark.parametrize("both", ["client", "resource"])
def test_both_spellings_are_refused_when_creating_too(gateway: Gateway, tpp: str, both: str) -> None:
    """The same trick, with each header of create-events."""
    other = f"{tpp}-other"
    gateway.server.tpp(other)
    twice = {f"x-wso2-{both}_id": tpp, f"x-wso2-{both}-id": other}
    assert gateway.create(tpp, C3, twice).status == 400
    assert [gateway.server.bank("GET", f"/streams/{name}").json["pending"] for name in (tpp, other)] == [0, 0]


def test_the_banks_credentials_poll_for_the_tpp_that_the_header_names(gateway: Gateway, tpp: str) -> None:
    """Profile table of decisions.md; gunicorn drops names with an underscore unless told."""
    other = f"{tpp}-b"
    gateway.server.tpp(other)
    mine, theirs = gateway.server.push(tpp), gateway.server.push(other)
    assert list(gateway.poll(tpp, {}).json["sets"]) == [mine]
    assert list(gateway.poll(other, {}).json["sets"]) == [theirs]


def test_a_tpps_own_credentials_poll_its_own_stream_and_may_name_no_other(gateway: Gateway, tpp: str) -> None:
    """Profile table of decisions.md."""
    other = f"{tpp}-b"
    gateway.server.tpp(other)
    mine, theirs = gateway.server.push(tpp), gateway.server.push(other)
    own = (tpp, gateway.server.secrets[tpp])
    assert list(gateway.send("events", field({}), {}, own).json["sets"]) == [mine]
    assert list(gateway.poll(tpp, {}, auth=own).json["sets"]) == [mine]
    for named in (other, "nobody-here", "a name with blanks"):
        reply = gateway.poll(named, {"ack": [theirs]}, auth=own)
        assert reply.status == 403
        assert reply.json["error"] == "access_denied"
    assert gateway.server.bank("GET", f"/streams/{other}").json["pending"] == 1


@pytest.mark.parametrize("name", ["a b", "{a}", "a,b", "a/b", "x" * 129])
def test_a_client_that_can_be_nobodys_name_is_400(generation: Gateway, tpp: str, name: str) -> None:
    """Smaller ones of decisions.md: anything else is 400 wherever a name is given."""
    for reply in (generation.poll(name, {}), generation.create(name, C3)):
        assert reply.status == 400
        assert list(reply.json) == ["error_description", "error"]


# -- what comes back --------------------------------------------------------------------------------------------


def test_the_answer_has_more_available_before_sets(generation: Gateway, tpp: str) -> None:
    """wso2.md 1.5: the order of the members on the wire, and the content type with its parameter."""
    jti = generation.server.push(tpp)
    reply = generation.poll(tpp, {"maxEvents": 1})
    assert reply.body.startswith(b'{"moreAvailable":false,"sets":{"' + jti.encode() + b'":"')
    assert reply.headers["content-type"] == "application/json; charset=utf-8"


def test_an_empty_poll_is_200_unless_asked_otherwise(generation: Gateway, tpp: str) -> None:
    """Decision 15."""
    reply = generation.poll(tpp, {})
    assert (reply.status, reply.body) == (200, b'{"moreAvailable":false,"sets":{}}')


def test_an_unacknowledged_set_comes_again_with_the_same_bytes(generation: Gateway, tpp: str) -> None:
    """Decision 2; WSO2 itself signs anew at each poll, with another txn and iat."""
    generation.create(tpp, C3)
    assert generation.poll(tpp, {}).body == generation.poll(tpp, {}).body


def test_any_method_but_post_is_405(generation: Gateway) -> None:
    """wso2.md 1.2: only POST is defined; decision 22."""
    for call in ("events", "create-events"):
        reply = generation.server.request("GET", f"{BASES[generation.generation]}/{call}", auth=BANK)
        assert (reply.status, reply.headers["allow"]) == (405, "POST")
        assert list(reply.json) == ["error_description", "error"]


@pytest.mark.parametrize("number", [3, 4])
def test_empty_is_404_for_those_who_migrate(migrated: Server, number: int) -> None:
    """Decision 15: EVENTPOLL_WSO2_EMPTY_STATUS=404, with WSO2's own body; something to return is 200."""
    gateway, tpp = Gateway(migrated, number, "-"), f"migrated-{number}"
    migrated.tpp(tpp)
    empty = gateway.poll(tpp, {})
    assert (empty.status, empty.body) == (404, b'{"moreAvailable":false,"sets":{}}')
    assert empty.headers["content-type"] == "application/json; charset=utf-8"
    jti = migrated.push(tpp)
    assert gateway.poll(tpp, {}).status == 200
    acked = gateway.poll(tpp, {"ack": [jti]})
    assert (acked.status, acked.body) == (404, b'{"moreAvailable":false,"sets":{}}')


@pytest.mark.parametrize("number", [3, 4])
def test_an_acknowledgement_alone_is_200_for_those_who_migrate_too(migrated: Server, number: int) -> None:
    """wso2.md 1.4: maxEvents 0 fetches nothing and is 200; 404 is for maxEvents other than 0."""
    gateway, tpp = Gateway(migrated, number, "-"), f"acks-{number}"
    migrated.tpp(tpp)
    jti = migrated.push(tpp)
    waiting = gateway.poll(tpp, {"maxEvents": 0})
    assert (waiting.status, waiting.body) == (200, b'{"moreAvailable":true,"sets":{}}')
    last = gateway.poll(tpp, {"maxEvents": 0, "ack": [jti]})
    assert (last.status, last.body) == (200, b'{"moreAvailable":false,"sets":{}}')


def test_the_other_profiles_know_no_404_for_empty(migrated: Server) -> None:
    """Decision 15: 200 in every other profile, whatever WSO2's setting."""
    migrated.tpp("others")
    for path in ("/events", "/open-banking/v3.1/events", "/open-banking/v4.0/events"):
        reply = migrated.poll("others", {"returnImmediately": True}, path)
        assert (reply.status, reply.json) == (200, {"sets": {}, "moreAvailable": False})


# -- create-events ----------------------------------------------------------------------------------------------


def test_a_created_set_is_what_wso2_would_have_signed(gateway: Gateway, tpp: str) -> None:
    """wso2.md 1.6: a bare header, the claims in this order, toe in milliseconds on 3.x and in seconds on 4.x."""
    reply = gateway.create(tpp, C3)
    jti = reply.json["notificationsID"]
    secevent = gateway.poll(tpp, {}).json["sets"][jti]

    assert base64.urlsafe_b64decode(secevent.split(".")[0] + "==").replace(b" ", b"") == b'{"alg":"RS256"}'
    jwks = gateway.server.request("GET", "/.well-known/jwks.json").json
    claims = jwt.decode(secevent, jwt.PyJWKSet.from_dict(jwks).keys[0].key, ["RS256"], audience=tpp, issuer=ISSUER)
    assert list(claims) == ["sub", "aud", "iss", "txn", "toe", "iat", "jti", "events"]
    assert (claims["sub"], claims["aud"], claims["jti"]) == (tpp, tpp, jti)
    assert str(uuid.UUID(claims["txn"])) == claims["txn"]
    toe = claims["toe"] / 1000 if gateway.generation == 3 else claims["toe"]
    assert type(claims["toe"]) is type(claims["iat"]) is int
    assert abs(toe - claims["iat"]) <= 1
    assert claims["events"] == C3
    assert list(claims["events"]) == list(C3)


def test_events_reach_the_tpp_to_the_letter(generation: Gateway, tpp: str) -> None:
    """wso2.md 1.6: the event JSON exactly as created. Digits, escapes, order and blanks stay."""
    events = (
        '{"any name": {"z":1.10, "a" : 1E5,"big":123456789012345678901234567890,"e":"\\u00e9","é":"ü/\\/"}, "b":{}}'
    )
    jti = generation.create(tpp, events).json["notificationsID"]
    assert f'"events":{events}'.encode() in payload_of(generation.poll(tpp, {}).json["sets"][jti])


def test_an_idempotency_key_makes_a_retry_the_same_notification(generation: Gateway, tpp: str) -> None:
    """Decision 18 for create-events: without the key each call is a notification of its own, as at WSO2's."""
    other = f"{tpp}-b"
    generation.server.tpp(other, set_profile="wso2")
    key = {"x-idempotency-key": "retry-1"}
    first = generation.create(tpp, C3, key)
    again = generation.create(tpp, C3, key)
    assert (first.status, again.status) == (201, 201)
    assert first.json == again.json
    elsewhere = generation.create(other, C3, key)
    ids = {generation.create(tpp, C3, {"x-idempotency-key": "retry-2"}).json["notificationsID"]}
    ids |= {generation.create(tpp, C3).json["notificationsID"] for _ in range(2)}
    ids |= {first.json["notificationsID"], elsewhere.json["notificationsID"]}
    assert len(ids) == 5
    assert generation.server.bank("GET", f"/streams/{tpp}").json["pending"] == 4


def test_an_idempotency_key_with_other_events_is_409(generation: Gateway, tpp: str) -> None:
    """Decision 18: the first one is kept."""
    key = {"x-idempotency-key": "once"}
    jti = generation.create(tpp, {"urn:a": {"n": 1}}, key).json["notificationsID"]
    refused = generation.create(tpp, {"urn:a": {"n": 2}}, key)
    assert refused.status == 409
    assert list(refused.json) == ["error_description", "error"]
    assert json.loads(payload_of(generation.poll(tpp, {}).json["sets"][jti]))["events"] == {"urn:a": {"n": 1}}


def test_a_retry_after_the_ack_brings_nothing_back(generation: Gateway, tpp: str) -> None:
    """Decision 18: pushed again after its ack, within the dedupe window, it is a repeat."""
    key = {"x-idempotency-key": "late"}
    first = generation.create(tpp, C3, key)
    jti = first.json["notificationsID"]
    generation.poll(tpp, {"ack": [jti], "maxEvents": 0})
    late = generation.create(tpp, C3, key)
    assert (late.status, late.json) == (201, first.json)
    assert generation.poll(tpp, {}).json["sets"] == {}


def test_creating_for_an_unknown_client_is_400_in_wso2s_words(generation: Gateway) -> None:
    """wso2.md 1.7: here with one dot and the blank."""
    reply = generation.create("nobody-here", C3)
    assert reply.status == 400
    words = "A client was not found for the client id : 'nobody-here' in the database. "
    assert reply.body == error("invalid_request", words)


@pytest.mark.parametrize("character", list("!@#$%&*()'+,./:;<=>?[]^_`{|}"))
def test_a_resource_with_a_forbidden_character_is_400(shared_server: Server, character: str) -> None:
    """wso2.md 1.7: each of them, and the words."""
    gateway = Gateway(shared_server, 3, "_")
    reply = gateway.create("nobody-here", C3, {gateway.resource_header: f"a{character}b"})
    assert reply.status == 400
    assert reply.body == error("invalid_request_header", "Invalid characters found in the request headers")


@pytest.mark.parametrize("resource", [CONSENT, "consent-7", 'a"b~c\\d'])
def test_a_resource_with_any_other_character_is_taken(generation: Gateway, tpp: str, resource: str) -> None:
    """wso2.md 1.7: a UUID with hyphens is fine."""
    assert generation.create(tpp, C3, {generation.resource_header: resource}).status == 201


BAD_CREATIONS = {
    "an array": (field([]), "invalid_request_payload", "Error in the request payload"),
    "a string": (field('"x"'), "invalid_request_payload", "Error in the request payload"),
    "no JSON": (field("{urn:a: {}}"), "invalid_request_payload", "Error in the request payload"),
    "bad base64": ("request=%%%", "invalid_request_payload", "Error in the request payload"),
    "an event that is a string": (field({"urn:a": "x"}), "invalid_request_payload", "Error in the request payload"),
    "an event that is an array": (field({"urn:a": []}), "invalid_request_payload", "Error in the request payload"),
    "an event that is null": (field({"urn:a": None}), "invalid_request_payload", "Error in the request payload"),
    "a good and a bad event": (
        field({"urn:a": {}, "urn:b": 1}),
        "invalid_request_payload",
        "Error in the request payload",
    ),
    "a lone surrogate": (
        field({"urn:a": {"x": "\ud800"}}),
        "invalid_request_payload",
        "The events have a lone surrogate, which is no well-formed Unicode",
    ),
    "a lone surrogate in a name": (
        field({"urn:a": {"\ud800": 1}}),
        "invalid_request_payload",
        "The events have a lone surrogate, which is no well-formed Unicode",
    ),
    "no events": (field({}), "invalid_request", "Error in event creation request payload"),
}


@pytest.mark.parametrize("case", BAD_CREATIONS)
def test_events_that_cannot_be_read_are_400_in_wso2s_words(generation: Gateway, tpp: str, case: str) -> None:
    """wso2.md 1.7; 400 where WSO2 itself answers 500."""
    body, code, words = BAD_CREATIONS[case]
    headers = {generation.client_header: tpp, generation.resource_header: CONSENT}
    reply = generation.send("create-events", body, headers)
    assert reply.status == 400
    assert reply.body == error(code, words)
    assert generation.server.bank("GET", f"/streams/{tpp}").json["pending"] == 0


def test_an_empty_field_is_400_when_creating(generation: Gateway, tpp: str) -> None:
    """wso2.md 1.7: we answer 400."""
    headers = {generation.client_header: tpp, generation.resource_header: CONSENT}
    reply = generation.send("create-events", "request=", headers)
    assert reply.status == 400
    assert reply.json["error"] == "invalid_request_payload"


def test_what_is_wrong_is_told_in_wso2s_order(generation: Gateway) -> None:
    """wso2.md 1.7: field, base64, JSON, client header, resource header, its characters, the events, the client."""
    client, resource = generation.client_header, generation.resource_header
    steps: list[tuple[str | None, dict[str, str], str]] = [
        (None, {}, "No request payload found"),
        (field("x"), {}, "Error in the request payload"),
        (field({"urn:a": 1}), {}, f"Missing header {client}"),
        (field({"urn:a": 1}), {client: "nobody-here"}, f"Missing header {resource}"),
        (
            field({"urn:a": 1}),
            {client: "nobody-here", resource: "a_b"},
            "Invalid characters found in the request headers",
        ),
        (field({"urn:a": 1}), {client: "nobody-here", resource: "a-b"}, "Error in the request payload"),
    ]
    for body, headers, words in steps:
        reply = generation.send("create-events", body, headers)
        assert (reply.status, reply.json["error_description"]) == (400, words)


def test_a_polls_field_is_judged_before_its_client(generation: Gateway) -> None:
    """wso2.md 1.3: the client header is checked only once the JSON is read, and before its members are."""
    assert generation.send("events", None, {}).json["error"] == "missing_request_payload"
    assert generation.send("events", field("x"), {}).json["error"] == "invalid_request_payload"
    assert generation.send("events", field({"ack": 1}), {}).json["error"] == "missing_request_header"


def test_only_the_bank_creates_events(gateway: Gateway, tpp: str) -> None:
    """interface.md: create-events is among the bank's calls."""
    reply = gateway.create(tpp, C3, auth=(tpp, gateway.server.secrets[tpp]))
    assert reply.status == 403
    assert "www-authenticate" not in reply.headers
    assert gateway.server.bank("GET", f"/streams/{tpp}").json["pending"] == 0


def test_what_one_generation_created_the_other_polls(generation: Gateway, tpp: str) -> None:
    """decisions.md: one store and one set of rules; a profile changes only how one speaks."""
    jti = generation.create(tpp, C3).json["notificationsID"]
    other = replace(generation, generation=7 - generation.generation)
    secevent = other.poll(tpp, {}).json["sets"][jti]
    assert generation.server.poll(tpp, {"returnImmediately": True}).json["sets"] == {jti: secevent}
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", secevent)
