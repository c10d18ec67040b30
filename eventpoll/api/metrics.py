"""/metrics, for Prometheus: SETs and counters of all streams from the store, durations of polls from the processes.

The store counts in the same step that changes the state, so its counts stay exact if a process dies. The processes
count in files that all workers share; a count outlives its worker. gunicorn_conf.py makes the directory of the files.
"""

import heapq
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from threading import get_ident
from typing import Any

from flask import Blueprint, Request, Response
from gevent import monkey
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, Gauge, Histogram, generate_latest, values
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from eventpoll import __version__
from eventpoll.api.call import let_in
from eventpoll.errors import CODES, Refused
from eventpoll.service import Service
from eventpoll.store.errors import Unavailable
from eventpoll.store.records import COUNTERS, Status
from eventpoll.store.store import Store
from eventpoll.web.response import Told

WORST = 20
"""Number of streams with a series of their own: those with the oldest SETs, and those with the most parked SETs."""

TRIES = 5
"""Most times that one answer counts the streams, if a stream is deleted during the count."""

PAUSE = 0.02
"""Seconds between those tries."""

QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
HELD = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 60.0, 120.0, 300.0, 600.0)
STATES = ("pending", "in_flight", "parked")
WAITED: dict[int, float] = {}
"""Thread id -> seconds for which its poll was just held. Usually empty, which is quick to check."""

OURS = CollectorRegistry()
POLLS = Histogram(
    "eventpoll_poll_seconds",
    "How long polls took, the time for which they were held aside",
    ("profile", "status"),
    buckets=QUICK,
    registry=OURS,
)
HOLDS = Histogram("eventpoll_hold_seconds", "How long polls were held", ("profile",), buckets=HELD, registry=OURS)


@cache
def held_now() -> Gauge:
    """Return the gauge of held polls. The first call makes it and its file; an import of this module makes none."""
    return Gauge("eventpoll_held_polls", "Polls that are held", registry=OURS, multiprocess_mode="livesum")


def counted(profile: str, answer: Callable[[Request], Told]) -> Callable[[Request], Told]:
    """Wrap the function that answers a poll: count each poll, refused ones too, by profile and status.

    The duration of a poll excludes the time for which it was held. That time has a histogram of its own.
    """
    observers: dict[int, Callable[[float], None]] = {}

    def poll(request: Request) -> Told:
        begun, status = time.perf_counter(), CODES["internal"].status
        try:
            told = answer(request)
            status = told.status
        except Refused as refusal:
            status = refusal.row.status
            raise
        except Unavailable:
            status = CODES["unavailable"].status
            raise
        finally:
            observe = observers.get(status)
            if observe is None:
                observe = observers[status] = observer(POLLS.labels(profile, status))
            held = WAITED.pop(get_ident(), None) if WAITED else None
            if held is not None:
                HOLDS.labels(profile).observe(held)
            observe(time.perf_counter() - begun - (held or 0.0))
        return told

    return poll


def observer(child: Any) -> Callable[[float], None]:
    """Return the function that adds a number of seconds to one series of a histogram.

    Outside a gevent worker it is the library's own. In a gevent worker no other code runs between two lines, and
    nothing forks. There the function omits the library's locks and its checks of the process id. They cost 10 µs,
    4 % of a poll.
    """
    if not (values.ValueClass._multiprocess and monkey.is_module_patched("threading")):
        return child.observe  # type: ignore[no-any-return]
    bounds, total, buckets = child._upper_bounds, child._sum, child._buckets

    def add(value: Any, more: float) -> None:
        value._value += more
        value._file.write_value(value._key, value._value, 0.0)

    def observe(seconds: float) -> None:
        add(total, seconds)
        add(buckets[bisect_left(bounds, seconds)], 1.0)

    return observe


def watch(held: int, seconds: float | None) -> None:
    """Note the number of held polls, and how long the poll of this thread was held.

    Waiting calls it with (count, None) when a hold starts and with (count, seconds held) when it ends.
    """
    held_now().set(held)
    if seconds is not None:
        WAITED[get_ident()] = seconds


def blueprint(service: Service) -> Blueprint:
    """Return the blueprint of /metrics, which only the bank may read."""
    bp = Blueprint("metrics", __name__)
    service.transmitter.waiting.watch = watch
    bp.before_request(lambda: let_in(service))

    @bp.get("/metrics", provide_automatic_options=False)
    def metrics() -> Response:
        """Return all metrics. If the store does not answer, return that fact and the metrics of the processes."""
        registry = CollectorRegistry()
        registry.register(Streams(service.transmitter.store))
        registry.register(Polls())
        registry.register(Build())
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)

    return bp


class Build(Collector):
    """The metric with the version that runs."""

    def collect(self) -> Iterator[Metric]:
        """Yield a metric whose value is always 1: Prometheus' convention for labels that describe a process."""
        build = GaugeMetricFamily("eventpoll_build_info", "The version of eventpoll that runs", labels=("version",))
        build.add_metric([__version__], 1)
        yield build


class Polls(Collector):
    """The metrics of all processes if they share files; else those of this process."""

    def collect(self) -> Iterable[Metric]:
        """Return our metrics only: a bank that mounts eventpoll may keep its own metrics in the same files."""
        held_now()
        if not values.ValueClass._multiprocess:
            return OURS.collect()
        shared = MultiProcessCollector(CollectorRegistry())  # type: ignore[no-untyped-call]
        found = shared.merge(_with_a_size(shared._path))  # type: ignore[no-untyped-call]
        return [metric for metric in found if metric.name.startswith("eventpoll_")]


def _with_a_size(directory: str) -> Iterator[str]:
    """Yield the files in which processes count. Skip new, empty files, because prometheus_client fails on them."""
    with os.scandir(directory) as found:
        for entry in found:
            with suppress(FileNotFoundError):  # removed meanwhile: its process has ended
                if entry.name.endswith(".db") and entry.stat().st_size:
                    yield entry.path


class Streams(Collector):
    """The metrics of the store: of all streams together, and of the WORST streams."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics. Leave out the totals if a stream was being deleted at every try."""
        up = GaugeMetricFamily("eventpoll_store_up", "Whether the store answers")
        try:
            found = [*self._streams(), *self._inbox()]
        except Unavailable:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield from [up, *found]

    def _inbox(self) -> Iterator[Metric]:
        for name, words, count in (
            ("eventpoll_inbox_entries", "Events in the inbox, not minted yet", self._store.inbox_entries()),
            ("eventpoll_inbox_dead_entries", "Events that could not be minted", self._store.dead_entries()),
        ):
            yield GaugeMetricFamily(name, words, count)

    def _streams(self) -> Iterator[Metric]:
        for _ in range(TRIES):
            before = self._store.forgotten()
            census = Census(self._store.statuses())
            gone = self._store.forgotten()
            if gone == before and not census.vanished:
                break
            time.sleep(PAUSE)
        if gone == before:
            for name in COUNTERS:
                words = f"SETs that were {name}, over all streams that there ever were"
                yield CounterMetricFamily(f"eventpoll_sets_{name}", words, census.counted[name] + gone[name])
        yield GaugeMetricFamily("eventpoll_streams", "Streams", census.streams)
        sets = GaugeMetricFamily("eventpoll_sets", "SETs that are outstanding", labels=("state",))
        oldest = GaugeMetricFamily("eventpoll_oldest_seconds", "Age of the oldest SET", labels=("state",))
        for state in STATES:
            sets.add_metric([state], census.sets[state])
            oldest.add_metric([state], census.oldest[state])
        yield from (sets, oldest)
        words = f"of the {WORST} streams where it is most"
        ages = GaugeMetricFamily(
            "eventpoll_stream_oldest_seconds", f"Age of the oldest SET to deliver, {words}", labels=("tpp",)
        )
        parked = GaugeMetricFamily("eventpoll_stream_parked", f"Parked SETs, {words}", labels=("tpp",))
        for family, worst in ((ages, census.late), (parked, census.parked)):
            for value, tpp in heapq.nlargest(WORST, worst):
                family.add_metric([tpp], value)
            yield family


class Census:
    """The sums over all streams, added up one stream at a time."""

    def __init__(self, statuses: Iterable[Status | None]) -> None:
        self.streams = self.vanished = 0
        self.counted = dict.fromkeys(COUNTERS, 0)
        self.sets = dict.fromkeys(STATES, 0)
        self.oldest = dict.fromkeys(STATES, 0.0)
        self.late: list[tuple[float, str]] = []
        self.parked: list[tuple[float, str]] = []
        for status in statuses:
            if status is None:
                self.vanished += 1
            else:
                self._add(status)

    def _add(self, status: Status) -> None:
        self.streams += 1
        for name in COUNTERS:
            self.counted[name] += int(status.fields.get(name, 0))
        for state, count in zip(STATES, (status.pending, status.in_flight, status.parked), strict=True):
            self.sets[state] += count
            self.oldest[state] = max(self.oldest[state], status.oldest[state] or 0.0)
        if status.pending or status.in_flight:
            late = max(status.oldest["pending"] or 0.0, status.oldest["in_flight"] or 0.0)
            self._keep(self.late, late, status.tpp)
        if status.parked:
            self._keep(self.parked, status.parked, status.tpp)

    @staticmethod
    def _keep(worst: list[tuple[float, str]], value: float, tpp: str) -> None:
        """Keep only the WORST largest values, in a heap."""
        (heapq.heappush if len(worst) < WORST else heapq.heappushpop)(worst, (value, tpp))
