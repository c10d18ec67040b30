"""The store beside a plain model of it: whatever is asked, in whatever order, both answer and hold the same.

Hypothesis asks, on a real Redis. Time passes when a rule says so: every moment that Redis holds is set back by as
much. Settings and steps of time are chosen so that nothing falls due within 50 seconds of a comparison: how long
a test takes does not matter.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from eventpoll.store import keys
from eventpoll.store.errors import Denied, Full, NoSet, NoStream, NotParked, Outstanding, StoreError
from eventpoll.store.records import BY, EVERY_FAMILY, FAMILIES, LANE, Answer, Pushed, Rules, SetRecord
from eventpoll.store.store import Store
from harness.redis_servers import RedisServer
from harness.sets import set_of

pytestmark = pytest.mark.no_cover  # tracing Hypothesis takes longer than the tests do

SETTINGS = settings(
    derandomize=True,
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

TPPS = ("tpp-1", "tpp-2")
JTIS = ("a", "b", "c", "d", 'é "\\', "𝕁,1 ")
STATES = ("pending", "in_flight", "parked")
TRAIL = 100
RETENTION, DEDUPE = 1050, 550
"""Seconds, as all times here. They end in 50, the steps of time in 00."""

SHIFT = """
local seconds, keys = tonumber(ARGV[1]), KEYS
local micros, millis = seconds * 1000000, seconds * 1000
local function earlier(text, by) return string.format('%.0f', tonumber(text) - by) end
for _, key in ipairs({keys[2], keys[5], keys[6], keys[8]}) do
  local found = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  for i = 1, #found, 2 do redis.call('ZADD', key, earlier(found[i + 1], micros), found[i]) end
end
for _, key in ipairs({keys[4], keys[7], keys[9]}) do
  local found = redis.call('HGETALL', key)
  for i = 1, #found, 2 do
    local order, rest = found[i + 1]:match('^(%d+)(.*)$')
    redis.call('HSET', key, found[i], earlier(order, micros) .. rest)
  end
end
for _, key in ipairs({keys[10], keys[11]}) do
  local found = redis.call('HGETALL', key)
  for i = 1, #found, 2 do
    local ended, order, rest = found[i + 1]:match('^(%d+) (%d+)(.*)$')
    redis.call('HSET', key, found[i], earlier(ended, millis) .. ' ' .. earlier(order, micros) .. rest)
  end
end
for field, by in pairs({last_order = micros, settled_since = millis, old_secret_until = millis,
    old_secret_since = millis, polled_at = millis,
    pushed_at = millis, created_at = millis}) do
  local moment = redis.call('HGET', keys[1], field)
  if moment then redis.call('HSET', keys[1], field, earlier(moment, by)) end
end
"""


# -- the model ----------------------------------------------------------------------------------------------------


@dataclass
class Kept:
    """An outstanding SET."""

    jti: str
    secevent: str
    scope: str
    order: int
    pushed: int
    state: str = "pending"
    deliveries: int = 0
    lease: tuple[int, int] | None = None  # until when, and its place among those that end then
    error: dict[str, str] = field(default_factory=dict)
    history: list[tuple[str, str]] = field(default_factory=lambda: [("pushed", "bank")])

    @property
    def family(self) -> int:
        return FAMILIES.index(self.scope)


@dataclass
class Ended:
    """What is remembered of a SET that is not outstanding any more."""

    at: int
    order: int
    scope: str
    deliveries: int
    history: list[tuple[str, str]]
    error: Any


@dataclass
class Stream:
    """One TPP's."""

    secret: str
    old_secret: tuple[str, int] | None = None
    settings: dict[str, str] = field(default_factory=dict)
    sets: dict[str, Kept] = field(default_factory=dict)
    ended: dict[str, Ended] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)

    def of(self, state: str) -> list[Kept]:
        """The SETs in one state, oldest first."""
        return sorted((kept for kept in self.sets.values() if kept.state == state), key=lambda kept: kept.order)

    def leased(self) -> list[Kept]:
        """Those in flight, in the order in which they are offered again."""
        return sorted((kept for kept in self.sets.values() if kept.lease), key=lambda kept: kept.lease or (0, 0))


class Model:
    """What the store promises, with its methods and its exceptions, and nothing of how."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.now = 0
        self.streams: dict[str, Stream] = {}
        self.turn = 0  # grows with each push and each delivery
        self.kept_errors: dict[str, int] = {}  # how many ends count with max_pending: that depends on the windows

    def stream(self, tpp: str) -> Stream:
        if tpp not in self.streams:
            raise NoStream
        return self.streams[tpp]

    def too_old(self, kept: Kept) -> bool:
        return self.now - kept.pushed > RETENTION

    def configure(self, tpp: str, secret: str, settings: Mapping[str, str]) -> bool:
        new = tpp not in self.streams
        stream = self.streams.setdefault(tpp, Stream(secret))
        stream.settings.update(settings)
        stream.settings = {name: value for name, value in stream.settings.items() if value}
        return new

    def rotate(self, tpp: str, secret: str, grace: float) -> None:
        stream = self.stream(tpp)
        stream.old_secret = (stream.secret, self.now + int(grace))
        stream.secret = secret

    def push(self, tpp: str, jti: str, secevent: str, scope: str) -> Pushed:
        stream = self.stream(tpp)
        if kept := stream.sets.get(jti):
            return Pushed("repeated") if kept.secevent == secevent else Pushed("kept", kept.secevent)
        if jti in stream.ended and self.now - stream.ended[jti].at < DEDUPE:
            return Pushed("repeated")
        most = int(stream.settings.get("max_pending", 0))
        if most and len(stream.sets) + self.kept_errors.get(tpp, 0) >= most:
            raise Full
        ended = stream.ended.pop(jti, None)
        if ended and ended.error and ended.history[-1][0] == "acknowledged":
            self.kept_errors[tpp] = self.kept_errors.get(tpp, 0) - 1
        self.turn += 1
        kept = stream.sets[jti] = Kept(jti, secevent, scope, self.turn, self.now)
        stream.counters["pushed"] += 1
        others = [each for each in stream.sets.values() if each.state != "pending" or each.family == kept.family]
        return Pushed("queued", stale=any(map(self.too_old, others)))

    def poll(
        self,
        tpp: str,
        *,
        proof: str = "",
        max_events: int,
        ack: Sequence[str] = (),
        set_errs: Mapping[str, dict[str, str]] | None = None,
        profile: str = "r",
        families: str = EVERY_FAMILY,
    ) -> tuple[Any, ...]:
        stream, by = self.stream(tpp), BY[profile]
        good = [stream.secret, ""]
        if stream.old_secret and self.now < stream.old_secret[1]:
            good.append(stream.old_secret[0])
        if proof not in good:
            raise Denied
        redeliver_after = int(stream.settings.get("redeliver_after", self.rules.redeliver_after * 1000)) // 1000
        max_deliveries = int(stream.settings.get("max_deliveries", self.rules.max_deliveries))
        on_error = stream.settings.get("on_error", self.rules.on_error)

        acked = [jti for jti in dict.fromkeys(ack) if jti in stream.sets]
        for jti in acked:
            self._end(stream, jti, "acknowledged", by)
        reported = [jti for jti in set_errs or {} if jti in stream.sets]
        for jti, error in (set_errs or {}).items():
            if kept := stream.sets.get(jti):
                kept.error = error
                kept.history.append(("reported", by))
                if on_error == "park":
                    kept.state, kept.lease = "parked", None
            elif jti in stream.ended:
                stream.ended[jti].error = error if jti in acked else ANY  # noted while it is in this window

        for kept in stream.of("in_flight"):
            if self.too_old(kept):
                kept.lease = None
        fresh = [each for each in stream.of("pending") if str(each.family) in families and not self.too_old(each)]
        leased = [each for each in stream.leased() if str(each.family) in families]
        due = [kept for kept in leased if redeliver_after == 0 or (kept.lease and kept.lease[0] <= self.now)]
        handed_out = [*fresh, *due][:max_events]
        for kept in handed_out:
            self.turn += 1
            kept.deliveries += 1
            kept.history.append(("delivered", by))
            kept.state, kept.lease = "in_flight", (self.now + redeliver_after, self.turn)
            if 0 < max_deliveries <= kept.deliveries:
                kept.state, kept.lease = "parked", None
                kept.history.append(("undelivered", by))
                words = f"delivered {kept.deliveries} times without an acknowledgement"
                kept.error = {"err": "undelivered", "description": words}
        more = any(kept not in handed_out for kept in [*fresh, *due])
        seen = [each for each in stream.sets.values() if each.state != "pending" or str(each.family) in families]
        counted = {"acked": len(acked), "reported": len(reported), "delivered": len(handed_out)}
        stream.counters.update({name: number for name, number in counted.items() if number})
        ends = [each.lease[0] for each in stream.leased() if each.lease and str(each.family) in families]
        return (
            [(kept.jti, kept.secevent) for kept in handed_out],
            more,
            max(0, min(ends) - self.now) if ends else None,
            any(self.too_old(each) for each in seen),
            len(acked),
            len(reported),
        )

    def _end(self, stream: Stream, jti: str, what: str, by: str) -> None:
        kept = stream.sets.pop(jti)
        history = [*kept.history, (what, by)]
        stream.ended[jti] = Ended(self.now, kept.order, kept.scope, kept.deliveries, history, kept.error)

    def _parked(self, tpp: str, jti: str) -> Kept:
        if jti not in self.stream(tpp).sets:
            raise NoSet
        kept = self.streams[tpp].sets[jti]
        if kept.state != "parked":
            raise NotParked
        return kept

    def requeue(self, tpp: str, jti: str) -> None:
        kept = self._parked(tpp, jti)
        kept.state, kept.deliveries = "pending", 0
        kept.history.append(("requeued", "bank"))

    def discard(self, tpp: str, jti: str) -> None:
        self._parked(tpp, jti)
        self._end(self.streams[tpp], jti, "discarded", "bank")
        self.streams[tpp].counters["discarded"] += 1

    def sweep(self, tpp: str, limit: int) -> tuple[list[str], bool]:
        stream = self.stream(tpp)
        waiting = sorted(stream.of("pending"), key=lambda kept: (kept.family, kept.order))
        due = [*waiting, *stream.of("in_flight"), *stream.of("parked")]
        old = [kept.jti for kept in due if self.too_old(kept)]
        for jti in old[:limit]:
            self._end(stream, jti, "expired", "service")
            stream.counters["expired"] += 1
        return old[:limit], len(old) > limit

    def forget(self, tpp: str, force: bool) -> None:
        if self.stream(tpp).sets and not force:
            raise Outstanding
        del self.streams[tpp]

    def find(self, tpp: str, jti: str) -> tuple[Any, ...]:
        stream = self.stream(tpp)
        if kept := stream.sets.get(jti):
            return self.view(kept, kept.secevent)
        ended = self.remembered(stream, jti)
        state = "expired" if ended.history[-1][0] == "expired" else "settled"
        return jti, state, ended.scope, ended.deliveries, ended.history[-TRAIL:], False, ended.error, None

    def remembered(self, stream: Stream, jti: str) -> Ended:
        ended = stream.ended.get(jti)
        if ended is None or self.now - ended.at >= DEDUPE:
            raise NoSet
        return ended

    def peek(self, tpp: str, state: str, limit: int, after: str) -> list[tuple[Any, ...]]:
        stream = self.stream(tpp)
        last = stream.sets.get(after) or (self.remembered(stream, after) if after else None)
        begin = last.order if last else 0
        return [self.view(kept) for kept in stream.of(state) if kept.order > begin][:limit]

    def view(self, kept: Kept, secevent: str | None = None) -> tuple[Any, ...]:
        leased = kept.lease is not None
        return kept.jti, kept.state, kept.scope, kept.deliveries, kept.history[-TRAIL:], leased, kept.error, secevent

    def status(self, tpp: str) -> tuple[Any, ...]:
        stream = self.stream(tpp)
        oldest = {state: self.now - found[0].pushed if (found := stream.of(state)) else None for state in STATES}
        return tpp, *(len(stream.of(state)) for state in STATES), oldest, dict(stream.counters)


# -- the store, seen like the model ---------------------------------------------------------------------------------


def outcome(ask: Callable[[], Any]) -> Any:
    """What comes back, or the class of what is raised."""
    try:
        return ask()
    except StoreError as error:
        return type(error)


def age(seconds: float | None) -> float | None:
    """An age, less the moments that the test itself takes: a multiple of 50 seconds."""
    return None if seconds is None else (seconds + 1) // 50 * 50


def wait(seconds: float | None) -> float | None:
    """A time to wait, and the moments that the test itself took of it: a multiple of 50 seconds."""
    return None if seconds is None else -((1 - seconds) // 50) * 50


def answer_view(answer: Answer) -> tuple[Any, ...]:
    sets = [(jti.decode(), secevent.decode()) for jti, secevent in answer.sets]
    return sets, answer.more, wait(answer.wait), answer.stale, answer.acked, answer.reported


def record_view(record: SetRecord) -> tuple[Any, ...]:
    history = [(happening.what, happening.by) for happening in record.history[1:]]
    if len(history) < TRAIL:  # when it was pushed is told always, of all else the last
        history.insert(0, (record.history[0].what, record.history[0].by))
    return (
        record.jti,
        record.state,
        record.scope,
        record.deliveries,
        history[-TRAIL:],
        record.leased_until is not None,
        record.error,
        record.secevent,
    )


def status_view(store: Store, tpp: str) -> tuple[Any, ...]:
    status = store.status(tpp)
    names = ("pushed", "delivered", "acked", "reported", "discarded", "expired")
    counters = {name: int(status.fields[name]) for name in names if int(status.fields.get(name, 0))}
    oldest = {state: age(seconds) for state, seconds in status.oldest.items()}
    return tpp, status.pending, status.in_flight, status.parked, oldest, counters


def text_of(tpp: str, jti: str, version: int) -> str:
    """The SET that the bank pushes: another for each TPP, and of a second version."""
    return set_of(jti, {"urn:test:event": {"tpp": tpp, "version": version}})


tpps = st.sampled_from(TPPS)
jtis = st.sampled_from(JTIS)
some_jtis = st.lists(st.sampled_from([*JTIS, "unknown"]), max_size=5)
errors = st.fixed_dictionaries(
    {"err": st.sampled_from(["invalid_request", "jwtParse"])}, optional={"description": st.sampled_from(["", "é\n1 2"])}
)
scopes = st.sampled_from(["", "", *FAMILIES])
families = st.sampled_from([EVERY_FAMILY, EVERY_FAMILY, "0", "02", "013"])
polls = st.fixed_dictionaries(
    {
        "max_events": st.sampled_from([0, 1, 2, 3, 5, 1000]),
        "ack": some_jtis,
        "set_errs": st.dictionaries(st.sampled_from([*JTIS, "unknown"]), errors, max_size=3),
        "profile": st.sampled_from("row"),
        "proof": st.sampled_from(["", "", "secret-0", "secret-1", "secret-2"]),
        "families": families,
    }
)
changes = st.fixed_dictionaries(
    {},
    optional={
        "redeliver_after": st.sampled_from(["", "0", "250000", "450000"]),
        "max_deliveries": st.sampled_from(["", "0", "1", "2", "3"]),
        "on_error": st.sampled_from(["", "park", "redeliver"]),
        "max_pending": st.sampled_from(["", "0", "3"]),
    },
)


class StoreMachine(RuleBasedStateMachine):
    """What two TPPs, their bank and the clock may do to the store, in any order."""

    store: Store

    @initialize(
        redeliver_after=st.sampled_from([0, 250]),
        max_deliveries=st.sampled_from([0, 2]),
        on_error=st.sampled_from(["park", "redeliver"]),
    )
    def begin(self, redeliver_after: int, max_deliveries: int, on_error: str) -> None:
        self.store.redis.flushdb()
        self.store.rules = Rules(redeliver_after, max_deliveries, on_error, RETENTION, DEDUPE)
        self.model = Model(self.store.rules)
        for tpp in TPPS:
            self.configure(tpp, {})

    def same(self, ask: Callable[[Any], Any]) -> Any:
        """Ask both; they must say the same."""
        expected, got = outcome(lambda: ask(self.model)), outcome(lambda: ask(self.store))
        assert got == expected
        return got

    # -- the bank --

    def count_errors(self, tpp: str) -> None:
        told = self.store.redis.hmget(keys.of(tpp)[0], "kept_errors", "kept_errors_before")
        self.model.kept_errors[tpp] = sum(int(each or 0) for each in told)

    @rule(tpp=tpps, jti=jtis, version=st.sampled_from([0, 0, 0, 1]), scope=scopes)
    def push(self, tpp: str, jti: str, version: int, scope: str) -> None:
        self.count_errors(tpp)
        self.same(lambda at: at.push(tpp, jti, text_of(tpp, jti, version), scope))

    @rule(tpp=tpps, named=st.lists(st.tuples(jtis, scopes), max_size=8))
    def push_many(self, tpp: str, named: list[tuple[str, str]]) -> None:
        sets = [(jti, text_of(tpp, jti, 0), scope) for jti, scope in named]
        self.count_errors(tpp)
        expected = [outcome(partial(self.model.push, tpp, *one)) for one in sets]
        got = [type(each) if isinstance(each, StoreError) else each for each in self.store.push_many(tpp, sets)]
        assert got == expected

    @rule(tpp=tpps, settings=changes)
    def configure(self, tpp: str, settings: dict[str, str]) -> None:
        self.same(lambda at: at.configure(tpp, "secret-0", settings))

    @rule(tpp=tpps, secret=st.sampled_from(["secret-0", "secret-1", "secret-2"]), grace=st.sampled_from([0, 250]))
    def rotate(self, tpp: str, secret: str, grace: int) -> None:
        self.same(lambda at: at.rotate(tpp, secret, grace))

    @rule(tpp=tpps, jti=jtis, again=st.booleans())
    def requeue_or_discard(self, tpp: str, jti: str, again: bool) -> None:
        """decision 4: what is parked; all else is refused."""
        parked = [kept.jti for kept in self.model.streams[tpp].of("parked")] if tpp in self.model.streams else []
        chosen = parked[JTIS.index(jti) % len(parked)] if parked else jti
        self.same(lambda at: at.requeue(tpp, chosen) if again else at.discard(tpp, chosen))

    @rule(tpp=tpps, jti=jtis, again=st.booleans())
    def requeue_or_discard_any(self, tpp: str, jti: str, again: bool) -> None:
        self.same(lambda at: at.requeue(tpp, jti) if again else at.discard(tpp, jti))

    @rule(tpp=tpps, force=st.sampled_from([False, False, False, True]))
    def forget(self, tpp: str, force: bool) -> None:
        self.same(lambda at: at.forget(tpp, force=force))

    @rule(tpp=tpps, jti=jtis, state=st.sampled_from(STATES), limit=st.sampled_from([1, 2, 100]), some=st.booleans())
    def look(self, tpp: str, jti: str, state: str, limit: int, some: bool) -> None:
        """One SET, and a page of those in one state."""
        expected = outcome(lambda: self.model.find(tpp, jti))
        assert outcome(lambda: record_view(self.store.find(tpp, jti))) == expected
        after = jti if some else ""
        page = outcome(lambda: self.model.peek(tpp, state, limit, after))
        got = outcome(lambda: [record_view(each) for each in self.store.peek(tpp, state, limit, after)])
        late = tpp in self.model.streams and after in self.model.streams[tpp].ended and page is NoSet
        assert got == page or late  # what ended is remembered for longer than is promised

    # -- the TPPs --

    @rule(tpp=tpps, asked=polls)
    def poll(self, tpp: str, asked: dict[str, Any]) -> None:
        """decisions 1 to 8 and 13."""
        expected = outcome(lambda: self.model.poll(tpp, **asked))
        got = outcome(lambda: answer_view(self.store.poll(tpp, **asked)))
        if isinstance(got, tuple) and isinstance(expected, tuple):
            assert got[3] or not expected[3]  # stale may speak of remembered jtis besides
            expected = (*expected[:3], got[3], *expected[4:])
        assert got == expected

    @rule(tpp=tpps, most=st.sampled_from([0, 1, 2, 3, 5]), families=families)
    def ask_for_the_rest(self, tpp: str, most: int, families: str) -> None:
        """decision 13: moreAvailable is true exactly where a next poll returns what this answer does not hold."""
        if tpp in self.model.streams:
            first, rest = (
                self.store.poll(tpp, max_events=wanted, families=families, profile="r") for wanted in (most, 1000)
            )
            assert first.more == bool(set(rest.sets) - set(first.sets))
            for wanted, answer in ((most, first), (1000, rest)):
                expected = self.model.poll(tpp, max_events=wanted, families=families)
                assert answer_view(answer)[:2] == expected[:2]

    # -- the clock --

    @rule(hundreds=st.sampled_from([1, 2, 3, 6, 11]))
    def time_passes(self, hundreds: int) -> None:
        self.model.now += 100 * hundreds
        for tpp in TPPS:
            names = keys.of(tpp)
            self.store.redis.eval(SHIFT, len(names), *names, 100 * hundreds)

    @rule(tpp=tpps, limit=st.sampled_from([1, 2, 500]), late=st.booleans())
    def sweep(self, tpp: str, limit: int, late: bool) -> None:
        """Late: nothing was asked since what is outstanding now grew too old."""
        if late:
            self.time_passes(11)
        self.same(lambda at: at.sweep(tpp, limit))

    # -- what always holds --

    @invariant()
    def both_hold_the_same(self) -> None:
        if not hasattr(self, "model"):
            return
        for tpp in TPPS:
            assert outcome(partial(status_view, self.store, tpp)) == outcome(partial(self.model.status, tpp))
            found = contents(self.store, tpp)
            check_whole(found)
            if tpp in self.model.streams:
                check(found, self.model.streams[tpp], self.model.now)
            else:
                assert not any(found.values()), "a key is left without its stream"
        assert [status.tpp for status in self.store.streams()] == sorted(self.model.streams)


def contents(store: Store, tpp: str) -> dict[str, Any]:
    """All that Redis holds of a stream: hashes as dicts, sorted sets as lists of (jti, score), lowest first."""
    pipeline = store.redis.pipeline(transaction=False)
    hashes = ("stream", "sets", "inflight", "parked", "requeued", "settled", "settled_before")
    for name, key in zip(keys.STREAM_KEYS[:-1], keys.of(tpp), strict=False):
        if name in hashes:
            pipeline.hgetall(key)
        else:
            pipeline.zrange(key, 0, -1, withscores=True)
    found = dict(zip(keys.STREAM_KEYS[:-1], pipeline.execute(), strict=True))
    return {name: _decoded(value) for name, value in found.items()}


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name.decode(): text.decode() for name, text in value.items()}
    return [(jti.decode(), score) for jti, score in value]


def check_whole(found: dict[str, Any]) -> None:
    """Each SET is in one state, wherever that is written, and each is counted: true of any stream at any time."""
    pending, in_flight, parked = dict(found["pending"]), dict(found["inflight_order"]), dict(found["parked_order"])
    assert not found["sets"] or found["stream"], "a SET is left without its stream"
    assert found["sets"].keys() == {**pending, **in_flight, **parked}.keys()
    assert len(found["sets"]) == len(pending) + len(in_flight) + len(parked), "a SET is in two states"
    assert found["inflight"].keys() == in_flight.keys()
    assert found["parked"].keys() == parked.keys()
    assert found["requeued"].keys() <= pending.keys()
    assert dict(found["leases"]).keys() <= in_flight.keys()
    ended = found["settled"].keys() | found["settled_before"].keys()
    assert not ended & found["sets"].keys(), "a SET is outstanding and ended"
    for name, orders in (("inflight", in_flight), ("parked", parked), ("requeued", pending)):
        assert all(int(text.split(" ")[0]) % LANE == orders[jti] % LANE for jti, text in found[name].items())
    for window, field_name in (("settled", "kept_errors"), ("settled_before", "kept_errors_before")):
        counted = sum(bool(re.search("a[row]\n", text)) for text in found[window].values())
        assert int(found["stream"].get(field_name, 0)) == counted, "an error is not counted"
    pushed, *gone = (int(found["stream"].get(name, 0)) for name in ("pushed", "acked", "discarded", "expired"))
    assert pushed == sum(gone) + len(found["sets"])


def check(found: dict[str, Any], stream: Stream, now: int) -> None:
    """Redis holds what the model holds."""
    by_lane = {
        "pending": sorted(stream.of("pending"), key=lambda kept: (kept.family, kept.order)),
        "inflight_order": stream.of("in_flight"),
        "parked_order": stream.of("parked"),
        "leases": sorted(stream.leased(), key=lambda kept: kept.family),
    }
    assert {name: [jti for jti, _ in found[name]] for name in by_lane} == {
        name: [kept.jti for kept in kepts] for name, kepts in by_lane.items()
    }
    assert found["sets"] == {kept.jti: kept.secevent for kept in stream.sets.values()}
    for name in ("inflight", "parked", "requeued"):
        assert all(int(text.split(" ")[1]) == stream.sets[jti].deliveries for jti, text in found[name].items())
    remembered = {jti for jti, each in stream.ended.items() if now - each.at < DEDUPE}
    assert remembered <= found["settled"].keys() | found["settled_before"].keys(), "an end is forgotten"


# -- the tests ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that keeps nothing on disk: thousands of steps need not wait for it."""
    server = RedisServer(tmp_path_factory.mktemp("model"), "--appendonly", "no").start()
    yield server
    server.kill()


@pytest.fixture
def real(quick_redis: RedisServer) -> Iterator[Store]:
    """A store on it."""
    found = Store.open(quick_redis.url, Path(), Rules())
    yield found
    found.redis.close()


def in_small_pieces(store: Store) -> None:
    """Have poll.lua take two SETs at a time where it takes hundreds, so that few are many."""
    text, swaps = re.subn(r"(?m)^local (PAGE|CHUNK) = \d+", r"local \1 = 2", store.commands.texts["poll"])
    text, kept = re.subn(r"2 \* CHUNK", "1000", text)
    assert (swaps, kept) == (2, 1)
    store.commands.texts["poll"], store.commands.shas["poll"] = text, hashlib.sha1(text.encode()).hexdigest()


@pytest.mark.parametrize("pieces", ["whole", "small"])
def test_the_store_does_what_a_plain_model_of_it_does(real: Store, pieces: str) -> None:
    """decisions 1 to 8, 13 and 18: two TPPs, their bank and the clock, in any order, also where a poll takes what it
    handles in several pieces."""
    if pieces == "small":
        in_small_pieces(real)

    class OnRedis(StoreMachine):
        store = real

    run_state_machine_as_test(OnRedis, settings=SETTINGS)
