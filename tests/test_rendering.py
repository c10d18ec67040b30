"""Any SET that the store can hold renders: in the console, on the command line, in JSON. Hypothesis looks for one that
does not, among those that the store's own writers leave, and among records of any content.

Members that may be absent are what a page or a view trips over. On a real Redis.
"""

import base64
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app import create_app
from config import Config
from eventpoll import keys, pages, shell
from eventpoll.auth import hash_of
from eventpoll.bank import STATES
from eventpoll.failures import StoreError
from eventpoll.records import BY, FAMILIES, HAPPENINGS, LANE, UNKNOWN, Rules
from eventpoll.store import Store
from harness import contract
from harness.redis_servers import RedisServer
from harness.service import BANK, basic
from harness.sets import set_of
from tests.test_cli import command, environment
from tests.test_console import AS_BANK, Page
from tests.test_model import SHIFT

SETTINGS = settings(derandomize=True, max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
TPP, SECRET = "tpp-1", "secret"
NOW = 1_795_176_560_000
FOREVER = Rules(retention=10.0**9)
WSO2 = "/api/fs/event-notifications/events"
OBIE = "/open-banking/v3.1/events"

words = st.text(st.characters(), min_size=1, max_size=20)
"""Lone surrogates too: JSON can write them, and err and description are taken as they come."""

odd = ("..", "a/../b", "/", "-x", "--json", "a\x85b\u2028c", "%2e", "?a=b#c", " ", "<b>", "\u202ex", "None")
jtis = st.sampled_from(odd) | st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
errors = st.fixed_dictionaries({"err": words}, optional={"description": st.just("") | words})
strict_errors = st.fixed_dictionaries({"err": words, "description": words})


class Bank:
    """The bank's operator, with each of the ways to look at a stream; and its TPP, which polls."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.environ, app = environ, create_app(Config.from_environ(environ))
        self.app, self.client, self.runner = app, app.test_client(), app.test_cli_runner()
        self.store: Store = app.extensions["eventpoll"].transmitter.store

    def begin(self, **settings: str) -> None:
        """Start from an empty store, with a stream of these settings."""
        self.store.redis.flushdb()
        self.store.configure(TPP, hash_of(SECRET), settings)

    def poll(self, path: str, **members: Any) -> None:
        """Poll as the TPP does; the answer must be a good one."""
        members = {"returnImmediately": True, **members}
        form = {"request": base64.b64encode(json.dumps(members).encode()).decode()}
        options: dict[str, Any] = {"data": form} if path == WSO2 else {"json": members}
        reply = self.client.post(path, headers={"Authorization": basic(TPP, SECRET)}, **options)
        assert reply.status_code == 200, reply.text

    def age(self) -> None:
        """Let the retention pass: set back every moment that Redis holds."""
        names = keys.of(TPP)
        self.store.redis.eval(SHIFT, len(names), *names, int(self.store.rules.retention) + 10)

    def get(self, path: str) -> Any:
        """Return the JSON of one of the bank's calls, which must be as /openapi.json says."""
        reply = self.client.get(path, headers={"Authorization": basic(*BANK)})
        assert reply.status_code == 200, reply.text
        contract.check("GET", path, reply.status_code, {k.lower(): v for k, v in reply.headers}, reply.data)
        return reply.get_json()

    def see(self, path: str) -> Page:
        """Return a page of the console, which must be whole."""
        page = Page(self.client.get(path, headers=AS_BANK))
        assert page.status == 200, page.text
        return page

    def run(self, *arguments: str, code: int = 0) -> str:
        """Return what a command prints, of which no terminal may act on a character."""
        result = self.runner.invoke(args=["eventpoll", *arguments])
        assert result.exit_code == code, result.output
        assert all(each.isprintable() or each == "\n" for each in result.stdout)
        return result.stdout

    def look_everywhere(self) -> None:
        """Look at the stream, its states and each SET that is or was on it, in every way that there is."""
        self.see("/console")
        self.see(f"/console/streams/{TPP}")
        self.get(f"/streams/{TPP}")
        for arguments in (["streams"], ["peek", TPP], ["errors", TPP]):
            self.run(*arguments)
            json.loads(self.run(*arguments, "--json"))
        ended: list[Any] = [name for key in keys.of(TPP)[9:11] for name in self.store.redis.hkeys(key)]
        listed: dict[str, dict[str, Any]] = {name.decode(): {} for name in ended}
        for state in STATES:
            found = self.get(f"/streams/{TPP}/sets?state={state}")["sets"]
            page = self.see(f"/console/streams/{TPP}?state={state}")
            rows = [row for row in page.rows if len(row) > 4][-len(found) :] if found else []
            for record, row in zip(found, rows, strict=True):
                assert bare(row[-1]) == bare(said(record))
            listed.update({record["jti"]: record for record in found})
        for jti, record in listed.items():
            self.look_at(jti, record)

    def look_at(self, jti: str, listed: Mapping[str, Any]) -> None:
        """Look at one SET: nothing is lost, and nothing made up, of what the listing says."""
        whole = self.get(f"/streams/{TPP}/sets/{quote(jti, safe='')}")
        assert listed.items() <= whole.items()
        with self.app.test_request_context():
            page = self.see(pages.at_set(TPP, jti))
        self.see(f"/console/search?jti={quote(jti, safe='')}")
        printed = self.run("peek", TPP, "--", jti)
        assert json.loads(self.run("peek", "--json", TPP, "--", jti)) == whole
        assert "None" not in printed or "None" in json.dumps(whole)
        for name in ("err", "description"):
            assert bare(pages.visible(whole.get(name, ""))) in bare(page.text)
            assert shell.cell(whole.get(name, "")) in printed

    def end_everything(self) -> None:
        """Requeue one SET that is parked, and discard the others, by the commands that print what they did."""
        parked = [record["jti"] for record in self.get(f"/streams/{TPP}/sets?state=parked")["sets"]]
        if parked:
            self.run("requeue", TPP, "--", parked[0])
            self.run("requeue", TPP, "--", parked[0], code=1)
        told = json.loads(self.run("purge", TPP, "--all", "--json"))["sets"]
        assert [each["jti"] for each in told] == parked[1:]
        self.look_everywhere()


def bare(text: str) -> str:
    """Return a text without its blanks, of which HTML has its own."""
    return "".join(text.split())


def said(record: Mapping[str, Any]) -> str:
    """What the console's listing says of a SET's error."""
    return ": ".join(pages.visible(record[name]) for name in ("err", "description") if record.get(name)) or "none"


@pytest.fixture(scope="module")
def bank(redis_server: RedisServer) -> Iterator[Bank]:
    """An application on the real server, in a database of its own."""
    environ = {
        "REDIS_URL": redis_server.url.removesuffix("0") + "14",
        "EVENTPOLL_BANK_USERNAME": BANK[0],
        "EVENTPOLL_BANK_PASSWORD": BANK[1],
        "EVENTPOLL_RETENTION_DAYS": "0.02",
    }
    bank = Bank(environ)
    yield bank
    bank.store.redis.flushdb()
    bank.store.redis.close()


# -- what the store's own writers leave ----------------------------------------------------------------------------

#: What may happen to the SET of this jti. Each is a request that is answered, or that the store refuses by its name.
HAPPEN: dict[str, Callable[[Bank, str, dict[str, str], dict[str, str]], None]] = {
    "it is pushed": lambda bank, jti, error, full: push(bank, jti),
    "it is pushed with a family": lambda bank, jti, error, full: push(bank, jti, "payments"),
    "it is delivered": lambda bank, jti, error, full: bank.poll("/events", maxEvents=4),
    "it is delivered by OBIE's way": lambda bank, jti, error, full: bank.poll(OBIE, maxEvents=1),
    "it is delivered for ever": lambda bank, jti, error, full: wear_out(bank),
    "it is reported": lambda bank, jti, error, full: bank.poll("/events", maxEvents=0, setErrs={jti: error}),
    "it is reported by OBIE's way": lambda bank, jti, error, full: bank.poll(OBIE, maxEvents=0, setErrs={jti: full}),
    "it is reported by WSO2's way": lambda bank, jti, error, full: bank.poll(WSO2, maxEvents=0, setErrs={jti: full}),
    "it is acknowledged": lambda bank, jti, error, full: bank.poll(WSO2, maxEvents=0, ack=[jti]),
    "it is both": lambda bank, jti, error, full: bank.poll("/events", maxEvents=0, ack=[jti], setErrs={jti: error}),
    "it is requeued": lambda bank, jti, error, full: bank.store.requeue(TPP, jti),
    "it is discarded": lambda bank, jti, error, full: bank.store.discard(TPP, jti),
    "its time passes": lambda bank, jti, error, full: bank.age(),
}


def push(bank: Bank, jti: str, scope: str = "") -> None:
    """Push a SET of that jti, as a bank signs it that writes odd times."""
    bank.store.push(TPP, jti, set_of(jti, iat="soon", toe=-1, nbf=10**400, exp=True), scope)


def wear_out(bank: Bank) -> None:
    """Deliver so often that the history does not hold it all."""
    for _ in range(110):
        bank.store.poll(TPP, max_events=4, profile="r")


happenings = st.tuples(st.sampled_from(sorted(HAPPEN)), st.integers(0, 2), errors, strict_errors)
stream_settings = st.fixed_dictionaries(
    {},
    optional={
        "max_deliveries": st.sampled_from(["1", "2", "110"]),
        "on_error": st.sampled_from(["park", "redeliver"]),
        "redeliver_after": st.sampled_from(["0", "30000"]),
    },
)
BARE: dict[str, str] = {"err": "x"}
FULL = {"err": "x", "description": "y"}


@SETTINGS
@given(st.lists(jtis, min_size=3, max_size=3, unique=True), stream_settings, st.lists(happenings, max_size=12))
@example(["a", "b", "c"], {}, [("it is pushed", 0, BARE, FULL), ("it is reported", 0, BARE, FULL)])
@example(
    ["a", "b", "c"], {"max_deliveries": "1"}, [("it is pushed", 0, BARE, FULL), ("it is delivered", 0, BARE, FULL)]
)
@example(["a", "b", "c"], {}, [("it is pushed", 0, BARE, FULL), ("its time passes", 0, BARE, FULL)])
@example(
    ["a", "b", "c"],
    {"on_error": "redeliver"},
    [("it is pushed", 0, BARE, FULL), ("it is reported", 0, BARE, FULL), ("it is acknowledged", 0, BARE, FULL)],
)
@example(["a", "b", "c"], {}, [("it is pushed", 0, BARE, FULL), ("it is both", 0, {"err": "\ud800\x1b[2J"}, FULL)])
def test_whatever_happened_to_a_set_it_can_be_looked_at(
    bank: Bank, names: list[str], settings: dict[str, str], done: list[tuple[str, int, dict[str, str], dict[str, str]]]
) -> None:
    """Issue 11, 3: description is optional in RFC 8936. No page, command or call fails on what a TPP leaves out."""
    bank.begin(**settings)
    for what, number, error, full in done:
        try:
            HAPPEN[what](bank, names[number], error, full)
        except StoreError:
            continue
    bank.look_everywhere()
    bank.end_everything()


# -- records of any content ----------------------------------------------------------------------------------------

letters = st.sampled_from([*HAPPENINGS, *BY, "z"])
trails = st.lists(st.tuples(st.integers(0, 2 * NOW), letters, letters), max_size=6).map(
    lambda found: ",".join(f"{at}{what}{by}" for at, what, by in found)
)
heads = st.builds(
    lambda family, order, deliveries, trail: f"{family * LANE + order} {deliveries} {trail}".encode(),
    st.integers(0, len(FAMILIES) - 1),
    st.integers(0, LANE - 1),
    st.integers(0, 10**9),
    trails,
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2))
member = st.sampled_from(["err", "description", "jti", "state", "deliveries", "history", "items", "get"])
error_texts = st.one_of(
    st.just(b""),
    st.dictionaries(member, values, max_size=4).map(lambda error: json.dumps(error).encode()),
    values.map(lambda error: json.dumps(error).encode()),
    st.binary(max_size=20),
    st.sampled_from([b"[" * 5000, b'{"err":', b"9" * 5000, b'{"err": "\xed\xa0\x80"}']),
)


def keep(bank: Bank, state: str, head: bytes, error: bytes) -> None:
    """Write a record as if a command of the store had."""
    redis, names = bank.store.redis, dict(zip(keys.STREAM_KEYS, keys.of(TPP), strict=True))
    record = head + (b"\n" + error if error else b"")
    place = int(head.split()[0])
    if state in ("settled", "settled_before"):
        redis.hset(names[state], "jti", f"{9 * NOW} ".encode() + record)
        return
    redis.hset(names["sets"], "jti", set_of("jti"))
    redis.hset(names[{"pending": "requeued", "in_flight": "inflight", "parked": "parked"}[state]], "jti", record)
    order = {"pending": "pending", "in_flight": "inflight_order", "parked": "parked_order"}[state]
    redis.zadd(names[order], {"jti": place if state == "pending" else place % LANE})


@SETTINGS
@given(st.sampled_from([*STATES, "settled", "settled_before"]), heads, error_texts)
@example("parked", b"1795176559181000 1 ", b'{"description": "no err"}')
@example("parked", b"1795176559181000 1 1795176560693dr", b"{}")
@example("in_flight", b"1795176559181000 1 1795176560693dr", b"[1]")
def test_any_record_can_be_looked_at(bank: Bank, state: str, head: bytes, error: bytes) -> None:
    """Issue 11, 3: a script of the bank's may run poll.lua with any words, and a newer version may note what this one
    does not know; a rolling update is no reason for a 500."""
    bank.begin()
    keep(bank, state, head, error)
    rules, bank.store.rules = bank.store.rules, FOREVER
    try:
        bank.look_everywhere()
    finally:
        bank.store.rules = rules


def test_what_is_not_known_of_a_record_is_said_to_be_so(bank: Bank) -> None:
    """A letter that this version does not know leaves the rest of the history as it is."""
    bank.begin()
    keep(bank, "parked", b"1795176559181000 1 1795176560693dr,1795176570703zz", b'{"err": 1, "description": "kept"}')
    found = bank.store.find(TPP, "jti")
    assert [(each.what, each.by) for each in found.history] == [
        ("pushed", "bank"),
        ("delivered", "rfc8936"),
        (UNKNOWN, UNKNOWN),
    ]
    assert found.error == {"description": "kept"}


def test_a_terminal_of_few_letters_shows_a_set_all_the_same(bank: Bank, tmp_path: Path) -> None:
    """Latin-1 has no snowman: a letter that the terminal lacks is a question mark, and no traceback."""
    bank.begin()
    push(bank, "é☃")
    environ = {**environment(bank.environ), "PYTHONIOENCODING": "latin-1"}
    for arguments in (["peek", TPP], ["peek", TPP, "é☃"], ["peek", TPP, "--json"]):
        done = subprocess.run(command(*arguments), cwd=tmp_path, env=environ, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "é?".encode("latin-1") in done.stdout or b"\\u00e9\\u2603" in done.stdout
