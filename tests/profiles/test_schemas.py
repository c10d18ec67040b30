"""The strict reader, and the schema of each body."""

import json
from typing import Any

import pytest
from marshmallow import Schema, ValidationError

from eventpoll.delivery.stream_settings import SecretSchema, StreamSchema
from eventpoll.delivery.transmitter import Poll
from eventpoll.errors import CODES, Refused
from eventpoll.profiles.obie import ObiePollSchema
from eventpoll.profiles.rfc8936 import KEPT_DESCRIPTION, KEPT_ERR, PollSchema
from eventpoll.profiles.wso2 import Wso2PollSchema
from eventpoll.sets.event import EventSchema
from eventpoll.sets.json import Malformed, member_texts, read_json, read_object
from eventpoll.sets.schema import first_mistake, invalid
from eventpoll.store.keys import check_tpp

ERROR = {"err": "e", "description": "d"}

# -- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"{}", {}),
        (' {"a": [1, 2.5, -0, 1e2, true, null, "\\u00fc"]}\r\n', {"a": [1, 2.5, 0, 100.0, True, None, "ü"]}),
        ('"\\ud83c\\udfe6"', "🏦"),
        ("9" * 4000, int("9" * 4000)),
        ("[" * 500 + "]" * 500, None),
    ],
    ids=["empty", "kinds", "surrogate pair", "4000 digits", "500 deep"],
)
def test_json_is_read_as_rfc_8259_has_it(text: bytes | str, value: Any) -> None:
    """RFC 8259: bytes are UTF-8, blanks around are free."""
    assert read_json(text) == value or value is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"\xff", "not UTF-8"),
        (b"", "not JSON"),
        ("{", "not JSON"),
        ("\ufeff{}", "byte order mark"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ("[NaN]", "NaN is not a number"),
        ("[Infinity]", "Infinity is not a number"),
        ("[-Infinity]", "-Infinity is not a number"),
        ('{"a":1,"a":1}', "stands twice"),
        ('[{"b":{"a":1,"a":2}}]', "stands twice"),
        ("[" * 2000, "too deeply"),
        ('{"a":' * 500_000, "too deeply"),
        ("9" * 4001, "4000 digits"),
        ("-" + "9" * 50_000, "4000 digits"),
    ],
)
def test_what_is_not_json_is_malformed_and_told_why(text: bytes | str, why: str) -> None:
    """Decision 16: duplicate members, NaN, nesting bombs, invalid UTF-8."""
    with pytest.raises(Malformed, match=why):
        read_json(text)


@pytest.mark.parametrize("text", ["[]", "null", "1", '"{}"', "true"])
def test_a_body_must_be_an_object(text: str) -> None:
    """RFC 8936 section 2.2: the request is a JSON object."""
    with pytest.raises(Malformed, match="must be a JSON object"):
        read_object(text)


# -- members to the letter ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("{}", {}),
        (" \t\r\n{ \n} ", {}),
        ('{"a":1}', {"a": "1"}),
        ('{ "a" : 1.10 , "b":-0E+5,"c": 1234567890123456 }', {"a": "1.10", "b": "-0E+5", "c": "1234567890123456"}),
        ('{"b":{"z": 1,  "a":[ ]},\n"a":"\\u00fc\\/"}', {"b": '{"z": 1,  "a":[ ]}', "a": '"\\u00fc\\/"'}),
        ('{"x}":"{,:","\\"":null}', {"x}": '"{,:"', '"': "null"}),
        ('{"":true}', {"": "true"}),
    ],
)  # fmt: skip
def test_members_keep_their_text_to_the_letter(text: str, texts: dict[str, str]) -> None:
    """Issue 2: events reach the TPP exactly as they were given; numbers and blanks too."""
    assert read_object(text).keys() == texts.keys()
    assert member_texts(text) == texts
    assert list(member_texts(text)) == list(texts)


# -- the poll -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [PollSchema(), ObiePollSchema(), Wso2PollSchema()])
def test_an_empty_poll_leaves_all_open(schema: Schema) -> None:
    """RFC 8936 section 2.4.1 figure 2: {} is legal."""
    assert schema.load({}) == Poll(None, None, [], {})


@pytest.mark.parametrize("schema", [PollSchema(), ObiePollSchema(), Wso2PollSchema()])
def test_a_full_poll_is_read_as_it_stands(schema: Schema) -> None:
    """RFC 8936 section 2.2: all four members."""
    members: dict[str, Any] = {"maxEvents": 3, "returnImmediately": True, "ack": ["a", "a"], "setErrs": {"b": ERROR}}
    assert schema.load(members) == Poll(3, True, ["a", "a"], {"b": ERROR})


WRONG_NUMBERS: list[Any] = [-1, 1.0, True, "x", []]
WRONG_ACKS: list[Any] = ["a", {}, [1], [None], ["\ud800"], ["a", "\udfff\ud800"]]
WRONG_ERRORS: list[Any] = [
    [],
    {"a": None},
    {"a": {}},
    {"": ERROR},
    {"\ud800": ERROR},
    {"a": {**ERROR, "err": None}},
    {"a": {**ERROR, "err": 1}},
    {"a": {**ERROR, "err": ""}},
    {"a": {**ERROR, "description": ["d"]}},
]


@pytest.mark.parametrize("schema", [PollSchema(), ObiePollSchema(), Wso2PollSchema()])
@pytest.mark.parametrize(
    "members",
    [
        *({"maxEvents": value} for value in WRONG_NUMBERS),
        *({"ack": value} for value in WRONG_ACKS),
        *({"setErrs": value} for value in WRONG_ERRORS),
    ],
    ids=repr,
)
def test_a_wrong_value_is_refused_in_every_profile(schema: Schema, members: dict[str, Any]) -> None:
    """Decisions 9 and 16."""
    with pytest.raises(ValidationError):
        schema.load(members)


@pytest.mark.parametrize("schema", [PollSchema(), ObiePollSchema()])
@pytest.mark.parametrize("value", ["true", 0, 1, []])
def test_return_immediately_is_a_boolean(schema: Schema, value: Any) -> None:
    """Decision 9, but for WSO2's profile."""
    with pytest.raises(ValidationError):
        schema.load({"returnImmediately": value})


NULLS: list[dict[str, Any]] = [
    {"maxEvents": None},
    {"returnImmediately": None},
    {"ack": None},
    {"setErrs": None},
    {"maxEvents": None, "returnImmediately": None, "ack": None, "setErrs": None},
]


@pytest.mark.parametrize("members", NULLS, ids=repr)
def test_a_null_member_counts_as_absent_but_for_obie(members: dict[str, Any]) -> None:
    """Decision 9: Go and Java write null for a member without a value; OBIE's schema is closed."""
    for schema in (PollSchema(), Wso2PollSchema()):
        assert schema.load(members) == Poll()
    with pytest.raises(ValidationError):
        ObiePollSchema().load(members)


def test_a_null_description_counts_as_absent() -> None:
    """Decision 9: the RFC path takes an error without one; WSO2's and OBIE's require it."""
    members = {"setErrs": {"a": {"err": "e", "description": None}}}
    assert PollSchema().load(members).set_errs == {"a": {"err": "e"}}
    for schema, words in (
        (Wso2PollSchema(), "Missing data for required field."),
        (ObiePollSchema(), "Must be a string."),
    ):
        with pytest.raises(ValidationError) as caught:
            schema.load(members)
        assert caught.value.messages == {"setErrs": {"a": {"description": [words]}}}


@pytest.mark.parametrize("asked", ["7", "+7", "007", 7])
def test_wso2_reads_a_number_from_a_string(asked: Any) -> None:
    """Decision 9: numeric strings are accepted, as WSO2 does."""
    assert Wso2PollSchema().load({"maxEvents": asked, "returnImmediately": "no"}) == Poll(7, "no")  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", ["", " 7", "7.0", "7e1", "0x7", "-1", "٧", "1_000", "9" * 19])
def test_wso2_reads_no_number_from_other_strings(asked: str) -> None:
    """Java's Integer.parseInt takes a sign and digits; what is below 0 is refused by decision 9."""
    with pytest.raises(ValidationError):
        Wso2PollSchema().load({"maxEvents": asked})


def test_the_lengths_of_obie_hold_on_the_obie_path_alone() -> None:
    """OBEventPolling1: ack items 1 to 128, err 1 to 40, description 1 to 256 characters."""
    beyond: list[dict[str, Any]] = [
        {"ack": [""]},
        {"ack": ["x" * 129]},
        {"setErrs": {"a": {**ERROR, "err": "e" * 41}}},
        {"setErrs": {"a": {**ERROR, "description": "d" * 257}}},
        {"setErrs": {"a": {**ERROR, "description": ""}}},
    ]
    for members in beyond:
        for schema in (PollSchema(), Wso2PollSchema()):
            assert isinstance(schema.load(members), Poll)
        with pytest.raises(ValidationError):
            ObiePollSchema().load(members)


def test_a_description_may_be_missing_on_the_rfc_path_alone() -> None:
    """The profile table: err required, description optional; elsewhere both required."""
    members = {"setErrs": {"a": {"err": "e"}}}
    assert PollSchema().load(members).set_errs == {"a": {"err": "e"}}
    for schema in (ObiePollSchema(), Wso2PollSchema()):
        with pytest.raises(ValidationError):
            schema.load(members)


def test_of_endless_words_the_beginning_is_kept() -> None:
    """Where no length is set, an err or description may not fill the store."""
    error = {"err": "e" * 10_000, "description": "d" * 10_000, "more": "m"}
    kept = PollSchema().load({"setErrs": {"a": error}}).set_errs["a"]
    assert kept == {"err": "e" * KEPT_ERR, "description": "d" * KEPT_DESCRIPTION}


def test_unknown_members_are_refused_by_obie_alone() -> None:
    """OBEventPolling1: additionalProperties false."""
    for schema in (PollSchema(), Wso2PollSchema()):
        assert schema.load({"x": 1}) == Poll()
    with pytest.raises(ValidationError):
        ObiePollSchema().load({"x": 1})


# -- the bank's bodies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"redeliver_after": 0.5, "max_deliveries": 0, "on_error": "redeliver", "set_profile": "obie", "audience": "a"},
        {"redeliver_after": None, "max_deliveries": None, "on_error": None, "set_profile": None, "audience": None},
    ],
)
def test_the_settings_of_a_stream_are_all_optional(settings: dict[str, Any]) -> None:
    """interface.md: PUT /streams/{tpp}; null goes back to the service's own."""
    assert StreamSchema().load(settings) == settings


@pytest.mark.parametrize(
    "settings",
    [
        {"redeliver_after": -1},
        {"redeliver_after": "soon"},
        {"max_deliveries": 1.5},
        {"max_deliveries": True},
        {"on_error": "drop"},
        {"set_profile": "caep"},
        {"audience": ""},
        {"tpp": "x"},
    ],
    ids=repr,
)
def test_a_wrong_setting_of_a_stream_is_refused(settings: dict[str, Any]) -> None:
    """Decisions, smaller ones: a wrong value is 400."""
    with pytest.raises(ValidationError):
        StreamSchema().load(settings)


def test_a_new_secret_has_no_grace_unless_asked() -> None:
    """interface.md: grace_seconds, default 0."""
    assert SecretSchema().load({}) == {"grace_seconds": 0.0}
    with pytest.raises(ValidationError):
        SecretSchema().load({"grace_seconds": -1})


def test_the_toe_of_an_event_is_a_number() -> None:
    """RFC 8417 section 2.2: toe is a NumericDate."""
    event: dict[str, Any] = {"events": {"urn:x": {}}}
    for toe in (1516239022, 1516239022.5):
        assert EventSchema().load({**event, "toe": toe})["toe"] == toe
    for wrong in ("1516239022", True, None):
        with pytest.raises(ValidationError):
            EventSchema().load({**event, "toe": wrong})


@pytest.mark.parametrize("name", ["a", "x" * 128, "A-Z.a_z~0@9:+"])
def test_the_name_of_a_tpp_may_be(name: str) -> None:
    """Decisions, smaller ones: [A-Za-z0-9._~@:+-]{1,128}."""
    assert check_tpp(name) == name


@pytest.mark.parametrize("name", ["", "x" * 129, "a b", "a/b", "a{b}", "a,b", "ü", "a\n", "a\x00"])
def test_the_name_of_a_tpp_may_not_be(name: str) -> None:
    """Decisions, smaller ones: anything else is 400, wherever a name is given."""
    with pytest.raises(Refused) as caught:
        check_tpp(name)
    assert caught.value.row.status == 400


# -- what marshmallow finds, told -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "members", "at", "code"),
    [
        (ObiePollSchema(), {"maxEvents": -1}, "maxEvents", "field_invalid"),
        (ObiePollSchema(), {"key": 1}, "key", "field_unexpected"),
        (ObiePollSchema(), {"value": 1}, "value", "field_unexpected"),
        (ObiePollSchema(), {"setErrs": {"j": 1}}, "setErrs.j", "field_invalid"),
        (ObiePollSchema(), {"setErrs": {"j": {"err": "e"}}}, "setErrs.j.description", "field_missing"),
        (ObiePollSchema(), {"setErrs": {"key": {"err": "e"}}}, "setErrs.key.description", "field_missing"),
        (ObiePollSchema(), {"setErrs": {"value": 1}}, "setErrs.value", "field_invalid"),
        (EventSchema(), {}, "events", "field_missing"),
        (EventSchema(), {"events": {}}, "events", "field_invalid"),
        (EventSchema(), {"events": {"urn:x": 1}}, "events.urn:x", "field_invalid"),
        (EventSchema(), {"events": {"": {}}}, "events.", "field_invalid"),
        (EventSchema(), {"events": {"key": 1}}, "events.key", "field_invalid"),
        (ObiePollSchema(), {"x" * 9000: 1}, "x" * 500, "field_unexpected"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_kind(schema: Schema, members: dict[str, Any], at: str, code: str) -> None:
    """OBErrorResponse1: Path is where the fault is, 500 characters at most."""
    with pytest.raises(ValidationError) as caught:
        schema.load(members)
    refusal = invalid(caught.value.messages)
    assert (refusal.path, refusal.code) == (at, code)
    assert str(refusal).startswith(f"{at}: ")


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ({"a": ["first", "second"], "b": ["third"]}, ("a", "first")),
        ({"a": {"b": {"c": ["deep"]}}}, ("a.b.c", "deep")),
        (["bare"], ("", "bare")),
        ("bare", ("", "bare")),
        ({"a": []}, ("a", "[]")),
    ],
)
def test_the_first_mistake_is_the_one_told(messages: object, found: tuple[str, str]) -> None:
    """One mistake at a time is enough, and its order is marshmallow's."""
    assert first_mistake(messages) == found


def test_a_mistake_without_a_place_is_told_as_it_is() -> None:
    """There is nothing to put before it."""
    assert str(invalid(["Nothing of this."])) == "Nothing of this."


def test_every_code_fits_what_the_standards_allow() -> None:
    """OBErrorResponse1: four characters in v4, UK.OBIE in v3.1; a 401 of OBIE has no body and so no codes."""
    for name, code in CODES.items():
        assert 400 <= code.status <= 599, name
        assert code.err, name
        assert code.wso2, name
        if code.status != 401:
            assert code.obie_v3.startswith("UK.OBIE."), name
            assert len(code.obie_v4) == 4, name
    assert json.dumps(sorted(CODES)).isascii()
