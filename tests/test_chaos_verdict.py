"""The verdict on the chaos is able to fail: made-up journals and stores with one violation each, and it finds it."""

import socket
from collections.abc import Callable
from dataclasses import replace

import pytest

from chaos.journal import Answer, Care, Entry, Fault, Handed, Journal, Poll, Push, handed, mark_of
from chaos.picture import Picture, Stream, take
from chaos.proxy import Proxy
from chaos.report import Round, troubles, write
from chaos.verdict import Verdict, emptied, judge
from eventpoll.store import Store
from harness.redis_servers import RedisServer
from harness.sets import set_of

DOCUMENTED = {"POST /events": {200, 503, 500}}
SET = "eyJ0.eyJ9.c2ln"


def one(jti: str, tpp: str = "a", digest: bytes = b"1") -> Handed:
    return Handed(jti, digest, f"{tpp}/{jti}")


class Run:
    """A run in which all is well: one SET settled, one pending, one in flight, one parked, one by the inbox."""

    def __init__(self) -> None:
        self.journal = Journal(
            pushes=[Push("a", jti, "event", 1, 2, 201) for jti in ("done", "waits", "flies", "parked")],
            polls=[
                Poll("a", 3, 4, 200, sets=(one("done"), one("flies"), one("parked")), most=3, lease=2.0),
                Poll("a", 5, 6, 200, ack=("done",), errs=("parked",), most=0),
            ],
            entries=[Entry("a", "a/inbox-1", 1, 2, "7-0")],
            answers=[Answer(4, "POST /events", 200), Answer(6, "POST /events", 200)],
        )
        self.stream = Stream(
            stream={"created_at": "1", "last_order": "50", "pushed": "5", "acked": "1", "delivered": "3"},
            pending={"waits": 20, "inbox-7-0": 50},
            sets=dict.fromkeys(("waits", "flies", "parked", "inbox-7-0"), SET),
            inflight={"flies": "30 1 4dr"},
            inflight_order={"flies": 30},
            leases={"flies": 99},
            parked={"parked": '40 1 4dr,6er\n{"err":"jwtIss"}'},
            parked_order={"parked": 40},
            settled={"done": "6 10 1 4dr,6ar"},
        )
        self.picture = Picture(7, {"a": self.stream}, {"a"})

    def drained(self) -> tuple[Journal, Picture]:
        """The same, when all was fetched and acknowledged afterwards."""
        rest = ("waits", "flies", "parked", "inbox-7-0")
        marks = {"inbox-7-0": Handed("inbox-7-0", b"1", "a/inbox-1")}
        journal = replace(
            self.journal,
            polls=[
                *self.journal.polls,
                Poll("a", 9, 10, 200, sets=tuple(marks.get(jti) or one(jti) for jti in rest)),
                Poll("a", 11, 12, 200, ack=rest),
            ],
            cares=[*self.journal.cares, Care("a", "parked", "requeue", 8, 8.5, 200)],
        )
        left = [jti for jti in rest if jti in self.stream.outstanding]
        ended = {
            jti: f"12 {place} 1 10dr,12ar" for jti, place in zip(rest, (20, 30, 40, 50), strict=True) if jti in left
        }
        fields = {**self.stream.stream, "acked": str(1 + len(left)), "delivered": "7", "pushed": str(1 + len(left))}
        return journal, Picture(13, {"a": Stream(stream=fields, settled={**self.stream.settled, **ended})}, {"a"})

    def judged(self) -> Verdict:
        journal, after = self.drained()
        return judge(journal, self.picture, after, DOCUMENTED)


def test_where_all_is_well_nothing_is_found() -> None:
    """Otherwise the tests below would show nothing."""
    verdict = Run().judged()
    assert (verdict.broken, dict(verdict.excused)) == ([], {})


def lost_push(run: Run) -> None:
    del run.stream.pending["waits"], run.stream.sets["waits"]


def lost_entry(run: Run) -> None:
    del run.stream.pending["inbox-7-0"], run.stream.sets["inbox-7-0"]


def lost_ack(run: Run) -> None:
    del run.stream.settled["done"]
    run.stream.pending["done"], run.stream.sets["done"] = 10, SET


def conflict(run: Run) -> None:
    run.journal.pushes.append(Push("a", "waits", "event", 2, 3, 409))


def ended_unasked(run: Run) -> None:
    run.journal.polls[1].ack = ()


def came_after_its_ack(run: Run) -> None:
    run.journal.polls.append(Poll("a", 6.5, 6.6, 200, sets=(one("done"),)))


def came_after_its_discard(run: Run) -> None:
    run.journal.cares.append(Care("a", "waits", "discard", 2.1, 2.2, 204))


def came_while_parked(run: Run) -> None:
    run.journal.polls.append(Poll("a", 6.5, 6.6, 200, sets=(one("parked"),)))


def foreign_hands(run: Run) -> None:
    run.journal.polls[0].sets += (one("theirs", "b"),)


def changed_bytes(run: Run) -> None:
    run.journal.polls.append(Poll("a", 6.5, 6.6, 200, sets=(one("flies", digest=b"2"),)))


def orphan_key(run: Run) -> None:
    run.picture.strange.append("eventpoll:{a}:other (hash)")


def orphan_stream(run: Run) -> None:
    run.picture.listed.add("b")


def in_two_states(run: Run) -> None:
    run.stream.settled["waits"] = "6 20 0 6ar"


def in_sets_alone(run: Run) -> None:
    run.stream.sets["nowhere"] = SET


def in_flight_without_its_set(run: Run) -> None:
    del run.stream.sets["flies"]


def without_a_lease(run: Run) -> None:
    run.stream.leases.clear()


def without_its_order(run: Run) -> None:
    run.stream.inflight_order.clear()


def parked_without_its_order(run: Run) -> None:
    run.stream.parked_order.clear()


def requeued_and_not_pending(run: Run) -> None:
    run.stream.requeued["flies"] = "30 0 4qb"


def of_another_order(run: Run) -> None:
    run.stream.parked_order["parked"] = 41


def of_one_order(run: Run) -> None:
    run.stream.pending["waits"] = 30


def behind_its_last_order(run: Run) -> None:
    run.stream.stream["last_order"] = "49"


def pushed_miscounted(run: Run) -> None:
    run.stream.stream["pushed"] = "6"


def ends_miscounted(run: Run) -> None:
    run.stream.stream["acked"] = "0"


def deliveries_miscounted(run: Run) -> None:
    run.stream.stream["delivered"] = "2"


def entry_still_taken(run: Run) -> None:
    run.picture.taken = 1


def entry_left(run: Run) -> None:
    run.picture.inbox.append("8-0")


def entry_dead(run: Run) -> None:
    run.picture.dead.append({"id": "8-0", "reason": "no"})


def queued_twice(run: Run) -> None:
    run.journal.pushes.append(Push("a", "waits", "event", 2, 3, 201))


def minted_twice(run: Run) -> None:
    run.journal.polls.append(Poll("a", 6.5, 6.6, 200, sets=(Handed("inbox-8-0", b"1", "a/inbox-1"),)))


def minted_though_refused(run: Run) -> None:
    run.journal.entries.append(Entry("a", "a/flies", 1, 2, None, refused=True))


def too_many(run: Run) -> None:
    run.journal.polls[0].most = 2


def within_its_lease(run: Run) -> None:
    run.journal.polls.append(Poll("a", 4.1, 4.2, 200, sets=(one("flies"),), lease=2.0))


def undocumented(run: Run) -> None:
    run.journal.answers.append(Answer(6, "POST /events", 418))


def our_mistake(run: Run) -> None:
    run.journal.answers.append(Answer(6, "POST /events", 500))


def slow(run: Run) -> None:
    run.journal.answers.append(Answer(40, "POST /events", 200, took=18.0))


def cut_under_way(run: Run) -> None:
    run.journal.answers.append(Answer(6, "POST /events", None, took=1.0))


def ack_refused(run: Run) -> None:
    run.journal.faults.append(Fault("full memory", 6.2, 6.8))
    run.journal.polls.append(Poll("a", 6.4, 6.5, 503, most=0))


def deaf(run: Run) -> None:
    run.journal.pushes.append(Push("tpp-6", "calls", "event", 2, 2.1, 201))
    run.journal.polls.append(Poll("tpp-6", 1, 5, 200, held=True))


FOUND: dict[Callable[[Run], None], str] = {
    lost_push: "lost push: waits",
    lost_entry: "lost entry: 7-0",
    lost_ack: "lost ack: done",
    conflict: "conflict: waits",
    ended_unasked: "ended unasked: done",
    came_after_its_ack: "came after its ack: done",
    came_after_its_discard: "came after its ack: waits",
    came_while_parked: "came while parked: parked",
    foreign_hands: "foreign hands: theirs",
    changed_bytes: "changed: flies",
    orphan_key: "orphan key: eventpoll:{a}:other",
    orphan_stream: "orphan stream: b",
    in_two_states: "disorder: a: waits is in 2 states",
    in_sets_alone: "disorder: a: nowhere is in sets",
    in_flight_without_its_set: "disorder: a: flies is in sets",
    without_a_lease: "disorder: a: flies is in leases",
    without_its_order: "disorder: a: flies is in inflight_order",
    parked_without_its_order: "disorder: a: parked is in parked_order",
    requeued_and_not_pending: "disorder: a: flies is requeued",
    of_another_order: "disorder: a: parked has another order",
    of_one_order: "disorder: a: two SETs have the order 30",
    behind_its_last_order: "disorder: a: last_order is behind",
    pushed_miscounted: "counter: a: pushed is 6",
    ends_miscounted: "counter: a: 0 are counted as ended",
    deliveries_miscounted: "counter: a: 3 came",
    entry_still_taken: "counter: 1 entries",
    entry_left: "left entry: 8-0",
    entry_dead: "dead entry: ",
    queued_twice: "queued twice: waits",
    minted_twice: "minted twice: a/inbox-1",
    minted_though_refused: "minted though refused: a/flies",
    too_many: "too many: 3 came to a",
    within_its_lease: "lease: flies",
    undocumented: "status: POST /events: 418",
    our_mistake: "status: POST /events: 500",
    slow: "slow: POST /events: 200 after 18.0 s",
    cut_under_way: "cut: POST /events: after 1.0 s",
    ack_refused: "ack refused: to a",
    deaf: "deaf: tpp-6 waited 2.9 s for calls",
}
"""What is done to a run in which all was well, and what the verdict is to say of it."""


@pytest.mark.parametrize("violate", FOUND, ids=lambda violate: violate.__name__)
def test_a_violation_is_found(violate: Callable[[Run], None]) -> None:
    """Issue 6: each kind of check is shown to be able to fail."""
    run = Run()
    violate(run)
    broken = run.judged().broken
    assert any(text.startswith(FOUND[violate]) for text in broken), broken


@pytest.mark.parametrize("violate", [lost_push, lost_entry, lost_ack, came_after_its_ack, queued_twice])
def test_a_takeover_excuses_what_it_may_lose_and_counts_it(violate: Callable[[Run], None]) -> None:
    """docs/reliability.md: replication is asynchronous; what was answered shortly before may be gone."""
    run = Run()
    violate(run)
    run.journal.faults.append(Fault("takeover", 2, 7, may_lose=True))
    verdict = run.judged()
    assert verdict.excused
    assert not [text for text in verdict.broken if text.startswith(FOUND[violate])]


@pytest.mark.parametrize("violate", [lost_push, came_after_its_ack])
def test_a_takeover_excuses_nothing_that_was_answered_long_before(violate: Callable[[Run], None]) -> None:
    """Replication is late by seconds, not by minutes."""
    run = Run()
    violate(run)
    run.journal.faults.append(Fault("takeover", 62, 67, may_lose=True))
    assert any(text.startswith(FOUND[violate]) for text in run.judged().broken)


def test_a_takeover_excuses_no_push_that_a_replica_had() -> None:
    """EVENTPOLL_WAIT_REPLICAS: a push is answered when a replica has it; acks do not wait."""
    run = Run()
    lost_push(run)
    lost_ack(run)
    run.journal.waits = True
    run.journal.faults.append(Fault("takeover", 2, 7, may_lose=True))
    verdict = run.judged()
    assert any(text.startswith(FOUND[lost_push]) for text in verdict.broken)
    assert list(verdict.excused["lost ack"]) == ["done of a"]


def test_a_lease_that_a_clock_step_cut_short_is_no_violation() -> None:
    """docs/reliability.md: a lease runs by the store's clock."""
    run = Run()
    within_its_lease(run)
    run.journal.faults.append(Fault("clock", 3, 5, clock=True))
    verdict = run.judged()
    assert not [text for text in verdict.broken if text.startswith("lease")]
    assert len(verdict.excused["lease"]) == 1


@pytest.mark.parametrize("violate", [slow, cut_under_way, deaf])
def test_what_a_fault_before_the_service_does_to_requests_is_no_violation(violate: Callable[[Run], None]) -> None:
    """Issue 6: a cut network, or a killed process, ends and delays what was under way."""
    run = Run()
    violate(run)
    run.journal.faults.append(Fault("network", 2, 30, cuts=True))
    assert not [text for text in run.judged().broken if text.startswith(FOUND[violate].partition(":")[0])]


def test_a_connection_that_is_closed_as_it_is_used_is_no_violation() -> None:
    """RFC 9112 section 9.5: a server may close an idle connection at any time; clients repeat then."""
    run = Run()
    run.journal.answers.append(Answer(6, "POST /events", None, took=0.01))
    assert run.judged().broken == []


def test_a_set_that_never_comes_is_found() -> None:
    """Issue 6: when all is drained nothing is outstanding."""
    run = Run()
    journal, _ = run.drained()
    assert any(
        text.startswith("not drained: a: 4 SETs") for text in judge(journal, run.picture, run.picture, {}).broken
    )


def test_what_is_left_when_all_is_forgotten_is_found() -> None:
    """Issue 6: memory and key count back to what they should be."""
    run, verdict = Run(), Verdict()
    emptied(Picture(0, {"a": Stream(stream={"created_at": "1"})}, {"a"}), 5, 99, 100, verdict)
    assert verdict.broken == []
    emptied(run.picture, 6, 101, 100, verdict)
    assert {text.partition(":")[0] for text in verdict.broken} == {"left key", "left keys", "memory"}


def test_the_picture_is_what_lies_in_the_store(store: Store) -> None:
    """docs/redis-layout.md, read by a plain client: each key and state, and keys that do not belong there."""
    store.configure("a", "hash", {})
    for jti in ("done", "flies", "parked", "again", "waits"):
        store.push("a", jti, set_of(jti))
    store.poll("a", max_events=4, profile="r")
    store.poll(
        "a", max_events=0, ack=["done"], set_errs={jti: {"err": "e"} for jti in ("parked", "again")}, profile="r"
    )
    store.requeue("a", "again")
    store.redis.set("eventpoll:{a}:other", 1)
    store.redis.set("eventpoll:{a}:settled_before", 1)
    store.redis.xadd("eventpoll:inbox:dead", {"id": "1-0"})
    decoding = type(store.redis)(
        connection_pool=type(store.redis.connection_pool)(
            connection_class=store.redis.connection_pool.connection_class,
            **{**store.redis.connection_pool.connection_kwargs, "decode_responses": True},
        )
    )
    picture = take([decoding])
    decoding.close()
    (stream,) = picture.streams.values()
    assert (set(stream.pending), set(stream.inflight), set(stream.parked)) == (
        {"waits", "again"},
        {"flies"},
        {"parked"},
    )
    assert set(stream.settled) == {"done"}
    assert set(stream.requeued) == {"again"}
    assert picture.listed == {"a"}
    assert picture.dead == [{"id": "1-0"}]
    assert sorted(picture.strange) == ["eventpoll:{a}:other (string)", "eventpoll:{a}:settled_before (string)"]


def test_the_network_breaks_as_it_is_told(redis_server: RedisServer) -> None:
    """Issue 6: a proxy in between that drops, delays, halves replies, and cuts; and passes everything otherwise."""
    proxy = Proxy(redis_server.port, 1)

    def ask(connection: socket.socket) -> bytes:
        connection.sendall(b"ECHO abcdefgh\r\n")
        return connection.recv(100)

    def new(seconds: float = 20) -> socket.socket:
        return socket.create_connection(("127.0.0.1", proxy.port), seconds)

    try:
        with new() as first:
            assert ask(first) == b"$8\r\nabcdefgh\r\n"
            proxy.set("delay", 0.1)
            assert ask(first) == b"$8\r\nabcdefgh\r\n"
            proxy.set("cut")
            with pytest.raises(ConnectionError):
                assert ask(first) == b"" == ask(first)
        with pytest.raises(ConnectionError), new() as second:
            assert ask(second) == b"" == ask(second)
        proxy.set("drop")
        with new(0.3) as third, pytest.raises(TimeoutError):
            ask(third)
        proxy.set("halve")
        replies = set()
        for _ in range(20):
            with new() as each:
                replies.add(ask(each))
        assert replies == {b"$8\r\nabcdefgh\r\n", b"$8\r\nabc"}
        proxy.set("pass")
        with new() as last:
            assert ask(last) == b"$8\r\nabcdefgh\r\n"
    finally:
        proxy.stop()


def test_a_set_bears_the_mark_of_its_event() -> None:
    """By it the verdict knows whose a SET is, and which entry of the inbox it was."""
    assert handed("a", set_of("a", {"urn:chaos:event": {"mark": "tpp/1"}})).mark == "tpp/1"
    assert [mark_of(text) for text in ("", "a.b.c", set_of("a"))] == ["", "", ""]


def test_the_report_tells_for_how_long_each_fault_was_felt() -> None:
    """Issue 6: how many 5xx, and for how long after each fault."""
    journal = Journal(
        answers=[Answer(at, "POST /events", status) for at, status in ((0, 200), (11, 503), (12, None), (14, 200))],
        faults=[Fault("one", 10, 11), Fault("two", 13, 14)],
    )
    first, second = troubles(journal, Verdict())
    assert (first.errors, first.silent, first.lasted, first.answered) == (1, 1, 2.0, 0)
    assert (second.errors, second.silent, second.answered) == (0, 0, 1)
    text = write([Round("single", journal, Verdict(["lost push: a"]), ["Redis 7"], 20.0)], "make chaos", 7)
    assert "**0 SETs, 2 faults of 2 kinds, 1 violations.**" in text
    assert "- **lost push: a**" in text
