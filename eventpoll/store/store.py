"""The store: one method for each Lua command, plain values in and out.

No module above the store imports redis or knows a key. If Redis does not answer in full, methods raise Unavailable.
If a command refuses, they raise the class of its named error.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis

from eventpoll import __version__, redis_url
from eventpoll.store import keys, records, servers
from eventpoll.store.clock import Clock
from eventpoll.store.commands import Commands
from eventpoll.store.errors import NewerLayout, NoSet, NoStream, StoreError, errors, refused
from eventpoll.store.records import Answer, Facts, Pushed, Rules, SetRecord, Status
from eventpoll.store.redis.cluster_wakeups import subscribe
from eventpoll.store.redis.connection import connect
from eventpoll.store.redis.wakeups import Subscription

LAYOUT = "1"
"""Version of the stored layout (docs/redis-layout.md), in the field `layout` of each stream."""

MINTING = ("set_profile", "audience")
MANY = 4_000
"""If a poll has more unknown jtis than this, the store drops them before it runs the Lua command. Redis hashes strings
of a script without a random seed, so 10 000 jtis forged to one hash block everyone for most of a second."""

FAMILY = {scope: place for place, scope in enumerate(records.FAMILIES)}


class Store:
    """Access to the outstanding SETs of all TPPs in Redis."""

    def __init__(self, client: redis.Redis, rules: Rules, where: str = "Redis", *, fast_path: bool = True) -> None:
        self.redis = client
        self.rules = rules
        self.where = where
        self.clock = Clock(client, rules.max_clock_skew)
        self.commands = Commands(client, fast_path=fast_path)
        self._run = self.commands.run
        self._checked = ""

    @classmethod
    def open(cls, url: str | None, data_dir: Path, rules: Rules, *, fast_path: bool = True) -> "Store":
        """Return the store at `url`, or the embedded one. Opens no connection yet.

        `fast_path` False sends every command through redis-py's own connections (EVENTPOLL_FAST_PATHS=0).
        """
        where = f"embedded under {data_dir}" if url is None else f"at {redis_url.read(url).where}"
        return cls(connect(url, data_dir), rules, where, fast_path=fast_path)

    # -- one method for each Lua command ------------------------------------------------------------------------

    def push(self, tpp: str, jti: str, secevent: str, scope: str = "") -> Pushed:
        """Queue a SET once per jti. The caller has checked its form. Raises NoStream, BadSet, Full."""
        if self.rules.wait_replicas:
            (outcome,) = self.push_many(tpp, [(jti, secevent, scope)])
            if isinstance(outcome, StoreError):
                raise outcome
            return outcome
        return records.pushed(self._run("push", tpp, jti, secevent, *self._push_rules(scope)))

    def push_many(self, tpp: str, sets: Sequence[tuple[str, str, str]]) -> "list[Pushed | StoreError]":
        """Queue many SETs, each (jti, SET, scope), in one step. Return one outcome for each. Raises Unavailable."""
        if not sets:
            return []
        rules = self.rules
        (jti, secevent, scope), *more = sets
        rest = [part for jti, secevent, scope in more for part in (jti, secevent, FAMILY[scope])]
        arguments = (jti, secevent, *self._push_rules(scope), *rest)
        (reply,) = self.commands.run_many("push", [(tpp, arguments)], rules.wait_replicas, _milliseconds(rules.wait))
        replies = [reply] * len(sets) if isinstance(reply, Exception) else reply if more else [reply]
        return [refused(each) if isinstance(each, Exception) else records.pushed(each) for each in replies]

    def poll(
        self,
        tpp: str,
        *,
        proof: str = "",
        max_events: int,
        ack: Iterable[str] = (),
        set_errs: Mapping[str, Mapping[str, str]] | None = None,
        profile: str,
        families: str = records.EVERY_FAMILY,
    ) -> Answer:
        """Settle acks and errors, then deliver up to `max_events` SETs, in one step. Raises NoStream, Denied.

        `proof` is the SHA-256 of the TPP's secret in hex, checked in the same step. It is empty if the caller is
        authenticated already. `profile` is a letter of records.BY. `families` are the digits of the families that the
        caller may see.
        """
        rules = self.rules
        acks, errs = list(dict.fromkeys(ack)), set_errs or {}
        if len(acks) + len(errs) > MANY and len(unknown := self._unknown(tpp, [*acks, *errs])) > MANY:
            acks = [jti for jti in acks if jti not in unknown]
            errs = {jti: error for jti, error in errs.items() if jti not in unknown}
        reply = self._run(
            "poll",
            tpp,
            proof,
            max_events,
            _milliseconds(rules.redeliver_after),
            rules.max_deliveries,
            rules.on_error,
            *self._times(),
            *self.clock.ours(),
            profile,
            families,
            len(acks),
            *acks,
            *(part for jti, error in errs.items() for part in (jti, records.error_text(error))),
        )
        more, wait, stale, acked, reported = reply[:5]
        pairs = [(reply[i], reply[i + 1]) for i in range(5, len(reply), 2)]
        return Answer(pairs, more == 1, None if wait < 0 else wait / 1000, stale == 1, acked, reported)

    def prove(self, tpp: str, proof: str) -> None:
        """Check the SHA-256 of a TPP's secret, in hex. Raises NoStream, Denied."""
        self._run("prove", tpp, proof)

    def configure(self, tpp: str, secret_hash: str, settings: Mapping[str, str]) -> bool:
        """Create or change a stream. Return True if it is new. A setting of "" returns to the service's default."""
        # On a Cluster the list is on another node, so the two writes cannot be atomic. List first, so that every
        # stream that exists is listed. List again, because a concurrent `forget` may have removed the name.
        self._list(tpp)
        parts = [part for pair in settings.items() for part in pair]
        created = self._run("configure", tpp, secret_hash, *parts)[0] == b"created"
        if created:
            self._list(tpp)
        return bool(created)

    def rotate(self, tpp: str, secret_hash: str, grace: float) -> None:
        """Set a new secret for a stream. The old one stays valid for `grace` seconds. Raises NoStream."""
        self._run("rotate", tpp, secret_hash, _milliseconds(grace))

    def status(self, tpp: str) -> Status:
        """Return the status of a stream. Raises NoStream."""
        return records.status(tpp, self._run("status", tpp))

    def peek(self, tpp: str, state: str, limit: int, after: str = "") -> list[SetRecord]:
        """Return up to `limit` SETs in one state, oldest first, after the jti `after`. Raises NoStream, NoSet."""
        reply = self._run("peek", tpp, state, limit, after)
        return [records.set_record(reply[i].decode(), state, *reply[i + 1 : i + 3]) for i in range(0, len(reply), 3)]

    def find(self, tpp: str, jti: str) -> SetRecord:
        """Return one SET with its record. Raises NoStream, NoSet."""
        state, record, lease, secevent = self._run("find", tpp, jti, self._times()[1])
        return records.set_record(jti, state.decode(), record, lease, secevent)

    def requeue(self, tpp: str, jti: str) -> None:
        """Return a parked SET to the queue. Raises NoStream, NoSet, NotParked."""
        self._run("requeue", tpp, jti)

    def discard(self, tpp: str, jti: str) -> None:
        """End a parked SET. Raises NoStream, NoSet, NotParked."""
        self._run("discard", tpp, jti)

    def sweep(self, tpp: str, limit: int = 500) -> tuple[list[str], bool]:
        """Remove SETs and jtis past their time. Return the expired jtis, and True if more are due. Raises NoStream."""
        left, *jtis = self._run("sweep", tpp, *self._times(), limit, *self.clock.ours())
        return [jti.decode() for jti in jtis], left == 1

    def forget(self, tpp: str, *, force: bool = False) -> None:
        """Delete a stream, with `force` also one that has SETs. Raises NoStream, Outstanding."""
        _, *counted = self._run("forget", tpp, int(force))
        with errors():
            # Two steps, because on a Cluster these keys are on another node. Until the second step, the name is listed
            # without a stream. So code that sums over all streams knows that these counts are still to come.
            for name, count in zip(records.COUNTERS, counted, strict=True):
                if count:
                    self.redis.hincrby(keys.FORGOTTEN, name, count)
            self.redis.zrem(keys.STREAMS, tpp)
            made_again = self.redis.exists(keys.of(tpp)[0])
        if made_again:
            self._list(tpp)

    # -- reads without a script -----------------------------------------------------------------------------------

    def minting(self, tpp: str) -> dict[str, str]:
        """Return the stream's own set_profile and audience, where set. Raises NoStream."""
        created, *values = self.commands.fields(tpp, "created_at", *MINTING)
        if created is None:
            raise NoStream("no stream of this TPP")
        return {name: value.decode() for name, value in zip(MINTING, values, strict=True) if value is not None}

    # -- all streams, the inbox, the servers --------------------------------------------------------------------

    def streams(self, after: str = "", limit: int = 1000) -> Sequence[Status]:
        """Return the status of up to `limit` streams after the name `after`, in order of name."""
        found: list[Status] = []
        while len(found) < limit:
            start, wanted = f"({after}" if after else "-", limit - len(found)
            with errors():
                names: list[Any] = list(self.redis.zrange(keys.STREAMS, start, "+", bylex=True, offset=0, num=wanted))
            for name in names:
                try:
                    found.append(self.status(name.decode()))
                except NoStream:  # listed, but about to be created or deleted
                    continue
            if len(names) < wanted:
                break
            after = names[-1].decode()
        return found

    def names(self, after: str = "", page: int = 200) -> Iterator[list[str]]:
        """Yield pages of up to `page` names of streams after the name `after`, in order. Raises Unavailable."""
        while True:
            with errors():
                listed: list[Any] = list(
                    self.redis.zrange(keys.STREAMS, f"({after}" if after else "-", "+", bylex=True, offset=0, num=page)
                )
            if not listed:
                return
            yield [name.decode() for name in listed]
            after = listed[-1].decode()

    def statuses(self, tpps: Sequence[str] | None = None) -> Iterator[Status | None]:
        """Yield the status of each stream, or of each in `tpps`, in few round trips.

        Yield None for a name without a stream, which is being created or deleted. Raises Unavailable.
        """
        for names in self.names() if tpps is None else [tpps]:
            for tpp, reply in self._run_on("status", names):
                yield None if reply is None else records.status(tpp, reply)

    def found(self, jti: str, tpps: Sequence[str]) -> list[tuple[str, SetRecord]]:
        """Return (TPP, SET) for each of the streams that has this jti, in one round trip. Raises Unavailable."""
        replies = self._run_on("find", tpps, jti, self._times()[1])
        told = [(tpp, reply) for tpp, reply in replies if reply is not None]
        return [(tpp, records.set_record(jti, reply[0].decode(), *reply[1:])) for tpp, reply in told]

    def forgotten(self) -> dict[str, int]:
        """Return the counters of deleted streams. Raises Unavailable."""
        with errors():
            told = self.redis.hgetall(keys.FORGOTTEN)
        return {name: int(told.get(name.encode(), 0)) for name in records.COUNTERS}

    def inbox_entries(self) -> int:
        """Return the number of inbox entries that are not minted yet. Raises Unavailable."""
        with errors():
            return int(self.redis.xlen(keys.INBOX))

    def ping(self) -> None:
        """Raise Unavailable unless the store accepts writes."""
        with errors():
            self.redis.zadd(keys.STREAMS, {"": 0}, xx=True)  # a no-op write; Redis refuses it when its memory is full

    def check_layout(self, most: int | None = None) -> None:
        """Raise NewerLayout if a stream has a layout that this version does not know.

        Check all streams, or with `most` that many, and the next ones in the next call. Raise Unavailable if the store
        does not answer.
        """
        for names in self.names(self._checked if most else "", most or 200):
            for tpp in names:
                (layout,) = self.commands.fields(tpp, "layout")
                if layout is not None and layout.decode() != LAYOUT:
                    raise NewerLayout(
                        f"the stream {tpp} has layout {layout.decode()}, and eventpoll {__version__} reads layout "
                        f"{LAYOUT}: run the version that wrote it, or a later one (docs/operations.md, Upgrade)"
                    )
            if most:
                self._checked = names[-1] if len(names) == most else ""  # after the last page, start again
                return
        self._checked = ""

    def facts(self) -> list[Facts]:
        """Return the facts of each server that stores streams, several on a Cluster. Raises Unavailable."""
        return servers.facts(self.redis)

    @property
    def is_embedded(self) -> bool:
        """Return True if this service runs the Redis server itself."""
        return isinstance(self.redis, redis.Redis) and "embedded" in self.redis.connection_pool.connection_kwargs

    def describe(self) -> str:
        """Return one line on where SETs are stored and which of them a crash may lose. Raises Unavailable."""
        facts = self.facts()
        names = dict.fromkeys(f"{each.name} {each.version}" for each in facts)
        kept = dict.fromkeys(each.durability for each in facts)
        several = f"{len(facts)} servers, " if len(facts) > 1 else ""
        return f"Store: {self.where}, {several}{', '.join(names)}, {'; '.join(kept)}."

    def dead_entries(self) -> int:
        """Return the number of inbox entries that could not be minted. Raises Unavailable."""
        with errors():
            return int(self.redis.xlen(keys.INBOX_DEAD))

    def subscribe(self) -> Subscription:
        """Return a subscription with its own connection, which receives the wake-ups of chosen streams."""
        return subscribe(self.redis)

    def _run_on(self, name: str, tpps: Sequence[str], *arguments: str | int) -> Iterator[tuple[str, Any]]:
        """Yield each TPP with its reply, None if there is no such stream or SET. Raises Unavailable."""
        for tpp, reply in zip(tpps, self.commands.run_many(name, [(tpp, arguments) for tpp in tpps]), strict=True):
            error = refused(reply) if isinstance(reply, Exception) else None
            if error and not isinstance(error, NoStream | NoSet):
                raise error
            yield tpp, None if error else reply

    def _unknown(self, tpp: str, jtis: list[str]) -> set[str]:
        """Return the jtis that a stream does not know, neither outstanding nor ended."""
        sets = ("pending", "inflight_order", "parked_order")
        replies = self.commands.read(tpp, *[("ZMSCORE", key, jtis) for key in sets], ("HMGET", "settled", jtis))
        if any(isinstance(reply, Exception) for reply in replies):  # the Lua command then reports the error
            return set()
        return {jti for jti, *found in zip(jtis, *replies, strict=True) if found == [None] * len(found)}

    def _list(self, tpp: str) -> None:
        with errors():
            self.redis.zadd(keys.STREAMS, {tpp: 0})

    def _push_rules(self, scope: str) -> tuple[int, ...]:
        retention, dedupe = self._times()
        return dedupe, retention, FAMILY[scope], 1, int(self.rules.wait_replicas > 0), *self.clock.ours()

    def _times(self) -> tuple[int, int]:
        """Return retention and dedupe time in milliseconds, both extended by `Clock.late`."""
        late = self.clock.late()
        return _milliseconds(self.rules.retention) + late, _milliseconds(self.rules.dedupe) + late


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
