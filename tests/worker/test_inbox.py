"""The inbox: what any Redis client adds is minted exactly once, whatever becomes of the workers."""

import base64
import json
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from eventpoll.service import Service
from eventpoll.settings import Config
from eventpoll.store.inbox import Intake, _entries
from eventpoll.store.records import Rules
from eventpoll.store.store import Store
from eventpoll.worker import inbox as inbox_module
from eventpoll.worker.inbox import Inbox
from harness.redis_servers import RedisServer
from harness.service import ISSUER
from harness.sets import set_of
from harness.waiting import wait_for
from harness.workers import KEY, Workers

INBOX, DEAD = "eventpoll:inbox", "eventpoll:inbox:dead"
EVENTS = '{"urn:test:event": {"n": 1}}'
ENTRY_ID = re.compile(r"[0-9]+-[0-9]+")


@pytest.fixture
def workers(store: Store, redis_server: RedisServer, tmp_path: Path) -> Iterator[Workers]:
    """Workers on the real server; those that still run afterwards are killed."""
    workers = Workers(redis_server.url, tmp_path / "workers.log")
    yield workers
    workers.stop()


@pytest.fixture
def worker(store: Store, redis_server: RedisServer) -> Iterator[Inbox]:
    """A worker's work inside this process, on the real server."""
    service = Service.build(
        Config.from_environ({"REDIS_URL": redis_server.url, "EVENTPOLL_ISSUER": ISSUER, "EVENTPOLL_SIGNING_KEYS": KEY})
    )
    intake = Intake(service.transmitter.store)
    intake.join()
    yield Inbox(service.transmitter, intake)
    service.transmitter.store.redis.close()


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A plain client of the bank's, which knows nothing of us."""
    client = redis.Redis.from_url(redis_server.url, decode_responses=True)
    yield client
    client.close()


def delivered(store: Store, tpp: str) -> dict[str, dict[str, Any]]:
    """Every SET that polls hand out, each acknowledged: jti -> claims. A jti that comes twice is a failure."""
    found: dict[str, dict[str, Any]] = {}
    acks: list[str] = []
    while True:
        answer = store.poll(tpp, max_events=100, ack=acks, profile="r")
        if not answer.sets:
            return found
        acks = [jti.decode() for jti, _ in answer.sets]
        for jti, secevent in answer.sets:
            assert jti.decode() not in found
            found[jti.decode()] = claims(secevent)


def claims(secevent: bytes) -> dict[str, Any]:
    part = secevent.split(b".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))))


def dead(client: redis.Redis) -> list[dict[str, str]]:
    """The fields of the entries that were refused."""
    return [fields for _, fields in entries(client, DEAD)]


def entries(client: redis.Redis, name: str) -> list[Any]:
    """Every entry of a stream of Redis: its id and its fields."""
    found: Any = client.xrange(name)
    return list(found)


def test_redis_cli_adds_an_event_and_a_worker_mints_it(
    store: Store, workers: Workers, client: redis.Redis, redis_server: RedisServer
) -> None:
    """interface.md, "redis-cli": the line that a bank's shell script runs, word for word."""
    store.configure("TPP", "", {})
    events = '{"urn:uk:org:openbanking:events:resource-update":{"é": [1.50, {}]}}'
    told = subprocess.run(
        ["redis-cli", "-p", str(redis_server.port), "XADD", INBOX, "*", "tpp", "TPP", "events", events],
        capture_output=True,
        text=True,
        check=True,
    )
    entry = told.stdout.strip().strip('"')
    assert ENTRY_ID.fullmatch(entry)
    workers.once()
    ((jti, found),) = delivered(store, "TPP").items()
    assert found["events"] == {"urn:uk:org:openbanking:events:resource-update": {"é": [1.5, {}]}}
    assert (found["jti"], found["iss"], found["aud"]) == (jti, ISSUER, "TPP")
    assert entry in jti
    assert (client.xlen(INBOX), client.xlen(DEAD)) == (0, 0)
    assert client.xpending(INBOX, "eventpoll")["pending"] == 0


def test_all_the_claims_that_a_caller_may_give_are_kept(store: Store, worker: Inbox, client: redis.Redis) -> None:
    """RFC 8417 section 2.2: sub, sub_id (RFC 9493), txn, toe; the jti too, if it is given."""
    store.configure("t", "", {})
    given: dict[Any, Any] = {
        "jti": "my-jti",
        "sub": 'a "b" \\ é',
        "sub_id": '{"format": "opaque", "id": "x"}',
        "txn": "5",
        "toe": "17",
    }
    client.xadd(INBOX, {"tpp": "t", "events": EVENTS, **given})
    assert worker.step(0) == 1
    found = delivered(store, "t")["my-jti"]
    assert found["sub"] == 'a "b" \\ é'
    assert found["sub_id"] == {"format": "opaque", "id": "x"}
    assert (found["txn"], found["toe"]) == ("5", 17)


def test_the_profile_of_the_stream_holds_for_the_inbox_too(store: Store, worker: Inbox, client: redis.Redis) -> None:
    """Issue 3, "Minting profiles": a stream's own profile; an event that it refuses is among the dead."""
    store.configure("t", "", {"set_profile": "obie"})
    client.xadd(INBOX, {"tpp": "t", "events": EVENTS})
    worker.step(0)
    (buried,) = dead(client)
    assert "obie" in buried["reason"]
    assert client.xlen(INBOX) == 0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tpp": "nobody", "events": EVENTS}, "no stream"),
        ({"tpp": "t"}, "events: the field is missing"),
        ({"events": EVENTS}, "tpp: the field is missing"),
        ({"tpp": "t", "events": ""}, "events: "),
        ({"tpp": "t", "events": "{"}, "events: "),
        ({"tpp": "t", "events": "[]"}, "events: "),
        ({"tpp": "t", "events": "{}"}, "events: "),
        ({"tpp": "t", "events": '{"urn:a": 5}'}, "events.urn:a"),
        ({"tpp": "t", "events": '{"urn:a": NaN}'}, "events: "),
        ({"tpp": "t", "events": '{"urn:a": {}, "urn:a": {}}'}, "events: "),
        ({"tpp": "t", "events": '{"no-uri": {}}'}, "no-uri"),
        ({"tpp": "t", "events": EVENTS + ',"jti":"injected"'}, "events: "),
        ({"tpp": "t", "events": EVENTS, "toe": '1,"sub":"injected"'}, "toe: "),
        ({"tpp": "t", "events": EVENTS, "toe": '"1"'}, "toe: "),
        ({"tpp": "t", "events": EVENTS, "sub_id": "x"}, "sub_id: "),
        ({"tpp": "t", "events": EVENTS, "jti": ""}, "jti: "),
        ({"tpp": "t", "events": EVENTS, "jti": "x" * 129}, "jti: "),
        ({"tpp": "t", "events": EVENTS, "jti": "a\nb"}, "jti "),
        ({"tpp": "t", "events": EVENTS, "iss": "https://evil.example"}, "iss: no such field"),
        ({"tpp": "t", "events": EVENTS, "reason": "mine", "id": "mine"}, "id: no such field"),
        ({"tpp": "a b", "events": EVENTS}, "the name of a TPP"),
        ({"tpp": "t}", "events": EVENTS}, "the name of a TPP"),
        ({"tpp": b"\xff", "events": EVENTS}, "the name of a TPP"),
        ({"tpp": "t", "events": b'{"urn:\xff": {}}'}, "UTF-8"),
        ({"tpp": "t", "events": EVENTS, "sub": b"\xff"}, "sub: not UTF-8"),
        ({"tpp": "t", "events": EVENTS, "jti": b"\xff"}, "jti: not UTF-8"),
        ({"tpp": "t", "events": EVENTS, b"\xff\xfe": b"\xff"}, "no such field"),
        ({"tpp": "t", "events": '{"\\ud800": 1}'}, "events."),
        ({"tpp": "t", "events": "\ufeff" + EVENTS}, "events: the text begins with a byte order mark"),
        ({"tpp": "t", "events": EVENTS, "sub_id": "\ufeff{}"}, "sub_id: the text begins with a byte order mark"),
        ({"tpp": "t", "events": '{"urn:a": {"x": "\\ud800"}}'}, "events: must be well-formed Unicode"),
        ({"tpp": "t", "events": EVENTS, "sub_id": '{"\\ud800": 1}'}, "sub_id: must be well-formed Unicode"),
        ({"tpp": "t", "events": '{"urn:a":' + '{"a":' * 50_000}, "events: "),
    ],
)
def test_a_bad_entry_goes_to_the_dead_with_its_reason(
    store: Store, worker: Inbox, redis_server: RedisServer, fields: dict[Any, Any], reason: str
) -> None:
    """decisions.md, "Inbox": bad ones go to eventpoll:inbox:dead with a reason; the good ones behind are minted."""
    store.configure("t", "", {})
    with redis.Redis.from_url(redis_server.url) as client:
        entry = client.xadd(INBOX, fields)
        client.xadd(INBOX, {"tpp": "t", "events": EVENTS, "jti": "good"})
        assert worker.step(0) == 2
        ((_, buried),) = client.xrange(DEAD)
        assert reason in buried[b"reason"].decode()
        assert buried[b"id"] == entry
        kept = {
            name if isinstance(name, bytes) else name.encode(): text if isinstance(text, bytes) else text.encode()
            for name, text in fields.items()
            if name not in ("reason", "id", b"\xff\xfe")
        }
        assert kept.items() <= buried.items()
        assert client.xlen(INBOX) == 0
    assert set(delivered(store, "t")) == {"good"}
    assert store.dead_entries() == 1


def test_a_jti_of_the_callers_own_makes_a_repeat_harmless(store: Store, worker: Inbox, client: redis.Redis) -> None:
    """decision 18: the same jti is one SET, before its ack and after it; with other events it is refused."""
    store.configure("t", "", {})
    for _ in range(3):
        client.xadd(INBOX, {"tpp": "t", "events": EVENTS, "jti": "own"})
    worker.step(0)
    assert set(delivered(store, "t")) == {"own"}
    client.xadd(INBOX, {"tpp": "t", "events": EVENTS, "jti": "own"})
    worker.step(0)
    assert delivered(store, "t") == {}
    assert dead(client) == []
    client.xadd(INBOX, {"tpp": "t", "events": EVENTS, "jti": "new"})
    client.xadd(INBOX, {"tpp": "t", "events": '{"urn:other": {}}', "jti": "new"})
    worker.step(0)
    assert set(delivered(store, "t")) == {"new"}
    assert "other events" in dead(client)[0]["reason"]


def test_an_entry_that_is_worked_on_twice_is_one_set(
    store: Store, worker: Inbox, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """decisions.md, "Inbox": the jti comes from the entry's id, so a worker may die between push and done."""
    store.configure("t", "", {})
    client.xadd(INBOX, {"tpp": "t", "events": EVENTS})
    with monkeypatch.context() as dying:
        dying.setattr(Intake, "done", lambda self, entry: None)
        worker.step(0)
    assert client.xlen(INBOX) == 1
    monkeypatch.setattr(inbox_module, "ABANDONED_MS", 0)
    worker.step(0)
    assert client.xlen(INBOX) == 0
    assert len(delivered(store, "t")) == 1


def test_a_full_stream_leaves_its_entries_waiting_and_hinders_no_other(
    store: Store, worker: Inbox, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 3, "Retention": a limit refuses, and never drops; the entry is minted once there is room."""
    monkeypatch.setattr(inbox_module, "ABANDONED_MS", 0)
    store.configure("full", "", {"max_pending": "1"})
    store.configure("other", "", {})
    store.push("full", "there", set_of("there"))
    for _ in range(120):
        client.xadd(INBOX, {"tpp": "full", "events": EVENTS})
    for _ in range(3):
        worker.step(0)
    client.xadd(INBOX, {"tpp": "other", "events": EVENTS, "jti": "passes"})
    worker.step(0)
    assert set(delivered(store, "other")) == {"passes"}
    assert (client.xlen(INBOX), client.xlen(DEAD)) == (120, 0)
    store.configure("full", "", {"max_pending": ""})
    wait_for(lambda: worker.step(0) == 0 or client.xlen(INBOX) == 0, 30)
    assert len(delivered(store, "full")) == 121


def test_a_dead_workers_entries_are_found_behind_many_that_wait(
    store: Store, worker: Inbox, client: redis.Redis
) -> None:
    """decisions.md, "Inbox": taken over within 20 s, however many entries of a full stream stand before them."""
    store.configure("t", "", {})
    worker.step(0)  # a worker that has just joined takes over what anyone has
    for number in range(1_500):
        client.xadd(INBOX, {"tpp": "t", "events": EVENTS}, id=f"1-{number + 1}")
    client.xreadgroup("eventpoll", "waiting", {INBOX: ">"}, count=1_499)
    client.xreadgroup("eventpoll", "dead", {INBOX: ">"}, count=1)
    client.xclaim(INBOX, "eventpoll", "dead", 0, ["1-1500"], idle=60_000)
    for _ in range(8):
        worker.step(0)
    assert set(delivered(store, "t")) == {"inbox-1-1500"}


def test_an_entry_taken_before_the_clock_was_set_back_waits_for_no_clock(
    store: Store, workers: Workers, client: redis.Redis
) -> None:
    """Issue 11, 7: a worker took it while the store's clock was 31 days ahead, and died; by the clock it will have been
    idle for ten seconds in 31 days. The next worker that starts takes it over."""
    store.configure("t", "", {})
    client.xadd(INBOX, {"tpp": "t", "events": EVENTS}, id="1-1")
    client.xgroup_create(INBOX, "eventpoll", id="0")
    client.xreadgroup("eventpoll", "dead", {INBOX: ">"})
    ahead = int((time.time() + 31 * 86_400) * 1000)
    client.xclaim(INBOX, "eventpoll", "dead", 0, ["1-1"], time=ahead)
    workers.once()
    assert set(delivered(store, "t")) == {"inbox-1-1"}
    assert client.xlen(INBOX) == 0


def test_an_entry_taken_out_by_others_stops_nobody(store: Store, worker: Inbox, client: redis.Redis) -> None:
    """A bank that trims its stream (XTRIM, XDEL) while a worker has an entry: that one is gone, the next is minted."""
    store.configure("t", "", {})
    for jti in ("a", "b"):
        client.xadd(INBOX, {"tpp": "t", "events": EVENTS, "jti": jti})
    client.xreadgroup("eventpoll", "dead", {INBOX: ">"})
    ids = [number for number, _ in entries(client, INBOX)]
    client.xclaim(INBOX, "eventpoll", "dead", 0, ids, idle=60_000)
    client.xdel(INBOX, ids[0])
    worker.step(0)
    assert set(delivered(store, "t")) == {"b"}


def test_redis_6_tells_of_such_an_entry_as_nothing() -> None:
    """XAUTOCLAIM of Redis 6.2 answers null for an entry that is no longer in the stream."""
    assert [entry.id for entry in _entries([(None, None), (b"1-1", {b"tpp": b"t"})])] == ["1-1"]


def test_a_thousand_entries_survive_kill_9_of_three_workers(
    store: Store, workers: Workers, client: redis.Redis, redis_server: RedisServer
) -> None:
    """Issue 3, "What it must show": killed with kill -9 at random moments, 1 000 SETs, no jti twice."""
    store.configure("t", "", {})
    chance = random.Random(3)
    events = [json.dumps({"urn:test:event": {"number": number}}) for number in range(1_000)]
    running = [workers.start() for _ in range(3)]
    added, killed = 0, 0
    deadline = time.monotonic() + 120
    found: dict[str, Any] = {}
    acks: list[str] = []
    while added < 1_000 or client.xlen(INBOX) > 0:
        assert time.monotonic() < deadline, f"{client.xlen(INBOX)} left"
        for text in events[added : added + 40]:
            client.xadd(INBOX, {"tpp": "t", "events": text})
        added = min(added + 40, 1_000)
        answer = store.poll("t", max_events=20, ack=acks, profile="r")
        acks = [jti.decode() for jti, _ in answer.sets]
        for jti, secevent in answer.sets:
            assert jti.decode() not in found, "delivered again after its ack"
            found[jti.decode()] = claims(secevent)["events"]["urn:test:event"]["number"]
        time.sleep(chance.uniform(0, 0.1))
        if killed < 12 and client.exists(INBOX) and added > 100:
            place = chance.randrange(3)
            running[place].kill()
            running[place].wait()
            running[place] = workers.start()
            killed += 1
    store.poll("t", max_events=0, ack=acks, profile="r")
    for rest, carried in delivered(store, "t").items():
        assert rest not in found
        found[rest] = carried["events"]["urn:test:event"]["number"]
    assert killed == 12
    assert sorted(found.values()) == list(range(1_000))
    assert store.status("t").fields["pushed"] == "1000"
    assert (client.xlen(INBOX), client.xlen(DEAD)) == (0, 0)


def test_a_dead_workers_entries_are_taken_over_within_20_seconds(
    store: Store, workers: Workers, client: redis.Redis
) -> None:
    """decisions.md, "Inbox". A consumer that read and never came back is what kill -9 leaves."""
    store.configure("t", "", {})
    client.xgroup_create(INBOX, "eventpoll", id="0", mkstream=True)
    for _ in range(3):
        client.xadd(INBOX, {"tpp": "t", "events": EVENTS})
    assert client.xreadgroup("eventpoll", "died", {INBOX: ">"})
    taken = time.monotonic()
    workers.start()
    wait_for(lambda: client.xlen(INBOX) == 0, 40, 0.1)
    assert time.monotonic() - taken < 20 + 5  # 5: the start of a process on a busy machine
    assert len(delivered(store, "t")) == 3


def test_sigterm_stops_a_worker_cleanly(store: Store, workers: Workers, client: redis.Redis) -> None:
    """Heroku and systemd stop with SIGTERM: exit code 0, no traceback, and nothing left half done."""
    store.configure("t", "", {})
    process = workers.start()
    client.xadd(INBOX, {"tpp": "t", "events": EVENTS})
    wait_for(lambda: store.status("t").pending == 1, 30)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert re.fullmatch(r"eventpoll \d+\.\d+\.\d+, worker\.\n", workers.log.read_text())
    assert client.xlen(INBOX) == 0


def test_a_store_that_goes_away_and_comes_back_loses_nothing(own_redis: RedisServer, tmp_path: Path) -> None:
    """decision 19, for the worker: it says so, waits, and goes on, even where the store comes back empty."""
    store = Store.open(own_redis.url, Path(), Rules())
    store.configure("t", "", {})
    workers = Workers(own_redis.url, tmp_path / "workers.log")
    try:
        process = workers.start()
        store.redis.xadd(INBOX, {"tpp": "t", "events": EVENTS, "jti": "before"})
        wait_for(lambda: store.status("t").pending == 1, 30)
        own_redis.kill()
        wait_for(lambda: "The store is not available" in workers.log.read_text(), 30)
        own_redis.start()
        store.redis.xadd(INBOX, {"tpp": "t", "events": EVENTS, "jti": "after"})
        wait_for(lambda: store.status("t").pending == 2, 30)
        store.redis.flushall()
        store.configure("t", "", {})
        store.redis.xadd(INBOX, {"tpp": "t", "events": EVENTS, "jti": "anew"})
        wait_for(lambda: store.status("t").pending == 1, 30)
        assert process.poll() is None
        assert "Traceback" not in workers.log.read_text()
    finally:
        workers.stop()
        store.redis.close()


@pytest.mark.parametrize("missing", ["EVENTPOLL_SIGNING_KEYS", "EVENTPOLL_ISSUER"])
def test_where_minting_is_off_the_inbox_is_left_alone(
    store: Store, workers: Workers, client: redis.Redis, missing: str
) -> None:
    """interface.md: unset, minting is refused; the entries wait for a worker that has keys, and are not buried."""
    store.configure("t", "", {})
    client.xadd(INBOX, {"tpp": "t", "events": EVENTS})
    workers.once(**{missing: ""})
    assert "Minting is off" in workers.log.read_text()
    assert (client.xlen(INBOX), client.xlen(DEAD)) == (1, 0)
    workers.once()
    assert len(delivered(store, "t")) == 1


@pytest.mark.parametrize("keys", [KEY, ""])
def test_the_worker_takes_out_what_is_past_its_retention(store: Store, workers: Workers, keys: str) -> None:
    """Issue 3, "Retention": by the worker, on every stream, counted and logged with jtis; also where minting is off."""
    for tpp in ("a", "b"):
        store.configure(tpp, "", {})
        store.push(tpp, f"old-{tpp}", set_of(f"old-{tpp}"))
    workers.once(EVENTPOLL_RETENTION_DAYS="0.000001", EVENTPOLL_SIGNING_KEYS=keys)
    for tpp in ("a", "b"):
        assert store.status(tpp).fields["expired"] == "1"
        assert store.find(tpp, f"old-{tpp}").state == "expired"
        assert f"'old-{tpp}'" in workers.log.read_text()
