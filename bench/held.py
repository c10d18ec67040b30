"""Held polls: what each takes of memory, what they take of a core while nothing happens, and how fast they wake."""

import random
import selectors
import shutil
import subprocess
import time
from collections.abc import Callable
from time import perf_counter

from bench.client import Connection, request_text
from bench.resp import RedisError, Wire
from bench.results import Results, percentile
from bench.servers import Web, end
from bench.service import BANK, PROOF, Bench, basic, environ
from bench.sets import secevent
from bench.sizes import Size
from eventpoll import keys
from harness.waiting import wait_for

PART = "held polls"
ARRIVING = 500
"""Polls that are sent before the ones before them are held: fewer than may wait to be accepted."""

HTTP, CLI = "HTTP", "redis-cli"
MEMORY, IDLE = "memory of both workers, each", "idle, of one core"
BURST = "a burst that wakes all, answered within"


def name(what: str, count: int) -> str:
    """A line's name."""
    return f"{count:,} held: {what}"


def measure(bench: Bench, size: Size, results: Results) -> None:
    """A fresh service for each count: memory that was used before is not asked for anew."""
    for count in size.held:
        bench.wire.ask("FLUSHALL")
        settings = environ(bench.redis, EVENTPOLL_MAX_HELD_POLLS_PER_WORKER=str(2 * count))
        web = Web(bench.programs, bench.directory / f"held-{count}", settings).ready()
        held = Held(bench.wire, bench.redis.path, web, count)
        try:
            _one(held, size, results)
        finally:
            held.close()
            web.end()


def _one(held: "Held", size: Size, results: Results) -> None:
    count = len(held)
    for tpp in held.tpps[:20]:  # whatever is made with the first polls is there before we look
        held.once(tpp)
    before = held.web.resident()
    start = perf_counter()
    held.open()
    results.add(PART, name("time to open them all", count), perf_counter() - start, "s")
    results.add(PART, name(MEMORY, count), (held.web.resident() - before) / count / 1024, "KB")
    busy, start = held.web.busy(), perf_counter()
    time.sleep(size.idle_seconds)
    idle = (held.web.busy() - busy) / (perf_counter() - start)
    results.add(PART, name(IDLE, count), 100 * idle, "%")
    for way, push in ((HTTP, held.push), (CLI, held.push_cli)):
        held.renew()
        times = [held.wake_one(push) for _ in range(size.wakings)]
        results.add(PART, name(f"wake-up by {way}, p50", count), 1000 * percentile(times, 0.5), "ms")
        results.add(PART, name(f"wake-up by {way}, p99", count), 1000 * percentile(times, 0.99), "ms")
    held.renew()
    results.add(PART, name(BURST, count), held.wake_all(), "s")


class Held:
    """Many polls, each on a stream of its own, and the one who wakes them."""

    def __init__(self, wire: Wire, path: str, web: Web, count: int) -> None:
        self.wire = wire
        self.web = web
        self.tpps = [f"held-{number}" for number in range(count)]
        wire.make(self.tpps, PROOF)
        self.polls: list[Connection] = []
        self.chosen = selectors.DefaultSelector()
        self.number = 0
        self.bank = Connection(web.port)
        self.random = random.Random(8936)
        self.cli = Cli(path, wire)

    def __len__(self) -> int:
        return len(self.tpps)

    def close(self) -> None:
        """Hang up."""
        for connection in [*self.polls, self.bank]:
            connection.close()
        self.cli.close()

    def _poll(self, tpp: str, acks: str = "", *, now: bool = False) -> bytes:
        body = f'{{"ack":[{acks}],"returnImmediately":{str(now).lower()}}}'
        return request_text("/events", body.encode(), authorization=basic(tpp))

    def once(self, tpp: str) -> None:
        """One poll that is not held."""
        connection = Connection(self.web.port)
        connection.ask(self._poll(tpp, now=True))
        connection.close()

    def open(self) -> None:
        """Have all polls held, as their subscriptions tell."""
        for number, tpp in enumerate(self.tpps):
            connection = Connection(self.web.port)
            connection.socket.sendall(self._poll(tpp))
            self.polls.append(connection)
            self.chosen.register(connection.socket, selectors.EVENT_READ, number)
            if number % ARRIVING == ARRIVING - 1:
                self._wait(number + 1)
        self._wait(len(self))

    def renew(self) -> None:
        """Hang up and have all held anew: none may be answered because its time is up."""
        for connection in self.polls:
            self.chosen.unregister(connection.socket)
            connection.close()
        self.polls.clear()
        wait_for(lambda: not self._subscribed(), 25, 0.05)
        self.open()

    def _wait(self, count: int) -> None:
        wait_for(lambda: self._subscribed() >= count, 25, 0.05)

    def _subscribed(self) -> int:
        return len(self.wire.ask("PUBSUB", "CHANNELS", "eventpoll:*"))

    def _next(self) -> tuple[str, str]:
        self.number += 1
        return secevent(self.number, "h")

    def push(self, tpp: str) -> None:
        """A signed SET, by HTTP. Its own answer may come later than the one that it wakes."""
        _, text = self._next()
        path = f"/streams/{tpp}/sets"
        self.bank.socket.sendall(request_text(path, text.encode(), "application/secevent+jwt", basic(*BANK)))

    def push_cli(self, tpp: str) -> None:
        """A signed SET, by redis-cli."""
        self.cli.push(tpp, *self._next())

    def wake_one(self, push: Callable[[str], None]) -> float:
        """Seconds from a push to the last byte of the answer that it wakes; then the poll is held again."""
        number = self.random.randrange(len(self))
        tpp, poll = self.tpps[number], self.polls[number]
        start = perf_counter()
        push(tpp)
        while (body := poll.heard()) is None:
            pass
        elapsed = perf_counter() - start
        if secevent(self.number, "h")[0].encode() not in body:
            raise RuntimeError(f"woken with another answer: {body[:200]!r}")
        if push == self.push:
            while self.bank.heard() is None:
                pass
        jti = secevent(self.number, "h")[0]
        poll.socket.sendall(self._poll(tpp, f'"{jti}"'))
        wait_for(lambda: self.wire.ask("PUBSUB", "NUMSUB", keys.wake(tpp))[1] == 1, 10, 0.002)
        time.sleep(0.002)  # it looks once more when it is subscribed
        return elapsed

    def wake_all(self) -> float:
        """Seconds from the first of as many pushes as there are polls to the last byte of the last answer."""
        start = perf_counter()
        left = len(self)
        pushes = b"".join(self.wire.push(tpp, *self._next()) for tpp in self.tpps)
        self.wire.socket.setblocking(False)
        self.chosen.register(self.wire.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, -1)
        replies = 0
        while left or replies < len(self):
            ready = self.chosen.select(20)
            if not ready:
                raise TimeoutError(f"{left} of {len(self)} held polls were not woken")
            for key, events in ready:
                if key.data >= 0:
                    if (body := self.polls[key.data].heard()) is not None:
                        left -= 1
                        if b"eyJ" not in body:
                            raise RuntimeError(f"a poll was answered, and not woken: {body[:200]!r}")
                    continue
                if pushes and events & selectors.EVENT_WRITE:
                    pushes = pushes[self.wire.socket.send(pushes[:262_144]) :]
                    if not pushes:
                        self.chosen.modify(self.wire.socket, selectors.EVENT_READ, -1)
                if events & selectors.EVENT_READ:
                    self.wire.reader.feed(self.wire.socket.recv(262_144))
                    while (reply := self.wire.reader.gets()) is not False:
                        if reply != [b"queued"]:
                            raise RedisError(f"not queued: {reply}")
                        replies += 1
        self.chosen.unregister(self.wire.socket)
        self.wire.socket.setblocking(True)
        return perf_counter() - start


class Cli:
    """redis-cli, with a prompt: the time that a shell takes to start it is not ours. Without it: what it would send."""

    def __init__(self, path: str, wire: Wire) -> None:
        self.wire = wire
        self.process: subprocess.Popen[bytes] | None = None
        if program := shutil.which("redis-cli"):
            self.process = subprocess.Popen(
                [program, "-s", path], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
            )

    def push(self, tpp: str, jti: str, text: str) -> None:
        """Push a SET with the Lua command, as bank/push-set does."""
        words = ["EVALSHA", self.wire.shas["push"].decode(), str(len(keys.STREAM_KEYS)), *keys.of(tpp), jti, text]
        if self.process is None or self.process.stdin is None:
            self.wire.ask(*words)
            return
        self.process.stdin.write((" ".join(words) + "\n").encode())
        self.process.stdin.flush()

    def close(self) -> None:
        """End it."""
        if self.process is not None:
            end(self.process)
