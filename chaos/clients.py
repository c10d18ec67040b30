"""The load: a bank that pushes, TPPs that poll and settle, and someone who adds raw events with a Redis client."""

import base64
import json
import random
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from chaos.caller import Caller
from chaos.journal import EVENT, Care, Entry, Handed, Journal, Poll, Push, handed
from harness.service import BANK, basic
from harness.sets import set_of

ERROR = {"err": "jwtIss", "description": "made up by the chaos"}
PATHS = {"rfc": "/events", "wso2": "/api/fs/event-notifications/events"}
PATHS |= {f"obie{version[0]}": f"/open-banking/v{version}/events" for version in ("3.1", "4.0")}


@dataclass(frozen=True)
class Tpp:
    """One TPP, and how it polls; `lease` in seconds."""

    name: str
    profile: str = "rfc"
    lease: float = 0.0


TPPS = (
    Tpp("tpp-0"),
    Tpp("tpp-1", "obie4"),
    Tpp("tpp-2", lease=4.0),
    Tpp("tpp-3", "obie3"),
    Tpp("tpp-4", "wso2"),
    Tpp("tpp-5", lease=4.0),
)
QUIET = tuple(Tpp(f"tpp-{number}") for number in range(6, 10))
"""To whom little is pushed: each has one poll, which is held, and woken now and then."""


@dataclass(frozen=True)
class Pace:
    """How hard the load is: SETs in a batch, and seconds between the requests of one client."""

    batch: int = 20
    pause: float = 0.2


class Load:
    """All clients, each a thread; the same seed makes the same choices, though never the same moments."""

    def __init__(
        self,
        journal: Journal,
        port: Callable[[], int],
        secrets: Mapping[str, str],
        plain: Callable[[], Any],
        pace: Pace,
        seed: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.journal, self.port, self.secrets, self.plain, self.pace, self.seed = (
            journal,
            port,
            secrets,
            plain,
            pace,
            seed,
        )
        self._pushing, self._polling = threading.Event(), threading.Event()
        self._threads: dict[str, list[threading.Thread]] = {"push": [], "poll": []}
        self._patience, self._tls = float("inf"), tls
        self.mistakes: list[str] = []

    def start(self) -> None:
        """Begin: four who push, two who poll for each TPP, one for each quiet one, the bank's care, and the inbox."""
        self._pushing.set()
        self._polling.set()
        for way in ("batch", "signed", "event"):
            self._begin("push", self._push, way)
        self._begin("push", self._add)
        self._begin("poll", self._care)
        for tpp in TPPS:
            for number in range(2):
                self._begin("poll", self._poll, tpp, number)
        self._begin("push", self._push, "event", QUIET)
        for tpp in QUIET:
            self._begin("poll", self._poll, tpp, 0, 0.0)

    def _caller(self, timeout: float = 20) -> Caller:
        return Caller(self.port, self.journal, timeout, self._tls)

    def _begin(self, group: str, what: Callable[..., None], *arguments: Any) -> None:
        def run() -> None:
            try:
                what(*arguments)
            except Exception as error:  # a client that ends early would make the rest of the run easier
                self.mistakes.append(f"{what.__name__}{arguments}: {error!r}")
                raise

        thread = threading.Thread(target=run, daemon=True)
        self._threads[group].append(thread)
        thread.start()

    def stop(self, group: str) -> None:
        """End those who push, or those who poll; what has no answer yet is repeated for up to a minute."""
        self._patience = time.monotonic() + 60
        (self._pushing if group == "push" else self._polling).clear()
        for thread in self._threads[group]:
            thread.join()

    def _chance(self, *who: object) -> random.Random:
        return random.Random(f"{self.seed} {who}")

    # -- the bank -----------------------------------------------------------------------------------------------

    def _push(self, way: str, tpps: Sequence[Tpp] = TPPS) -> None:
        chance, caller, count = self._chance(way, tpps), self._caller(), 0
        old: deque[tuple[str, list[tuple[str, str]]]] = deque(maxlen=50)
        undone: list[tuple[str, list[tuple[str, str]]]] = []
        while self._pushing.is_set() or (undone and time.monotonic() < self._patience):
            if undone and (chance.random() < 0.5 or not self._pushing.is_set()):
                tpp, sets = undone.pop(0)
            elif old and chance.random() < 0.05:  # a repeat, likely of what is settled already
                tpp, sets = chance.choice(old)
            else:
                tpp = chance.choice(tpps).name
                numbers = range(count, count + (self.pace.batch if way == "batch" else 1))
                count = numbers.stop
                sets = [(f"{way}-{number}", f"{tpp}/{way}-{number}") for number in numbers]
            pushes = (self._batch if way == "batch" else self._one)(caller, tpp, sets, way)
            self.journal.pushes += pushes
            left = [one for one, push in zip(sets, pushes, strict=True) if push.status is None or push.status >= 500]
            if left:
                undone.append((tpp, left))
            else:
                old.append((tpp, sets))
            time.sleep(self.pace.pause * chance.uniform(0.5, 1.5) * (3 if tpps is QUIET else 1))
        if undone:
            self.mistakes.append(f"{len(undone)} pushes ({way}) had no answer that says what became of them")

    def _one(self, caller: Caller, tpp: str, sets: list[tuple[str, str]], way: str) -> list[Push]:
        ((jti, mark),) = sets
        event = {EVENT: {"mark": mark}}
        body = set_of(jti, event) if way == "signed" else json.dumps({"jti": jti, "events": event})
        kind = "application/secevent+jwt" if way == "signed" else "application/json"
        sent = time.monotonic()
        status, _ = caller.ask(
            "POST /streams/{tpp}/sets", f"/streams/{tpp}/sets", body.encode(), {**bank(), "Content-Type": kind}
        )
        return [Push(tpp, jti, way, sent, time.monotonic(), status)]

    def _batch(self, caller: Caller, tpp: str, sets: list[tuple[str, str]], way: str) -> list[Push]:
        lines = [  # one jti in the same form each time: signed and minted are two SETs, and a conflict
            json.dumps({"jti": jti, "events": {EVENT: {"mark": mark}}})
            if jti.endswith("0")
            else set_of(jti, {EVENT: {"mark": mark}})
            for jti, mark in sets
        ]
        sent = time.monotonic()
        status, text = caller.ask(
            "POST /streams/{tpp}/sets:batch",
            f"/streams/{tpp}/sets:batch",
            "\n".join(lines).encode(),
            {**bank(), "Content-Type": "application/x-ndjson"},
        )
        told: list[int | None] = [status] * len(sets)
        if status == 200:
            told = [json.loads(line)["status"] for line in text.splitlines()]
        now = time.monotonic()
        told += [None] * (len(sets) - len(told))
        return [Push(tpp, jti, way, sent, now, one) for (jti, _), one in zip(sets, told, strict=True)]

    def _care(self) -> None:
        chance, caller = self._chance("care"), self._caller()
        while self._polling.is_set():
            tpp = chance.choice((*TPPS, *QUIET)).name
            path = f"/streams/{tpp}/sets"
            status, text = caller.ask("GET /streams/{tpp}/sets", f"{path}?state=parked&limit=50", b"", bank())
            for row in json.loads(text)["sets"] if status == 200 else []:
                if chance.random() < 0.8:
                    self.care(caller, tpp, row["jti"], "requeue" if chance.random() < 0.8 else "discard")
            time.sleep(self.pace.pause * 2)

    def care(self, caller: Caller, tpp: str, jti: str, what: str) -> int | None:
        """Requeue or discard a parked SET; the status."""
        path, sent = f"/streams/{tpp}/sets/{jti}", time.monotonic()
        if what == "requeue":
            status, _ = caller.ask("POST /streams/{tpp}/sets/{jti}/requeue", f"{path}/requeue", b"", bank())
        else:
            status, _ = caller.ask("DELETE /streams/{tpp}/sets/{jti}", path, b"", bank())
        self.journal.cares.append(Care(tpp, jti, what, sent, time.monotonic(), status))
        return status

    def _add(self) -> None:
        chance, count = self._chance("inbox"), 0
        client: Any = None
        while self._pushing.is_set():
            tpp, count = chance.choice(TPPS).name, count + 1
            mark, sent = f"{tpp}/inbox-{count}", time.monotonic()
            number, refused = None, False
            try:
                client = client or self.plain()
                number = client.xadd("eventpoll:inbox", {"tpp": tpp, "events": json.dumps({EVENT: {"mark": mark}})})
            except redis.ResponseError:  # full, or read-only: nothing was added
                refused = True
            except (redis.RedisError, OSError):
                client = None
            self.journal.entries.append(Entry(tpp, mark, sent, time.monotonic(), number, refused))
            time.sleep(self.pace.pause * chance.uniform(0.5, 1.5))

    # -- the TPPs -----------------------------------------------------------------------------------------------

    def _poll(self, tpp: Tpp, number: int, immediate: float = 0.7) -> None:
        chance, caller = self._chance(tpp.name, number), self._caller()
        ack: list[str] = []
        errs: list[str] = []
        while self._polling.is_set():
            most = chance.choice([0, 1, 10, 100, 500] if immediate else [1, 10])
            poll = self.poll(caller, tpp, ack[:1000], errs[:100], most, immediate=chance.random() < immediate)
            if poll.settled:
                ack, errs = ack[1000:], errs[100:]
            for one in poll.sets:
                if chance.random() < 0.9:
                    (errs if chance.random() < 0.01 else ack).append(one.jti)
            time.sleep(self.pace.pause * chance.uniform(0.2, 1.0))

    def poll(self, caller: Caller, tpp: Tpp, ack: list[str], errs: list[str], most: int, *, immediate: bool) -> Poll:
        """One poll, written down."""
        path = PATHS[tpp.profile]
        value = {
            "ack": ack,
            "setErrs": dict.fromkeys(errs, ERROR),
            "maxEvents": most,
            "returnImmediately": immediate,
        }
        body, kind = json.dumps(value).encode(), "application/json"
        if tpp.profile == "wso2":
            body, kind = b"request=" + base64.b64encode(body).replace(b"+", b"%2B"), "application/x-www-form-urlencoded"
        headers = {"Authorization": basic(tpp.name, self.secrets[tpp.name]), "Content-Type": kind}
        asked = time.monotonic()
        status, text = caller.ask(f"POST {path}", path, body, headers)
        sets: tuple[Handed, ...] = ()
        if status == 200:
            sets = tuple(handed(jti, secevent) for jti, secevent in json.loads(text)["sets"].items())
        poll = Poll(
            tpp.name, asked, time.monotonic(), status, tuple(ack), tuple(errs), most, tpp.lease, sets, not immediate
        )
        self.journal.polls.append(poll)
        return poll

    def drain(self) -> None:
        """Fetch and acknowledge everything that is left; what is parked is requeued first."""
        caller = self._caller(60)
        for tpp in (*TPPS, *QUIET):
            body = json.dumps({"redeliver_after": 0}).encode()
            headers = {**bank(), "Content-Type": "application/json"}
            status, _ = caller.ask("PUT /streams/{tpp}", f"/streams/{tpp.name}", body, headers)
            assert status == 200, status
            path = f"/streams/{tpp.name}/sets?state=parked&limit=1000"
            while rows := json.loads(caller.ask("GET /streams/{tpp}/sets", path, b"", bank())[1])["sets"]:
                for row in rows:
                    assert self.care(caller, tpp.name, row["jti"], "requeue") == 200
            ack: list[str] = []
            seen: set[str] = set()
            while True:
                poll = self.poll(caller, Tpp(tpp.name, tpp.profile), ack, [], 1000, immediate=True)
                assert poll.status == 200, poll.status
                ack = [one.jti for one in poll.sets]
                if seen.issuperset(ack):  # nothing, or nothing but what was acknowledged: the verdict sees that
                    break
                seen.update(ack)
        caller.close()


def bank() -> dict[str, str]:
    """The bank's credentials, as headers."""
    return {"Authorization": basic(*BANK)}
