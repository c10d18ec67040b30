"""Whatever a caller sends costs by its length, never by the square of it: every pattern and every reader that sees a
caller's bytes, on the worst inputs that a search finds, and on the shapes that cost most."""

import ast
import base64
import importlib
import io
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lupa.lua51
import pytest
from flask import Flask, Request
from gunicorn.http.body import Body, ChunkedReader
from gunicorn.http.unreader import IterUnreader
from joserfc.jwk import KeySet
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.wsgi import get_host

from eventpoll import setting_readers
from eventpoll.access import certificate, issuer_keys, tokens
from eventpoll.access.door import Bank, Door
from eventpoll.access.passwords import Password
from eventpoll.api import batch
from eventpoll.cli import output
from eventpoll.console import pages
from eventpoll.profiles import all_profiles
from eventpoll.profiles.rfc8936 import Profile
from eventpoll.profiles.wso2 import wso2_field, wso2_object
from eventpoll.sets import event, signed
from eventpoll.sets.json import member_texts, read_json
from eventpoll.store import records
from eventpoll.store.inbox import Entry
from eventpoll.store.redis.connection import connect
from eventpoll.store.redis.pipelined import RoundTrips
from eventpoll.web import response
from eventpoll.web.body import want_json_answer, want_type
from eventpoll.worker import inbox
from harness import ROOT, issuer
from harness.redis_servers import RedisServer
from tests.growth import LEAST_SECONDS, Pumped, Work, letters, seconds, superlinear, worst

METHODS = ("match", "fullmatch", "search", "findall", "finditer", "sub", "split")
SOURCES = sorted(
    path
    for pattern in ("*.py", "eventpoll/*.py", "examples/*.py", "demo/*.py", "bank/*.py")
    for path in ROOT.glob(pattern)
)
HEADER, TEXT = 65_536, 262_144
"""Characters up to which a header, or a body, that the search found is made longer."""


def held_to_linear(work: Callable[[str], object], texts: list[Pumped], last: int = TEXT) -> None:
    """Fails with what the worst of the texts cost."""
    assert [found for each in texts if (found := superlinear(work, each.text, last))] == []


# -- the search itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [r'"(?:[^"\\]|\\.)*"|[\[\]{}]', r"\s+$", r"[a-z]+@"])
def test_the_search_finds_what_is_not_linear(pattern: str) -> None:
    """The first of them stopped a worker for a minute: a string that does not end, full of escaped quotes."""
    find = re.compile(pattern, re.DOTALL).findall
    (text,) = worst(find, letters(pattern), 600, kept=1)
    assert superlinear(find, text.text, 65_536) != ""


def test_the_search_lets_pass_what_is_linear() -> None:
    """Else it would say nothing."""
    find = re.compile(r"[a-z]+").findall
    held_to_linear(find, worst(find, letters("[a-z]+"), 300))


# -- every pattern ------------------------------------------------------------------------------------------------


def patterns() -> Iterator[tuple[str, re.Pattern[str], str]]:
    """Every regular expression of ours: where it stands, itself, and the method by which it is used."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
    calls = [(path, node) for path, tree in trees.items() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    used: dict[str, set[str]] = {}
    for _, call in calls:
        match call.func:
            case ast.Attribute(ast.Name(name) | ast.Attribute(_, name), method) if method in METHODS:
                used.setdefault(name, set()).add(method)
    compiled = 0
    for path, tree in trees.items():
        for node in ast.walk(tree):
            match node:
                case ast.Assign([ast.Name(name)], ast.Call(ast.Attribute(ast.Name("re"), "compile"))):
                    compiled += 1
                    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
                    assert used.get(name), f"{path.name}: nobody uses {name}"
                    for method in sorted(used[name]):
                        yield f"{path.stem}.{name}.{method}", getattr(module, name), method
                case ast.Call(ast.Attribute(ast.Name("re"), method), [pattern, *_]) if method in METHODS:
                    where = f"{path.stem}:{node.lineno}.{method}"
                    yield where, re.compile(ast.literal_eval(pattern)), method
    assert compiled == sum(ast.unparse(call.func) == "re.compile" for _, call in calls)


PATTERNS = list(patterns())


@pytest.mark.parametrize(("pattern", "method"), [each[1:] for each in PATTERNS], ids=[each[0] for each in PATTERNS])
def test_every_pattern_takes_time_by_the_length_of_the_text(pattern: re.Pattern[str], method: str) -> None:
    """Whoever adds one finds it here: it is read out of the source."""

    def work(text: str) -> object:
        if method == "sub":
            return pattern.sub("", text)
        return list(getattr(pattern, method)(text) or ()) if method == "finditer" else getattr(pattern, method)(text)

    held_to_linear(work, worst(work, letters(pattern.pattern), 600))


def lua_patterns() -> list[tuple[str, str, str]]:
    """Every pattern of the Lua commands: where it stands, by which function of strings it is used, itself."""
    found = []
    for path in sorted((ROOT / "eventpoll" / "store" / "lua").glob("*.lua")):
        code = re.sub(r"^--.*$", "", path.read_text(encoding="utf-8"), flags=re.M)
        for method, pattern in re.findall(r":(match|find|gsub|gmatch)\(('(?:[^'\\]|\\.)*')", code):
            found.append((f"{path.stem}:{pattern}", method, pattern))
    return found


LUA = lua_patterns()


@pytest.mark.parametrize(("method", "pattern"), [each[1:] for each in LUA], ids=[each[0] for each in LUA])
def test_every_pattern_of_the_lua_commands_too(method: str, pattern: str) -> None:
    """There it is the store that would stand still, for everybody."""
    run = {"gsub": f"s:gsub({pattern}, '')", "gmatch": f"s:gmatch({pattern})()"}.get(method, f"s:{method}({pattern})")
    lua = lupa.lua51.LuaRuntime(encoding="latin-1")
    work = lua.eval(f"function(s) return ({run}) end")

    def latin(text: str) -> object:
        return work(text.encode("utf-8").decode("latin-1"))

    held_to_linear(latin, worst(latin, letters(pattern), 300))


# -- every reader, on what a search finds -------------------------------------------------------------------------

JSON, FORM = "application/json", "application/x-www-form-urlencoded"


def asked(body: str = "", **environ: str) -> Request:
    """A request with this body."""
    text = body.encode("utf-8", "replace")
    whole: dict[str, Any] = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(text)), **environ}
    return Request({**whole, "wsgi.input": io.BytesIO(text), "wsgi.url_scheme": "https"})


def b64(text: str) -> str:
    """As WSO2's clients, Basic and a JWS write it."""
    return base64.urlsafe_b64encode(text.encode("utf-8", "replace")).decode().rstrip("=")


RFC8936, OBIE, _, WSO2, _ = all_profiles()
ISSUERS = issuer_keys.IssuerKeys(issuer.jwks())
VALIDATOR = tokens.Validator(issuer.NAME, issuer.AUDIENCE, ISSUERS, ["PS256"], lambda request: None)
DOOR = Door(Bank("bank", Password("password")), lambda tpp, proof: None, tokens.Protector(VALIDATOR), ["eventpolling"])
PROXY = ProxyFix(lambda environ, start_response: [], x_for=2, x_proto=2, x_host=2)


def authorized(scheme: str, text: str) -> object:
    """Who these credentials are."""
    return DOOR.caller(asked(HTTP_AUTHORIZATION=f"{scheme} {text}"), ())


def hosted(text: str) -> object:
    """The checks of Host and Origin."""
    environ = {"REQUEST_METHOD": "POST", "HTTP_HOST": text, "HTTP_ORIGIN": text, "wsgi.url_scheme": "https"}
    get_host(environ, ["a", ".b"])
    response.refuse_cross_site(environ)
    return environ


def forwarded(text: str) -> object:
    """What a proxy says of the caller."""
    names = ("HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_HOST")
    return PROXY(dict.fromkeys(names, text), lambda *_: lambda _: None)


def chunked(text: str) -> bytes:
    """The body that gunicorn makes of what comes on the wire, a socket's buffer at a time."""
    wire = text.encode("latin-1", "replace")
    pieces = iter([wire[at : at + 8192] for at in range(0, len(wire), 8192)])
    limits = SimpleNamespace(limit_request_field_size=8190, max_buffer_headers=8192 * 50)
    return bytes(Body(ChunkedReader(limits, IterUnreader(pieces))).read())


def members(text: str) -> object:
    """The members of an object, as they are written."""
    read_json(text)
    return member_texts(text)


def lines(text: str, known: bool = True) -> object:
    """The lines of a batch, its length known or not."""
    return list(batch.read_lines(io.BytesIO(text.encode()), len(text) if known else 0))


READ_JSON: dict[str, Work] = {
    "JSON": read_json,
    "JSON, its members as they are written": members,
    "an event": lambda text: event.read_event(text.encode()),
    "a line of a batch": lambda text: event.read_line(text.encode()),
    "an entry of the inbox": lambda text: inbox.read(Entry("1-1", {"tpp": "a", "events": text, "toe": text})),
    "a SET": lambda text: signed.read(f"a.{b64(text)}.a"),
    "the header of a SET": lambda text: signed.verify(f"{b64(text)}.e30.a", KeySet(list(issuer.KEYS.values()))),
    "a SET on the console": lambda text: pages.readable(b64(text)),
    "the times of a SET": lambda text: pages.times(b64(text)),
    "an error that the store keeps": lambda text: records.set_record("a", "parked", f"1 1 \n{text}".encode(), b""),
    "WSO2's JSON": lambda text: wso2_object(b64(text)),
    "a token's header": lambda text: authorized("Bearer", f"{b64(text)}.e30.a"),
    "the issuer's keys": setting_readers.read_public_keys,
}
JSON_WORDS = [*'"\\[]{},:0-. é', *['\\"'] * 3, "1e9", "\\u0041", '"a"', '"a":', "true"]
JSON_TAILS = ["[" * 501, "]" * 501, "{}" * 501, '"']


@pytest.mark.parametrize("name", READ_JSON)
def test_every_reader_of_json_takes_time_by_its_length(name: str) -> None:
    """Valid or not, with strings that do not end, and with more brackets than may be nested."""
    held_to_linear(READ_JSON[name], worst(READ_JSON[name], JSON_WORDS, 800, JSON_TAILS))


READ_HEADER: dict[str, tuple[Work, list[str]]] = {
    "Authorization: Basic": (lambda text: authorized("Basic", text), [*"A=+/-_. \n:"]),
    "Authorization: Basic, decoded": (lambda text: authorized("Basic", b64(text)), [*"a:\0é "]),
    "Authorization: Bearer": (lambda text: authorized("Bearer", text), [*"a. ,=\"'", "e30"]),
    "Content-Type": (
        lambda text: want_type(asked(CONTENT_TYPE=text), JSON),
        [*";,=\"\\ *'%!", "a", "charset=", "utf-8", JSON, "a*0*=", "UTF-8''"],
    ),
    "Content-Encoding": (
        lambda text: want_type(asked(CONTENT_TYPE=JSON, HTTP_CONTENT_ENCODING=text), JSON),
        [*";, =a", "identity", "gzip"],
    ),
    "Accept": (
        lambda text: want_json_answer(asked(HTTP_ACCEPT=text)),
        [*";,=\"\\ */'%", "a", "q=", "q=0.1", "charset=", JSON, "*/*"],
    ),
    "a certificate": (
        certificate.read,
        [*'\\"=;,:% \nA', "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----", 'Cert="', "%0A", "By="],
    ),
    "X-Forwarded-For": (forwarded, [*'1.,:" []\\', "::1"]),
    "Host and Origin": (hosted, [*"a.:[]0é-/", "://", ".b"]),
    "x-fapi-interaction-id": (
        lambda text: response.interaction_id({"HTTP_X_FAPI_INTERACTION_ID": text}),
        [*"a \0\x7fé"],
    ),
    "a query": (lambda text: list(asked(QUERY_STRING=text).args.items()), [*"a=&%+;", "%C3", "after=", "limit="]),
}


@pytest.mark.parametrize("name", READ_HEADER)
def test_every_reader_of_a_header_takes_time_by_its_length(name: str) -> None:
    """Werkzeug's parsers and Authlib's too, as far as we call them; a field that is sent again makes a longer one."""
    work, words = READ_HEADER[name]
    held_to_linear(work, worst(work, words, 400), HEADER)


def test_paths_are_routed_in_time_by_their_length(app: Flask) -> None:
    """A jti in a path may hold slashes, so that there is more than one way to read one."""
    routes = app.url_map.bind("events.bank.example")
    words = [*"/a.:", "//", "%2F", "streams", "/streams/a", "/sets", "/sets/", "/requeue", "/console", "events"]

    def work(text: str) -> object:
        return routes.match("/" + text, "POST")

    held_to_linear(work, worst(work, words, 400, ["/requeue", "/"]), HEADER)


READ_TEXT: dict[str, tuple[Work, list[str]]] = {
    "WSO2's form": (
        lambda text: wso2_field(asked(text, CONTENT_TYPE=FORM)),
        [*"A=+&%;", "request=", "%3D", "%C3", "é"],
    ),
    "WSO2's field": (wso2_object, [*"A=+/- \n[]", "\\r", "\\n", "e30"]),
    "the form of a SET": (signed.read, [*"a._-=+ !"]),
    "a record of the store": (
        lambda text: records.set_record("a", "parked", text.encode(), b""),
        ["1", " ", ",", "\n", "1dr", "1eo", "1 1 ", "x"],
    ),
    "chunks": (chunked, [*'1x0;"\\', "\r\n", "a=", "1\r\nx\r\n", ": ", "0\r\n", "\r\n\r\n"]),
    "a batch": (lines, [*'a"{ ', "\n", "{}", "\r\n"]),
    "a batch of unknown length": (lambda text: lines(text, known=False), [*'a"{ ', "\n", "{}", "\r\n"]),
    "a text on the console": (pages.visible, [*'a\0\n\x7f"é<', "\u202e"]),
    "a text in a terminal": (output.cell, [*'a\0\n\x7f"é<', "\u202e"]),
}


@pytest.mark.parametrize("name", READ_TEXT)
def test_every_other_reader_takes_time_by_the_length_of_the_text(name: str) -> None:
    """Forms, batches, chunks, and what is shown to the bank."""
    work, words = READ_TEXT[name]
    held_to_linear(work, worst(work, words, 400))


# -- every reader, on the shapes that cost most -------------------------------------------------------------------


def repeated(head: str, part: str, tail: str, between: str = ",") -> Callable[[int], str]:
    """Makes texts of as many parts as there is room for; # in a part is its number."""

    def make(length: int) -> str:
        return head + between.join(part.replace("#", str(n)) for n in range(length // (len(part) + 4))) + tail

    return make


def polled(profile: Profile) -> Work:
    """What a profile makes of JSON."""
    return lambda text: profile.poll(read_json(text))


SHAPES: dict[str, tuple[Work, Callable[[int], str]]] = {
    "escaped quotes and no end, then brackets": (read_json, lambda length: '"' + '\\"' * (length // 2) + "[" * 501),
    "members": (read_json, repeated("{", '"#":0', "}")),
    "numbers of 4 000 digits": (read_json, repeated("[", "9" * 4000, "]")),
    "one number": (read_json, lambda length: "9" * length),
    "one decimal number": (read_json, lambda length: "0." + "1" * length),
    "arrays in arrays": (read_json, repeated("[" * 450, "[[0]]", "]" * 450)),
    "nothing but brackets": (read_json, lambda length: "[" * length),
    "a jti each": (polled(RFC8936), repeated('{"ack":["', "#", '"]}', '","')),
    "an error each": (polled(OBIE), repeated('{"setErrs":{', '"#":{"err":"a","description":"b"}', "}}")),
    "an error each, all bad": (polled(OBIE), repeated('{"setErrs":{', '"#":0', "}}")),
    "members that are ignored": (polled(RFC8936), repeated("{", '"#":0', "}")),
    "members that are refused": (polled(OBIE), repeated("{", '"#":0', "}")),
    "one member that is ignored, and deep": (polled(RFC8936), repeated('{"a":' + "[" * 450, "[0]", "]" * 450 + "}")),
    "returnImmediately, which WSO2 does not read": (
        polled(WSO2),
        repeated('{"returnImmediately":' + "[" * 450, "[0]", "]" * 450 + "}"),
    ),
    "events": (READ_JSON["an event"], repeated('{"events":{', '"a:#":{}', "}}")),
    "events that are none": (READ_JSON["an event"], repeated('{"events":{', '"a:#":0', "}}")),
    "claims that there are not": (READ_JSON["an event"], repeated('{"events":{"a:b":{}},', '"#":0', "}")),
    "fields that there are not": (
        lambda text: inbox.read(Entry("1-1", dict.fromkeys(text.split(",")) | {"tpp": "a", "events": "{}"})),  # type: ignore[arg-type]
        repeated("", "#", ""),
    ),
    "a line without end": (lines, lambda length: "a" * length),
    "lines": (lines, lambda length: "{}\n" * min(9_999, length // 3) + "a" * max(0, length - 29_997)),
    "chunks of one byte": (chunked, lambda length: "1\r\nx\r\n" * (length // 6) + "0\r\n\r\n"),
    "words on one line of the console": (READ_JSON["a SET on the console"], lambda length: "a " * (length // 2)),
    "colons on one line of the console": (READ_JSON["a SET on the console"], lambda length: ":" * length),
    "brackets on the console": (READ_JSON["a SET on the console"], lambda length: "[" * length),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_shapes_that_cost_most_cost_by_their_length(name: str) -> None:
    """What a search does not come upon, as it is well-formed."""
    work, make = SHAPES[name]
    assert superlinear(work, make) == ""


def test_a_line_without_end_costs_what_lines_of_that_length_do() -> None:
    """Of a batch of 16 MiB no piece is copied for each piece that comes after it."""
    endless, usual = "a" * batch.BATCH_BYTES, ("a" * 16_383 + "\n") * (batch.BATCH_BYTES // 16_384)
    spent, fair = (min(seconds(lines, text) for _ in range(5)) for text in (endless, usual))
    assert spent < 3 * fair


def test_what_the_store_is_sent_costs_by_its_length(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a socket takes it in small pieces, what is left is not copied at each of them."""

    def write(file: int, rest: memoryview) -> int:
        return os.write(file, rest[:4096])

    slow = SimpleNamespace(write=write, readv=os.readv, set_blocking=os.set_blocking)
    with connect(redis_server.url, Path()) as client:
        monkeypatch.setattr("eventpoll.store.redis.pipelined.os", slow)
        trips = RoundTrips(client)

        def spent(text: str) -> float:
            begun = time.process_time()
            assert trips.ask("ECHO", text) == text.encode()
            return time.process_time() - begun

        small, large = (min(spent("a" * length) for _ in range(3)) for length in (500_000, 8_000_000))
        assert large < 16 * 4 * max(small, LEAST_SECONDS)
