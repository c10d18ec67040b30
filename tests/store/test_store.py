"""The store's contract, the same on a real redis-server, on the bundled Valkey and on fakeredis."""

import random
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakeredis
import pytest

from eventpoll.store import keys
from eventpoll.store.errors import BadSet, Denied, Full, NoSet, NoStream, NotParked, Outstanding, Unavailable
from eventpoll.store.records import Answer, Pushed, Rules
from eventpoll.store.store import Store
from harness.redis_servers import RedisServer
from harness.sets import set_of
from harness.waiting import early_in_the_hour, wait_for

TPP = "tpp-1"
ERR = {"err": "invalid_request", "description": "cannot be read"}
SECEVENT = "eyJ0.eyJ9.c2ln"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store on the server that came with pip."""
    store = Store.open(None, tmp_path_factory.mktemp("embedded"), Rules())
    yield store
    store.redis.close()
    store.redis.connection_pool.connection_kwargs["embedded"].leave()


@pytest.fixture(params=["redis", "embedded", "fakeredis"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """An empty store with one stream, on each of the three."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        found = Store.open(server.url.removesuffix("0") + "3", Path(), Rules())
    elif request.param == "embedded":
        found = request.getfixturevalue("embedded")
    else:
        found = Store(fakeredis.FakeRedis(version=(7,)), Rules())
    found.redis.flushdb()
    found.rules = Rules()
    found.configure(TPP, "hash", {})
    yield found
    found.redis.flushdb()


@pytest.fixture
def real(redis_server: RedisServer) -> Iterator[Store]:
    """An empty store with one stream, where what is measured wants a real server."""
    found = Store.open(redis_server.url.removesuffix("0") + "4", Path(), Rules())
    found.redis.flushdb()
    found.configure(TPP, "hash", {})
    yield found
    found.redis.flushdb()
    found.redis.close()


def push(store: Store, *jtis: str) -> None:
    for jti in jtis:
        assert store.push(TPP, jti, set_of(jti)).outcome == "queued"


def poll(store: Store, most: int = 100, **options: Any) -> Answer:
    return store.poll(TPP, max_events=most, profile="r", **options)


def jtis(answer: Answer) -> list[str]:
    return [jti.decode() for jti, _ in answer.sets]


def states(store: Store) -> tuple[int, int, int]:
    status = store.status(TPP)
    return status.pending, status.in_flight, status.parked


def after_lease(store: Store, *wanted: str) -> Answer:
    """The first poll that hands out something."""
    answer: Answer = wait_for(lambda: (found := poll(store)).sets and found)
    assert sorted(jtis(answer)) == sorted(wanted)
    return answer


# -- order and redelivery -----------------------------------------------------------------------------------------


def test_sets_come_oldest_first_and_byte_for_byte(store: Store) -> None:
    """decision 1: oldest first; decision 23: the bytes are the bank's."""
    push(store, "b", "a", "c")
    answer = poll(store)
    assert answer.sets == [(jti.encode(), set_of(jti).encode()) for jti in ("b", "a", "c")]


def test_fresh_sets_go_before_those_offered_again(store: Store) -> None:
    """decision 1: a TPP that never acks does not starve behind its own first page."""
    push(store, "a", "b")
    assert jtis(poll(store)) == ["a", "b"]
    push(store, "c")
    assert jtis(poll(store)) == ["c", "a", "b"]


def test_what_is_offered_again_comes_longest_waiting_first(store: Store) -> None:
    """decision 2: page after page, each SET has its turn before any has a second one."""
    push(store, *"abcde")
    assert [jtis(poll(store, 2)) for _ in range(5)] == [
        ["a", "b"],
        ["c", "d"],
        ["e", "a"],
        ["b", "c"],
        ["d", "e"],
    ]


def test_the_order_of_pushes_holds_whatever_the_clock_does(store: Store) -> None:
    """decision 1: after the clock was set back, a later push is still later."""
    future = str((int(time.time()) + 3000) * 1_000_000)
    store.redis.hset(keys.of(TPP)[0], "last_order", future)
    names = [f"jti-{number:03}" for number in range(50)]
    random.Random(1).shuffle(names)
    push(store, *names)
    assert jtis(poll(store)) == names


def test_a_lease_hides_what_was_delivered_until_it_runs_out(store: Store) -> None:
    """decision 2: REDELIVER_AFTER seconds, told to the caller so that a held poll can wait for it."""
    store.rules = replace(store.rules, redeliver_after=60)
    push(store, "a")
    assert jtis(poll(store)) == ["a"]
    hidden = poll(store)
    assert hidden.sets == []
    assert hidden.more is False
    assert hidden.wait is not None
    assert 0 < hidden.wait <= 60
    begun = time.monotonic()
    store.redis.zadd(keys.of(TPP)[5], {"a": int((time.time() + 0.2) * 1e6)})  # not a minute, but soon
    assert after_lease(store, "a").sets == [(b"a", set_of("a").encode())]
    assert time.monotonic() - begun > 0.19
    assert store.find(TPP, "a").deliveries == 2


def test_a_streams_own_settings_win_and_an_empty_one_goes_back(store: Store) -> None:
    """decision 2: the lease is settable for the service and for one stream."""
    store.configure(TPP, "", {"redeliver_after": "60000"})
    push(store, "a")
    assert jtis(poll(store)) == ["a"]
    assert poll(store).sets == []
    store.configure(TPP, "", {"redeliver_after": ""})
    assert jtis(poll(store)) == ["a"]


def test_with_a_lease_polls_are_disjoint(store: Store) -> None:
    """decision 2: several pollers of one TPP share a stream without duplicates."""
    store.rules = replace(store.rules, redeliver_after=60)
    names = [f"jti-{number}" for number in range(25)]
    push(store, *names)
    pages = [jtis(poll(store, 10)) for _ in range(4)]
    assert [len(page) for page in pages] == [10, 10, 5, 0]
    assert [jti for page in pages for jti in page] == names


def test_no_set_comes_twice_in_one_answer(store: Store) -> None:
    """RFC 8936 section 2.3: `sets` is an object; with no lease the rest of a page is filled with others only."""
    push(store, "a", "b")
    poll(store, 1)
    assert jtis(poll(store, 10)) == ["b", "a"]
    assert jtis(poll(store, 10)) == ["b", "a"]


# -- settling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["pending", "in_flight", "parked", "requeued"])
def test_an_ack_settles_in_any_state(store: Store, state: str) -> None:
    """decision 3: for good, whatever state the SET is in."""
    push(store, "a")
    if state != "pending":
        poll(store)
    if state in ("parked", "requeued"):
        poll(store, 0, set_errs={"a": ERR})
    if state == "requeued":
        store.requeue(TPP, "a")
    answer = poll(store, ack=["a"])
    assert (answer.acked, answer.sets, answer.more) == (1, [], False)
    assert states(store) == (0, 0, 0)
    found = store.find(TPP, "a")
    assert (found.state, found.secevent) == ("settled", None)
    assert found.history[-1].what == "acknowledged"
    assert store.push(TPP, "a", set_of("a")).outcome == "repeated"
    assert poll(store).sets == []


def test_unknown_and_repeated_acks_do_nothing_and_are_not_remembered(store: Store) -> None:
    """decision 3: 200, no effect; a later push of that jti is a first push."""
    push(store, "a")
    assert poll(store, ack=["unknown", "a", "a"]).acked == 1
    assert poll(store, ack=["a", "unknown"], set_errs={"nor-this": ERR}).acked == 0
    assert store.redis.hlen(keys.of(TPP)[9]) == 1
    push(store, "unknown", "nor-this")
    assert jtis(poll(store)) == ["unknown", "nor-this"]


def test_a_foreign_jti_is_untouched_by_an_ack(store: Store) -> None:
    """decision 3: a TPP settles on its own stream alone."""
    store.configure("tpp-2", "hash", {})
    store.push("tpp-2", "a", set_of("a"))
    poll(store, ack=["a"], set_errs={"a": ERR})
    assert store.status("tpp-2").pending == 1


@pytest.mark.parametrize("delivered", [False, True])
def test_a_reported_set_is_parked_with_its_error(store: Store, delivered: bool) -> None:
    """decision 4: kept with err, description and time; never offered again by itself."""
    push(store, "a")
    if delivered:
        poll(store)
    answer = poll(store, set_errs={"a": ERR})
    assert (answer.reported, answer.sets, answer.more) == (1, [], False)
    found = store.find(TPP, "a")
    assert (found.state, found.error, found.secevent) == ("parked", ERR, set_of("a"))
    assert found.history[-1].what == "reported"
    assert found.deliveries == delivered


def test_requeue_puts_back_with_no_deliveries_counted(store: Store) -> None:
    """decision 4: the delivery count is 0 again, the SET goes as a fresh one in its old place."""
    push(store, "a")
    poll(store)
    poll(store, 0, set_errs={"a": ERR})
    push(store, "b")
    store.requeue(TPP, "a")
    found = store.find(TPP, "a")
    assert (found.state, found.deliveries) == ("pending", 0)
    with pytest.raises(NotParked):
        store.requeue(TPP, "a")
    assert jtis(poll(store)) == ["a", "b"]
    whats = [happening.what for happening in store.find(TPP, "a").history]
    assert whats == ["pushed", "delivered", "reported", "requeued", "delivered"]


def test_discard_ends_a_parked_set(store: Store) -> None:
    """decision 4: the bank may discard it; its jti is remembered."""
    push(store, "a")
    with pytest.raises(NotParked):
        store.discard(TPP, "a")
    poll(store, 0, set_errs={"a": ERR})
    store.discard(TPP, "a")
    with pytest.raises(NoSet):
        store.discard(TPP, "a")
    with pytest.raises(NoSet):
        store.requeue(TPP, "a")
    assert store.find(TPP, "a").history[-1].what == "discarded"
    assert store.push(TPP, "a", set_of("a")).outcome == "repeated"
    assert states(store) == (0, 0, 0)


@pytest.mark.parametrize("delivered", [False, True])
def test_on_error_redeliver_notes_the_error_and_offers_again(store: Store, delivered: bool) -> None:
    """decision 4: OBIE's literal "awaiting" text."""
    store.rules = replace(store.rules, on_error="redeliver")
    push(store, "a")
    if delivered:
        poll(store)
    answer = poll(store, set_errs={"a": ERR})
    assert jtis(answer) == ["a"]
    found = store.find(TPP, "a")
    assert (found.state, found.error) == ("in_flight", ERR)
    assert poll(store, ack=["a"]).acked == 1


def test_in_both_ack_and_set_errs_the_ack_wins_and_the_error_is_recorded(store: Store) -> None:
    """decision 5."""
    push(store, "a")
    poll(store)
    answer = poll(store, ack=["a"], set_errs={"a": ERR})
    assert (answer.acked, answer.reported, answer.sets) == (1, 0, [])
    found = store.find(TPP, "a")
    assert (found.state, found.error) == ("settled", ERR)


@pytest.mark.parametrize("most", [1, 3])
def test_after_max_deliveries_a_set_is_parked_as_undelivered(store: Store, most: int) -> None:
    """decision 6: parked at the n-th delivery, and `moreAvailable` no longer counts it."""
    store.rules = replace(store.rules, max_deliveries=most)
    push(store, "a")
    answers = [poll(store) for _ in range(most)]
    assert [jtis(answer) for answer in answers] == [["a"]] * most
    assert answers[-1].more is False
    last = poll(store)
    assert (last.sets, last.more) == ([], False)
    found = store.find(TPP, "a")
    assert (found.state, found.error["err"], found.deliveries) == ("parked", "undelivered", most)
    store.requeue(TPP, "a")
    assert jtis(poll(store)) == ["a"]
    assert poll(store, ack=["a"]).acked == 1


def test_acks_of_10000_jtis_hold_in_one_request(store: Store) -> None:
    """decision 17: MAX_ACKS of one request is 10 000; Lua's stack holds no such number at once."""
    names = [f"jti-{number}" for number in range(1200)]
    pipeline = store.redis.pipeline(transaction=False)
    for jti in names:
        pipeline.eval(_lua("push"), 12, *keys.of(TPP), jti, SECEVENT, 86_400_000)
    pipeline.execute()
    first = poll(store, 700)
    assert jtis(first) == names[:700]
    answer = poll(store, 1000, ack=names[:600] + [f"unknown-{number}" for number in range(9400)])
    assert answer.acked == 600
    assert jtis(answer) == names[700:] + names[600:700]
    assert answer.more is False
    errors = poll(store, 0, set_errs=dict.fromkeys(names[600:], ERR))
    assert errors.reported == 600
    assert states(store) == (0, 0, 600)


def _lua(name: str) -> str:
    return (Path(__file__).parent.parent.parent / "eventpoll" / "store" / "lua" / f"{name}.lua").read_text()


# -- how many, and whether more ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 499, 500, 501, 1001, 1100, 2000])
def test_max_events_is_never_passed(store: Store, most: int) -> None:
    """decision 7; the numbers stand on either side of the command's own steps."""
    pipeline = store.redis.pipeline(transaction=False)
    for number in range(1100):
        pipeline.eval(_lua("push"), 12, *keys.of(TPP), f"jti-{number}", SECEVENT)
    pipeline.execute()
    fresh = poll(store, most)
    assert jtis(fresh) == [f"jti-{number}" for number in range(min(most, 1100))]
    assert fresh.more is (most < 1100)
    again = poll(store, most)
    assert len(set(jtis(again))) == min(most, 1100)


@pytest.mark.parametrize("lease", [0.0, 60.0])
@pytest.mark.parametrize("pending", [0, 1, 2, 3])
@pytest.mark.parametrize("in_flight", [0, 1, 2])
@pytest.mark.parametrize("most", [0, 1, 2, 5])
def test_more_available_tells_the_truth(store: Store, lease: float, pending: int, in_flight: int, most: int) -> None:
    """decision 13: whether a next poll could return something that this answer does not hold."""
    store.rules = replace(store.rules, redeliver_after=lease)
    push(store, *(f"old-{number}" for number in range(in_flight)))
    poll(store)
    push(store, *(f"new-{number}" for number in range(pending)))
    offered = pending + (in_flight if lease == 0 else 0)
    answer = poll(store, most)
    assert len(answer.sets) == min(most, offered)
    assert answer.more is (offered > most)
    held = set(jtis(answer))
    assert bool(set(jtis(poll(store))) - held) is answer.more


def test_max_events_0_delivers_nothing(store: Store) -> None:
    """decision 8: nothing counts as delivered."""
    push(store, "a")
    answer = poll(store, 0)
    assert (answer.sets, answer.more) == ([], True)
    assert store.find(TPP, "a").deliveries == 0
    assert states(store) == (1, 0, 0)


def test_parked_sets_are_never_more_available(store: Store) -> None:
    """decision 6 and 13."""
    push(store, "a")
    poll(store, set_errs={"a": ERR})
    assert poll(store, 0).more is False


# -- pushing ----------------------------------------------------------------------------------------------------------


def test_a_jti_is_queued_once_and_the_first_bytes_stay(store: Store) -> None:
    """decision 18: a repeat is told apart from other bytes under the same jti."""
    push(store, "a")
    assert store.push(TPP, "a", set_of("a")).outcome == "repeated"
    other = store.push(TPP, "a", set_of("a", {"urn:test:other": {}}))
    assert (other.outcome, other.kept) == ("kept", set_of("a"))
    assert poll(store).sets == [(b"a", set_of("a").encode())]


def test_a_jti_may_come_again_after_the_dedupe_window(store: Store) -> None:
    """decision 3: remembered for DEDUPE_SECONDS; then it is a new SET."""
    push(store, "a")
    begun = time.monotonic()
    poll(store, ack=["a"])
    assert store.push(TPP, "a", set_of("a")).outcome == "repeated"
    store.rules = replace(store.rules, dedupe=0.3)
    wait_for(lambda: store.push(TPP, "a", set_of("a")).outcome == "queued")
    assert time.monotonic() - begun > 0.29
    assert jtis(poll(store)) == ["a"]


def test_ended_jtis_are_swept_after_one_to_two_windows(store: Store) -> None:
    """decision 3: what is remembered does not grow for ever; within its window a jti is not lost by a sweep."""
    store.rules = replace(store.rules, dedupe=0.3)
    push(store, "a")
    poll(store, ack=["a"])

    def gone() -> bool:
        if poll(store, 0).stale:
            store.sweep(TPP)
        return store.redis.exists(keys.of(TPP)[9], keys.of(TPP)[10]) == 0

    started = time.monotonic()
    wait_for(gone)
    assert time.monotonic() - started >= 0.3
    with pytest.raises(NoSet):
        store.find(TPP, "a")
    store.rules = replace(store.rules, dedupe=86400)
    assert store.push(TPP, "a", set_of("a")).outcome == "queued"


def test_a_jti_is_remembered_through_a_change_of_windows(store: Store) -> None:
    """decision 3: sweep moves ended jtis to the window before; they count there too."""
    push(store, "a", "b")
    poll(store, ack=["a"])
    store.rules = replace(store.rules, dedupe=0.01)
    wait_for(lambda: poll(store, 0).stale)
    store.sweep(TPP)
    store.rules = replace(store.rules, dedupe=86400)
    assert store.find(TPP, "a").state == "settled"
    assert store.push(TPP, "a", set_of("a")).outcome == "repeated"


BAD_JTIS = {
    "empty": b"",
    "a line end": b"a\nb",
    "a zero byte": b"a\0b",
    "delete": b"a\x7f",
    "129 characters": b"a" * 129,
    "129 characters of two bytes": "é".encode() * 129,
    "half a character": "é".encode()[:1],
    "a lone continuation": b"a\x80",
    "an overlong form": b"\xc0\xaf",
    "a lone surrogate": b"\xed\xa0\x80",
    "above U+10FFFF": b"\xf4\x90\x80\x80",
    "a byte that UTF-8 never has": b"\xff",
}


@pytest.mark.parametrize("jti", BAD_JTIS.values(), ids=BAD_JTIS.keys())
def test_a_bad_jti_is_refused_by_the_store_itself(store: Store, jti: bytes) -> None:
    """push.lua is what redis-cli runs, so it checks: a TPP could not acknowledge such a jti (decision 16)."""
    with pytest.raises(BadSet):
        store._run("push", TPP, jti, SECEVENT)
    assert states(store) == (0, 0, 0)


@pytest.mark.parametrize("jti", ["a", "a" * 128, "é" * 128, "\U0001f511" * 128, "with blank", '"\\', "{a}:b"])
def test_any_other_jti_is_taken_and_handed_out(store: Store, jti: str) -> None:
    """1 to 128 characters (OBIE Max128Text)."""
    assert store.push(TPP, jti, SECEVENT).outcome == "queued"
    assert jtis(poll(store)) == [jti]
    assert poll(store, ack=[jti]).acked == 1


@pytest.mark.parametrize(
    "secevent", [b"", b"a.b", b"a.b.c.d", b"a.b.", b"a..c", b"a.b.c\n", b"a.b.c\xff", b"a+.b.c", b'a.b.c"']
)
def test_what_is_no_compact_serialisation_is_refused(store: Store, secevent: bytes) -> None:
    """RFC 7515 section 3.1: three base64url parts; anything else could break the answer it is written into."""
    with pytest.raises(BadSet):
        store._run("push", TPP, "a", secevent)


def test_a_full_stream_refuses_but_repeats_stay_repeats(store: Store) -> None:
    """FULL: as many SETs outstanding as max_pending; a settled one makes room."""
    store.configure(TPP, "", {"max_pending": "2"})
    push(store, "a", "b")
    with pytest.raises(Full):
        store.push(TPP, "c", set_of("c"))
    assert store.push(TPP, "a", set_of("a")).outcome == "repeated"
    poll(store, ack=["a"])
    push(store, "c")


# -- retention --------------------------------------------------------------------------------------------------------


def test_sets_pushed_together_have_each_their_own_outcome(store: Store) -> None:
    """Issue 3, 5: good ones are kept when others fail; what comes twice in one step is known the second time."""
    store.configure(TPP, "hash", {"max_pending": "3"})
    push(store, "there", "ended")
    poll(store, 0, ack=["ended"])
    sets = [(jti, set_of(jti), "") for jti in ("there", "new", "a\nb", "ended", "new", "paid", "late", "new")]
    sets[5] = ("paid", set_of("paid"), "payments")
    sets[7] = ("new", set_of("other"), "")
    told = [type(each) if isinstance(each, Exception) else each.outcome for each in store.push_many(TPP, sets)]
    assert told == ["repeated", "queued", BadSet, "repeated", "repeated", "queued", Full, "kept"]
    assert jtis(poll(store, families="0")) == ["there", "new"]
    assert jtis(poll(store)) == ["paid", "there", "new"]
    assert (states(store), store.status(TPP).fields["pushed"]) == ((0, 3, 0), "4")
    assert [type(each) for each in store.push_many("nobody", sets[:2])] == [NoStream, NoStream]
    assert store.push_many(TPP, []) == []


def test_sets_pushed_together_keep_their_order_and_tell_of_older_ones(store: Store) -> None:
    """decision 1 holds in a batch too; and what has expired shows to whoever pushes one of many."""
    together = [(f"{number:02}", set_of(f"{number:02}"), "") for number in random.sample(range(50), 50)]
    assert store.push_many(TPP, together) == [Pushed("queued")] * 50
    assert jtis(poll(store)) == [jti for jti, *_ in together]
    store.rules = Rules(retention=0.05)
    time.sleep(0.1)
    assert store.push_many(TPP, [("a", set_of("a"), ""), together[0]]) == [
        Pushed("queued", stale=True),
        Pushed("repeated"),
    ]


@pytest.mark.parametrize("lease", [0.0, 0.05])
def test_past_its_retention_a_set_is_gone_in_every_state(store: Store, lease: float) -> None:
    """The picture in decisions.md: retention passes, in any state: expired, counted, never silent."""
    store.rules = replace(store.rules, redeliver_after=lease)
    push(store, "parked", "in-flight", "pending")
    poll(store, 2)
    poll(store, 0, set_errs={"parked": ERR})
    time.sleep(0.1)  # older than the retention that is now set
    store.rules = replace(store.rules, retention=0.05)
    for most in (0, 10):
        answer = poll(store, most)
        assert (answer.sets, answer.more, answer.stale) == ([], False, True)
    swept, left = store.sweep(TPP)
    assert (sorted(swept), left) == (["in-flight", "parked", "pending"], False)
    status = store.status(TPP)
    assert (states(store), status.fields["expired"]) == ((0, 0, 0), "3")
    assert {store.find(TPP, jti).state for jti in swept} == {"expired"}
    assert store.sweep(TPP) == ([], False)
    assert poll(store).stale is False


def test_retention_takes_the_old_and_leaves_the_young(store: Store) -> None:
    """moreAvailable counts what could still be returned, and nothing past its time (decision 13)."""
    pending = keys.of(TPP)[1]
    push(store, "old-1", "old-2")
    for jti in ("old-1", "old-2"):
        store.redis.zincrby(pending, -3600e6, jti)  # an hour ago
    assert jtis(poll(store)) == ["old-1", "old-2"]
    push(store, "old-3")
    store.redis.zincrby(pending, -3600e6, "old-3")
    store.rules = replace(store.rules, retention=1800)
    push(store, "young-1", "young-2")
    first = poll(store, 1)
    assert (jtis(first), first.more) == (["young-1"], True)
    second = poll(store, 1)
    assert (jtis(second), second.more) == (["young-2"], True)
    store.sweep(TPP)
    store.rules = replace(store.rules, retention=86400)
    assert sorted(jtis(poll(store))) == ["young-1", "young-2"]


def test_sweep_goes_in_bounded_steps(store: Store) -> None:
    """It tells when more is due."""
    push(store, *(f"jti-{number}" for number in range(5)))
    poll(store, 2)
    store.rules = replace(store.rules, retention=0)
    time.sleep(0.01)
    assert [(len(store.sweep(TPP, 2)[0])) for _ in range(4)] == [2, 2, 1, 0]


# -- looking ----------------------------------------------------------------------------------------------------------


def test_peek_pages_through_each_state_oldest_first(store: Store) -> None:
    """`after` takes the last jti seen (decisions.md, Listing)."""
    push(store, *"abcdef")
    poll(store, 4)
    poll(store, 0, set_errs={"a": ERR, "b": ERR})
    for state, first, second in (("pending", "e", "f"), ("in_flight", "c", "d"), ("parked", "a", "b")):
        page = store.peek(TPP, state, 1)
        assert [record.jti for record in page] == [first]
        assert [record.jti for record in store.peek(TPP, state, 5, first)] == [second]
        assert store.peek(TPP, state, 5, second) == []
        assert store.find(TPP, first).state == state
    with pytest.raises(NoSet):
        store.peek(TPP, "pending", 5, "unknown")
    assert store.peek(TPP, "in_flight", 1)[0].leased_until is not None


def test_peek_goes_on_after_a_jti_that_moved(store: Store) -> None:
    """A SET keeps its place whatever its state: a listing goes on after one that was delivered meanwhile."""
    push(store, *"abc")
    assert [record.jti for record in store.peek(TPP, "pending", 1)] == ["a"]
    poll(store, 1)
    assert [record.jti for record in store.peek(TPP, "pending", 5, "a")] == ["b", "c"]


def test_status_counts_and_ages(store: Store) -> None:
    """GET /streams/{tpp}: counts, ages of the oldest, counters."""
    push(store, *"abc")
    poll(store, 2, ack=["c"])
    poll(store, 0, set_errs={"a": ERR})
    status = store.status(TPP)
    assert (status.pending, status.in_flight, status.parked) == (0, 1, 1)
    assert status.oldest["pending"] is None
    assert status.oldest["in_flight"] is not None
    counters = {name: status.fields[name] for name in ("pushed", "delivered", "acked", "reported")}
    assert counters == {"pushed": "3", "delivered": "2", "acked": "1", "reported": "1"}


def stream_fields(store: Store) -> dict[str, str]:
    return store.status(TPP).fields


def in_an_earlier_hour(store: Store, notes: str) -> int:
    """Have what was counted last have been counted an hour ago; the hour that it is now."""
    hour = int(store.redis.time()[0]) // 3600
    store.redis.hset(keys.of(TPP)[0], mapping={"hour": hour - 1, "hours": notes})
    return hour


@pytest.mark.parametrize("what", ["push", "delivery", "ack", "report"])
def test_the_first_that_counts_in_an_hour_notes_how_the_counters_stood(store: Store, what: str) -> None:
    """docs/redis-layout.md, `hours`: from the notes the console tells what was counted in each hour."""
    early_in_the_hour()
    push(store, "a", "b", "c")
    assert re.fullmatch(r"\d+ 0 0 0", stream_fields(store)["hours"])
    assert jtis(poll(store, 2, ack=["a"])) == ["b", "c"]
    hour = in_an_earlier_hour(store, "7 0 0 0")
    if what == "push":
        push(store, "d")
    elif what == "delivery":
        assert jtis(poll(store, 1)) == ["b"]
    else:
        poll(store, 0, **({"ack": ["b"]} if what == "ack" else {"set_errs": {"b": ERR}}))
    assert stream_fields(store)["hours"] in {f"7 0 0 0,{hour + later} 3 2 1" for later in (0, 1)}
    push(store, "e")
    assert len(stream_fields(store)["hours"].split(",")) == 2


def test_the_notes_of_24_hours_are_kept(store: Store) -> None:
    """A stream that lives for years costs no more than one that lives for a day."""
    notes = [f"{number} {number} 0 0" for number in range(100, 123)]
    in_an_earlier_hour(store, ",".join(notes))
    push(store, "a")
    assert stream_fields(store)["hours"].split(",")[:-1] == notes
    in_an_earlier_hour(store, stream_fields(store)["hours"])
    poll(store)
    assert stream_fields(store)["hours"].split(",")[:-2] == notes[1:]


def test_an_empty_poll_notes_nothing_and_costs_no_command_more(own_redis: RedisServer) -> None:
    """What most polls are must stay as cheap as it is, whatever the hour. On a server that nobody else asks: the other
    has subscribers, of servers that still run, which say PING now and then."""
    real = Store.open(own_redis.url, Path(), Rules())
    real.configure(TPP, "hash", {})

    def commands() -> dict[str, int]:
        real.redis.hset(keys.of(TPP)[0], "polled_at", str(int(time.time() * 1000) + 60_000))
        real.redis.config_resetstat()
        assert jtis(poll(real)) == []
        told: dict[str, Any] = real.redis.info("commandstats")
        return {name: each["calls"] for name, each in told.items() if name != "cmdstat_info"}

    push(real, "a")
    poll(real)
    poll(real, 0, ack=["a"])
    usual = commands()
    in_an_earlier_hour(real, "7 0 0 0")
    assert commands() == usual
    assert stream_fields(real)["hours"] == "7 0 0 0"
    real.redis.close()


def test_the_history_of_a_set_is_bounded(store: Store) -> None:
    """A poison SET does not grow with each delivery; the count stays true."""
    push(store, "a")
    for _ in range(140):
        poll(store)
    found = store.find(TPP, "a")
    assert found.deliveries == 140
    assert len(found.history) == 101
    assert found.history[0].what == "pushed"


# -- streams ----------------------------------------------------------------------------------------------------------


def test_what_minting_needs_is_told_without_the_rest(store: Store) -> None:
    """Settings of the stream's own; those of the service are the transmitter's to add."""
    assert store.minting(TPP) == {}
    store.configure(TPP, "", {"audience": "https://tpp.example/é", "max_pending": "3"})
    assert store.minting(TPP) == {"audience": "https://tpp.example/é"}
    store.configure(TPP, "", {"audience": "", "set_profile": "obie"})
    assert store.minting(TPP) == {"set_profile": "obie"}
    with pytest.raises(NoStream):
        store.minting("nobody")


def test_configure_makes_a_stream_once_and_keeps_its_secret(store: Store) -> None:
    """PUT /streams/{tpp}: 201 the first time; a change leaves the secret."""
    assert store.configure("tpp-2", "first", {}) is True
    assert store.configure("tpp-2", "second", {"max_deliveries": "3"}) is False
    fields = store.status("tpp-2").fields
    assert (fields["secret"], fields["max_deliveries"]) == ("first", "3")
    assert [status.tpp for status in store.streams()] == [TPP, "tpp-2"]


def test_a_poll_proves_its_secret_in_the_same_step(store: Store) -> None:
    """A wrong secret settles nothing and gets nothing; the old one works for the grace."""
    push(store, "a")
    with pytest.raises(Denied):
        poll(store, proof="wrong", ack=["a"])
    assert states(store) == (1, 0, 0)
    store.rotate(TPP, "new", 60)
    assert poll(store, 0, proof="hash").more
    assert poll(store, 0, proof="new").more
    begun = time.monotonic()
    store.rotate(TPP, "newer", 0.2)

    def ended() -> bool:
        try:
            poll(store, 0, proof="new")
        except Denied:
            return True
        return False

    wait_for(ended)
    assert time.monotonic() - begun > 0.19
    assert poll(store, 0, proof="newer").more


def test_rotating_without_grace_ends_the_old_secret_at_once(store: Store) -> None:
    """POST /streams/{tpp}/secret: grace_seconds defaults to 0."""
    store.rotate(TPP, "new", 0)
    with pytest.raises(Denied):
        poll(store, proof="hash")


def test_forget_takes_everything_away(store: Store) -> None:
    """DELETE /streams/{tpp}: refused while SETs are outstanding, unless forced; no key is left but the counts."""
    push(store, "a", "b")
    poll(store, 1)
    poll(store, 0, set_errs={"a": ERR})
    with pytest.raises(Outstanding):
        store.forget(TPP)
    store.forget(TPP, force=True)
    assert set(store.redis.keys("*")) - {keys.CLOCK.encode()} == {keys.FORGOTTEN.encode()}
    assert store.streams() == []
    with pytest.raises(NoStream):
        poll(store)


def test_a_stream_made_while_it_is_forgotten_stays_listed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of streams is another key: whichever comes between, a stream that is there is listed."""
    zrem = store.redis.zrem

    def late(name: str, *members: str) -> Any:
        store.configure(TPP, "again", {})
        return zrem(name, *members)

    monkeypatch.setattr(store.redis, "zrem", late)
    store.forget(TPP)
    assert [status.tpp for status in store.streams()] == [TPP]


def test_listing_goes_past_names_without_a_stream(store: Store) -> None:
    """A crash may leave a name behind: a page is full all the same."""
    store.redis.zadd(keys.STREAMS, {f"gone-{number}": 0 for number in range(5)})
    store.configure("zeta", "hash", {})
    assert [status.tpp for status in store.streams(limit=2)] == [TPP, "zeta"]
    assert [status.tpp for status in store.streams(after="gone-1", limit=1)] == [TPP]
    assert [status.tpp for status in store.streams(after=TPP)] == ["zeta"]


COMMANDS: dict[str, tuple[Any, ...]] = {
    "push": ("a", SECEVENT),
    "poll": ("", 1, 0, 0, "park", 1, 1, "r", 0),
    "rotate": ("hash", 0),
    "status": (),
    "peek": ("pending", 1, ""),
    "find": ("a", 1),
    "requeue": ("a",),
    "discard": ("a",),
    "sweep": (1, 1, 1),
    "forget": (1,),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_but_configure_wants_a_stream(store: Store, command: str) -> None:
    """NOSTREAM, and nothing is made by asking."""
    with pytest.raises(NoStream):
        store._run(command, "nobody", *COMMANDS[command])
    assert store.redis.keys("eventpoll:{nobody}*") == []


def test_a_flushed_script_cache_is_filled_again(store: Store) -> None:
    """SCRIPT FLUSH and a restart forget the commands: NOSCRIPT says that nothing was run."""
    store.redis.script_flush()
    push(store, "a")
    store.redis.script_flush()
    assert jtis(poll(store)) == ["a"]


# -- on a real server -------------------------------------------------------------------------------------------------


def _calls(store: Store, ask: Any) -> dict[str, int]:
    """How often each Redis command was called for `ask`, those in Lua included."""
    store.redis.config_resetstat()
    ask()
    found: dict[str, Any] = store.redis.info("commandstats")
    return {name: row["calls"] for name, row in found.items() if "config" not in name and "info" not in name}


def test_the_cost_of_a_poll_does_not_grow_with_what_waits(own_redis: RedisServer) -> None:
    """performance.md, 4: by the size of request and answer alone; counted, not timed."""
    store = Store.open(own_redis.url, Path(), Rules())
    counts = []
    for tpp, number in (("few", 100), ("many", 20_000)):
        store.configure(tpp, "hash", {"redeliver_after": "60000"})
        store.push(tpp, "first", SECEVENT)
        pipeline = store.redis.pipeline(transaction=False)
        for n in range(number):
            pipeline.evalsha(store.commands.shas["push"], 12, *keys.of(tpp), f"jti-{n}", SECEVENT)
        pipeline.execute()
        store.poll(tpp, max_events=20 if tpp == "few" else 10_000, profile="r")
        acks = ["first", *(f"jti-{n}" for n in range(9))]

        def ask(tpp: str = tpp, acks: list[str] = acks) -> None:
            answer = store.poll(tpp, max_events=10, ack=acks, profile="r")
            assert (len(answer.sets), answer.acked, answer.more) == (10, 10, True)

        counts.append(_calls(store, ask))
    assert counts[0] == counts[1]
    store.redis.close()


def test_a_refused_write_does_nothing_at_all(own_redis: RedisServer) -> None:
    """decision 19: a full store refuses the whole poll, acks included, unless it asks for no SETs."""
    store = Store.open(own_redis.url, Path(), Rules())
    store.configure(TPP, "hash", {})
    push(store, "a", "b")
    poll(store, 1)
    store.redis.config_set("maxmemory", 1)
    with pytest.raises(Unavailable):
        poll(store, 5, ack=["a"])
    with pytest.raises(Unavailable):
        store.push(TPP, "c", set_of("c"))
    assert states(store) == (1, 1, 0)
    assert poll(store, 0, ack=["a"]).acked == 1
    assert states(store) == (1, 0, 0)
    store.redis.config_set("maxmemory", 0)
    assert jtis(poll(store)) == ["b"]
    store.redis.close()


# -- against a model --------------------------------------------------------------------------------------------------


class Model:
    """What decisions.md says of one stream, in plain Python; a lease is over when the test says so."""

    def __init__(self, lease: bool, max_deliveries: int, on_error: str) -> None:
        self.lease, self.max_deliveries, self.on_error = lease, max_deliveries, on_error
        self.place: dict[str, int] = {}
        self.pending: list[str] = []
        self.offered: list[str] = []  # in flight, longest waiting first
        self.hidden: list[str] = []  # in flight, under a lease
        self.parked: set[str] = set()
        self.settled: set[str] = set()
        self.deliveries: dict[str, int] = {}

    def push(self, jti: str) -> str:
        if jti in self.place:
            return "repeated"
        self.place[jti] = len(self.place)
        self.pending.append(jti)
        self.deliveries[jti] = 0
        return "queued"

    def _take(self, jti: str) -> bool:
        for group in (self.pending, self.offered, self.hidden):
            if jti in group:
                group.remove(jti)
                return True
        return False

    def poll(self, most: int, ack: list[str], errs: list[str]) -> tuple[list[str], bool]:
        for jti in ack:
            if self._take(jti) or jti in self.parked:
                self.parked.discard(jti)
                self.settled.add(jti)
        for jti in errs:
            if self.on_error == "park" and self._take(jti):
                self.parked.add(jti)
        fresh, self.pending = self.pending[:most], self.pending[most:]
        again = self.offered[: most - len(fresh)]
        self.offered = self.offered[len(again) :]
        more = bool(self.pending or self.offered)
        for jti in fresh + again:
            self.deliveries[jti] += 1
            if self.max_deliveries and self.deliveries[jti] >= self.max_deliveries:
                self.parked.add(jti)
            else:
                (self.hidden if self.lease else self.offered).append(jti)
        return fresh + again, more

    def requeue(self, jti: str) -> bool:
        if jti not in self.parked:
            return False
        self.parked.remove(jti)
        self.deliveries[jti] = 0
        self.pending = sorted([*self.pending, jti], key=lambda each: self.place[each])
        return True

    def discard(self, jti: str) -> bool:
        if jti not in self.parked:
            return False
        self.parked.remove(jti)
        self.settled.add(jti)
        return True

    def leases_run_out(self) -> None:
        self.offered += self.hidden
        self.hidden = []


@pytest.mark.parametrize("seed", range(6))
def test_the_store_does_what_a_plain_model_does(real: Store, seed: int) -> None:
    """decisions 1 to 8, 13 and 18, in some hundred random steps for each seed."""
    chance = random.Random(seed)
    lease, most_deliveries = seed % 2 == 1, (0, 0, 1, 3)[seed % 4]
    on_error = ("park", "redeliver")[seed % 3 == 2]
    real.rules = Rules(redeliver_after=3600.0 if lease else 0.0, max_deliveries=most_deliveries, on_error=on_error)
    model = Model(lease, most_deliveries, on_error)
    names = [f"jti-{number}" for number in range(120)]

    def some(most: int) -> list[str]:
        return chance.sample(names, chance.randint(0, most))

    for _ in range(700):
        step = chance.choices(["push", "poll", "requeue", "discard", "leases"], [8, 8, 2, 1, 1])[0]
        if step == "push":
            jti = chance.choice(names)
            assert real.push(TPP, jti, set_of(jti)).outcome == model.push(jti)
        elif step == "poll":
            most, ack, errs = chance.choice([0, 1, 3, 10]), some(6), some(2)
            answer = poll(real, most, ack=ack, set_errs=dict.fromkeys(errs, ERR))
            assert (jtis(answer), answer.more) == model.poll(most, ack, errs)
        elif step == "leases":
            model.leases_run_out()
            leases = keys.of(TPP)[5]
            ends: list[Any] = list(real.redis.zrange(leases, 0, -1, withscores=True))
            for member, end in ends:
                if end > time.time() * 1e6:
                    real.redis.zadd(leases, {member: end - 3600e6})
        else:
            jti = chance.choice(names)
            if (model.requeue if step == "requeue" else model.discard)(jti):
                (real.requeue if step == "requeue" else real.discard)(TPP, jti)
            else:
                with pytest.raises((NoSet, NotParked)):
                    (real.requeue if step == "requeue" else real.discard)(TPP, jti)
        assert states(real) == (len(model.pending), len(model.offered) + len(model.hidden), len(model.parked))
    for jti in model.settled:
        assert real.find(TPP, jti).state == "settled"
    for jti in [*model.pending, *model.offered, *model.hidden, *model.parked]:
        assert real.find(TPP, jti).deliveries == model.deliveries[jti]


@pytest.mark.parametrize("character", ["a", "é", "🏦", "\x01", "\ud800"])
def test_the_bytes_that_an_error_may_keep_are_bounded(store: Store, character: str) -> None:
    """Issue 11, 11: whatever its characters; what OBIE allows is kept whole."""
    for jti, lengths in (("long", (128, 1024)), ("obie", (40, 256))):
        push(store, jti)
        error = {"err": character * lengths[0], "description": character * lengths[1]}
        poll(store, 0, set_errs={jti: error})
        record: Any = store.redis.hget(keys.of(TPP)[6], jti)
        assert len(record.partition(b"\n")[2]) <= 240 + 1536 + 40
        kept = store.find(TPP, jti).error
        assert all(error[name].startswith(kept[name]) and kept[name] for name in error)
        assert jti == "long" or kept == error


def test_acknowledged_sets_count_while_their_error_is_kept(store: Store) -> None:
    """Issue 11, 11: by acks with errors a TPP would make the store keep more than max_pending SETs' worth. One that the
    bank discards makes room, as does an end that is forgotten."""
    store.configure(TPP, "", {"max_pending": "3"})
    push(store, "a", "b", "c")
    poll(store, set_errs={"a": ERR, "b": ERR})
    poll(store, 0, ack=["a", "c"], set_errs={"c": ERR})  # one was reported before its ack, one with it
    poll(store, 0, set_errs={"c": ERR})  # once more is no other
    assert store.redis.hget(keys.of(TPP)[0], "kept_errors") == b"2"
    with pytest.raises(Full):
        push(store, "d")
    store.discard(TPP, "b")
    push(store, "d")
    with pytest.raises(Full):
        push(store, "e")
    store.rules = replace(store.rules, dedupe=0)
    for _ in range(2):
        store.sweep(TPP)
        time.sleep(0.005)
    push(store, "e")


def test_an_acknowledged_set_keeps_the_last_of_its_history(store: Store) -> None:
    """Issue 11, 11: a TPP that fetches a SET a hundred times makes the store remember little of it."""
    push(store, "a")
    for _ in range(120):
        poll(store)
    assert len(store.find(TPP, "a").history) == 101
    poll(store, 0, ack=["a"])
    found = store.find(TPP, "a")
    assert found.deliveries == 120
    assert len(found.history) == 33
    assert found.history[-1].what == "acknowledged"
