"""Poll and ack, and how their cost grows with what waits: one client, one poll at a time, everything in turn."""

from collections.abc import Sequence
from time import perf_counter

from bench.client import Connection, jtis, poll_body, request_text
from bench.load import BadLoad
from bench.resp import Wire
from bench.results import Results, percentile
from bench.servers import Redis, Web, end
from bench.service import PROOF, Bench, basic, environ
from bench.sets import secevent
from bench.sizes import Size

PART = "growth"
PAGE = 10


class Target:
    """One stream or many, polled in turn. After each poll as many SETs are pushed as it took away."""

    def __init__(
        self, name: str, connection: Connection, wire: Wire, tpps: Sequence[str], letter: str, number: int
    ) -> None:
        self.name = name
        self.connection = connection
        self.wire = wire
        self.tpps = tpps
        self.letter = letter
        self.number = number
        self.polled = 0
        self.acks: dict[str, bytes] = {}

    def sample(self) -> float:
        """Seconds of one poll for ten, with the acks of the ten before. Raises BadLoad."""
        tpp = self.tpps[self.polled % len(self.tpps)]
        self.polled += 1
        text = request_text("/events", poll_body(PAGE, self.acks.get(tpp, b"")), authorization=basic(tpp))
        start = perf_counter()
        body = self.connection.ask(text)
        elapsed = perf_counter() - start
        found = jtis(body, PAGE)
        if not found:
            raise BadLoad(f"{self.name}: {self.connection.status} {body[:200]!r}")
        self.acks[tpp] = b",".join(found)
        self.number += self.wire.fill(tpp, range(self.number, self.number + PAGE), self.letter)
        return elapsed


def waiting_name(count: int) -> str:
    """A line's name, without p50 or p99."""
    return f"{count:,} waiting on a stream"


def streams_name(count: int) -> str:
    """A line's name, without p50 or p99."""
    return f"{count:,} stream{'s' if count > 1 else ''}"


def waiting(redis: Redis, web: Web, many: str, size: Size, results: Results) -> None:
    """With few, some and many SETs waiting on a stream; `many` is there already."""
    # One connection for all: another may have the other worker, which may be faster or slower.
    targets, connection = [], Connection(web.port)
    for letter, count in zip("fgm", size.waiting, strict=True):
        tpp = many if count == size.waiting[-1] else f"waiting-{count}"
        if tpp != many:
            redis.wire.make([tpp], PROOF)
            redis.wire.fill(tpp, range(count), letter)
        targets.append(Target(waiting_name(count), connection, redis.wire, [tpp], letter, count))
    _in_turn(targets, size, results)


def streams(bench: Bench, size: Size, results: Results) -> None:
    """With one stream, some and many, each with a few SETs; a database and a service for each."""
    targets, webs, wires = [], [], []
    for db, count in enumerate(size.streams, 1):
        wire = Wire(bench.redis.path, db)
        tpps = [f"tpp-{number}" for number in range(count)]
        wire.make(tpps, PROOF)
        list(wire.many(wire.push(tpp, *secevent(number)) for tpp in tpps for number in range(PAGE)))
        webs.append(Web(bench.programs, bench.directory / f"streams-{count}", environ(bench.redis, db)))
        wires.append(wire)
    for count, web, wire in zip(size.streams, webs, wires, strict=True):
        tpps = [f"tpp-{number}" for number in range(count)]
        targets.append(Target(streams_name(count), Connection(web.ready().port), wire, tpps, "n", 0))
    _in_turn(targets, size, results)
    end(*(web.running.process for web in webs))
    for wire in wires:
        wire.ask("FLUSHDB")
        wire.close()


def _in_turn(targets: list[Target], size: Size, results: Results) -> None:
    for target in targets:
        for _ in range(size.samples // 10):  # whatever is made with the first polls is there before we look
            target.sample()
    for _ in range(size.rounds):
        times: dict[str, list[float]] = {target.name: [] for target in targets}
        for turn in range(size.samples):
            first = turn % len(targets)
            for target in [*targets[first:], *targets[:first]]:
                times[target.name].append(target.sample())
        for name, figures in times.items():
            results.add(PART, f"{name}, p50", 1000 * percentile(figures, 0.5), "ms")
            results.add(PART, f"{name}, p99", 1000 * percentile(figures, 0.99), "ms")
    for target in targets:
        target.connection.close()
