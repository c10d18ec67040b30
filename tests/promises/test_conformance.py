"""What the standards ask of a poll, line by line, over real sockets and in every profile."""

import base64
import http.client
import json
import socket
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest

from harness.redis_servers import RedisServer
from harness.service import BANK, BANK_SETTINGS, Reply, Server, basic, start_server
from harness.sets import set_of
from harness.waiting import wait_for
from tests.accept_shapes import EXCLUDES_JSON, TAKES_JSON

RFC = "/events"
OBIE_3, OBIE_4 = "/open-banking/v3.1/events", "/open-banking/v4.0/events"
WSO2_3, WSO2_4 = "/api/openbanking/event-notifications/events", "/api/fs/event-notifications/events"
OBIE, WSO2 = (OBIE_3, OBIE_4), (WSO2_3, WSO2_4)
JSON_PATHS = (RFC, *OBIE)
PATHS = (*JSON_PATHS, *WSO2)
NOW = {"returnImmediately": True}
ERROR = {"err": "jwtIss", "description": "Issuer is invalid or could not be verified"}
MIB = 1_048_576

every_path = pytest.mark.parametrize("path", PATHS)
json_paths = pytest.mark.parametrize("path", JSON_PATHS)
obie_paths = pytest.mark.parametrize("path", OBIE)
wso2_paths = pytest.mark.parametrize("path", WSO2)


@pytest.fixture
def tpp(shared_server: Server) -> str:
    """A new stream on the shared server."""
    return new_stream(shared_server)


@pytest.fixture(scope="module")
def patient(redis_server: RedisServer, signing_keys: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that holds polls for 25 s, and hands out 2 SETs where nothing is said, 3 at most."""
    environ = {
        "REDIS_URL": redis_server.url.removesuffix("0") + "2",
        **BANK_SETTINGS,
        "EVENTPOLL_LONG_POLL_SECONDS": "25",
        "EVENTPOLL_NUMBER_OF_SETS_TO_RETURN": "2",
        "EVENTPOLL_MAX_EVENTS": "3",
    }
    server = start_server(environ, tmp_path_factory.mktemp("patient"))
    yield server
    server.stop()


def new_stream(server: Server) -> str:
    """A stream that no other test has."""
    name = f"tpp-{uuid.uuid4().hex}"
    server.tpp(name)
    return name


def queue(server: Server, tpp: str, *jtis: str) -> dict[str, str]:
    """Push a signed SET for each jti; jti -> SET."""
    secevents = {jti: set_of(jti) for jti in jtis}
    for secevent in secevents.values():
        reply = server.request(
            "POST", f"/streams/{tpp}/sets", secevent, {"Content-Type": "application/secevent+jwt"}, BANK
        )
        assert reply.status == 202, reply.body
    return secevents


def encode(path: str, members: Any) -> tuple[bytes, str]:
    """A request's body and its media type in the profile of `path`; bytes are taken as JSON text already."""
    text = members if isinstance(members, bytes) else json.dumps(members).encode()
    if path in WSO2:
        return b"request=" + quote(base64.b64encode(text)).encode(), "application/x-www-form-urlencoded"
    return text, "application/json"


def ask(server: Server, path: str, tpp: str, members: Any = None, **headers: str) -> Reply:
    """A TPP's poll in the profile of `path`; a header is given with _ for -."""
    body, media_type = encode(path, {} if members is None else members)
    sent = {"Content-Type": media_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return server.request("POST", path, body, sent, (tpp, server.secrets[tpp]))


def polled(server: Server, path: str, tpp: str, **members: Any) -> Any:
    """The answer to an immediate poll that must succeed."""
    reply = ask(server, path, tpp, {**NOW, **members})
    assert reply.status == 200, reply.body
    return reply.json


def assert_common_headers(reply: Reply) -> None:
    """What every answer carries (decision 26)."""
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-fapi-interaction-id"]


def assert_refused(reply: Reply, path: str, status: int) -> Any:
    """A refusal in the one shape of the profile of `path`; its body, read."""
    assert reply.status == status, (reply.status, reply.body)
    assert_common_headers(reply)
    if status == 401 and path in OBIE:
        assert reply.body == b""
        assert "content-type" not in reply.headers
        return None
    assert reply.headers["content-type"].startswith("application/json")
    told = reply.json
    if path == RFC:
        assert list(told) == ["err", "description"]
        assert all(isinstance(value, str) and value for value in told.values())
    elif path in WSO2:
        assert list(told) == ["error_description", "error"]
        assert all(isinstance(value, str) and value for value in told.values())
    else:
        (error,) = told["Errors"]
        assert set(error) <= {"ErrorCode", "Message", "Path"}
        assert {"ErrorCode", "Message"} <= set(error)
        assert 1 <= len(error["Message"]) <= 500
        assert 1 <= len(error.get("Path", "-")) <= 500
        if path == OBIE_3:
            assert list(told) == ["Code", "Id", "Message", "Errors"]
            assert told["Code"].startswith(f"{status} ")
            assert len(told["Code"]) <= 40
            assert 1 <= len(told["Id"]) <= 40
            assert 1 <= len(told["Message"]) <= 500
            assert error["ErrorCode"].startswith("UK.OBIE.")
        else:
            assert list(told) == ["Errors"]
            assert len(error["ErrorCode"]) == 4
    return told


# -- the answer -----------------------------------------------------------------------------------------------------


@every_path
def test_a_success_is_200_with_sets_by_jti_and_more_available(shared_server: Server, tpp: str, path: str) -> None:
    """RFC 8936 section 2.3: `sets` is an object, jti -> the encoded SET; OBIE asks for moreAvailable, always."""
    secevents = queue(shared_server, tpp, "a", "b")
    reply = ask(shared_server, path, tpp, NOW)
    assert reply.status == 200
    assert reply.json == {"sets": secevents, "moreAvailable": False}
    assert_common_headers(reply)


@pytest.mark.parametrize(
    ("path", "content_type"),
    [(RFC, "application/json"), *((path, "application/json; charset=utf-8") for path in (*OBIE, *WSO2))],
)
def test_the_answer_is_declared_as_its_profile_has_it(
    shared_server: Server, tpp: str, path: str, content_type: str
) -> None:
    """RFC 8936 section 2.3: application/json; OBIE's OAS and WSO2 add the charset."""
    assert ask(shared_server, path, tpp, NOW).headers["content-type"] == content_type


@every_path
def test_nothing_outstanding_is_200_with_an_empty_object(shared_server: Server, tpp: str, path: str) -> None:
    """RFC 8936 section 2.3: the object SHALL be empty; decision 15: 200 in every profile."""
    assert polled(shared_server, path, tpp) == {"sets": {}, "moreAvailable": False}


@every_path
def test_members_come_in_the_order_of_the_profile(shared_server: Server, tpp: str, path: str) -> None:
    """WSO2 writes moreAvailable before sets; elsewhere sets come first."""
    first, second = ("moreAvailable", "sets") if path in WSO2 else ("sets", "moreAvailable")
    assert list(polled(shared_server, path, tpp)) == [first, second]


@every_path
def test_sets_come_oldest_first(shared_server: Server, tpp: str, path: str) -> None:
    """Decision 1, and RFC 8936 section 2.2: oldest first may be used."""
    queue(shared_server, tpp, "z", "m", "a", "k")
    assert list(polled(shared_server, path, tpp)["sets"]) == ["z", "m", "a", "k"]


@every_path
def test_a_minted_set_is_delivered_as_a_string_under_its_own_jti(shared_server: Server, tpp: str, path: str) -> None:
    """RFC 8417 section 2.2: the key is the jti that the SET holds."""
    jti = shared_server.push(tpp)
    (secevent,) = polled(shared_server, path, tpp)["sets"].values()
    claims = secevent.split(".")[1]
    assert json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["jti"] == jti


@every_path
def test_a_jti_of_any_characters_comes_back_as_it_was(shared_server: Server, tpp: str, path: str) -> None:
    """RFC 8417 section 2.2: a jti is any string; decision 23: what is stored is delivered."""
    jti = 'quo"te \\ ünï 🏦 {x} , %41'
    secevents = queue(shared_server, tpp, jti)
    assert polled(shared_server, path, tpp)["sets"] == secevents
    assert polled(shared_server, path, tpp, ack=[jti])["sets"] == {}


# -- maxEvents and moreAvailable ------------------------------------------------------------------------------------


@every_path
def test_more_available_tells_whether_another_poll_could_return_more(
    shared_server: Server, tpp: str, path: str
) -> None:
    """RFC 8936 section 2.3 and decision 13: counted over what this answer does not hold."""
    queue(shared_server, tpp, "a", "b", "c")
    assert polled(shared_server, path, tpp, maxEvents=0) == {"sets": {}, "moreAvailable": True}
    page = polled(shared_server, path, tpp, maxEvents=2)
    assert (list(page["sets"]), page["moreAvailable"]) == (["a", "b"], True)
    page = polled(shared_server, path, tpp, ack=["a", "b"], maxEvents=1)
    assert (list(page["sets"]), page["moreAvailable"]) == (["c"], False)
    assert polled(shared_server, path, tpp, maxEvents=0) == {"sets": {}, "moreAvailable": True}
    assert polled(shared_server, path, tpp, ack=["c"], maxEvents=0) == {"sets": {}, "moreAvailable": False}


@every_path
def test_max_events_0_delivers_nothing(shared_server: Server, tpp: str, path: str) -> None:
    """RFC 8936 section 2.4.2 and decision 8: nothing counts as delivered."""
    queue(shared_server, tpp, "a")
    polled(shared_server, path, tpp, maxEvents=0)
    stream = shared_server.bank("GET", f"/streams/{tpp}").json
    assert (stream["pending"], stream["in_flight"], stream["delivered"]) == (1, 0, 0)


@every_path
@pytest.mark.parametrize(("members", "count"), [({}, 2), ({"maxEvents": 1}, 1), ({"maxEvents": 3}, 3)])
def test_max_events_bounds_the_answer(patient: Server, path: str, members: dict[str, int], count: int) -> None:
    """RFC 8936 section 2.2; decision 7: absent is NUMBER_OF_SETS_TO_RETURN."""
    tpp = new_stream(patient)
    queue(patient, tpp, "a", "b", "c", "d")
    page = polled(patient, path, tpp, **members)
    assert (list(page["sets"]), page["moreAvailable"]) == (["a", "b", "c", "d"][:count], True)


@every_path
@pytest.mark.parametrize("asked", [4, 999_999, 2**31, 2**63, 10**30, 10**3000], ids=lambda n: f"{len(str(n))}digits")
def test_max_events_over_the_limit_is_the_limit(patient: Server, path: str, asked: int) -> None:
    """Decision 7: never more than MAX_EVENTS, whatever number is asked."""
    tpp = new_stream(patient)
    queue(patient, tpp, "a", "b", "c", "d")
    page = polled(patient, path, tpp, maxEvents=asked)
    assert (list(page["sets"]), page["moreAvailable"]) == (["a", "b", "c"], True)


@wso2_paths
@pytest.mark.parametrize("asked", ["2", "+2", "02"])
def test_wso2_takes_max_events_as_a_string(shared_server: Server, tpp: str, path: str, asked: str) -> None:
    """Decision 9: WSO2 reads it with Integer.parseInt."""
    queue(shared_server, tpp, "a", "b", "c")
    assert list(polled(shared_server, path, tpp, maxEvents=asked)["sets"]) == ["a", "b"]


@wso2_paths
@pytest.mark.parametrize("asked", [False, None, "false", 0, [], {}])
def test_wso2_never_reads_return_immediately(patient: Server, path: str, asked: Any) -> None:
    """Decisions 9 and 10: any value is taken, and the answer is immediate; a held one would take 25 s."""
    tpp = new_stream(patient)
    begin = time.monotonic()
    assert ask(patient, path, tpp, {"returnImmediately": asked}).json == {"sets": {}, "moreAvailable": False}
    assert time.monotonic() - begin < 20


# -- ack, setErrs, redelivery ---------------------------------------------------------------------------------------


@every_path
def test_an_acknowledged_set_is_never_seen_again(shared_server: Server, tpp: str, path: str) -> None:
    """RFC 8936 section 2.4.3: poll with acknowledgement."""
    queue(shared_server, tpp, "a", "b", "c")
    polled(shared_server, path, tpp, maxEvents=2)
    assert list(polled(shared_server, path, tpp, ack=["a", "b"])["sets"]) == ["c"]
    assert list(polled(shared_server, path, tpp)["sets"]) == ["c"]


@every_path
def test_an_ack_of_what_is_unknown_or_repeated_is_200_without_effect(
    shared_server: Server, tpp: str, path: str
) -> None:
    """RFC 8936 section 2.4: a receiver acknowledges regardless; decision 3."""
    queue(shared_server, tpp, "a", "b")
    for _ in range(2):
        page = polled(shared_server, path, tpp, ack=["a", "a", "nobody-knows", "x" * 128])
        assert list(page["sets"]) == ["b"]


@every_path
def test_an_ack_settles_a_set_that_was_never_delivered(shared_server: Server, tpp: str, path: str) -> None:
    """Decision 3: whatever state the SET is in."""
    queue(shared_server, tpp, "a")
    assert polled(shared_server, path, tpp, ack=["a"]) == {"sets": {}, "moreAvailable": False}


@every_path
def test_a_jti_of_another_tpp_cannot_be_acknowledged_or_reported(shared_server: Server, tpp: str, path: str) -> None:
    """Decision 3: foreign jtis have no effect; WSO2 checks no client."""
    other = new_stream(shared_server)
    secevents = queue(shared_server, other, "a", "b")
    assert polled(shared_server, path, tpp, ack=["a"], setErrs={"b": ERROR}) == {"sets": {}, "moreAvailable": False}
    assert polled(shared_server, path, other)["sets"] == secevents


@every_path
def test_a_reported_set_is_parked_with_its_error(shared_server: Server, tpp: str, path: str) -> None:
    """RFC 8936 section 2.4.4 and decision 4: err values outside the registry are kept too."""
    queue(shared_server, tpp, "a")
    polled(shared_server, path, tpp)
    assert polled(shared_server, path, tpp, setErrs={"a": ERROR}) == {"sets": {}, "moreAvailable": False}
    (parked,) = shared_server.bank("GET", f"/streams/{tpp}/sets?state=parked").json["sets"]
    assert {name: parked[name] for name in ("jti", "state", *ERROR)} == {"jti": "a", "state": "parked", **ERROR}


@every_path
def test_an_error_about_an_unknown_jti_is_200_without_effect(shared_server: Server, tpp: str, path: str) -> None:
    """Decision 3, for setErrs: a SET may be gone when its error comes."""
    queue(shared_server, tpp, "a")
    assert list(polled(shared_server, path, tpp, setErrs={"nobody-knows": ERROR})["sets"]) == ["a"]


@every_path
def test_a_jti_in_ack_and_set_errs_is_settled(shared_server: Server, tpp: str, path: str) -> None:
    """Decision 5: ack wins, the error is recorded; go-ssf sends it so."""
    queue(shared_server, tpp, "a")
    polled(shared_server, path, tpp)
    assert polled(shared_server, path, tpp, ack=["a"], setErrs={"a": ERROR}) == {"sets": {}, "moreAvailable": False}
    record = shared_server.bank("GET", f"/streams/{tpp}/sets/a").json
    assert (record["state"], record["err"]) == ("settled", ERROR["err"])


@every_path
def test_a_parked_set_may_still_be_acknowledged(shared_server: Server, tpp: str, path: str) -> None:
    """Decision 3: ack settles for good, parked or not."""
    queue(shared_server, tpp, "a")
    polled(shared_server, path, tpp, setErrs={"a": ERROR})
    polled(shared_server, path, tpp, ack=["a"])
    assert shared_server.bank("GET", f"/streams/{tpp}/sets/a").json["state"] == "settled"


@every_path
def test_empty_acks_and_errors_are_as_good_as_none(shared_server: Server, tpp: str, path: str) -> None:
    """RFC 8936 section 2.2: omitted, [] or {} where there is nothing to tell."""
    secevents = queue(shared_server, tpp, "a")
    assert polled(shared_server, path, tpp, ack=[], setErrs={})["sets"] == secevents


@every_path
def test_an_unacknowledged_set_is_offered_again_byte_for_byte(shared_server: Server, tpp: str, path: str) -> None:
    """RFC 8936 section 2.4 and decision 2: signed once, delivered alike ever after."""
    jti = shared_server.push(tpp)
    first = ask(shared_server, path, tpp, NOW).body
    assert jti.encode() in first
    assert ask(shared_server, path, tpp, NOW).body == first


@every_path
def test_fresh_sets_go_before_those_offered_again(shared_server: Server, tpp: str, path: str) -> None:
    """Decision 1: who never acknowledges does not starve behind the first page."""
    queue(shared_server, tpp, "a", "b")
    polled(shared_server, path, tpp)
    queue(shared_server, tpp, "c")
    page = polled(shared_server, path, tpp, maxEvents=1)
    assert (list(page["sets"]), page["moreAvailable"]) == (["c"], True)
    assert list(polled(shared_server, path, tpp)["sets"]) == ["a", "b", "c"]


def test_what_one_profile_delivers_another_may_acknowledge(shared_server: Server, tpp: str) -> None:
    """One store, one set of rules: a profile never changes what happens to a SET."""
    queue(shared_server, tpp, *PATHS)
    for path, other in zip(PATHS, reversed(PATHS), strict=True):
        (jti,) = polled(shared_server, path, tpp, maxEvents=1)["sets"]
        polled(shared_server, other, tpp, maxEvents=0, ack=[jti])
    assert polled(shared_server, RFC, tpp) == {"sets": {}, "moreAvailable": False}


# -- the long poll --------------------------------------------------------------------------------------------------

HELD = [*((path, members) for path in JSON_PATHS for members in ({}, {"returnImmediately": False}))]
AT_ONCE = [
    *((path, NOW) for path in PATHS),
    *((path, {"maxEvents": 0, **NOW}) for path in PATHS),
    *((path, {"maxEvents": 0}) for path in (*OBIE, *WSO2)),
    *((path, {"maxEvents": 0, "returnImmediately": False}) for path in (*OBIE, *WSO2)),
    *((path, {}) for path in WSO2),
]


@pytest.mark.parametrize(("path", "members"), HELD)
def test_a_poll_that_may_wait_waits_for_the_next_set(patient: Server, path: str, members: dict[str, Any]) -> None:
    """RFC 8936 section 2.5: delayed until a SET is there; decision 10: in RFC 8936's and OBIE's profile."""
    tpp = new_stream(patient)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(ask, patient, path, tpp, members)
        wait_for(lambda: patient.bank("GET", f"/streams/{tpp}").json["last_poll"])
        secevents = queue(patient, tpp, "a")
        assert held.result(24).json == {"sets": secevents, "moreAvailable": False}


@pytest.mark.parametrize(("path", "members"), AT_ONCE)
def test_a_poll_that_may_not_wait_is_answered_at_once(patient: Server, path: str, members: dict[str, Any]) -> None:
    """RFC 8936 section 2.2; decisions 10 and 11: a held answer would take 25 s."""
    tpp = new_stream(patient)
    begin = time.monotonic()
    assert ask(patient, path, tpp, members).json == {"sets": {}, "moreAvailable": False}
    assert time.monotonic() - begin < 20


@json_paths
def test_a_poll_that_may_wait_does_not_when_there_is_something(patient: Server, path: str) -> None:
    """RFC 8936 section 2.5: with SETs available the answer is immediate."""
    tpp = new_stream(patient)
    secevents = queue(patient, tpp, "a")
    begin = time.monotonic()
    assert ask(patient, path, tpp, {}).json["sets"] == secevents
    assert time.monotonic() - begin < 20


def test_max_events_0_waits_on_the_rfc_path_and_returns_no_set(patient: Server) -> None:
    """RFC 8936 section 2.4.2: a long poll will still occur, though no SET is returned; decision 11."""
    tpp = new_stream(patient)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(ask, patient, RFC, tpp, {"maxEvents": 0})
        wait_for(lambda: patient.bank("GET", f"/streams/{tpp}").json["last_poll"])
        secevents = queue(patient, tpp, "a")
        assert held.result(24).json == {"sets": {}, "moreAvailable": True}
    assert polled(patient, RFC, tpp)["sets"] == secevents


def test_a_held_poll_ends_empty_when_its_time_is_up(shared_server: Server) -> None:
    """RFC 8936 section 2.5: 200 and an empty object; the shared server holds for 2 s."""

    def held(path: str, members: dict[str, Any]) -> tuple[float, Reply]:
        tpp = new_stream(shared_server)
        begin = time.monotonic()
        reply = ask(shared_server, path, tpp, members)
        return time.monotonic() - begin, reply

    asked: list[tuple[str, dict[str, Any]]] = [*((path, {}) for path in JSON_PATHS), (RFC, {"maxEvents": 0})]
    with ThreadPoolExecutor(len(asked)) as pool:
        for seconds, reply in pool.map(lambda one: held(*one), asked):
            assert seconds >= 1.9
            assert reply.status == 200
            assert reply.json == {"sets": {}, "moreAvailable": False}
            assert_common_headers(reply)


@json_paths
def test_acks_hold_before_the_wait_begins(patient: Server, path: str) -> None:
    """Decision 12: acks take effect before the hold; the client may be gone after it."""
    tpp = new_stream(patient)
    queue(patient, tpp, "a", "b")
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(ask, patient, path, tpp, {"ack": ["a"], "setErrs": {"b": ERROR}})
        wait_for(lambda: patient.bank("GET", f"/streams/{tpp}").json["acked"] == 1)
        assert patient.bank("GET", f"/streams/{tpp}").json["parked"] == 1
        secevents = queue(patient, tpp, "c")
        assert held.result(24).json["sets"] == secevents


# -- requests that are refused --------------------------------------------------------------------------------------

SURROGATE = "\\ud800"
MALFORMED = {
    "nothing": b"",
    "blank": b" ",
    "null": b"null",
    "array": b"[]",
    "number": b"1",
    "string": b'"x"',
    "unfinished": b'{"ack":["a"]',
    "trailing comma": b'{"ack":["a"],}',
    "trailing text": b'{"ack":["a"]} {}',
    "single quotes": b"{'ack':['a']}",
    "comment": b'{"ack":["a"]/* */}',
    "not a number": b'{"ack":["a"],"x":NaN}',
    "infinity": b'{"ack":["a"],"maxEvents":Infinity}',
    "minus infinity": b'{"ack":["a"],"x":[-Infinity]}',
    "a leading zero": b'{"ack":["a"],"maxEvents":01}',
    "5 000 digits": b'{"ack":["a"],"maxEvents":1' + b"0" * 5000 + b"}",
    "a member twice": b'{"ack":["a"],"ack":["a"]}',
    "an unknown member twice": b'{"ack":["a"],"x":1,"x":1}',
    "a jti twice in setErrs": b'{"ack":["a"],"setErrs":{"b":{"err":"x","description":"y"},'
    b'"b":{"err":"x","description":"y"}}}',
    "err twice": b'{"ack":["a"],"setErrs":{"b":{"err":"x","err":"x","description":"y"}}}',
    "a name twice, once escaped": b'{"ack":["a"],"\\u0061ck":["a"]}',
    "2 kB of [": b'{"ack":["a"],"x":' + b"[" * 2000,
    "2 kB of closed [": b'{"ack":["a"],"x":' + b"[" * 1000 + b"]" * 1000 + b"}",
    "500 kB of [": b"[" * 500_000,
    "500 kB of {": b'{"a":' * 100_000,
    "not UTF-8": b'{"ack":["a"],"x":"\xff"}',
    "an encoded surrogate": b'{"ack":["a"],"x":"\xed\xa0\x80"}',
    "UTF-16": '{"ack":["a"]}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"ack":["a"]}',
    "a control character": b'{"ack":["a"],"x":"\x01"}',
}
WRONG_EVERYWHERE = {
    "maxEvents": ["-1", "-9999999999999999999999", "1.5", "1.0", "1e2", "1e999", "true", '"x"', '"1.0"', "[]"],
    "ack": ['"a"', "{}", "[1]", "[null]", "[true]", '["a",["a"]]', f'["a","{SURROGATE}"]', f'["a{SURROGATE}"]'],
    "setErrs": [
        "[]",
        '"a"',
        '{"a":null}',
        '{"a":"jwtIss"}',
        '{"a":[]}',
        '{"a":{}}',
        '{"a":{"description":"d"}}',
        '{"a":{"err":null,"description":"d"}}',
        '{"a":{"err":1,"description":"d"}}',
        '{"a":{"err":"","description":"d"}}',
        '{"a":{"err":"e","description":["d"]}}',
        '{"":{"err":"e","description":"d"}}',
        f'{{"{SURROGATE}":{{"err":"e","description":"d"}}}}',
    ],
}
WRONG_IN_JSON = {
    "maxEvents": ['"1"'],
    "returnImmediately": ["0", "1", '"true"', '"false"', "[]", "{}"],
}
WRONG_FOR_OBIE = {
    "maxEvents": ["null"],
    "returnImmediately": ["null"],
    "ack": ["null", '[""]', json.dumps(["x" * 129])],
    "setErrs": [
        "null",
        '{"a":{"err":"e"}}',
        '{"a":{"err":"e","description":null}}',
        '{"a":{"err":"e","description":""}}',
        json.dumps({"a": {"err": "e" * 41, "description": "d"}}),
        json.dumps({"a": {"err": "e", "description": "d" * 257}}),
    ],
    "x": ["1"],
    "acks": ["[]"],
    "value": ["{}"],
}
WRONG = [
    *((name, text, PATHS) for name, texts in WRONG_EVERYWHERE.items() for text in texts),
    *((name, text, JSON_PATHS) for name, texts in WRONG_IN_JSON.items() for text in texts),
    *((name, text, OBIE) for name, texts in WRONG_FOR_OBIE.items() for text in texts),
    ("setErrs", '{"a":{"err":"e"}}', WSO2),
    ("setErrs", '{"a":{"err":"e","description":null}}', WSO2),
]


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_not_our_json_is_400_and_none_of_it_takes_effect(shared_server: Server, tpp: str, text: bytes) -> None:
    """RFC 8936 section 2.5.1 and decision 16: refused in the shape of each profile, never 500."""
    secevents = queue(shared_server, tpp, "a")
    for path in PATHS:
        told = assert_refused(ask(shared_server, path, tpp, text), path, 400)
        if path in WSO2:
            assert told["error"] == "invalid_request_payload"
        elif path == OBIE_3:
            assert told["Errors"][0]["ErrorCode"] == "UK.OBIE.Resource.InvalidFormat"
        elif path == OBIE_4:
            assert told["Errors"][0]["ErrorCode"] == "U010"
        else:
            assert told["err"] == "invalid_request"
    assert polled(shared_server, RFC, tpp)["sets"] == secevents


@pytest.mark.parametrize(("member", "text", "paths"), WRONG, ids=lambda value: str(value)[:30])
def test_a_wrong_member_is_400_and_none_of_the_request_takes_effect(
    shared_server: Server, tpp: str, member: str, text: str, paths: tuple[str, ...]
) -> None:
    """Decisions 9 and 16, and the profile table: the acks beside it are not applied."""
    secevents = queue(shared_server, tpp, "a")
    beside = '"ack":["a"],' if member != "ack" else '"setErrs":{"a":{"err":"e","description":"d"}},'
    for path in paths:
        request = f'{{{beside}"{member}":{text}}}'.encode()
        told = assert_refused(ask(shared_server, path, tpp, request), path, 400)
        if path in WSO2:
            assert told == {
                "error_description": "Error in the request payload",
                "error": "invalid_request_payload",
            }
        elif path in OBIE:
            assert told["Errors"][0]["Path"].split(".")[0] == member
    assert polled(shared_server, RFC, tpp)["sets"] == secevents


@pytest.mark.parametrize("path", [RFC, *WSO2])
def test_null_members_count_as_absent(shared_server: Server, tpp: str, path: str) -> None:
    """Decision 9: a receiver in Go or Java writes null for each member that it leaves out; its acks hold."""
    secevents = queue(shared_server, tpp, "a", "b")
    nothing = {"maxEvents": None, "ack": None, "setErrs": None}
    assert ask(shared_server, path, tpp, {**nothing, "returnImmediately": True}).json["sets"] == secevents
    assert ask(shared_server, path, tpp, {**nothing, "returnImmediately": None, "maxEvents": 1}).status == 200
    assert ask(shared_server, path, tpp, {**NOW, "ack": ["a"], "setErrs": None}).status == 200
    about: dict[str, Any] = {"err": "e", "description": None if path == RFC else "d"}
    assert ask(shared_server, path, tpp, {**NOW, "ack": None, "setErrs": {"b": about}}).json["sets"] == {}
    stream = shared_server.bank("GET", f"/streams/{tpp}").json
    assert (stream["acked"], stream["parked"]) == (1, 1)


def test_a_byte_order_mark_is_named_in_the_refusal(shared_server: Server, tpp: str) -> None:
    """RFC 8259 section 8.1: senders must not add one; it is invisible, so the 400 names it."""
    for path in PATHS:
        reply = ask(shared_server, path, tpp, b"\xef\xbb\xbf{}")
        assert_refused(reply, path, 400)
        assert b"byte order mark" in reply.body


@pytest.mark.parametrize(
    ("text", "v3", "v4", "at"),
    [
        ('{"maxEvents":-1}', "UK.OBIE.Field.Invalid", "U002", "maxEvents"),
        ('{"x":1}', "UK.OBIE.Field.Unexpected", "U005", "x"),
        ('{"key":1}', "UK.OBIE.Field.Unexpected", "U005", "key"),
        ('{"setErrs":{"j":{"err":"e"}}}', "UK.OBIE.Field.Missing", "U004", "setErrs.j.description"),
        ('{"setErrs":{"value":{"description":"d"}}}', "UK.OBIE.Field.Missing", "U004", "setErrs.value.err"),
        ('{"setErrs":{"j":{"err":"e","description":""}}}', "UK.OBIE.Field.Invalid", "U002", "setErrs.j.description"),
        ('{"ack":[""]}', "UK.OBIE.Field.Invalid", "U002", "ack"),
    ],
)
def test_an_obie_error_names_its_code_and_the_path(
    shared_server: Server, tpp: str, text: str, v3: str, v4: str, at: str
) -> None:
    """OBIE OBErrorResponse1: UK.OBIE codes and four members in v3.1, four-character codes in v4."""
    identity = {"x_fapi_interaction_id": "93bac5487a6d4a2eb2d1a2a0b0a3e7d1"}
    told = ask(shared_server, OBIE_3, tpp, text.encode(), **identity).json
    assert (told["Code"], told["Id"]) == ("400 BadRequest", identity["x_fapi_interaction_id"])
    assert (told["Errors"][0]["ErrorCode"], told["Errors"][0]["Path"]) == (v3, at)
    told = ask(shared_server, OBIE_4, tpp, text.encode()).json
    assert (told["Errors"][0]["ErrorCode"], told["Errors"][0]["Path"]) == (v4, at)


def test_an_error_of_obie_stays_within_its_lengths(shared_server: Server, tpp: str) -> None:
    """OBErrorResponse1: Id Max40, Message and Path Max500, however long the request's words."""
    for path in OBIE:
        reply = ask(shared_server, path, tpp, {"x" * 9000: 1}, x_fapi_interaction_id="i" * 200)
        assert_refused(reply, path, 400)
        assert reply.headers["x-fapi-interaction-id"] == "i" * 200


@pytest.mark.parametrize("path", [RFC, *WSO2])
def test_unknown_members_are_ignored(shared_server: Server, tpp: str, path: str) -> None:
    """The profile table: real receivers send stream_id, max_events, timeoutSecs, acks."""
    secevents = queue(shared_server, tpp, "a")
    unknown = {"stream_id": "s1", "max_events": 0, "timeoutSecs": 3600, "acks": ["a"], "x": {"y": [None]}}
    assert polled(shared_server, path, tpp, **unknown)["sets"] == secevents


@every_path
def test_members_inside_an_error_are_not_closed(shared_server: Server, tpp: str, path: str) -> None:
    """OBIE's OAS: the inner object of setErrs takes other members."""
    queue(shared_server, tpp, "a")
    assert polled(shared_server, path, tpp, setErrs={"a": {**ERROR, "more": 1}})["sets"] == {}


@every_path
def test_the_longest_words_of_obie_are_taken_everywhere(shared_server: Server, tpp: str, path: str) -> None:
    """OBEventError1: err up to 40, description up to 256, a jti up to 128 characters."""
    jti = "j" * 128
    queue(shared_server, tpp, jti)
    error = {"err": "e" * 40, "description": "ü" * 256}
    assert polled(shared_server, path, tpp, ack=["k" * 128], setErrs={jti: error})["sets"] == {}
    record = shared_server.bank("GET", f"/streams/{tpp}/sets/{jti}").json
    assert {name: record[name] for name in error} == error


def test_description_is_optional_on_the_rfc_path(shared_server: Server, tpp: str) -> None:
    """The profile table: err required, description optional."""
    queue(shared_server, tpp, "a")
    assert polled(shared_server, RFC, tpp, setErrs={"a": {"err": "invalid_key"}})["sets"] == {}
    record = shared_server.bank("GET", f"/streams/{tpp}/sets/a").json
    assert record["err"] == "invalid_key"
    assert "description" not in record


@every_path
def test_a_request_may_settle_10_000_jtis_and_no_more(shared_server: Server, tpp: str, path: str) -> None:
    """Decision 17: more than MAX_ACKS is 400, acks and errors together, and nothing takes effect."""
    secevents = queue(shared_server, tpp, "a")
    others = [str(number) for number in range(10_000)]
    assert_refused(ask(shared_server, path, tpp, {**NOW, "ack": ["a", *others]}), path, 400)
    mixed = {**NOW, "ack": ["a", *others[:9999]], "setErrs": {"b": ERROR}}
    assert_refused(ask(shared_server, path, tpp, mixed), path, 400)
    assert polled(shared_server, path, tpp)["sets"] == secevents
    assert polled(shared_server, path, tpp, ack=["a", *others[:9999]])["sets"] == {}


# -- the size of a body ---------------------------------------------------------------------------------------------


@every_path
@pytest.mark.parametrize("size", [MIB + 1, 5 * MIB])
def test_a_body_over_1_mib_is_413(shared_server: Server, tpp: str, path: str, size: int) -> None:
    """Decision 16: refused by its size, in the shape of its profile."""
    secevents = queue(shared_server, tpp, "a")
    body, media_type = encode(path, {"ack": ["a"]})
    reply = shared_server.request(
        "POST", path, body.ljust(size), {"Content-Type": media_type}, (tpp, shared_server.secrets[tpp])
    )
    assert_refused(reply, path, 413)
    assert polled(shared_server, path, tpp)["sets"] == secevents


@every_path
def test_a_chunked_body_over_1_mib_is_413(shared_server: Server, tpp: str, path: str) -> None:
    """Decision 16: a body that tells no length is counted as it comes."""
    secevents = queue(shared_server, tpp, "a")
    body, media_type = encode(path, {"ack": ["a"]})
    reply = chunked(shared_server, path, tpp, media_type, body, *([b" " * 65536] * 17))
    assert_refused(reply, path, 413)
    assert polled(shared_server, path, tpp)["sets"] == secevents


@every_path
def test_a_chunked_body_is_read_whole(shared_server: Server, tpp: str, path: str) -> None:
    """RFC 9112 section 7.1: the transfer coding is none of the poll's affair."""
    queue(shared_server, tpp, "a")
    body, media_type = encode(path, {**NOW, "ack": ["a"]})
    reply = chunked(shared_server, path, tpp, media_type, body[:9], body[9:10], body[10:])
    assert (reply.status, reply.json) == (200, {"sets": {}, "moreAvailable": False})


def chunked(server: Server, path: str, tpp: str, media_type: str, *chunks: bytes) -> Reply:
    """A POST without Content-Length."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {"Content-Type": media_type, "Authorization": basic(tpp, server.secrets[tpp])}
    try:
        connection.request("POST", path, iter(chunks), headers, encode_chunked=True)
        answer = connection.getresponse()
        return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


@json_paths
def test_a_body_of_exactly_1_mib_is_read(shared_server: Server, tpp: str, path: str) -> None:
    """Decision 16: over 1 MiB is too much, 1 MiB is not."""
    queue(shared_server, tpp, "a")
    text = b'{"returnImmediately":true,"ack":["a"]}'.ljust(MIB)
    assert ask(shared_server, path, tpp, text).json == {"sets": {}, "moreAvailable": False}


def test_what_is_no_chunk_is_400(shared_server: Server, tpp: str) -> None:
    """RFC 9112 section 7.1: a broken transfer coding is the client's mistake, not ours."""
    with socket.create_connection(("127.0.0.1", shared_server.port), 30) as connection:
        connection.sendall(
            b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
            b"Authorization: " + basic(tpp, shared_server.secrets[tpp]).encode() + b"\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_a_body_cut_short_takes_no_effect(shared_server: Server, tpp: str) -> None:
    """RFC 9112 section 8: shorter than its Content-Length a message is incomplete, JSON or not."""
    secevents = queue(shared_server, tpp, "a")
    with socket.create_connection(("127.0.0.1", shared_server.port), 30) as connection:
        connection.sendall(
            b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n"
            b"Authorization: " + basic(tpp, shared_server.secrets[tpp]).encode() + b"\r\n\r\n"
            b'{"ack":["a"],"returnImmediately":true}'
        )
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(65536)[:13] in (b"", b"HTTP/1.1 400 ")
    assert polled(shared_server, RFC, tpp)["sets"] == secevents


# -- who is asking --------------------------------------------------------------------------------------------------


@every_path
def test_without_good_credentials_it_is_401_with_a_challenge(shared_server: Server, tpp: str, path: str) -> None:
    """RFC 8936 section 3 and RFC 9110 section 11.6.1: the schemes are told; OBIE: no body (decision 20)."""
    secevents = queue(shared_server, tpp, "a")
    secret = shared_server.secrets[tpp]
    wrong = [
        None,
        "",
        "Basic",
        "Basic garbage",
        "Basic " + base64.b64encode(b"no-colon").decode(),
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
        "Negotiate abc",
        "Bearer not.a.token",
        basic(tpp, ""),
        basic(tpp, secret + "x"),
        basic(tpp.upper(), secret),
        basic("nobody", secret),
        basic("not a name", secret),
        basic(BANK[0], "wrong"),
    ]
    body, media_type = encode(path, {"ack": ["a"], **NOW})
    for authorization in wrong:
        headers = {"Content-Type": media_type}
        if authorization is not None:
            headers["Authorization"] = authorization
        reply = shared_server.request("POST", path, body, headers)
        assert_refused(reply, path, 401)
        assert "Basic realm=" in reply.headers["www-authenticate"]
    assert polled(shared_server, path, tpp)["sets"] == secevents


@every_path
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"{", {}),
        (b"{}", {"Accept": "text/html"}),
        (b"{}", {"Content-Type": "text/plain"}),
        (b" " * (MIB + 1), {}),
        (json.dumps({"ack": ["x"] * 10_001}).encode(), {}),
    ],
    ids=["malformed", "accept", "type", "size", "too many jtis"],
)
def test_who_is_not_let_in_is_told_nothing_else(
    shared_server: Server, tpp: str, path: str, body: bytes, headers: dict[str, str]
) -> None:
    """RFC 9110 section 15.5.2: whatever else is wrong, without credentials it is 401."""
    sent, media_type = encode(path, body)
    reply = shared_server.request("POST", path, sent, {"Content-Type": media_type, **headers}, (tpp, "wrong"))
    assert_refused(reply, path, 401)
    assert "www-authenticate" in reply.headers


@every_path
@pytest.mark.parametrize("scheme", ["basic", "BASIC", "bAsIc"])
def test_the_scheme_is_compared_without_case(shared_server: Server, tpp: str, path: str, scheme: str) -> None:
    """RFC 9110 section 11.1; the OpenID suite sends its scheme in lower case."""
    body, media_type = encode(path, NOW)
    credentials = basic(tpp, shared_server.secrets[tpp]).replace("Basic", scheme)
    reply = shared_server.request("POST", path, body, {"Content-Type": media_type, "Authorization": credentials})
    assert reply.status == 200


@json_paths
def test_the_bank_polls_for_nobody_on_the_json_paths(shared_server: Server, path: str) -> None:
    """The profile table: the bank's credentials poll on the WSO2 paths alone; here they are wrong ones."""
    reply = shared_server.request("POST", path, "{}", {"Content-Type": "application/json"}, BANK)
    assert_refused(reply, path, 401)


# -- method, path, media types --------------------------------------------------------------------------------------


@every_path
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "BREW"])
def test_other_methods_are_405_and_told_which_is_allowed(shared_server: Server, path: str, method: str) -> None:
    """RFC 9110 section 15.5.6 and decision 22."""
    reply = shared_server.request(method, path)
    assert reply.headers["allow"] == "POST"
    if method == "HEAD":
        assert (reply.status, reply.body) == (405, b"")
        assert_common_headers(reply)
    else:
        assert_refused(reply, path, 405)


@every_path
def test_a_path_near_a_poll_is_404_in_the_shape_of_its_profile(shared_server: Server, path: str) -> None:
    """house.md: every refusal, wherever it starts, has its profile's one shape."""
    near = path.removesuffix("events") + "nothing-here"
    assert_refused(shared_server.request("POST", near, "{}", {"Content-Type": "application/json"}), path, 404)
    assert_refused(shared_server.request("GET", near), path, 404)


@every_path
@pytest.mark.parametrize("accept", TAKES_JSON.values(), ids=TAKES_JSON)
def test_an_accept_that_takes_json_gets_it(shared_server: Server, tpp: str, path: str, accept: str) -> None:
    """RFC 9110 section 12.5.1: the most specific range decides; a malformed one excludes nothing."""
    assert ask(shared_server, path, tpp, NOW, Accept=accept).status == 200


@every_path
@pytest.mark.parametrize("accept", EXCLUDES_JSON.values(), ids=EXCLUDES_JSON)
def test_an_accept_that_excludes_json_is_406_without_effect(
    shared_server: Server, tpp: str, path: str, accept: str
) -> None:
    """OBIE R/W profile: must be 406; decision 21."""
    secevents = queue(shared_server, tpp, "a")
    assert_refused(ask(shared_server, path, tpp, {**NOW, "ack": ["a"]}, Accept=accept), path, 406)
    assert polled(shared_server, path, tpp)["sets"] == secevents


@json_paths
@pytest.mark.parametrize(
    "media_type",
    [
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "Application/JSON",
        "application/json; v=1",
    ],
)
def test_json_may_be_declared_with_parameters(shared_server: Server, tpp: str, path: str, media_type: str) -> None:
    """OBIE: Content-Type may carry parameters; a UK TPP's does."""
    assert ask(shared_server, path, tpp, NOW, Content_Type=media_type).status == 200


@every_path
@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/jose+jwe"},
        {"Content_Type": "application/secevent+jwt"},
        {"Content_Type": ";"},
        {"Content_Type": "application/json; charset=utf-16"},
        {"Content_Type": "application/x-www-form-urlencoded; charset=iso-8859-1"},
        {"Content_Type": "multipart/form-data; boundary=x"},
        {"Content_Encoding": "gzip"},
    ],
    ids=lambda headers: next(iter(headers.values())),
)
def test_another_media_type_is_415_without_effect(
    shared_server: Server, tpp: str, path: str, headers: dict[str, str]
) -> None:
    """OBIE R/W profile: must be 415; decision 21."""
    secevents = queue(shared_server, tpp, "a")
    assert_refused(ask(shared_server, path, tpp, {**NOW, "ack": ["a"]}, **headers), path, 415)
    assert polled(shared_server, path, tpp)["sets"] == secevents


def test_json_is_415_on_the_wso2_paths_and_the_form_on_the_others(shared_server: Server, tpp: str) -> None:
    """The profile table: the form on the WSO2 paths alone, JSON not there; curl -d declares a form."""
    for path in PATHS:
        other = "application/json" if path in WSO2 else "application/x-www-form-urlencoded"
        assert_refused(ask(shared_server, path, tpp, NOW, Content_Type=other), path, 415)


@every_path
def test_no_media_type_is_json_on_the_rfc_path_only(shared_server: Server, tpp: str, path: str) -> None:
    """Decision 21; the goSignals CLI sends none."""
    body, _ = encode(path, NOW)
    credentials = (tpp, shared_server.secrets[tpp])
    reply = shared_server.request("POST", path, body, {}, credentials)
    if path == RFC:
        assert reply.json == {"sets": {}, "moreAvailable": False}
        compressed = shared_server.request("POST", path, body, {"Content-Encoding": "gzip"}, credentials)
        assert_refused(compressed, path, 415)
    else:
        assert_refused(reply, path, 415)


@pytest.mark.parametrize("path", PATHS[1:])
def test_slashes_are_not_merged(shared_server: Server, tpp: str, path: str) -> None:
    """Success is exactly 200 and all else an error: a poll is never redirected."""
    body, media_type = encode(path, NOW)
    doubled = path.removesuffix("events") + "/events"
    reply = shared_server.request(
        "POST", doubled, body, {"Content-Type": media_type}, (tpp, shared_server.secrets[tpp])
    )
    assert_refused(reply, path, 404)


# -- headers of the answer ------------------------------------------------------------------------------------------


@every_path
@pytest.mark.parametrize(
    "sent", ["93bac548-7a6d-4a2e-b2d1-a2a0b0a3e7d1", "1af4c0e6b5da49f6b1aebf439e87c199", "any form; is <echoed>"]
)
def test_the_interaction_id_is_echoed_on_success_and_error(
    shared_server: Server, tpp: str, path: str, sent: str
) -> None:
    """OBIE R/W profile: mandatory on both; decision 26: whatever its form."""
    for members in (NOW, b"{"):
        reply = ask(shared_server, path, tpp, members, x_fapi_interaction_id=sent)
        assert reply.headers["x-fapi-interaction-id"] == sent
    reply = shared_server.request("GET", path, None, {"x-fapi-interaction-id": sent})
    assert reply.headers["x-fapi-interaction-id"] == sent


@every_path
@pytest.mark.parametrize("sent", [None, "", "\xfc", "tab\there", "x" * 257])
def test_an_interaction_id_that_is_absent_or_unsafe_is_a_fresh_uuid(
    shared_server: Server, tpp: str, path: str, sent: str | None
) -> None:
    """Decision 26: a UUID of RFC 4122, another one each time."""
    headers = {} if sent is None else {"x_fapi_interaction_id": sent}
    replies = [ask(shared_server, path, tpp, members, **headers) for members in (NOW, NOW, b"{")]
    identities = {reply.headers["x-fapi-interaction-id"] for reply in replies}
    assert len(identities) == 3
    assert all(str(uuid.UUID(identity)) == identity for identity in identities)


@every_path
def test_the_other_headers_of_open_banking_change_nothing(shared_server: Server, tpp: str, path: str) -> None:
    """OBIE: x-idempotency-key must be ignored, and no message is signed on /events."""
    headers = {
        "x_idempotency_key": "k",
        "x_jws_signature": "a..b",
        "x_fapi_auth_date": "never",
        "x_fapi_customer_ip_address": "::1",
        "x_customer_user_agent": "x",
        "payload_version": "9",
        "x_client_id": "someone-else",
        "Content_Language": "tlh",
        "Accept_Encoding": "gzip",
    }
    secevents = queue(shared_server, tpp, "a")
    for _ in range(2):
        assert ask(shared_server, path, tpp, NOW, **headers).json == {"sets": secevents, "moreAvailable": False}


@every_path
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[::1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
    ids=lambda headers: " ".join(headers.values()),
)
def test_a_browser_on_another_site_is_403_without_effect(
    shared_server: Server, tpp: str, path: str, headers: dict[str, str]
) -> None:
    """Decisions, smaller ones: unsafe requests from a browser on another site."""
    secevents = queue(shared_server, tpp, "a")
    assert_refused(ask(shared_server, path, tpp, {**NOW, "ack": ["a"]}, **headers), path, 403)
    assert polled(shared_server, path, tpp)["sets"] == secevents


@every_path
def test_a_browser_on_our_own_site_may_poll(shared_server: Server, tpp: str, path: str) -> None:
    """Decisions, smaller ones: only other sites are refused."""
    ours = {"Origin": f"http://127.0.0.1:{shared_server.port}", "Sec_Fetch_Site": "same-origin"}
    assert ask(shared_server, path, tpp, NOW, **ours).status == 200


# -- HTTP itself ----------------------------------------------------------------------------------------------------


def test_one_connection_serves_poll_after_poll_refused_ones_too(shared_server: Server, tpp: str) -> None:
    """RFC 9112 section 9.3: persistent connections; a refusal leaves the next request readable."""
    connection = http.client.HTTPConnection("127.0.0.1", shared_server.port, timeout=30)
    headers = {"Authorization": basic(tpp, shared_server.secrets[tpp])}
    statuses = []
    first: Any = None
    for path in PATHS:
        for members in (NOW, b"{", NOW):
            body, media_type = encode(path, members)
            connection.request("POST", path, body, {**headers, "Content-Type": media_type})
            first = first or connection.sock
            with connection.getresponse() as answer:
                answer.read()
                statuses.append(answer.status)
        assert connection.sock is first
        connection.request("POST", path, b"{}", {**headers, "Content-Type": "text/plain"})
        with connection.getresponse() as answer:
            answer.read()
            assert answer.status == 415
    connection.close()
    assert statuses == [200, 400, 200] * len(PATHS)


def test_pipelined_polls_are_answered_in_order(shared_server: Server, tpp: str) -> None:
    """RFC 9112 section 9.3.2: the answers come in the order of the requests."""
    queue(shared_server, tpp, "a", "b")
    texts = [
        b'{"maxEvents":1,"returnImmediately":true}',
        b'{"maxEvents":1,"ack":["a"],"returnImmediately":true}',
        b'{"maxEvents":0,"ack":["b"],"returnImmediately":true}',
    ]
    head = f"POST /events HTTP/1.1\r\nHost: x\r\nAuthorization: {basic(tpp, shared_server.secrets[tpp])}\r\n"
    requests = b"".join(b"%sContent-Length: %d\r\n\r\n%s" % (head.encode(), len(text), text) for text in texts)
    answers = []
    with socket.create_connection(("127.0.0.1", shared_server.port), 30) as connection:
        connection.sendall(requests)
        stream = connection.makefile("rb")
        for _ in texts:
            assert stream.readline().startswith(b"HTTP/1.1 200 ")
            headers = http.client.parse_headers(stream)
            answers.append(json.loads(stream.read(int(headers["Content-Length"]))))
    assert [list(answer["sets"]) for answer in answers] == [["a"], ["b"], []]
    assert [answer["moreAvailable"] for answer in answers] == [True, False, False]
