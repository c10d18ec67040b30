"""The document of the calls: it is OpenAPI 3.1, it leaves nothing out, and what it shows is what happens."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from joserfc import jws
from joserfc.jwk import RSAKey
from jsonschema.exceptions import ValidationError
from openapi_spec_validator import OpenAPIV31SpecValidator

from app import create_app
from eventpoll.api.openapi import all_calls, document
from eventpoll.api.openapi_call import FORM, JSON, LINES, SIGNED, Call, form
from eventpoll.errors import CODES
from eventpoll.profiles.wso2 import Wso2
from eventpoll.sets.json import BODY_BYTES
from eventpoll.settings import Config
from harness import ROOT, contract, issuer
from harness.issuer import bearer, token
from harness.ports import free_port
from harness.redis_servers import RedisServer
from harness.service import BANK, BANK_SETTINGS, Reply, Server, start_server
from harness.waiting import wait_for

CALLS = {call.name: call for call in all_calls()}
PAGES = ("/docs", "/console")  # for people: no calls
BANK_KEY = RSAKey.generate_key(2048, {"kid": "bank-1", "alg": "PS256"})
Sent = dict[str, Any]


def settings(redis: RedisServer, database: int, **more: str) -> dict[str, str]:
    """A bank's, on a database of the store that is its own."""
    return {
        "REDIS_URL": f"{redis.url.removesuffix('0')}{database}",
        **BANK_SETTINGS,
        "EVENTPOLL_FAILED_LOGIN_SECONDS": "0",
        "EVENTPOLL_LONG_POLL_SECONDS": "1",
        **more,
    }


def served(environ: dict[str, str], factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for the tests of this module."""
    server = start_server(environ, factory.mktemp("openapi"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def plain(redis_server: RedisServer, signing_keys: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service as most banks have it."""
    yield from served(settings(redis_server, 13, EVENTPOLL_SIGNING_KEYS=signing_keys), tmp_path_factory)


@pytest.fixture(scope="module")
def strict(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that refuses whatever can be refused: one held poll, one host, signatures checked, tokens too."""
    more = {
        "EVENTPOLL_SIGNING_KEYS": json.dumps({"keys": [BANK_KEY.as_dict(private=True)]}),
        "EVENTPOLL_PUSH_JWKS": json.dumps({"keys": [BANK_KEY.as_dict(private=False)]}),
        "EVENTPOLL_TRUSTED_HOSTS": "127.0.0.1",
        "EVENTPOLL_MAX_HELD_POLLS": "1",
        "EVENTPOLL_LONG_POLL_SECONDS": "20",
        **issuer.settings(),
    }
    yield from served(settings(redis_server, 14, **more), tmp_path_factory)


@pytest.fixture(scope="module")
def limited(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that counts polls and guesses, mints nothing, and is empty as WSO2 is."""
    more = {
        "EVENTPOLL_POLL_RATE": "10/second",
        "EVENTPOLL_WSO2_EMPTY_STATUS": "404",
        "EVENTPOLL_FAILED_LOGIN_SECONDS": "10",
        "EVENTPOLL_PROXY_HOPS": "1",
    }
    yield from served(settings(redis_server, 15, **more), tmp_path_factory)


@pytest.fixture(scope="module")
def storeless(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service whose store is away."""
    more = {"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    yield from served({**settings(redis_server, 0), **more}, tmp_path_factory)


def operation(call: Call) -> Any:
    """A call, as the document has it."""
    return document()["paths"][call.path][call.method.lower()]


def body_of(kind: str, value: Any) -> str:
    """An example as the bytes that are sent."""
    if kind == FORM:
        return "request=" + str(value["request"]).replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
    return json.dumps(value) if kind == JSON else str(value)


def usual(server: Server, call: Call, kind: str = "", example: Any = None) -> Sent:
    """A request that is right, made from the document's examples alone, by the TPP tpp-1 or the bank."""
    told = operation(call)
    path, headers, query = call.path, {}, []
    for parameter in told["parameters"]:
        value = parameter.get("example")
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", value)
        elif parameter["in"] == "header" and value is not None:
            headers[parameter["name"]] = value
        elif parameter["in"] == "query" and value is not None:
            query.append(f"{parameter['name']}={value}")
    body = None
    if call.takes:
        kind = kind or next(iter(call.takes))
        if example is None:
            example = next(iter(call.takes[kind].examples.values()))
        headers["Content-Type"] = kind
        body = body_of(kind, example)
    tpp = ("tpp-1", server.secrets.get("tpp-1", "unknown-secret"))
    auth = {"tpp": tpp, "bank": BANK}.get(call.who)
    return {"path": path + "?" * bool(query) + "&".join(query), "body": body, "headers": headers, "auth": auth}


def send(server: Server, call: Call, sent: Sent) -> Reply:
    """The request, over a socket; what is answered is held to the document there."""
    return server.request(call.method, sent["path"], sent["body"], sent["headers"], sent["auth"])


def fresh(server: Server, **stream: Any) -> None:
    """tpp-1 has a new stream, of which nothing is known."""
    server.bank("DELETE", "/streams/tpp-1?force=true")
    server.tpp("tpp-1", **stream)


# -- the document ------------------------------------------------------------------------------------------------


def test_the_document_is_openapi_3_1() -> None:
    """Issue 7: "OpenAPI 3.1"; the validator is python-openapi's."""
    assert document()["openapi"].startswith("3.1")
    assert list(OpenAPIV31SpecValidator(document()).iter_errors()) == []


def test_every_route_stands_in_it_and_every_path_of_it_is_a_route() -> None:
    """Nothing is served that is not told of, and nothing is told of that is not served."""
    routes = set()
    for rule in create_app(Config.from_environ({})).url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        if not path.startswith(PAGES):
            routes |= {(method.lower(), path) for method in rule.methods or ()} - {("head", path)}
    assert {(method, path) for path, calls in document()["paths"].items() for method in calls} == routes


def test_every_code_of_the_table_of_errors_is_one_that_some_call_answers() -> None:
    """But `method`: whoever calls a path by a method that it does not have calls nothing that is told of."""
    assert {code for call in CALLS.values() for code in call.refusals} == set(CODES) - {"method"}


def test_the_words_of_refusals_are_the_tables() -> None:
    """Names of errors are not typed again: each is in the document as its row has it, and no other."""
    told = json.dumps(document()["paths"])
    found = set(re.findall(r"UK\.OBIE\.[\w.]+", told))
    codes = {code for call in CALLS.values() if call.name.startswith("poll_obie") for code in call.refusals}
    assert found == {CODES[code].obie_v3 for code in codes} - {""}
    assert set(re.findall(r'"(U0\d\d)"', told)) == {CODES[code].obie_v4 for code in codes} - {""}


def examples() -> Iterator[Any]:
    """Every example of the document: where its schema is, the content that it stands in, itself."""
    for path, calls in document()["paths"].items():
        for method, told in calls.items():
            places = [("requestBody",), *[("responses", status) for status in told["responses"]]]
            for place in places:
                part = told
                for name in place:
                    part = part.get(name, {})
                for kind, content in part.get("content", {}).items():
                    for name, example in content.get("examples", {}).items():
                        pointer = ("paths", path, method, *place, "content", kind, "schema")
                        yield pytest.param(
                            pointer, content, example["value"], id=f"{method} {path} {place[-1]} {kind} {name}"
                        )


@pytest.mark.parametrize(("pointer", "content", "value"), list(examples()))
def test_every_example_fits_its_own_schema(pointer: tuple[str, ...], content: Any, value: Any) -> None:
    """JSON Schema 2020-12, with what WSO2's form has in base64 unpacked, and no member that is not told of."""
    contract.validator(*pointer).validate(value)
    if (unpacked := contract.unpacked(content, value)) is not value:
        inner = ("properties", "request", "contentSchema")
        contract.validator(*pointer, *inner).validate(unpacked)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Poll", {"maxEvents": -1}),
        ("Poll", {"maxEvents": "1"}),
        ("Poll", {"setErrs": {"a": {"err": None}}}),
        ("Poll", {"returnImmediately": 1}),
        ("Poll", {"ack": [1]}),
        ("Poll", {"setErrs": {"a": {}}}),
        *(("ObiePoll", {name: None}) for name in ("maxEvents", "returnImmediately", "ack", "setErrs")),
        ("ObiePoll", {"setErrs": {"a": {"err": "e", "description": None}}}),
        ("ObiePoll", {"stream_id": "x"}),
        ("ObiePoll", {"ack": [""]}),
        ("ObiePoll", {"setErrs": {"a": {"err": "e", "description": "d" * 257}}}),
        ("ObiePoll", {"setErrs": {"a": {"err": "e"}}}),
        ("Wso2Poll", {"maxEvents": "one"}),
        ("Wso2Poll", {"setErrs": {"a": {"err": "e", "description": None}}}),
        ("StreamSettings", {"on_error": "ignore"}),
        ("StreamSettings", {"redeliver_after": -1}),
        ("NewSecretWanted", {"grace_seconds": "1"}),
        ("Event", {}),
        ("Event", {"events": {}}),
        ("Event", {"events": {"": {}}}),
        ("Event", {"events": {"urn:a": {}}, "scope": "cards"}),
    ],
)
def test_what_the_service_refuses_does_not_fit_the_schema(name: str, value: Any) -> None:
    """The schemas are marshmallow's own: what they refuse is refused by the document too."""
    from eventpoll.api.openapi import SCHEMAS

    assert SCHEMAS[name].validate(value)
    with pytest.raises(ValidationError):
        contract.validator("components", "schemas", name).validate(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((poll, {name: None}) for poll in ("Poll", "Wso2Poll") for name in ("maxEvents", "ack", "setErrs")),
        *((poll, {"returnImmediately": None}) for poll in ("Poll", "Wso2Poll")),
        ("Poll", {"setErrs": {"a": {"err": "e", "description": None}}}),
    ],
)
def test_null_that_the_service_takes_fits_the_schema(name: str, value: Any) -> None:
    """Decision 9: null counts as absent on the RFC's and on WSO2's paths."""
    from eventpoll.api.openapi import SCHEMAS

    assert not SCHEMAS[name].validate(value)
    contract.validator("components", "schemas", name).validate(value)


def test_it_is_served_to_anyone_as_json_that_may_be_kept_for_a_while(plain: Server) -> None:
    """interface.md: GET /openapi.json, anyone."""
    reply = plain.request("GET", "/openapi.json")
    assert (reply.status, reply.headers["content-type"]) == (200, JSON)
    assert reply.json == document()
    assert reply.headers["cache-control"] == "public, max-age=300"
    assert [server["url"] for server in reply.json["servers"]] == ["."]


# -- what it shows is what happens -------------------------------------------------------------------------------


def requests() -> list[Any]:
    """Every example of a request, and each call that needs none."""
    found = []
    for call in CALLS.values():
        if not call.takes:
            found.append(pytest.param(call, "", None, id=call.name))
        for kind, content in call.takes.items():
            for name, value in content.examples.items():
                found.append(pytest.param(call, kind, value, id=f"{call.name} {name}"))
    return found


@pytest.mark.parametrize(("call", "kind", "value"), requests())
def test_every_example_of_a_request_runs(plain: Server, call: Call, kind: str, value: Any) -> None:
    """Sent as it stands, on a stream with two SETs, it is answered as the document says it is when it goes well."""
    fresh(plain)
    if kind not in (LINES, SIGNED) and call.name != "push":
        for jti in ("event-1", "event-2"):
            plain.push("tpp-1", jti)
    if call.name in ("delete_set", "requeue"):
        error = {"event-1": {"err": "invalid_key", "description": "unknown kid"}}
        plain.poll("tpp-1", {"setErrs": error, "maxEvents": 0, "returnImmediately": True})
    sent = usual(plain, call, kind, value)
    if call.name == "delete_stream":
        sent["path"] += "?force=true"
    reply = send(plain, call, sent)
    assert reply.status in call.gives
    _, shown_as, content = call.gives[reply.status]
    if content is not None and content.examples and shown_as == JSON:
        (shown,) = content.examples.values()
        if call.name != "get_set":  # of which some members come and go
            assert set(reply.json) == set(shown)
    assert (reply.body == b"") == (content is None)
    again = send(plain, call, sent) if call.name in ("push", "put_stream") else reply
    assert again.status in call.gives


@pytest.mark.parametrize("call", [call for call in CALLS.values() if 404 in call.gives], ids=lambda call: call.name)
def test_where_nothing_is_outstanding_wso2s_way_is_as_documented(limited: Server, call: Call) -> None:
    """Decision 15: EVENTPOLL_WSO2_EMPTY_STATUS=404 keeps WSO2's own answer."""
    fresh(limited)
    reply = send(limited, call, usual(limited, call))
    assert (reply.status, reply.json) == (404, {"moreAvailable": False, "sets": {}})


def refused() -> list[Any]:
    """Every call with every code that it may be refused with, but the two that no request brings about."""
    return [
        pytest.param(call, code, id=f"{call.name} {code}")
        for call in CALLS.values()
        for code in call.refusals
        if code not in ("internal", "unavailable")
    ]


def provoked(call: Call, code: str, server: Server) -> Reply:
    """The call, so that it is refused with that code."""
    fresh(server)
    sent = usual(server, call)
    if (change := SPECIAL.get((call.name, code)) or SPECIAL.get((call.name.partition("_")[0], code))) is not None:
        change(server, call, sent)
    elif code == "malformed" and JSON in call.takes:
        sent["body"] = "[]"
    elif code == "malformed" and FORM not in call.takes:
        sent["headers"]["Host"] = "elsewhere.example"
    elif code == "malformed":
        sent["body"] = "request=e30x"
    else:
        USUAL[code](server, call, sent)
    return sent.get("answered") or send(server, call, sent)


def wrong_password(_: Server, call: Call, sent: Sent) -> None:
    sent["auth"] = (sent["auth"][0], "wrong")


def not_theirs(server: Server, call: Call, sent: Sent) -> None:
    if isinstance(call.profile, Wso2) and call.who == "tpp":
        sent["headers"][call.profile.client_header] = "tpp-2"
    elif call.who == "tpp":
        sent["headers"] |= bearer(token("the-bank", "eventpoll:bank"))
        sent["auth"] = None
    else:
        sent["auth"] = ("tpp-1", server.secrets["tpp-1"])


def too_large(_: Server, call: Call, sent: Sent) -> None:
    sent["body"] = " " * (BODY_BYTES + 1)
    if LINES in call.takes:  # told before it is read
        sent["body"], sent["headers"]["Content-Length"] = "", str(17 * BODY_BYTES)


def missing_name(_: Server, call: Call, sent: Sent) -> None:
    if "{jti}" in call.path:
        sent["path"] = sent["path"].replace("event-1", "none")
    else:
        sent["path"] = sent["path"].replace("tpp-1", "nobody")


def with_json(value: Any) -> Callable[[Server, Call, Sent], None]:
    """The same, with another body."""

    def change(_: Server, call: Call, sent: Sent) -> None:
        sent["body"] = body_of(FORM, {"request": form(value)}) if FORM in call.takes else json.dumps(value)

    return change


def with_header(value: str | None) -> Callable[[Server, Call, Sent], None]:
    """The bank's, with another client header, or without."""

    def change(_: Server, call: Call, sent: Sent) -> None:
        assert isinstance(call.profile, Wso2)
        sent["auth"] = BANK
        sent["headers"].pop(call.profile.client_header)
        if value is not None:
            sent["headers"][call.profile.client_header] = value

    return change


def with_path(old: str, new: str) -> Callable[[Server, Call, Sent], None]:
    """The same, elsewhere."""

    def change(_: Server, call: Call, sent: Sent) -> None:
        sent["path"] = sent["path"].replace(old, new)

    return change


def too_many_held(server: Server, call: Call, sent: Sent) -> None:
    """Of two that would wait one is refused at once. Then the other is held, and a third is one too many."""
    sent["body"] = "{}"
    holders = [threading.Thread(target=send, args=(server, call, dict(sent))) for _ in range(2)]
    for holder in holders:
        holder.start()
    wait_for(lambda: sum(holder.is_alive() for holder in holders) == 1)


def too_often(server: Server, call: Call, sent: Sent) -> None:
    """Until one is refused. That one is the answer: the second that is counted may be over before the next."""

    def refused() -> Reply | None:
        reply = send(server, call, sent)
        return reply if reply.status == 429 else None

    sent["answered"] = wait_for(refused, pause=0)


def guessed(server: Server, call: Call, sent: Sent) -> None:
    """By a stranger with an address of his own: the bank goes on."""
    sent["headers"]["X-Forwarded-For"] = "192.0.2.1"
    wrong_password(server, call, sent)
    too_often(server, call, sent)


def full(server: Server, call: Call, sent: Sent) -> None:
    fresh(server, max_pending=1)
    server.push("tpp-1", "first")


def outstanding(server: Server, call: Call, sent: Sent) -> None:
    server.push("tpp-1", "event-1")


def other_events(server: Server, call: Call, sent: Sent) -> None:
    server.push("tpp-1", "event-1", {"urn:other": {}})


def other_key(server: Server, call: Call, sent: Sent) -> None:
    sent["headers"]["x-idempotency-key"] = "k"
    assert send(server, call, sent).status == 201
    with_json({"another": {}})(server, call, sent)


def signed(key: RSAKey) -> Callable[[Server, Call, Sent], None]:
    """A SET that the bank did not sign so."""

    def change(_: Server, call: Call, sent: Sent) -> None:
        claims = json.dumps({"jti": "s", "events": {"urn:a": {}}}).encode()
        sent["headers"]["Content-Type"] = SIGNED
        sent["body"] = jws.serialize_compact({"alg": "PS256", "kid": key.kid}, claims, key, algorithms=["PS256"])

    return change


def for_obie(server: Server, call: Call, sent: Sent) -> None:
    fresh(server, set_profile="obie")


def media_type(_: Server, call: Call, sent: Sent) -> None:
    sent["headers"]["Content-Type"] = "text/plain"


def accept_html(_: Server, call: Call, sent: Sent) -> None:
    sent["headers"]["Accept"] = "text/html"


USUAL: dict[str, Callable[[Server, Call, Sent], None]] = {
    "unauthenticated": wrong_password,
    "forbidden": not_theirs,
    "not_found": missing_name,
    "not_acceptable": accept_html,
    "too_large": too_large,
    "media_type": media_type,
    "field_invalid": with_path("tpp-1", "tpp!1"),
    "field_unexpected": with_json({"colour": "red"}),
    "payload_missing": lambda server, call, sent: sent.update(body="other=1"),
    "header_missing": with_header(None),
    "header_invalid": with_header("tpp!1"),
    "client_unknown": with_header("tpp-9"),
    "too_many": guessed,
}
SPECIAL: dict[tuple[str, str], Callable[[Server, Call, Sent], None]] = {
    ("poll", "field_invalid"): with_json({"maxEvents": -1}),
    ("poll_wso2_3", "field_invalid"): with_json({"ack": [str(number) for number in range(10_001)]}),
    ("poll_wso2_4", "field_invalid"): with_json({"ack": [str(number) for number in range(10_001)]}),
    ("poll", "field_missing"): with_json({"setErrs": {"event-1": {"description": "d"}}}),
    ("poll", "field_unexpected"): with_json({"stream_id": "x"}),
    ("poll", "too_many"): too_many_held,
    ("poll_wso2_3", "too_many"): too_often,
    ("poll_wso2_4", "too_many"): too_often,
    ("list_streams", "field_invalid"): with_path("limit=10", "limit=0"),
    ("list_sets", "field_invalid"): with_path("limit=10", "state=all"),
    ("put_stream", "key_invalid"): with_json({"set_profile": "wso2"}),
    ("delete_stream", "conflict"): outstanding,
    ("delete_set", "conflict"): outstanding,
    ("requeue", "conflict"): outstanding,
    ("push", "field_missing"): with_json({}),
    ("push", "field_unexpected"): with_json({"events": {"urn:a": {}}, "colour": "red"}),
    ("push", "key_invalid"): signed(RSAKey.generate_key(2048, {"kid": "nobodys"})),
    ("push", "signature_invalid"): signed(RSAKey.generate_key(2048, {"kid": "bank-1"})),
    ("push", "conflict"): other_events,
    ("push", "too_many"): full,
    ("push_batch", "too_many"): guessed,
    ("create_events_3", "conflict"): other_key,
    ("create_events_4", "conflict"): other_key,
    ("create", "too_many"): full,
    ("create", "key_invalid"): lambda server, call, sent: None,
    ("create", "field_invalid"): for_obie,
}


#: Calls whose 429 is documented for what is full; that of the others is for what comes too often.
FILLED = ("poll_rfc8936", "poll_obie_v3", "poll_obie_v4", "push", "create_events_3", "create_events_4")


@pytest.mark.parametrize(("call", "code"), refused())
def test_every_refusal_is_answered_as_its_example_has_it(
    strict: Server, limited: Server, call: Call, code: str
) -> None:
    """Status, shape, names and words: the very ones; but for the id, and numbers that are the bank's to choose."""
    unminted = call.name.startswith("create_events") and code == "key_invalid"
    counted = code == "too_many" and call.name not in FILLED
    reply = provoked(call, code, limited if unminted or counted else strict)
    assert reply.status == CODES[code].status, reply.body
    content = operation(call)["responses"][str(reply.status)].get("content")
    if content is None:
        assert reply.body == b""
        return
    (shown,) = content.values()
    expected = shown["examples"][code]["value"]
    answered = {**reply.json, **({"Id": expected["Id"]} if "Id" in expected else {})}
    assert answered == expected


@pytest.mark.parametrize("call", CALLS.values(), ids=lambda call: call.name)
def test_while_the_store_is_away_a_call_is_answered_503_exactly_where_that_is_told(
    storeless: Server, call: Call
) -> None:
    """Decision 19; who asks for nothing of the store is answered as ever."""
    reply = send(storeless, call, usual(storeless, call))
    away = "unavailable" in call.refusals and call.name != "metrics"  # which tells that the store is away
    assert reply.status == (503 if away else 200)


@pytest.mark.parametrize("call", CALLS.values(), ids=lambda call: call.name)
def test_a_mistake_of_ours_is_told_as_documented(app: Flask, call: Call) -> None:
    """500, in the profile's shape, with nothing of our inside."""

    @app.before_request
    def broken() -> None:
        raise LookupError("inside")

    reply = app.test_client().open(call.path.replace("{", "").replace("}", ""), method=call.method)
    contract.check(call.method, call.path, reply.status_code, {k.lower(): v for k, v in reply.headers}, reply.data)
    assert reply.status_code == 500
    assert b"inside" not in reply.data


def test_an_answer_that_is_not_told_of_is_found() -> None:
    """The check through which every answer in all tests goes: status, members, names and headers."""
    headers = {"content-type": "application/json", "x-fapi-interaction-id": "x"}

    def check(status: int, value: Any, **more: str) -> None:
        contract.check("POST", "/events", status, {**headers, **more}, json.dumps(value).encode())

    check(200, {"sets": {}, "moreAvailable": False})
    for status, value in [
        (204, {}),
        (200, {"sets": {}}),
        (200, {"sets": {}, "moreAvailable": 0}),
        (200, {"sets": {"a": "no SET"}, "moreAvailable": False}),
        (200, {"sets": {}, "moreAvailable": False, "secret": "x"}),
        (400, {"err": "access_denied", "description": "of another status"}),
        (503, {"err": "temporarily_unavailable", "description": "without Retry-After"}),
    ]:
        with pytest.raises(AssertionError):
            check(status, value)


# -- the page ----------------------------------------------------------------------------------------------------


def test_the_page_brings_all_that_it_needs_and_asks_nobody_else(plain: Server) -> None:
    """Issue 7: "a readable page at /docs from an assets package, no CDN"."""
    page = plain.request("GET", "/docs")
    text = page.body.decode()
    wanted = [link for link in re.findall(r'(?:src|href)="([^"]+)"', text) if not link.startswith("data:")]
    assert len(wanted) == 5
    for link in wanted:
        part = plain.request("GET", f"/{link}")
        assert part.status == 200, link
        assert part.body
    assert not re.search(r"https?:|//", text.replace("<!DOCTYPE html>", ""))


def test_the_page_alone_may_run_our_scripts_and_nothing_may_run_others(plain: Server) -> None:
    """A strict Content-Security-Policy; every other answer allows nothing at all."""
    policy = plain.request("GET", "/docs").headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    for path in ("/healthz", "/openapi.json", "/nothing", "/docs/nothing"):
        reply = plain.request("GET", path)
        assert reply.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


def test_what_a_browser_has_of_the_page_is_not_sent_again(plain: Server) -> None:
    """1.7 MB of script: asked for each time, sent when it has changed."""
    first = plain.request("GET", "/docs/swagger-ui-bundle.js")
    assert first.headers["cache-control"] == "no-cache"
    again = plain.request("GET", "/docs/swagger-ui-bundle.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


def test_under_a_prefix_the_page_finds_its_parts() -> None:
    """Mounted below a path of the bank's, every link is still one of ours: none begins at the root."""
    for name in ("docs.html", "docs.js"):
        text = (ROOT / "eventpoll" / "api" / "static" / name).read_text(encoding="utf-8")
        assert not re.search(r"""["']/""", text)
