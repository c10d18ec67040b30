"""The store: one method for each Lua command, plain values in and out.

Nothing above this module imports redis or knows a key. Whatever keeps Redis from answering in full is raised as
Unavailable; what a command itself refuses is raised as the class that its named error stands for.
"""

import importlib.resources
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis
from redis.exceptions import NoScriptError

from eventpoll import keys
from eventpoll.connection import connect, options

COMMANDS = ("push", "poll", "configure", "rotate", "status", "peek", "find", "requeue", "discard", "sweep", "forget")


class StoreError(Exception):
    """What went wrong in the store."""


class Unavailable(StoreError):
    """The store is away, loading, read-only, full or cannot persist. Nothing can be said of what was asked."""


class Named(StoreError):
    """A refusal by a Lua command, with the word that it answered."""


class NoStream(Named):
    """NOSTREAM: no stream of this TPP."""


class Denied(Named):
    """DENIED: the secret is not the one of this stream."""


class BadSet(Named):
    """BADSET: not a SET, or not a jti."""


class Full(Named):
    """FULL: the stream holds as many SETs as it may."""


class NoSet(Named):
    """NOSET: no such SET on this stream, or forgotten."""


class NotParked(Named):
    """NOTPARKED: the SET is pending or in flight."""


class Outstanding(Named):
    """OUTSTANDING: SETs are outstanding on this stream."""


NAMED = {
    "NOSTREAM": NoStream,
    "DENIED": Denied,
    "BADSET": BadSet,
    "FULL": Full,
    "NOSET": NoSet,
    "NOTPARKED": NotParked,
    "OUTSTANDING": Outstanding,
}

HEARTBEAT_SECONDS = 15.0
"""After so long without a word on the subscription, we ask whether the store is still there."""

HAPPENINGS = {
    "d": "delivered",
    "e": "reported",
    "u": "undelivered",
    "q": "requeued",
    "a": "acknowledged",
    "x": "discarded",
    "t": "expired",
}
BY = {"r": "rfc8936", "o": "obie", "w": "wso2", "b": "bank", "s": "service"}


@dataclass(frozen=True)
class Rules:
    """How the service treats a SET, where its stream says nothing else. Times in seconds."""

    redeliver_after: float = 0.0
    max_deliveries: int = 0
    on_error: str = "park"
    retention: float = 30 * 86400.0
    dedupe: float = 86400.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a poll handed out: (jti, SET) in the order of delivery, and what it did."""

    sets: list[tuple[bytes, bytes]]
    more: bool
    wait: float | None  # seconds until the next lease runs out
    stale: bool  # whether sweep has something to do
    acked: int
    reported: int


@dataclass(frozen=True)
class Happening:
    """One thing that happened to a SET."""

    at: datetime
    what: str
    by: str


@dataclass(frozen=True)
class SetRecord:
    """Where a SET is in its life: pending, in_flight, parked, settled or expired."""

    jti: str
    state: str
    deliveries: int
    history: list[Happening]
    leased_until: datetime | None = None
    error: Mapping[str, str] = field(default_factory=dict)
    secevent: str | None = None


@dataclass(frozen=True)
class Status:
    """How a stream stands."""

    tpp: str
    pending: int
    in_flight: int
    parked: int
    oldest: dict[str, float | None]  # seconds since the oldest SET of each state was pushed
    fields: dict[str, str]


@dataclass(frozen=True)
class Facts:
    """What the server says of itself: `clock` in seconds, `settings` empty where CONFIG is not allowed."""

    name: str
    version: str
    clock: float
    settings: dict[str, str]


@dataclass(frozen=True)
class Pushed:
    """What became of a push: `queued`, `repeated`, or `kept` with the SET that has the jti already."""

    outcome: str
    kept: str | None = None


@contextmanager
def errors() -> Iterator[None]:
    """Turn what the driver raises into what this module promises."""
    try:
        yield
    except redis.ResponseError as error:
        name, _, text = str(error).partition(" ")
        if name in NAMED:
            raise NAMED[name](text) from None
        raise Unavailable(str(error)) from error
    except (redis.RedisError, OSError) as error:
        raise Unavailable(str(error)) from error


class Store:
    """The outstanding SETs of all TPPs, in Redis."""

    def __init__(self, client: redis.Redis, rules: Rules, where: str = "Redis") -> None:
        self.redis = client
        self.rules = rules
        self.where = where
        lua = importlib.resources.files("eventpoll") / "lua"
        self._scripts = {
            name: client.register_script((lua / f"{name}.lua").read_text(encoding="utf-8")) for name in COMMANDS
        }

    @classmethod
    def open(cls, url: str | None, data_dir: Path, rules: Rules) -> "Store":
        """The store at `url`, or the embedded one; opens no connection yet."""
        where = (
            f"embedded under {data_dir}" if url is None else "at " + re.sub(r"//[^/]*@", "//", url.partition("?")[0])
        )
        return cls(connect(url, data_dir), rules, where)

    # -- one method for each Lua command ------------------------------------------------------------------------

    def push(self, tpp: str, jti: str, secevent: str) -> Pushed:
        """Queue a SET, once per jti. Raises NoStream, BadSet, Full."""
        return _pushed(self._run("push", tpp, jti, secevent, _milliseconds(self.rules.dedupe)))

    def push_many(self, tpp: str, sets: Sequence[tuple[str, str]]) -> "list[Pushed | StoreError]":
        """Queue many SETs, (jti, SET) each, in one round trip; each has an outcome of its own. Raises Unavailable."""
        script, names, dedupe = self._scripts["push"], keys.of(tpp), _milliseconds(self.rules.dedupe)
        with errors():
            self.redis.script_load(script.script)
            pipeline = self.redis.pipeline(transaction=False)
            for jti, secevent in sets:
                pipeline.evalsha(script.sha, len(names), *names, jti, secevent, dedupe)
            replies = pipeline.execute(raise_on_error=False)
        return [_refused(reply) if isinstance(reply, Exception) else _pushed(reply) for reply in replies]

    def poll(
        self,
        tpp: str,
        *,
        proof: str = "",
        max_events: int,
        ack: Iterable[str] = (),
        set_errs: Mapping[str, Mapping[str, str]] | None = None,
        profile: str,
    ) -> Answer:
        """Settle, then hand out up to `max_events` SETs, in one step. Raises NoStream, Denied.

        `proof` is the SHA-256 of the TPP's secret in hex, checked in the same step; empty where the caller is
        known already. `profile` is a letter of BY.
        """
        rules = self.rules
        acks = list(dict.fromkeys(ack))
        reply = self._run(
            "poll",
            tpp,
            proof,
            max_events,
            _milliseconds(rules.redeliver_after),
            rules.max_deliveries,
            rules.on_error,
            _milliseconds(rules.retention),
            _milliseconds(rules.dedupe),
            profile,
            len(acks),
            *acks,
            *(part for jti, error in (set_errs or {}).items() for part in (jti, json.dumps(error))),
        )
        more, wait, stale, acked, reported = reply[:5]
        pairs = [(reply[i], reply[i + 1]) for i in range(5, len(reply), 2)]
        return Answer(pairs, more == 1, None if wait < 0 else wait / 1000, stale == 1, acked, reported)

    def configure(self, tpp: str, secret_hash: str, settings: Mapping[str, str]) -> bool:
        """Make or change a stream; the setting "" goes back to the service's own. Tells whether it is new."""
        # On a Cluster the list lives elsewhere, so the two cannot be one step: listed first, a stream is never
        # there without being listed; and listed again, in case it was being forgotten meanwhile.
        self._list(tpp)
        parts = [part for pair in settings.items() for part in pair]
        created = self._run("configure", tpp, secret_hash, *parts)[0] == b"created"
        if created:
            self._list(tpp)
        return bool(created)

    def rotate(self, tpp: str, secret_hash: str, grace: float) -> None:
        """Give a stream a new secret; the old one works for `grace` seconds more. Raises NoStream."""
        self._run("rotate", tpp, secret_hash, _milliseconds(grace))

    def status(self, tpp: str) -> Status:
        """How a stream stands. Raises NoStream."""
        return _status(tpp, self._run("status", tpp))

    def peek(self, tpp: str, state: str, limit: int, after: str = "") -> list[SetRecord]:
        """The SETs in one state, oldest first, from behind the jti `after`. Raises NoStream, NoSet."""
        reply = self._run("peek", tpp, state, limit, after)
        return [_record(reply[i].decode(), state, *reply[i + 1 : i + 3]) for i in range(0, len(reply), 3)]

    def find(self, tpp: str, jti: str) -> SetRecord:
        """All about one SET. Raises NoStream, NoSet."""
        state, record, lease, secevent = self._run("find", tpp, jti, _milliseconds(self.rules.dedupe))
        return _record(jti, state.decode(), record, lease, secevent)

    def requeue(self, tpp: str, jti: str) -> None:
        """Put a parked SET back. Raises NoStream, NoSet, NotParked."""
        self._run("requeue", tpp, jti)

    def discard(self, tpp: str, jti: str) -> None:
        """End a parked SET. Raises NoStream, NoSet, NotParked."""
        self._run("discard", tpp, jti)

    def sweep(self, tpp: str, limit: int = 500) -> tuple[list[str], bool]:
        """Take out what is past its time: the jtis of expired SETs, and whether more are due. Raises NoStream."""
        rules = self.rules
        left, *jtis = self._run("sweep", tpp, _milliseconds(rules.retention), _milliseconds(rules.dedupe), limit)
        return [jti.decode() for jti in jtis], left == 1

    def forget(self, tpp: str, *, force: bool = False) -> None:
        """Take a stream away. Raises NoStream, Outstanding."""
        self._run("forget", tpp, int(force))
        with errors():
            self.redis.zrem(keys.STREAMS, tpp)
            made_again = self.redis.exists(keys.of(tpp)[0])
        if made_again:
            self._list(tpp)

    # -- what spans streams -------------------------------------------------------------------------------------

    def streams(self, after: str = "", limit: int = 1000) -> Sequence[Status]:
        """How each stream stands, by name, from behind the name `after`."""
        found: list[Status] = []
        while len(found) < limit:
            start, wanted = f"({after}" if after else "-", limit - len(found)
            with errors():
                names: list[Any] = list(self.redis.zrange(keys.STREAMS, start, "+", bylex=True, offset=0, num=wanted))
            for name in names:
                try:
                    found.append(self.status(name.decode()))
                except NoStream:  # listed, but not made yet, or being forgotten
                    continue
            if len(names) < wanted:
                break
            after = names[-1].decode()
        return found

    def ping(self) -> None:
        """Raises Unavailable unless the store can be written to."""
        with errors():
            self.redis.zadd(keys.STREAMS, {"": 0}, xx=True)  # a write that writes nothing, refused when full

    def facts(self) -> Facts:
        """What the server says of itself. Raises Unavailable."""
        with errors():
            server = self.redis.info("server")
            seconds, micros = self.redis.time()
            try:
                found = self.redis.config_get("appendonly", "appendfsync", "maxmemory", "maxmemory-policy")
            except redis.ResponseError:  # managed services and careful ACLs forbid CONFIG
                found = {}
        settings = {_word(name): _word(value) for name, value in found.items() if value is not None}
        name = "Valkey" if "valkey_version" in server else "Redis"
        version = _word(server.get("valkey_version", server.get("redis_version")))
        return Facts(name, version, int(seconds) + int(micros) / 1e6, settings)

    def describe(self) -> str:
        """One line on where SETs are kept, and what a crash may take of them. Raises Unavailable."""
        facts = self.facts()
        kept = {
            ("yes", "always"): "durable: each write is on disk before it is answered",
            ("yes", "everysec"): "durable: a crash may take the last second or two",
            ("yes", "no"): "not durable: the operating system writes when it likes (appendfsync no)",
        }.get((facts.settings.get("appendonly", ""), facts.settings.get("appendfsync", "")))
        if kept is None:
            kept = "NOT DURABLE: no append-only file" if facts.settings else "durability unknown: CONFIG is not allowed"
        return f"Store: {self.where}, {facts.name} {facts.version}, {kept}."

    def dead_entries(self) -> int:
        """How many entries of the inbox could not be minted. Raises Unavailable."""
        with errors():
            return int(self.redis.xlen(keys.INBOX_DEAD))

    def subscribe(self) -> "Subscription":
        """A connection of its own that hears the wake-ups of the streams that it is told to listen to."""
        return Subscription(self.redis)

    def _list(self, tpp: str) -> None:
        with errors():
            self.redis.zadd(keys.STREAMS, {tpp: 0})

    def _run(self, name: str, tpp: str, *args: str | int | bytes) -> Any:
        names = keys.of(tpp)
        script = self._scripts[name]
        with errors():
            try:
                return self.redis.evalsha(script.sha, len(names), *names, *args)
            except NoScriptError:  # the server was restarted or flushed: nothing was run
                self.redis.script_load(script.script)
                return self.redis.evalsha(script.sha, len(names), *names, *args)


class Subscription:
    """One connection on which Redis says which streams have something new. `listen` and `leave` are safe to
    call while another thread waits in `heard`."""

    def __init__(self, client: redis.Redis) -> None:
        pool = client.connection_pool
        self._connection = pool.connection_class(**{**pool.connection_kwargs, **options()})
        with errors():
            self._connection.connect()

    def listen(self, tpps: Iterable[str]) -> None:
        """Hear of these streams from now on; that it is so is itself heard, once for each."""
        self._send("SUBSCRIBE", tpps)

    def leave(self, tpp: str) -> None:
        """No longer hear of this stream."""
        self._send("UNSUBSCRIBE", [tpp])

    def heard(self) -> str | None:
        """Wait for the next wake-up and say whose it is; None for what is not one. Raises Unavailable."""
        with self._connected():
            if not self._connection.can_read(timeout=HEARTBEAT_SECONDS):
                self._connection.send_command("PING")  # the answer, or the lack of it, shows a dead connection
            kind, channel, *_ = self._connection.read_response(disable_decoding=True)
        if kind not in (b"subscribe", b"message"):
            return None
        return str(channel.split(b"{", 1)[1].split(b"}", 1)[0].decode())

    def close(self) -> None:
        """Let go of the connection; a waiting `heard` raises."""
        self._connection.disconnect()

    def _send(self, command: str, tpps: Iterable[str]) -> None:
        channels = [keys.wake(tpp) for tpp in tpps]
        for first in range(0, len(channels), 1000):
            with self._connected():
                self._connection.send_command(command, *channels[first : first + 1000])

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Once the connection has gone it is not to be used: the driver would make another, which hears nothing."""
        if not self._connection.is_connected:
            raise Unavailable("the connection of the subscription is gone")
        with errors():
            yield


def _word(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _when(milliseconds: float) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _refused(reply: Exception) -> StoreError:
    try:
        with errors():
            raise reply
    except StoreError as error:
        return error


def _pushed(reply: list[bytes]) -> Pushed:
    return Pushed(reply[0].decode(), reply[1].decode() if len(reply) > 1 else None)


def _record(jti: str, state: str, record: bytes, lease: bytes, secevent: bytes = b"") -> SetRecord:
    head, _, error = record.decode().partition("\n")
    order, deliveries, trail = head.split(" ", 2)
    history = [Happening(_when(int(order) // 1000), "pushed", "bank")]
    for happening in filter(None, trail.split(",")):
        history.append(Happening(_when(int(happening[:-2])), HAPPENINGS[happening[-2]], BY[happening[-1]]))
    if state == "settled" and history[-1].what == "expired":
        state = "expired"
    return SetRecord(
        jti,
        state,
        int(deliveries),
        history,
        _when(int(lease) / 1000) if lease else None,
        json.loads(error) if error else {},
        secevent.decode() or None,
    )


def _status(tpp: str, reply: list[Any]) -> Status:
    now, pending, in_flight, parked, *rest = reply
    oldest = {
        state: max(0.0, (int(now) * 1000 - int(order)) / 1e6) if order else None
        for state, order in zip(("pending", "in_flight", "parked"), rest[:3], strict=True)
    }
    fields = {rest[i].decode(): rest[i + 1].decode() for i in range(3, len(rest), 2)}
    return Status(tpp, pending, in_flight, parked, oldest, fields)
