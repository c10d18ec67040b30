"""Each profile's way of reading a request and writing an answer."""

import base64
import json
from typing import Any

import pytest
from flask import Request
from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder

from eventpoll.delivery.transmitter import Poll
from eventpoll.errors import CODES, Refused
from eventpoll.profiles import all_profiles, obie, of_path
from eventpoll.profiles.obie import Obie
from eventpoll.profiles.rfc8936 import RFC8936, Profile
from eventpoll.profiles.wso2 import FORM_FIELDS, Wso2, wso2_field, wso2_object
from eventpoll.sets.json import BODY_BYTES
from eventpoll.store.records import Answer
from eventpoll.web.body import body, want_json_answer, want_type
from tests.accept_shapes import EXCLUDES_JSON, TAKES_JSON

OBIE_3, OBIE_4 = Obie("obie_v3", "/open-banking/v3.1/events", 3), Obie("obie_v4", "/open-banking/v4.0/events", 4)
WSO2 = Wso2("wso2_3", "/api/openbanking/event-notifications/events", 3)
FORM = "application/x-www-form-urlencoded"


def a_request(text: bytes = b"", media_type: str | None = None, **headers: str) -> Request:
    """A POST as the server hands it over; a header is given with __ for -."""
    sent = Headers([(name.replace("__", "-"), value) for name, value in headers.items()])
    if media_type is not None:
        sent["Content-Type"] = media_type
    return Request(EnvironBuilder(method="POST", data=text, headers=sent).get_environ())


def an_answer(*jtis: str, more: bool = False) -> Answer:
    """What the store hands out."""
    return Answer([(jti.encode(), b"e30.e30.c2ln") for jti in jtis], more, None, False, 0, 0)


def encoded(text: bytes) -> str:
    """Base64, as a WSO2 client writes it."""
    return base64.b64encode(text).decode()


# -- reading --------------------------------------------------------------------------------------------------------


def test_a_poll_is_read_in_each_profile() -> None:
    """The same poll, thrice told."""
    text = b'{"maxEvents":2,"ack":["a"]}'
    members = {"maxEvents": 2, "ack": ["a"]}
    assert RFC8936.read(a_request(text)) == members
    assert OBIE_3.read(a_request(text, "application/json; charset=utf-8")) == members
    assert WSO2.read(a_request(b"request=" + base64.b64encode(text), FORM)) == members
    for profile in (RFC8936, OBIE_3, WSO2):
        assert profile.poll(members) == Poll(max_events=2, ack=["a"])


@pytest.mark.parametrize(("text", "code"), [(b"{", "malformed"), (b'{"maxEvents":-1}', "field_invalid")])
def test_what_is_wrong_in_json_is_told_by_its_kind(text: bytes, code: str) -> None:
    """RFC 8936 section 2.5.1: both are 400."""
    with pytest.raises(Refused) as caught:
        RFC8936.poll(RFC8936.read(a_request(text)))
    assert caught.value.code == code


def test_what_is_wrong_in_wso2s_form_is_told_in_its_words() -> None:
    """WSO2's own words for a wrong member."""
    with pytest.raises(Refused, match="Error in the request payload"):
        WSO2.poll(WSO2.read(a_request(b"request=" + base64.b64encode(b'{"ack":1}'), FORM)))


def test_a_body_is_bounded_to_the_byte() -> None:
    """Decision 16: 1 MiB is read, one byte more is 413."""
    assert len(body(a_request(b"x" * BODY_BYTES))) == BODY_BYTES
    for size in (BODY_BYTES + 1, BODY_BYTES + 2, 3 * BODY_BYTES):
        with pytest.raises(Refused) as caught:
            body(a_request(b"x" * size))
        assert caught.value.row.status == 413
    assert body(a_request(b"x" * 9), 9) == b"x" * 9


class Broken:
    """A connection that breaks off, in a server's own words."""

    def read(self, size: int = -1) -> bytes:
        raise RuntimeError("no chunk")


def test_a_body_that_breaks_off_is_400() -> None:
    """RFC 9112 section 8: an incomplete request is the client's, however the server tells it."""
    request = a_request()
    request.environ.update({"wsgi.input": Broken(), "wsgi.input_terminated": True})
    with pytest.raises(Refused) as caught:
        body(request)
    assert caught.value.row.status == 400


def test_a_body_shorter_than_declared_is_400() -> None:
    """RFC 9112 section 8: such a message is incomplete, even where what came is JSON."""
    request = a_request(b"{}")
    request.environ.update({"CONTENT_LENGTH": "3", "wsgi.input_terminated": True})
    with pytest.raises(Refused) as caught:
        body(request)
    assert caught.value.row.status == 400


@pytest.mark.parametrize(
    ("media_type", "headers"),
    [
        ("application/json", {}),
        ("application/json; charset=UTF-8", {}),
        ('application/json;charset="utf8"', {}),
        ("application/json; charset=us-ascii", {}),
        ("APPLICATION/json", {"Content__Encoding": "Identity"}),
    ],
)
def test_a_type_may_be_written_in_many_ways(media_type: str, headers: dict[str, str]) -> None:
    """RFC 9110 section 8.3.1: without case, with parameters."""
    request = a_request(b"{}", media_type, **headers)
    want_type(request, "application/json")
    assert request.mimetype == "application/json"


@pytest.mark.parametrize(
    ("media_type", "headers", "at"),
    [
        (None, {}, "Content-Type"),
        ("text/json", {}, "Content-Type"),
        (";", {}, "Content-Type"),
        ("application/json; charset=utf-16", {}, "Content-Type"),
        ("application/json", {"Content__Encoding": "gzip"}, "Content-Encoding"),
    ],
)
def test_another_type_is_415(media_type: str | None, headers: dict[str, str], at: str) -> None:
    """Decision 21."""
    with pytest.raises(Refused) as caught:
        want_type(a_request(b"{}", media_type, **headers), "application/json")
    assert (caught.value.row.status, caught.value.path) == (415, at)


def test_no_type_counts_where_the_profile_says_so() -> None:
    """Decision 21: absent counts as JSON on the RFC path only; compressed it never is."""
    assert RFC8936.read(a_request(b"{}")) == {}
    assert RFC8936.read(a_request(b"{}", " ")) == {}
    for profile, request in ((OBIE_3, a_request(b"{}")), (RFC8936, a_request(b"{}", Content__Encoding="br"))):
        with pytest.raises(Refused) as caught:
            profile.read(request)
        assert caught.value.row.status == 415


@pytest.mark.parametrize("accept", [None, "", *TAKES_JSON.values()], ids=["absent", "empty", *TAKES_JSON])
def test_accept_takes_json(accept: str | None) -> None:
    """RFC 9110 section 12.5.1: the most specific range that fits decides; what cannot be read excludes nothing."""
    request = a_request() if accept is None else a_request(Accept=accept)
    want_json_answer(request)
    assert request.headers.get("Accept") == accept


@pytest.mark.parametrize("accept", EXCLUDES_JSON.values(), ids=EXCLUDES_JSON)
def test_accept_excludes_json(accept: str) -> None:
    """Decision 21: 406."""
    with pytest.raises(Refused) as caught:
        want_json_answer(a_request(Accept=accept))
    assert caught.value.row.status == 406


# -- WSO2's form ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b"request=e30%3D", "e30="),
        (b"request=e30=", "e30="),
        (b"a=1&request=e30%3D&b", "e30="),
        (b"request=a+b%2Bc", "a b+c"),
        (b"request=", ""),
        (b"request", ""),
        (b"request=a&request=b", "a,b"),
        (b"request=\xff", "\ufffd"),
    ],
)
def test_the_field_is_found_in_the_form(text: bytes, field: str) -> None:
    """wso2.md 1.3: two values become a,b, which is no base64."""
    assert wso2_field(a_request(text, FORM)) == field


@pytest.mark.parametrize("text", [b"", b"Request=e30%3D", b"xrequest=e30%3D", b"&&"])
def test_a_form_without_the_field_is_told_so(text: bytes) -> None:
    """wso2.md 1.5: missing_request_payload."""
    with pytest.raises(Refused, match="No request payload found") as caught:
        wso2_field(a_request(text, FORM))
    assert caught.value.row.wso2 == "missing_request_payload"


def test_a_form_has_few_fields() -> None:
    """A form of half a million fields would keep a worker busy."""
    assert wso2_field(a_request(b"request=e30%3D" + b"&a" * (FORM_FIELDS - 1), FORM)) == "e30="
    with pytest.raises(Refused) as caught:
        wso2_field(a_request(b"request=e30%3D" + b"&a" * FORM_FIELDS, FORM))
    assert caught.value.row.status == 400


TRICKY = b'{"x": ">>>???~~~"}'  # its base64 holds + and /


@pytest.mark.parametrize(
    "text",
    [
        encoded(TRICKY),
        encoded(TRICKY).rstrip("="),
        encoded(TRICKY).replace("+", " "),
        f" {encoded(TRICKY)} ",
        f"[{encoded(TRICKY)}]",
        "\r\n".join(encoded(TRICKY)),
        "\\r\\n".join(encoded(TRICKY)[i : i + 4] for i in range(0, 24, 4)),
        " ".join(encoded(TRICKY)[i : i + 4] for i in range(0, 24, 4)),
    ],
    ids=["plain", "no padding", "+ as blank", "blanks around", "brackets", "lines", "written lines", "blanks within"],
)
def test_the_base64_may_be_written_loosely(text: str) -> None:
    """wso2.md 1.3: wrapped, bracketed, unpadded; its own test client does not URL-encode the +."""
    assert wso2_object(text) == (TRICKY.decode(), json.loads(TRICKY))


@pytest.mark.parametrize("text", ["", " ", "[]", "\r\n", "\\r\\n"])
def test_an_empty_field_is_told_so(text: str) -> None:
    """wso2.md 1.5: Request payload cannot be empty."""
    with pytest.raises(Refused, match="Request payload cannot be empty"):
        wso2_object(text)


@pytest.mark.parametrize(
    "text",
    [
        "!",
        "e",
        "====",
        "e3=0",
        "ü",
        "e30=,e30=",
        base64.urlsafe_b64encode(TRICKY).decode(),
        encoded(b"\xff"),
        encoded(b"{"),
        encoded(b"[]"),
        encoded(b"null"),
        encoded(b'{"a":1,"a":1}'),
        encoded(b'{"a":NaN}'),
        encoded(b"[" * 2000),
    ],
)
def test_what_is_no_base64_of_an_object_is_malformed(text: str) -> None:
    """Decisions, smaller ones: bad base64 is 400 invalid_request_payload."""
    with pytest.raises(Refused, match="Error in the request payload") as caught:
        wso2_object(text)
    assert (caught.value.row.status, caught.value.row.wso2) == (400, "invalid_request_payload")


@pytest.mark.parametrize(
    "text",
    [
        b"request=" + base64.b64encode("\ufeff{}".encode()),
        "request=\ufeffe30".encode(),
        b"request=%EF%BB%BFe30",
        "\ufeffrequest=e30".encode(),
    ],
)
def test_a_byte_order_mark_in_wso2s_form_is_named(text: bytes) -> None:
    """The mark is invisible: without its name the client's developer searches in vain."""
    with pytest.raises(Refused, match="byte order mark") as caught:
        WSO2.read(a_request(text, FORM))
    assert (caught.value.row.status, caught.value.row.wso2) == (400, "invalid_request_payload")


def test_both_spellings_of_the_client_header_are_one() -> None:
    """libraries.md: both map to one name in the environ."""
    assert WSO2.client(a_request(x__wso2__client__id=" tpp-1 ")) == "tpp-1"
    assert WSO2.client(a_request(x__wso2__client_id="tpp-1")) == "tpp-1"
    assert WSO2.client(a_request()) == ""


def test_the_resource_header_is_read_alike() -> None:
    """wso2.md 1.7: x-wso2-resource_id in 3.x, x-wso2-resource-id in 4.x."""
    assert WSO2.resource(a_request(x__wso2__resource_id="r-1")) == "r-1"
    assert WSO2.resource(a_request(x__wso2__resource__id="r-2")) == "r-2"


# -- holding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("poll", "rfc", "obie"),
    [
        (Poll(), True, True),
        (Poll(return_immediately=False), True, True),
        (Poll(return_immediately=True), False, False),
        (Poll(max_events=1), True, True),
        (Poll(max_events=0), True, False),
        (Poll(max_events=0, return_immediately=False), True, False),
        (Poll(max_events=0, return_immediately=True), False, False),
    ],
)
def test_who_holds_which_poll(poll: Poll, rfc: bool, obie: bool) -> None:
    """Decisions 10 and 11; WSO2 never holds."""
    assert (RFC8936.holds(poll), OBIE_3.holds(poll), OBIE_4.holds(poll), WSO2.holds(poll)) == (rfc, obie, obie, False)


# -- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", all_profiles())
def test_an_answer_is_written_as_json_around_the_stored_bytes(profile: Profile) -> None:
    """RFC 8936 section 2.3: whatever a jti holds, the answer is JSON."""
    jtis = ("b", "a", '"\\\n\x00', "ü🏦", "")
    text, status = profile.write(an_answer(*jtis, more=True), Poll())
    told = json.loads(text)
    assert status == 200
    assert told == {"sets": dict.fromkeys(jtis, "e30.e30.c2ln"), "moreAvailable": True}
    assert list(told["sets"]) == list(jtis)


def test_an_empty_answer_of_wso2_may_be_404() -> None:
    """Decision 15: WSO2_EMPTY_STATUS=404, for nothing outstanding alone."""
    strict = Wso2("wso2_3", "/x/events", 3, empty_status=404)
    assert strict.write(an_answer(), Poll()) == (b'{"moreAvailable":false,"sets":{}}', 404)
    assert strict.write(an_answer(more=True), Poll()) == (b'{"moreAvailable":true,"sets":{}}', 200)
    assert strict.write(an_answer(), Poll(max_events=0))[1] == 200
    assert strict.write(an_answer("a"), Poll())[1] == 200
    assert WSO2.write(an_answer(), Poll())[1] == 200


@pytest.mark.parametrize("code", [code for code, row in CODES.items() if row.status != 401])
def test_every_refusal_has_the_shape_of_each_profile(code: str) -> None:
    """The profile table: one error shape each."""
    refusal = Refused(code, "what is wrong", "some.place")
    row = refusal.row
    assert json.loads(RFC8936.refuse(refusal, "i")) == {"err": row.err, "description": "what is wrong"}
    told = json.loads(OBIE_3.refuse(refusal, "i" * 99))
    assert told["Code"].split(" ")[0] == str(row.status)
    assert told["Id"] == "i" * 40
    assert told["Errors"] == [{"ErrorCode": row.obie_v3, "Message": "what is wrong", "Path": "some.place"}]
    assert json.loads(OBIE_4.refuse(refusal, "i")) == {
        "Errors": [{"ErrorCode": row.obie_v4, "Message": "what is wrong", "Path": "some.place"}]
    }
    assert WSO2.refuse(refusal, "i") == (f'{{"error_description":"what is wrong","error":"{row.wso2}"}}'.encode())


def test_a_path_is_left_out_where_there_is_none() -> None:
    """OBErrorResponse1: optional members are omitted, never null or empty."""
    assert "Path" not in json.loads(OBIE_4.refuse(Refused("internal", "x"), "i"))["Errors"][0]


def test_obie_refuses_strangers_without_a_body() -> None:
    """OBIE R/W profile: a 401 has none; decision 20."""
    refusal = Refused("unauthenticated", "x")
    assert OBIE_3.refuse(refusal, "i") == OBIE_4.refuse(refusal, "i") == b""
    assert RFC8936.refuse(refusal, "i")
    assert WSO2.refuse(refusal, "i")


def test_a_lone_surrogate_is_told_as_an_escape() -> None:
    """RFC 8259 section 8.2: what cannot be UTF-8 can still be written in JSON."""
    text = OBIE_3.refuse(Refused("field_unexpected", "\ud800: unknown", "\ud800"), "i")
    assert json.loads(text.decode("utf-8"))["Errors"][0]["Path"] == "\ud800"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/events", "rfc8936"),
        ("/streams/x", "rfc8936"),
        ("/open-banking/v3.1/events", "obie_v3"),
        ("/open-banking/v3.1/anything", "obie_v3"),
        ("/open-banking/v4.0/", "obie_v4"),
        ("/open-banking/v5.0/events", "rfc8936"),
        ("/api/openbanking/event-notifications/create-events", "wso2_3"),
        ("/api/fs/event-notifications/events/more", "wso2_4"),
        ("/api/fs", "rfc8936"),
        ("", "rfc8936"),
    ],
)
def test_a_refusal_is_told_in_the_profile_of_its_path(path: str, name: str) -> None:
    """house.md: every refusal has its profile's one shape, near a poll's path too."""
    assert of_path(all_profiles(), path).name == name


def test_every_status_that_we_choose_has_its_phrase() -> None:
    """OBErrorResponse1: Code is the status and its name, such as `400 BadRequest`."""
    statuses: set[Any] = {row.status for row in CODES.values()} - {401}
    assert statuses <= obie.PHRASES.keys()
