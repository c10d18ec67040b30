"""The goals of the benchmark, and how each is read off the lines."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from bench import fsync, growth, held, peers, polls, pushes, stored
from bench.results import Results
from bench.servers import WORKERS
from bench.service import ALGORITHMS
from bench.sizes import Size


@dataclass(frozen=True)
class Found:
    """What was reached: the median and its span over the rounds; for whom, where a goal has several."""

    what: str
    figures: list[float]
    reached: bool

    @property
    def middle(self) -> float:
        """The median."""
        return median(self.figures)


@dataclass(frozen=True)
class Goal:
    """A goal: `find` raises KeyError where nothing was measured for it, named by `of` in Results.missing."""

    what: str
    wanted: str
    find: Callable[[Results], Iterator[Found]]
    of: str = ""


def _least(part: str, ours: str, against: str, wanted: float, what: str = "") -> Callable[[Results], Iterator[Found]]:
    def find(results: Results) -> Iterator[Found]:
        figures = results.ratios(part, ours, against)
        yield Found(what, figures, median(figures) >= wanted)

    return find


def _most(part: str, name: str, wanted: float, what: str = "") -> Callable[[Results], Iterator[Found]]:
    def find(results: Results) -> Iterator[Found]:
        figures = results.lines[part, name].figures
        yield Found(what, figures, median(figures) <= wanted)

    return find


def _all(*finders: Callable[[Results], Iterator[Found]]) -> Callable[[Results], Iterator[Found]]:
    def find(results: Results) -> Iterator[Found]:
        for finder in finders:
            yield from finder(results)

    return find


def _grown(name: Callable[[int], str], few: int, many: int, what: str) -> Callable[[Results], Iterator[Found]]:
    def find(results: Results) -> Iterator[Found]:
        for share, wanted in (("p50", 1.1), ("p99", 1.5)):
            figures = results.ratios(growth.PART, f"{name(many)}, {share}", f"{name(few)}, {share}")
            yield Found(f"{what}, {share}", figures, median(figures) <= wanted)

    return find


def _memory(results: Results) -> Iterator[Found]:
    """Valkey packs SETs of 1 KB tighter than Redis 7 does."""
    pending = [line for line in results.of(stored.MEMORY) if line.name.startswith("pending")]
    for line in pending:
        server = line.name.partition(", ")[2]
        yield Found(server, line.figures, line.middle <= (1.22 if server.startswith("Valkey") else 1.5))
        more = results.lines[stored.MEMORY, f"in flight, more, {server}"]
        yield Found(f"{server}, in flight more", more.figures, more.middle <= 0.12)
    if not pending:
        raise KeyError(stored.MEMORY)


def goals(size: Size) -> list[Goal]:
    """Every goal, in the words and with the limits that were set before there was a service."""
    flask, basic = "bare Flask", "RFC 8936, Basic"
    most = max(size.held)
    bare = f"bare signing with {{}}, {WORKERS} processes"
    return [
        Goal(
            "empty poll, Basic, against bare Flask",
            "≥ 0.70, reach for 0.85",
            _least(polls.PART, polls.name(0, basic), polls.name(0, flask), 0.70),
        ),
        Goal(
            "10 SETs a poll with acks, against bare Flask's hello",
            "≥ 0.60",
            _least(polls.PART, polls.name(10, basic), polls.HELLO, 0.60),
        ),
        Goal(
            "SETs/s at 100 a poll, against the same Lua driven by a pipelining client",
            "≥ 0.55, reach for 0.9",
            _least(polls.PART, polls.name(100, basic), polls.name(100, "bare Redis"), 0.55),
        ),
        Goal(
            "Bearer poll against Basic poll",
            "≥ 0.9",
            _all(
                *(
                    _least(polls.PART, polls.name(page, "RFC 8936, Bearer"), polls.name(page, basic), 0.9, what)
                    for page, what in ((0, "empty"), (10, "10 a poll"))
                )
            ),
        ),
        Goal(
            "signed push, single, against bare Flask",
            "≥ 0.55",
            _least(pushes.PART, "signed, single", pushes.BARE, 0.55),
        ),
        Goal(
            "signed push in batch, per SET, against single",
            "≥ 10 ×",
            _least(pushes.PART, "signed, batch", "signed, single", 10),
        ),
        Goal(
            "minted push in batch, against the bare signing rate of as many cores",
            "≥ 0.7",
            _all(
                *(
                    _least(pushes.PART, f"minted with {each}, batch", bare.format(each), 0.7, each)
                    for each in ALGORITHMS
                )
            ),
        ),
        Goal(
            f"poll+ack with {size.waiting[-1]:,} waiting against {size.waiting[0]:,}; "
            f"with {size.streams[-1]:,} streams against {size.streams[0]}",
            "p50 ≤ 1.1 ×, p99 ≤ 1.5 ×",
            _all(
                _grown(growth.waiting_name, size.waiting[0], size.waiting[-1], "waiting"),
                _grown(growth.streams_name, size.streams[0], size.streams[-1], "streams"),
            ),
        ),
        Goal(
            f"Redis bytes for an outstanding 1 KB SET, {size.waiting[-1]:,} of them",
            "pending ≤ 1.22 × its size on Valkey, 1.5 × on Redis; in flight ≤ 0.12 more",
            _memory,
        ),
        Goal(
            f"{most:,} held polls on {WORKERS} workers",
            "≤ 30 KB each; idle ≤ 1 % of a core; wake-up p99 ≤ 5 ms; a burst that wakes all ≤ 6 s",
            _all(
                _most(held.PART, held.name(held.MEMORY, most), 30, "KB each"),
                _most(held.PART, held.name(held.IDLE, most), 1, "% of a core, idle"),
                _most(held.PART, held.name(f"wake-up by {held.HTTP}, p99", most), 5, f"ms, {held.HTTP} p99"),
                _most(held.PART, held.name(f"wake-up by {held.CLI}, p99", most), 5, f"ms, {held.CLI} p99"),
                _most(held.PART, held.name(held.BURST, most), 6, "s, burst"),
            ),
        ),
        Goal(
            "appendfsync always against everysec, through HTTP",
            "≥ 0.8",
            _all(
                *(
                    _least(fsync.PART, fsync.name(what, "always"), fsync.name(what, "everysec"), 0.8, what)
                    for what in (fsync.POLLS, fsync.PUSHES)
                )
            ),
        ),
        Goal(
            f"restart with {size.waiting[-1]:,} SETs waiting, to ready",
            "≤ 5 s",
            _all(
                *(
                    _most(stored.FILE, stored.restart_name(how), 5, f"s, file {how}")
                    for how in (stored.APPENDED, stored.REWRITTEN)
                )
            ),
        ),
        Goal(
            "SETs delivered and acked, against moto's SQS",
            "≥ 50 ×",
            _least(peers.PART, peers.OURS, peers.MOTO, 50),
            peers.MOTO,
        ),
    ]
