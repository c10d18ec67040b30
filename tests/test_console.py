"""The console: what operators see, what their buttons do, and that nobody else sees or does any of it."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app
from config import Config
from eventpoll import console, keys, pages
from eventpoll.auth import hash_of
from eventpoll.failures import Unavailable
from eventpoll.records import Rules, Status, hours
from eventpoll.store import Store
from harness.redis_servers import RedisServer
from harness.service import BANK, Server, basic
from harness.sets import set_of
from harness.waiting import early_in_the_hour

MARKUP = "<script>alert(1)</script>\"><img src=x onerror=alert(1)>'&amp;"
FORM = "application/x-www-form-urlencoded"
VOID = {"meta", "link", "input", "path"}
AS_BANK = {"Authorization": basic(*BANK), "Accept": "text/html,*/*;q=0.8"}


class Page(HTMLParser):
    """What a browser would make of a page: its links, its forms, its rows, its text. Fails where tags do not match."""

    def __init__(self, response: TestResponse) -> None:
        super().__init__()
        self.status, self.source = response.status_code, response.text
        self.links: dict[str, str] = {}
        self.forms: list[tuple[str, dict[str, str], str]] = []
        self.rows: list[list[str]] = []
        self.text = self.announced = ""
        self._open: list[str] = []
        self._link = ""
        self.tags: set[str] = set()
        self.feed(self.source)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        assert not {name for name in told if name.startswith("on") or name == "style"}
        if tag not in VOID:
            self._open.append(tag if told.get("role") != "status" else f"{tag} status")
        if tag == "a":
            self._link = told["href"]
        elif tag == "form" and told.get("method") == "post":
            self.forms.append((told["action"], {}, ""))
        elif tag == "input" and "form" in self._open and self.forms and told.get("type") in ("hidden", "checkbox"):
            self.forms[-1][1][told["name"]] = told["value"]
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().partition(" ")[0] == tag
        self.text += " " if tag in ("dt", "dd") else ""

    def handle_data(self, words: str) -> None:
        self.text += words
        if "a" in self._open:
            self.links[words.strip()] = self._link
        if {"th", "td"} & set(self._open):
            self.rows[-1][-1] = " ".join([*self.rows[-1][-1].split(), *words.split()])
        if any(tag.endswith(" status") for tag in self._open):
            self.announced += words
        if self._open and self._open[-1] == "button" and self.forms:
            action, fields, _ = self.forms[-1]
            self.forms[-1] = (action, fields, words)

    def form(self, button: str) -> tuple[str, dict[str, str]]:
        """Where a button's form goes, and what it sends."""
        (found,) = [(action, fields) for action, fields, words in self.forms if words.startswith(button)]
        return found


class Operator:
    """The bank's, with a browser; and the store behind it all."""

    def __init__(self, app: Flask) -> None:
        self.client: FlaskClient = app.test_client()
        self.store: Store = app.extensions["eventpoll"].transmitter.store

    def see(self, path: str, **options: Any) -> Page:
        return Page(self.client.get(path, headers=AS_BANK, **options))

    def press(self, path: str, button: str, **more: str) -> Page:
        """Press a button on the page at `path`, and go where it leads."""
        action, fields = self.see(path).form(button)
        response = self.send(action, {**fields, **more})
        assert response.status_code == 303, response.text
        return self.see(response.headers["Location"])

    def send(self, path: str, fields: dict[str, str], **headers: str) -> TestResponse:
        sent = {**AS_BANK, "Content-Type": FORM, **headers}
        return self.client.post(path, data=urlencode(fields).encode(), headers=sent)

    def stream(self, tpp: str, *jtis: str, parked: int = 0, description: str = "unknown kid") -> None:
        """A stream on which those SETs wait; the first ones are parked instead."""
        self.store.configure(tpp, hash_of("secret"), {})
        for jti in jtis:
            self.store.push(tpp, jti, set_of(jti))
        error = {"err": "invalid_key", "description": description}
        if parked:
            self.store.poll(tpp, max_events=0, profile="r", set_errs=dict.fromkeys(list(jtis)[:parked], error))

    def counts(self, tpp: str) -> tuple[int, int, int]:
        status = self.store.status(tpp)
        return status.pending, status.in_flight, status.parked


@pytest.fixture
def operator(app: Flask) -> Operator:
    return Operator(app)


def age(operator: Operator, tpp: str, jti: str, days: float) -> None:
    """Have a pending SET been pushed that many days ago."""
    seconds, micros = operator.store.redis.time()
    then = (int(seconds) - round(days * 86400)) * 1_000_000 + int(micros)
    operator.store.redis.zadd(keys.of(tpp)[1], {jti: then})


# -- who ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/search?jti=a", "/streams/tpp-1", "/streams/tpp-1/sets/a"])
def test_nobody_but_the_bank_sees_a_page(operator: Operator, path: str) -> None:
    """interface.md: "Bank only: GET /console". Strangers 401 with a challenge, TPPs 403, and neither learns a thing."""
    operator.stream("tpp-1", "secret-jti", parked=1)
    for credentials, status in ((None, 401), (basic("tpp-1", "wrong"), 401), (basic("tpp-1", "secret"), 403)):
        headers = {"Accept": "text/html", **({"Authorization": credentials} if credentials else {})}
        response = operator.client.get(f"/console{path}", headers=headers)
        assert response.status_code == status
        assert ("WWW-Authenticate" in response.headers) == (status == 401)
        assert "secret-jti" not in Page(response).text


@pytest.mark.parametrize("path", ["", "/streams/nobody", "/nothing/here", "/streams/a%7D"])
def test_who_is_no_browser_is_refused_as_by_the_banks_other_calls(operator: Operator, path: str) -> None:
    """decisions.md, "Errors of the bank's calls"."""
    response = operator.client.get(f"/console{path}", headers={"Accept": "*/*"})
    assert response.status_code in (401, 404)
    assert set(response.json or {}) == {"err", "description"}


@pytest.mark.parametrize("asset", console.ASSETS)
def test_the_looks_are_open_and_are_asked_for_once(operator: Operator, asset: str) -> None:
    """A page that says 401 needs them; they tell nothing."""
    response = operator.client.get(f"/console/{asset}")
    assert response.status_code == 200
    again = operator.client.get(f"/console/{asset}", headers={"If-None-Match": response.headers["ETag"]})
    assert again.status_code == 304


def test_a_jti_that_is_named_like_an_asset_opens_nothing(operator: Operator) -> None:
    """What is open is open by its route, not by its name."""
    operator.stream("tpp-1", "console.css")
    assert operator.client.get("/console/streams/tpp-1/sets/console.css").status_code == 401


# -- all streams -------------------------------------------------------------------------------------------------


def test_what_is_wrong_comes_first_and_says_why(operator: Operator) -> None:
    """Issue 7: "Sorted by what is wrong first". Wrong: parked SETs, one that waits for more than a day, never polled
    though SETs wait; then by the age of the oldest; then by name."""
    for tpp in ("a-idle", "b-idle", "never", "parked", "polled", "older", "late"):
        operator.stream(tpp)
    for tpp in ("polled", "older", "late", "parked", "a-idle"):
        operator.store.poll(tpp, max_events=1, profile="r")
    for tpp in ("older", "polled", "parked", "late", "never"):
        operator.store.push(tpp, "jti", set_of("jti"))
    operator.store.poll("parked", max_events=0, set_errs={"jti": {"err": "x", "description": ""}}, profile="r")
    age(operator, "late", "jti", 3)
    age(operator, "older", "jti", 0.1)
    page = operator.see("/console")
    names = [row[0].split()[0] for row in page.rows[1:]]
    assert names == ["late", "parked", "never", "older", "polled", "a-idle", "b-idle"]
    assert [row[0].partition("▲")[2].strip() for row in page.rows[1:5]] == [
        "a SET waits for 3 days",
        "1 parked",
        "never polled",
        "",
    ]
    assert "3 of 7 streams want a look" in page.text


def test_a_stream_says_how_much_waits_since_when_and_when_it_was_polled(operator: Operator) -> None:
    """Issue 7: "pending, in flight, parked, age of the oldest, last poll"."""
    operator.stream("tpp-1", "a", "b", "c", "d", parked=1)
    operator.store.poll("tpp-1", max_events=1, profile="r")
    age(operator, "tpp-1", "d", 2)
    ((_, pending, in_flight, parked, oldest, polled, pushed, _),) = operator.see("/console").rows[1:]
    assert (pending, in_flight, parked, oldest) == ("2", "1", "1", "2 days")
    for moment in (polled, pushed):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +\d seconds? ago", moment)


def test_every_stream_is_on_one_page(operator: Operator) -> None:
    """Paging loses none and shows none twice."""
    names = [f"tpp-{number:03}" for number in range(2 * console.ROWS + 1)]
    for name in names:
        operator.stream(name)
    seen, path, visits = [], "/console", 0
    while path:
        page, visits = operator.see(path), visits + 1
        seen += [row[0] for row in page.rows[1:]]
        path = page.links.get("Next →", "")
    assert seen == names
    assert visits == 3
    for bad in ("0", "4", "-1", "x", "9999999"):
        assert operator.see(f"/console?page={bad}").status == 400


def test_without_a_stream_it_says_how_to_make_one(operator: Operator) -> None:
    """The first five minutes."""
    assert "add-tpp" in operator.see("/console").text


def test_the_order_is_kept_for_some_seconds_and_the_counts_are_not(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so on the page: counts are of this moment, the order is as of when it was found."""
    clock = [1000.0]
    monkeypatch.setattr("eventpoll.console.time", SimpleNamespace(monotonic=lambda: clock[0]))
    operator.stream("a")
    operator.stream("b")
    operator.see("/console")
    operator.stream("b", "jti", parked=1)
    kept = operator.see("/console")
    assert [row[0] for row in kept.rows[1:]] == ["a", "b ▲ 1 parked"]
    clock[0] += console.SECONDS + 0.1
    assert [row[0] for row in operator.see("/console").rows[1:]] == ["b ▲ 1 parked", "a"]


def test_a_view_costs_few_round_trips_with_10_000_streams(
    own_redis: RedisServer, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 7: "pages stay fast with 10 000 streams and a million SETs (paging, no scan on view)"."""
    operator = Operator(create_app(Config.from_environ({**environ, "REDIS_URL": own_redis.url})))
    names = [f"tpp-{number:05}" for number in range(10_000)]
    for at in range(0, len(names), 1000):
        some = names[at : at + 1000]
        operator.store.commands.run_many("configure", [(name, ("hash",)) for name in some])
        operator.store.redis.zadd(keys.STREAMS, dict.fromkeys(some, 0))
    for number in range(1000):
        operator.store.push("tpp-09999", f"jti-{number}", set_of("x"))
    operator.store.status("tpp-09999")
    operator.store.found("warm", ["tpp-09999"])
    trips = [0]
    send = redis.Connection.send_packed_command

    def counting(self: redis.Connection, *arguments: Any, **options: Any) -> None:
        trips[0] += 1
        send(self, *arguments, **options)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(redis.Connection, "send_packed_command", counting)

    def cost(path: str) -> tuple[int, dict[str, int]]:
        trips[0] = 0
        operator.store.redis.config_resetstat()
        begun = trips[0]
        page = operator.see(path)
        assert page.status == 200
        count = trips[0] - begun
        told = operator.store.redis.info("commandstats")
        return count, {name.removeprefix("cmdstat_"): each["calls"] for name, each in told.items()}

    reading = {"evalsha", "zrange", "exists", "time", "zcard", "hlen", "zrangebyscore", "hgetall", "hget", "zscore"}
    beside = {"config|resetstat", "info", "client|setinfo", "client|setname", "hello", "select", "script|load"}
    first, commands = cost("/console")
    assert first <= 2 * (10_000 // 200) + 10
    assert commands["evalsha"] == 10_000 + console.ROWS
    assert set(commands) <= reading | beside
    assert operator.see("/console").rows[1][0].startswith("tpp-09999")
    again, commands = cost("/console?page=200")
    assert again <= 4
    assert commands["evalsha"] == console.ROWS
    found, commands = cost("/console/search?jti=jti-7")
    assert found <= 2 * (10_000 // 200) + 10
    assert set(commands) <= reading | beside
    for path in ("/console/streams/tpp-09999", "/console/streams/tpp-09999/sets/jti-500"):
        one, commands = cost(path)
        assert one <= 6
        assert sum(commands.values()) <= 6 * console.ROWS


# -- one stream --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["pending", "in_flight", "parked"])
def test_the_sets_of_a_state_are_listed_oldest_first_page_by_page(operator: Operator, state: str) -> None:
    """Issue 7: "a stream's page with its SETs by state"."""
    jtis = [f"jti-{number:03}" for number in range(console.ROWS + 3)]
    operator.stream("tpp-1", *jtis, parked=len(jtis) if state == "parked" else 0)
    if state == "in_flight":
        operator.store.poll("tpp-1", max_events=1000, profile="r")
    seen, path = [], f"/console/streams/tpp-1?state={state}"
    while path:
        page = operator.see(path)
        seen += [name for name, link in page.links.items() if "/sets/" in link]
        path = page.links.get("Next →", "")
    assert seen == jtis


def test_a_stream_shows_its_worst_state_unless_another_is_asked_for(operator: Operator) -> None:
    """Who follows the reason "1 parked" sees the parked SET."""
    operator.stream("tpp-1", "bad", "good", parked=1)
    assert "bad" in operator.see("/console/streams/tpp-1").links
    assert "good" in operator.see("/console/streams/tpp-1?state=pending").links
    assert operator.see("/console/streams/tpp-1?state=settled").status == 400


def test_settings_and_counters_are_shown_and_the_secret_is_not(operator: Operator) -> None:
    """No page tells a secret, nor the hash of one."""
    operator.stream("tpp-1", "a", "b", parked=1)
    operator.store.configure("tpp-1", "", {"redeliver_after": "2500", "max_deliveries": "7", "audience": MARKUP})
    paths = ("", "/streams/tpp-1", "/streams/tpp-1/sets/a", "/search?jti=a")
    for page in [operator.see(f"/console{path}") for path in paths]:
        for secret in (hash_of("secret"), BANK[1], basic(*BANK).split()[1]):
            assert secret not in page.source
    page = operator.see("/console/streams/tpp-1")
    text = " ".join(page.text.split())
    for told in ("redeliver_after 2.5", "max_deliveries 7", "Pushed 2", "Reported 1", f"audience {MARKUP}"):
        assert told in text


def test_the_bars_say_in_words_and_numbers_what_they_show(operator: Operator) -> None:
    """Good without sight or colour: a label, sums, and a table of the hours."""
    early_in_the_hour()
    operator.stream("tpp-1", "a", "b", "c")
    operator.store.poll("tpp-1", max_events=2, profile="r")
    operator.store.poll("tpp-1", max_events=0, ack=["a"], profile="r")
    page = operator.see("/console/streams/tpp-1")
    assert len(re.findall('<path class="(?:pushed|delivered|acked)"', page.source)) == 3
    assert 'role="img" aria-label=' in page.source
    hourly = [row for row in page.rows if re.fullmatch(r"\d\d \w{3} \d\d:00", row[0])]
    assert len(hourly) == 24
    assert hourly[0][1:] == ["3", "2", "1"]
    assert all(row[1:] == ["0", "0", "0"] for row in hourly[1:])


# -- one SET -----------------------------------------------------------------------------------------------------


def test_a_sets_claims_stand_beside_it_with_its_history_and_error(operator: Operator) -> None:
    """Issue 7: "decoded claims side by side with the raw SET, history, parked ones with err and description"."""
    operator.stream("tpp-1", "a", parked=1)
    page = operator.see("/console/streams/tpp-1/sets/a")
    assert set_of("a") in page.text
    assert '"jti": "a",\n  "events": {\n    "urn:test:event": {}\n  }' in page.text
    assert '"typ": "secevent+jwt"' in page.text
    assert "2018-01-18 01:30:22" in page.text  # its iat
    assert [row[1:] for row in page.rows[1:]] == [["pushed", "bank"], ["reported", "rfc8936"]]
    assert "invalid_key" in page.text
    assert "unknown kid" in page.text


def test_a_settled_set_is_told_of_and_a_forgotten_one_is_not(operator: Operator) -> None:
    """The SET itself is gone with its ack; its end is remembered."""
    operator.stream("tpp-1", "a")
    operator.store.poll("tpp-1", max_events=0, ack=["a"], profile="r")
    page = operator.see("/console/streams/tpp-1/sets/a")
    assert "no longer kept: it is settled" in page.text
    assert page.forms == []
    assert operator.see("/console/streams/tpp-1/sets/b").status == 404


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"a":1.50,"b":[],"c":{},"a":1e400}', '{\n  "a": 1.50,\n  "b": [],\n  "c": {},\n  "a": 1e400\n}'),
        ('["x,{\\"",[1, 2]]', '[\n  "x,{\\"",\n  [\n    1,\n    2\n  ]\n]'),
        ("{}", "{}"),
        ('"only"', '"only"'),
        ("", ""),
    ],
)
def test_json_is_indented_to_the_letter(text: str, shown: str) -> None:
    """ADR 8: numbers keep their digits, members that stand twice stand twice."""
    import base64

    assert pages.readable(base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")) == shown


@pytest.mark.parametrize("part", ["_w", "A", "gICA"])
def test_what_is_no_text_is_not_shown_as_some(part: str) -> None:
    """A bank may sign what it likes."""
    assert pages.readable(part) is None
    assert pages.times(part) == {}


def test_a_set_of_nothing_but_brackets_is_shown(operator: Operator) -> None:
    """Indented as deep as can be read, so that a page is never much longer than its SET."""
    nested: Any = {}
    for _ in range(400):
        nested = [nested]
    operator.stream("tpp-1")
    operator.store.push("tpp-1", "deep", set_of("deep", {"urn:x": {"x": nested}}))
    page = operator.see("/console/streams/tpp-1/sets/deep")
    assert page.status == 200
    assert len(page.source) < 100_000


def test_markup_stays_text_wherever_it_comes_from(operator: Operator) -> None:
    """Issue 7: "Everything escaped". A jti, err, description, a claim, a query: all are someone else's words."""
    operator.stream("tpp-1")
    operator.store.push("tpp-1", MARKUP, set_of(MARKUP, {"urn:x": {MARKUP: MARKUP}}, sub=MARKUP))
    error = {"err": MARKUP, "description": MARKUP}
    operator.store.poll("tpp-1", max_events=0, set_errs={MARKUP: error}, profile="r")
    asked = urlencode({"jti": MARKUP})
    shown = [operator.see("/console/streams/tpp-1"), operator.see(f"/console/search?{asked}")]
    shown.append(operator.see(shown[0].links[MARKUP]))
    shown.append(operator.see(f"/console/streams/tpp-1?state={MARKUP}"))
    shown.append(operator.see(f"/console/streams/tpp-1?done={MARKUP}"))
    shown.append(operator.see(f"/console/streams/tpp-1?after={MARKUP}&state=parked"))
    for page in shown:
        assert not page.tags & {"script", "img"}
    for page in shown[:3]:
        assert MARKUP in page.text


def test_what_turns_the_reading_round_is_shown_as_an_escape(operator: Operator) -> None:
    """A right-to-left override in a description would make an operator read what is not there."""
    operator.stream("tpp-1", "a", parked=1, description="abc\u202edef\u0000\tghi\u00e9 \u65e5\u672c\ud800")
    page = operator.see("/console/streams/tpp-1/sets/a")
    assert "abc\\u202edef\\u0000\\tghi\u00e9 \u65e5\u672c\\ud800" in page.text


@pytest.mark.parametrize(
    "jti", ["a/b", "/a", "a//b", "..", "a/../b", "%2e", "a?b=c#d", "a b", "é", "a+b", "\\..\\x", "'\""]
)
def test_every_jti_can_be_reached_and_requeued(operator: Operator, jti: str) -> None:
    """A jti is any text. One with a dot segment goes by the search: a browser takes it for a way up (WHATWG URL)."""
    operator.stream("tpp-1", jti, parked=1)
    link = operator.see("/console/streams/tpp-1").links[jti]
    assert not re.search(r"/(\.|%2e){1,2}(/|$|\?)", link.partition("?")[0], re.I)
    page = operator.press(link, "Requeue")
    assert page.status == 200
    assert operator.counts("tpp-1") == (1, 0, 0)


# -- putting right -----------------------------------------------------------------------------------------------


def test_requeue_puts_back_and_says_so(operator: Operator) -> None:
    """Issue 7: "buttons to requeue and discard". A line that screen readers hear, and the state as it is now."""
    operator.stream("tpp-1", "a", parked=1)
    page = operator.press("/console/streams/tpp-1/sets/a", "Requeue")
    assert "1 SET requeued" in page.announced
    assert operator.counts("tpp-1") == (1, 0, 0)
    assert page.forms == []


def test_discard_ends_for_good(operator: Operator) -> None:
    """As DELETE /streams/{tpp}/sets/{jti} does."""
    operator.stream("tpp-1", "a", parked=1)
    page = operator.press("/console/streams/tpp-1/sets/a", "Discard")
    assert "1 SET discarded" in page.announced
    assert operator.counts("tpp-1") == (0, 0, 0)


def test_a_button_pressed_twice_says_that_it_is_no_longer_parked(operator: Operator) -> None:
    """decisions.md: 409; as a page, as a person is there."""
    operator.stream("tpp-1", "a", parked=1)
    action, fields = operator.see("/console/streams/tpp-1/sets/a").form("Requeue")
    assert operator.send(action, fields).status_code == 303
    again = Page(operator.send(action, fields))
    assert again.status == 409
    assert "not parked" in again.text


@pytest.mark.parametrize(("button", "what"), [("Requeue", "requeued"), ("Discard", "discarded")])
def test_all_parked_sets_are_put_right_in_bounded_steps(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, button: str, what: str
) -> None:
    """One press does no more than STEP, oldest first, and says how many; the rest is for the next press."""
    monkeypatch.setattr(console, "STEP", 10)
    operator.stream("tpp-1", *[f"jti-{number}" for number in range(25)], parked=25)
    for done, left in ((10, 15), (10, 5), (5, 0)):
        page = operator.press("/console/streams/tpp-1", button)
        assert f"{done} SETs {what}" in page.announced
        assert operator.counts("tpp-1")[2] == left
    assert operator.counts("tpp-1")[0] == (25 if what == "requeued" else 0)


def test_discarding_many_wants_a_tick(operator: Operator) -> None:
    """It cannot be taken back."""
    operator.stream("tpp-1", "a", "b", parked=2)
    action, fields = operator.see("/console/streams/tpp-1").form("Discard")
    assert fields.pop("sure") == "yes"
    assert operator.send(action, fields).status_code == 400
    assert operator.counts("tpp-1") == (0, 0, 2)


@pytest.mark.parametrize("verb", ["requeue", "discard", "requeue-all", "discard-all"])
def test_a_form_that_is_not_ours_does_nothing(operator: Operator, verb: str) -> None:
    """Issue 7: "POST with CSRF protection". The token is for one form, one stream, one jti, and one's credentials."""
    operator.stream("tpp-1", "a", "b", parked=2)
    operator.stream("tpp-2", "a", "b", parked=2)
    forms = {}
    for tpp in ("tpp-1", "tpp-2"):
        for path in ("", "/sets/a", "/sets/b"):
            for action, fields, _ in operator.see(f"/console/streams/{tpp}{path}").forms:
                forms[action, fields.get("jti", "")] = fields["token"]
    path, jti = f"/console/streams/tpp-1/{verb}", "" if verb.endswith("all") else "a"
    right = forms.pop((path, jti))
    assert len(set(forms.values())) == len(forms)
    fields = {"jti": jti, "sure": "yes"}
    for wrong in ("", "x", right[:-1], right.upper(), "é", *forms.values()):
        assert operator.send(path, {**fields, "token": wrong}).status_code == 403
    assert operator.send(path, fields).status_code == 403
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        assert operator.send(path, {**fields, "token": right}, **headers).status_code == 403
    text = json.dumps({**fields, "token": right})
    as_json = {**AS_BANK, "Content-Type": "application/json"}
    assert operator.client.post(path, data=text, headers=as_json).status_code == 415
    assert operator.client.get(path, headers=AS_BANK).status_code == 405
    assert operator.send(path, {**fields, "token": right}, Authorization="").status_code == 401
    assert operator.send(path, {f"x{n}": "" for n in range(20)}).status_code == 400
    assert operator.send(path, {"x": "y" * 10_000}).status_code == 413
    for tpp in ("tpp-1", "tpp-2"):
        assert operator.counts(tpp) == (0, 0, 2)
    assert operator.send(path, {**fields, "token": right}).status_code == 303


def test_what_a_page_says_was_done_is_in_our_own_words(operator: Operator) -> None:
    """A link in a mail must not have the console say something to the operator."""
    operator.stream("tpp-1")
    for query in ("done=requeued&count=x", "done=Call+0800+1234", "done=requeued&count=99999999999"):
        assert operator.see(f"/console/streams/tpp-1?{query}").announced == ""
    assert "3 SETs discarded" in operator.see("/console/streams/tpp-1?done=discarded&count=3").announced


# -- search ------------------------------------------------------------------------------------------------------


def test_a_jti_is_found_on_every_stream_that_has_it(operator: Operator) -> None:
    """Issue 7: "search by jti". A jti is unique on its stream only."""
    for tpp in ("tpp-1", "tpp-2", "tpp-3"):
        operator.stream(tpp, "a" if tpp != "tpp-2" else "b", parked=tpp == "tpp-3")
    page = operator.see("/console/search?jti=a")
    assert "looked on 3 streams, found on 2" in page.announced
    assert [name for name, link in page.links.items() if link.endswith("/sets/a")] == ["tpp-1", "tpp-3"]
    assert "0 SETs found" in operator.see("/console/search?jti=nowhere").text
    assert operator.see("/console/search").status == 200


def test_with_a_tpp_it_leads_straight_there(operator: Operator) -> None:
    """A name alone to its stream, with a jti to the SET."""
    operator.stream("tpp-1", "a")
    response = operator.client.get("/console/search?tpp=tpp-1", headers=AS_BANK)
    assert (response.status_code, response.headers["Location"]) == (303, "/console/streams/tpp-1")
    assert set_of("a") in operator.see("/console/search?tpp=tpp-1&jti=a").text
    assert operator.see("/console/search?tpp=tpp-1&jti=b").status == 404
    assert operator.see("/console/search?tpp=%7D&jti=b").status == 400


def test_a_search_is_bounded_and_says_how_to_go_on(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks on so many streams, and tells of more."""
    monkeypatch.setattr(console, "SEARCHED", 200)
    for number in range(250):
        operator.store.configure(f"tpp-{number:03}", "hash", {})
    operator.store.push("tpp-230", "a", set_of("a"))
    page = operator.see("/console/search?jti=a")
    assert "looked on 200 streams, found on 0. There are more streams." in page.announced
    page = operator.see(page.links["Look on, from behind tpp-199 →"])
    assert "looked on 50 streams, found on 1" in page.announced
    assert "more streams" not in page.announced


# -- every page --------------------------------------------------------------------------------------------------


def test_every_page_allows_nothing_but_its_own_looks_and_forms(operator: Operator) -> None:
    """Issue 7: "strict CSP"; and no cache keeps what a bank sees."""
    operator.stream("tpp-1", "a", parked=1)
    paths = ("", "?page=9", "/search", "/streams/tpp-1", "/streams/tpp-1/sets/a", "/streams/nobody", "/nothing")
    for path in paths:
        response = operator.client.get(f"/console{path}", headers=AS_BANK)
        assert response.headers["Content-Security-Policy"] == (
            "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
            "frame-ancestors 'none'"
        )
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "x-fapi-interaction-id" in response.headers
        page = Page(response)
        assert not page.tags & {"script", "style", "iframe", "img"}
        assert {"main", "h1", "title", "footer"} <= page.tags


@pytest.mark.parametrize("path", ["/nothing", "/streams/tpp-1/sets/", "/streams/%7D", "/streams/nobody/sets/a"])
def test_a_mistake_is_a_page_in_the_same_look(operator: Operator, path: str) -> None:
    """Issue 7; with what to tell who is asked for help."""
    page = operator.see(f"/console{path}")
    assert page.status in (400, 404)
    assert "x-fapi-interaction-id: " in page.text
    assert "Back to the streams" in page.links


@pytest.mark.parametrize("path", ["", "/search?jti=a", "/streams/tpp-1", "/streams/tpp-1/sets/a"])
def test_a_store_that_is_away_is_a_page_that_tells_nothing_of_our_inside(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """decision 19: 503 with Retry-After."""

    def away(*_: object, **__: object) -> None:
        raise Unavailable("Error 111 connecting to 10.1.2.3:6379")

    for name in ("run", "run_many"):
        monkeypatch.setattr(operator.store.commands, name, away)
    monkeypatch.setattr(operator.store, "_run", away)
    monkeypatch.setattr(operator.store, "names", lambda *_: iter([["tpp-1"]]))
    response = operator.client.get(f"/console{path}", headers=AS_BANK)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
    assert "10.1.2.3" not in Page(response).source


def test_our_own_mistake_is_a_page_that_tells_nothing_of_our_inside(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """decision 16: told to the log, not to the caller."""
    operator.client.application.testing = False
    monkeypatch.setattr(pages, "rank", lambda _: 1 / 0)
    operator.stream("tpp-1")
    page = operator.see("/console")
    assert page.status == 500
    assert "ZeroDivision" not in page.source


def test_below_a_prefix_every_link_keeps_it(operator: Operator) -> None:
    """A bank may mount the whole below a path of its server (WSGI's SCRIPT_NAME)."""
    operator.stream("tpp-1", "a", parked=1)
    for path in ("", "/streams/tpp-1", "/streams/tpp-1/sets/a", "/search?jti=a"):
        page = operator.see(f"/console{path}", environ_overrides={"SCRIPT_NAME": "/events-of-bank"})
        found = [
            *page.links.values(),
            *(action for action, *_ in page.forms),
            *re.findall('(?:src|action)="(.*?)"', page.source),
        ]
        assert found
        assert all(link.startswith(("/events-of-bank/console", "#main")) for link in found)


def test_two_workers_take_each_others_forms(shared_server: Server) -> None:
    """No session, and no key that is one worker's: whichever answered, any may be asked."""
    shared_server.tpp("console-forms")
    for number in range(8):
        shared_server.push("console-forms", f"jti-{number}")
    error = {"err": "invalid_key", "description": "x"}
    reported = {f"jti-{number}": error for number in range(8)}
    shared_server.poll("console-forms", {"setErrs": reported, "maxEvents": 0, "returnImmediately": True})
    for number in range(8):
        seen = shared_server.request("GET", f"/console/streams/console-forms/sets/jti-{number}", None, AS_BANK)
        (token,) = set(re.findall(r'requeue">\s*<input type="hidden" name="token" value="(\w+)"', seen.body.decode()))
        fields = urlencode({"token": token, "jti": f"jti-{number}"})
        path = "/console/streams/console-forms/requeue"
        sent = shared_server.request("POST", path, fields, {**AS_BANK, "Content-Type": FORM})
        assert sent.status == 303, sent.body
    assert shared_server.bank("GET", "/streams/console-forms").json["pending"] == 8


# -- words and numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 seconds"),
        (1.9, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (7199, "1 hour"),
        (9e4, "1 day"),
        (2e8, "2\u202f314 days"),
    ],
)
def test_an_age_is_told_in_its_largest_unit(seconds: float, words: str) -> None:
    """Good enough to see what is late; the time itself stands beside it."""
    assert pages.duration(seconds) == words


NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)
HOUR = int(NOW.timestamp()) // 3600


@pytest.mark.parametrize(
    ("notes", "expected"),
    [
        ("", {}),
        (f"{HOUR} 0 0 0", {0: (9, 8, 7)}),
        (f"{HOUR - 2} 1 1 1,{HOUR} 5 4 3", {2: (4, 3, 2), 0: (4, 4, 4)}),
        (f"{HOUR - 30} 0 0 0,{HOUR - 1} 9 8 7", {}),
        (f"{HOUR} 0 0 0,{HOUR - 1} 3 3 3,{HOUR} 4 4 4", {0: (8, 7, 6), 1: (1, 1, 1)}),
    ],
)
def test_the_notes_of_the_hours_tell_what_was_counted_in_each(notes: str, expected: dict[int, tuple[int, ...]]) -> None:
    """docs/redis-layout.md, `hours`: how the counters stood when the hour began; a clock set back is no harm."""
    fields = {"hours": notes, "pushed": "9", "delivered": "8", "acked": "7"}
    told = hours(fields, NOW)
    assert [hour.at for hour in told] == [NOW.replace(minute=0) - timedelta(hours=back) for back in range(23, -1, -1)]
    assert {
        back: (hour.pushed, hour.delivered, hour.acked)
        for back, hour in zip(range(23, -1, -1), told, strict=True)
        if hour.pushed or hour.delivered or hour.acked
    } == expected


def test_a_service_clock_that_lags_hides_no_hour() -> None:
    """The notes go by the store's clock."""
    fields = {"hours": f"{HOUR + 1} 0 0 0", "pushed": "2"}
    assert hours(fields, NOW)[-1].pushed == 2


def test_a_row_is_wrong_only_for_its_reasons() -> None:
    """The same words decide the order and are shown."""
    none: dict[str, float | None] = {"pending": None, "in_flight": None, "parked": None}
    fine = Status("tpp-1", 1, 0, 0, {**none, "pending": pages.LATE}, {"polled_at": "1"})
    assert pages.wrong(fine) == []
    assert pages.wrong(Status("tpp-1", 0, 1, 0, {**none, "in_flight": pages.LATE + 1}, {"polled_at": "1"}))
    assert pages.wrong(Status("tpp-1", 0, 0, 0, none, {})) == []


@pytest.fixture
def real(redis_server: RedisServer) -> Iterator[Store]:
    """An empty store on a real server."""
    found = Store.open(redis_server.url.removesuffix("0") + "3", Path(), Rules())
    found.redis.flushdb()
    yield found
    found.redis.flushdb()
    found.redis.close()


def test_found_looks_on_the_streams_it_is_told_of(real: Store) -> None:
    """One round trip; a stream without the SET, or that is no more, is passed over; a restart is no harm."""
    for tpp in ("tpp-1", "tpp-2", "tpp-3"):
        real.configure(tpp, "hash", {})
        real.push(tpp, "a", set_of("a"))
    real.redis.script_flush()
    found = real.found("a", ["tpp-1", "nobody", "tpp-3"])
    assert [(tpp, record.state) for tpp, record in found] == [("tpp-1", "pending"), ("tpp-3", "pending")]
    assert real.found("b", ["tpp-1"]) == []
    assert list(real.names("tpp-1", page=1)) == [["tpp-2"], ["tpp-3"]]
    assert [status and status.tpp for status in real.statuses(["tpp-2", "nobody"])] == ["tpp-2", None]
