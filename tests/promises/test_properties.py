"""What holds for every request, not only for those that somebody thought of: Hypothesis looks for one that breaks it.

The readers take what comes from outside, so nothing may surprise them; the writers keep every character.
"""

import base64
import json
import re
import textwrap
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from flask import Request
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from eventpoll.access import certificate
from eventpoll.access.door import Bank, Caller, Door, hash_of
from eventpoll.access.passwords import Password
from eventpoll.delivery.transmitter import Poll
from eventpoll.errors import CODES, Refused
from eventpoll.profiles import all_profiles
from eventpoll.profiles.obie import Obie
from eventpoll.profiles.rfc8936 import Profile
from eventpoll.profiles.wso2 import Wso2, wso2_field, wso2_object
from eventpoll.sets import signed as sets_signed
from eventpoll.sets.event import BadSecevent, Event, Signed, read_event, read_line
from eventpoll.sets.json import Malformed, member_texts, read_json, read_object
from eventpoll.store.errors import BadSet
from eventpoll.store.records import Answer, Rules
from eventpoll.store.store import Store
from eventpoll.web.body import want_json_answer, want_type
from harness.redis_servers import RedisServer
from harness.sets import set_of

pytestmark = pytest.mark.no_cover  # tracing Hypothesis takes longer than the tests do

SETTINGS = settings(derandomize=True, max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))

PROFILES = all_profiles()
by_profile = pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)


def mostly(usual: st.SearchStrategy[Any], else_: st.SearchStrategy[Any], times: int = 3) -> st.SearchStrategy[Any]:
    """The usual so many times, and once anything else."""
    return st.sampled_from([*[usual] * times, else_]).flatmap(lambda chosen: chosen)


def outcome(call: Callable[[], Any], refusal: type[Exception] = Refused) -> Any:
    """What comes back, or the refusal that is raised; any other exception fails the test."""
    try:
        return call()
    except refusal as refused:
        return refused


text = st.text()  # well-formed: it can be encoded
any_text = st.text(st.characters())  # lone surrogates too, which JSON can write
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(10**400), 10**400), st.floats(allow_nan=False), any_text
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4), max_leaves=12
)
finite = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), text),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(text, finite, max_size=5)
blanks = st.text(" \t\r\n", max_size=3)
sets = st.from_regex(r"[\w-]{1,8}\.[\w-]{1,8}\.[\w-]{1,8}", fullmatch=True, alphabet=st.characters(max_codepoint=127))
jtis = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=128)


@st.composite
def written(draw: st.DrawFn, of: st.SearchStrategy[Any] = finite) -> tuple[Any, str]:
    """A value, and a JSON text of it: spaced, escaped and indented as somebody may like it."""
    value = draw(of)
    style: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {"ensure_ascii": st.booleans(), "indent": st.sampled_from([None, 0, 2, "\t"])},
            optional={"separators": st.sampled_from([(",", ":"), (" ,", " : ")])},
        )
    )
    return value, draw(blanks) + json.dumps(value, **style) + draw(blanks)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A JSON text of which a piece is gone, or another stands in its place."""
    whole = draw(written())[1].encode()
    begin, end = sorted((draw(st.integers(0, len(whole))), draw(st.integers(0, len(whole)))))
    scrap = st.binary(max_size=4) | st.sampled_from([b"[" * 2000, b'{"":', b"NaN", b"1" * 5000, b'"\\ud800"', b"\\u00"])
    return whole[:begin] + draw(scrap) + whole[end:]


# -- JSON -----------------------------------------------------------------------------------------------------------


@SETTINGS
@given(st.one_of(st.binary(), damaged(), any_text))
@example(b"[" * 100_000)
@example(b'{"a":' * 5000 + b"1" + b"}" * 5000)
@example(b"\xef\xbb\xbf{}")
@example('{"a": "\ud800"}')
def test_any_text_is_json_or_malformed(body: bytes | str) -> None:
    """decision 16: 400, never 500. What is taken is what any other reader takes (RFC 8259)."""
    value = outcome(lambda: read_json(body), Malformed)
    assert str(value) if isinstance(value, Malformed) else value == json.loads(body)


@SETTINGS
@given(written())
def test_well_formed_json_is_read_as_python_reads_it(pair: tuple[Any, str]) -> None:
    """RFC 8259: strict is not narrow. Every spelling of a value is that value."""
    value, body = pair
    assert read_json(body.encode()) == json.loads(body) == value


@SETTINGS
@given(st.lists(st.tuples(text, finite), max_size=5), st.integers(0, 3))
def test_a_member_that_stands_twice_is_refused_however_deep(pairs: list[tuple[str, Any]], depth: int) -> None:
    """decision 16: what two readers could take differently is taken by none."""
    body = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}"
    body = '{"outer":[' * depth + body + "]}" * depth
    if len({name for name, _ in pairs}) == len(pairs):
        assert read_json(body) == json.loads(body)
    else:
        with pytest.raises(Malformed, match="twice"):
            read_json(body)


@SETTINGS
@given(
    st.dictionaries(
        text, written() | st.sampled_from([(1e5, "1.0e+05"), (float("inf"), "1E400"), (0, "-0")]), max_size=5
    ),
    blanks,
    blanks,
)
def test_the_texts_of_members_are_given_back_to_the_letter(
    members: dict[str, tuple[Any, str]], before: str, after: str
) -> None:
    """issue 2, point 6: events reach the TPP exactly as they were given: digits, escapes, blanks within, order."""
    pairs = [f"{before}{json.dumps(name)}{after}:{before}{body}{after}" for name, (_, body) in members.items()]
    whole = before + "{" + (",".join(pairs) or after) + "}" + after
    found = member_texts(whole)
    assert list(found.items()) == [(name, body.strip(" \t\r\n")) for name, (_, body) in members.items()]
    assert list(found) == list(read_object(whole))


@SETTINGS
@given(st.one_of(st.binary(), damaged(), written(objects).map(lambda pair: pair[1].encode())))
def test_any_line_of_a_batch_is_an_event_a_set_or_refused(line: bytes) -> None:
    """decisions.md, Batch: a bad line hurts no other."""
    read = outcome(lambda: read_line(line))
    assert isinstance(read, Event | Signed) or CODES[read.code].status == 400


@SETTINGS
@given(st.dictionaries(st.text(min_size=1), objects, min_size=1, max_size=3), written(st.text()), written(objects))
def test_an_event_keeps_its_texts(events: dict[str, Any], sub: tuple[str, str], sub_id: tuple[Any, str]) -> None:
    """issue 2, point 6: what the bank gives to be minted is minted to the letter."""
    as_written = json.dumps(events, indent=1)
    event = read_event(f'{{"sub": {sub[1]}, "events": {as_written}, "sub_id": {sub_id[1]}}}'.encode())
    assert event.events == as_written
    assert event.claims == {"sub": sub[1].strip(" \t\r\n"), "sub_id": sub_id[1].strip(" \t\r\n")}


# -- polls ----------------------------------------------------------------------------------------------------------

set_errs = st.dictionaries(
    mostly(text, any_text),
    mostly(
        st.fixed_dictionaries(
            {"err": mostly(st.text(max_size=50), values), "description": mostly(st.text(max_size=300), values)},
            optional={"more": values},
        ),
        values,
    ),
    max_size=3,
)
polls = st.fixed_dictionaries(
    {},
    optional={
        "maxEvents": mostly(st.integers(0, 1000) | st.from_regex(r"[+-]?[0-9]{1,20}", fullmatch=True), values),
        "returnImmediately": mostly(st.booleans(), values),
        "ack": mostly(st.lists(st.text(min_size=1, max_size=140), max_size=4), values),
        "setErrs": mostly(set_errs, values),
    },
)
any_polls = st.builds(
    lambda more, poll: {**more, **poll}, mostly(st.just({}), st.dictionaries(any_text, values)), polls
)


def members_of(poll: Poll) -> dict[str, Any]:
    """A poll as a receiver writes it."""
    members = {
        "maxEvents": poll.max_events,
        "returnImmediately": poll.return_immediately,
        "ack": poll.ack,
        "setErrs": poll.set_errs,
    }
    return {name: value for name, value in members.items() if value is not None}


@by_profile
@SETTINGS
@given(members=any_polls)
@example(members={"maxEvents": float("inf")})
@example(members={"setErrs": {"": {"err": "e", "description": "d"}}})
@example(members={"setErrs": {"\ud800": {"err": "\ud800", "description": "d"}}})
def test_any_poll_is_read_or_refused(profile: Profile, members: dict[str, Any]) -> None:
    """decisions 9 and 16: 400 in the profile's shape, never 500; what is read says the same when it is read again."""
    poll = outcome(lambda: profile.poll(members))
    if isinstance(poll, Refused):
        assert poll.row.status == 400
        check_shape(profile, profile.refuse(poll, "interaction"))
    else:
        assert poll.max_events is None or poll.max_events >= 0
        assert profile.poll(members_of(poll)) == poll
        "".join([*poll.ack, *poll.set_errs]).encode()  # else it could not be sent to the store


def check_shape(profile: Profile, body: bytes) -> None:
    """A refusal has its profile's shape, whatever it quotes."""
    told = json.loads(body)
    if isinstance(profile, Wso2):
        assert list(told) == ["error_description", "error"]
    elif isinstance(profile, Obie):
        assert set(told) == ({"Code", "Id", "Message", "Errors"} if profile.version == 3 else {"Errors"})
        (error,) = told["Errors"]
        assert {"ErrorCode", "Message"} <= set(error) <= {"ErrorCode", "Message", "Path"}
        assert all(1 <= len(value) <= 500 for value in error.values())
    else:
        assert list(told) == ["err", "description"]
    assert all(told.values())


def in_obies_schema(members: dict[str, Any]) -> bool:
    """OBEventPolling1 of OBIE's OpenAPI files 3.1.4 to 4.0.1, written out."""

    def texts(value: Any, most: int) -> bool:
        return isinstance(value, str) and 1 <= len(value) <= most

    kinds = {
        "maxEvents": lambda value: type(value) is int,
        "returnImmediately": lambda value: type(value) is bool,
        "ack": lambda value: isinstance(value, list) and all(texts(jti, 128) for jti in value),
        "setErrs": lambda value: (
            isinstance(value, dict)
            and all(
                isinstance(error, dict) and texts(error.get("err"), 40) and texts(error.get("description"), 256)
                for error in value.values()
            )
        ),
    }
    return all(name in kinds and kinds[name](value) for name, value in members.items())


@pytest.mark.parametrize("profile", [profile for profile in PROFILES if isinstance(profile, Obie)], ids=["v3", "v4"])
@SETTINGS
@given(members=any_polls)
@example(members={"maxEvents": 1.0})
@example(members={"maxEvents": True})
@example(members={"ack": ["a" * 128], "setErrs": {"a": {"err": "e" * 40, "description": "d" * 256, "more": 1}}})
def test_obies_schema_decides_what_an_obie_poll_is(profile: Profile, members: dict[str, Any]) -> None:
    """OBEventPolling1, and two rules more: maxEvents is not negative (decision 9), jtis are Unicode and setErrs names
    each SET (decision 16)."""
    named = [*members.get("ack", []), *members.get("setErrs", {})] if in_obies_schema(members) else []
    ours = members.get("maxEvents", 0) if in_obies_schema(members) else 0
    if in_obies_schema(members) and ours >= 0 and all(named) and not re.search("[\ud800-\udfff]", "".join(named)):
        assert profile.poll(members).ack == members.get("ack", [])
    else:
        with pytest.raises(Refused):
            profile.poll(members)


# -- WSO2's form ----------------------------------------------------------------------------------------------------


@SETTINGS
@given(written(objects), st.booleans(), st.sampled_from(["", "\n", "\r\n", "\\n", "\\r\\n"]), st.booleans())
def test_any_object_comes_out_of_its_base64(pair: tuple[Any, str], padded: bool, fold: str, spaced: bool) -> None:
    """decisions.md, last table, and libraries.md: wrapped, without padding, or with each + come as a space."""
    value, body = pair
    encoded = base64.b64encode(body.encode()).decode()
    encoded = encoded if padded else encoded.rstrip("=")
    encoded = fold.join(textwrap.wrap(encoded, 76)) if fold else encoded
    encoded = encoded.replace("+", " ") if spaced else encoded
    assert wso2_object(encoded) == (body, value)


@SETTINGS
@given(st.one_of(text, st.from_regex(r"[A-Za-z0-9+/= \r\n\[\]]*", fullmatch=True), damaged().map(base64.b64encode)))
def test_any_other_request_field_is_refused(field: str | bytes) -> None:
    """decisions.md: bad base64 is 400, and so is base64 of anything but an object."""
    read = outcome(lambda: wso2_object(field if isinstance(field, str) else field.decode()))
    assert read.row.status == 400 if isinstance(read, Refused) else read[1] == json.loads(read[0])


@SETTINGS
@given(written(objects), st.lists(st.tuples(text, text).filter(lambda pair: pair[0] != "request"), max_size=3))
def test_the_field_is_found_among_others(pair: tuple[Any, str], others: list[tuple[str, str]]) -> None:
    """wso2.md: the form field `request`; other fields are nobody's business."""
    encoded = base64.b64encode(pair[1].encode()).decode()
    form = urlencode([*others, ("request", encoded)]).encode()
    assert wso2_object(wso2_field(request_of(form, CONTENT_TYPE="application/x-www-form-urlencoded")))[1] == pair[0]


# -- headers --------------------------------------------------------------------------------------------------------


def request_of(body: bytes = b"", **environ: str) -> Request:
    """A request as the server hands it over: header values are Latin-1."""
    plain = {"REQUEST_METHOD": "POST", "SERVER_NAME": "localhost", "SERVER_PORT": "80", "wsgi.url_scheme": "http"}
    return Request({**plain, "wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body)), **environ})


header_values = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"))
names = st.from_regex(r"[A-Za-z0-9._~@:+-]{1,128}", fullmatch=True, alphabet=st.characters(max_codepoint=127))
door = Door(Bank("bank", Password("bank-password")), lambda tpp, proof: None)


@SETTINGS
@given(
    st.one_of(
        header_values,
        st.tuples(st.sampled_from(["Basic", "basic", "BASIC ", "Bearer", ""]), header_values).map(" ".join),
        st.binary().map(lambda credentials: "Basic " + base64.b64encode(credentials).decode()),
    )
)
def test_any_authorization_names_a_caller_or_is_refused_with_401(header: str) -> None:
    """decision 20; RFC 9110 section 11.6.1: the refusal says how to ask."""
    caller = outcome(lambda: door.caller(request_of(HTTP_AUTHORIZATION=header), ()))
    if isinstance(caller, Refused):
        assert caller.row.status == 401
        assert caller.headers["WWW-Authenticate"]
    else:
        assert re.fullmatch("[0-9a-f]{64}", caller.proof)
        assert (caller.polls, caller.bank) == (True, False)


@SETTINGS
@given(names, st.text(st.characters(exclude_characters=":", exclude_categories=["Cs"])))
def test_a_tpps_name_and_secret_are_read_as_they_are(name: str, secret: str) -> None:
    """RFC 7617; decisions.md: the user name is the name of the stream, colons and all."""
    credentials = base64.b64encode(f"{name}:{secret}".encode()).decode()
    caller = door.caller(request_of(HTTP_AUTHORIZATION=f"Basic {credentials}"), ())
    assert caller == Caller(name, hash_of(secret), polls=True)


@SETTINGS
@given(st.binary(min_size=1))
def test_a_certificate_is_read_from_every_form_of_header(der: bytes) -> None:
    """RFC 9440 section 2.1, and the URL-encoded PEM of nginx, Envoy and others: the same bytes."""
    encoded = base64.b64encode(der).decode()
    pem = "-----BEGIN CERTIFICATE-----\n" + "\n".join(textwrap.wrap(encoded, 64)) + "\n-----END CERTIFICATE-----\n"
    forms = [
        f":{encoded}:",
        quote(pem),
        quote(pem, safe=""),
        f'Hash=00;Cert="{quote(pem, safe="")}";Subject="CN=a,b;c"',
    ]
    assert [certificate.read(form) for form in forms] == [der] * len(forms)


@SETTINGS
@given(
    st.one_of(
        header_values, header_values.map(lambda each: f":{each}:"), header_values.map(lambda each: f"Cert={each}")
    )
)
@example('Cert="a";Cert="b"')
@example("-----BEGIN CERTIFICATE-----" * 3)
def test_any_certificate_header_is_read_or_passed_over(header: str) -> None:
    """RFC 8705 section 3: what is no certificate binds nothing, and breaks nothing."""
    assert certificate.read(header) is None or isinstance(certificate.read(header), bytes)


@SETTINGS
@given(header_values, header_values, header_values)
@example("application/json; charset=", "*/*;q=", "")
@example("application/json;charset*=utf-8''x", "application/json;q=1e999", "gzip")
def test_any_media_type_is_taken_or_refused(content_type: str, accept: str, encoding: str) -> None:
    """decision 21: 415 or 406, never 500."""
    request = request_of(CONTENT_TYPE=content_type, HTTP_ACCEPT=accept, HTTP_CONTENT_ENCODING=encoding)
    typed = outcome(lambda: want_type(request, "application/json", absent=True))
    assert typed is None or typed.row.status == 415
    wanted = outcome(lambda: want_json_answer(request))
    assert wanted is None or wanted.row.status == 406


# -- SETs -----------------------------------------------------------------------------------------------------------


@by_profile
@SETTINGS
@given(handed_out=st.dictionaries(text, sets, max_size=5), more=st.booleans())
def test_an_answer_holds_exactly_its_sets(profile: Profile, handed_out: dict[str, str], more: bool) -> None:
    """RFC 8936 section 2.3: a JSON object with each SET under its jti, whatever characters that has, in order."""
    pairs = [(jti.encode(), secevent.encode()) for jti, secevent in handed_out.items()]
    body, status = profile.write(Answer(pairs, more, None, False, 0, 0), Poll())
    answer = read_object(body)
    assert answer == {"sets": handed_out, "moreAvailable": more}
    assert list(answer["sets"]) == list(handed_out)
    assert status == 200


@SETTINGS
@given(st.one_of(text, sets, values.map(lambda claims: "e30." + encoded(claims) + ".c2ln")))
def test_any_text_is_a_set_or_bad(signed: str) -> None:
    """RFC 8935 section 2.4: a SET that cannot be read is refused, not stumbled over."""
    claims = outcome(lambda: sets_signed.read(signed), BadSecevent)
    assert claims.description if isinstance(claims, BadSecevent) else 1 <= len(claims["jti"]) <= 128


def encoded(claims: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")


@pytest.fixture
def real(redis_server: RedisServer) -> Iterator[Store]:
    """A store with one stream."""
    found = Store.open(redis_server.url.removesuffix("0") + "5", Path(), Rules())
    found.redis.flushdb()
    found.configure("tpp-1", "hash", {})
    yield found
    found.redis.flushdb()
    found.redis.close()


@SETTINGS
@given(jti=mostly(st.text(st.characters(exclude_categories=["Cs"]), min_size=100, max_size=140), st.text()))
@example(jti="𝕁" * 128)
@example(jti="\x7f")
@example(jti="\x85")
@example(jti="")
def test_the_store_takes_the_jtis_that_the_wire_takes(real: Store, jti: str) -> None:
    """decisions.md, Signed SETs: 1 to 128 characters, counted alike in Python and by redis-cli --eval push.lua."""
    try:
        sets_signed.check_jti(jti)
    except BadSecevent:
        with pytest.raises(BadSet):
            real.push("tpp-1", jti, set_of("a"))
    else:
        assert real.push("tpp-1", jti, set_of("a")).outcome in ("queued", "repeated")
        assert real.find("tpp-1", jti).jti == jti
