"""What docs/scale.md reckons with, of the store: python -m bench.scale measures it on real servers in two minutes.

Times are those that Redis itself counts for its commands, so a machine that does something else hardly shows.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from bench.sets import secevent
from eventpoll.records import Rules
from eventpoll.store import Store
from harness.redis_servers import RedisServer
from harness.topologies import cluster

SAMPLES = 3_000
CHUNK = 500
STREAMS = (1, 1_000, 10_000)
WAITING = (100, 10_000, 200_000)


def main() -> None:
    """One server, then a Cluster of three."""
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        with _server(Path(name)) as server:
            store = Store.open(server.url, Path(), Rules())
            _bytes(store)
            _looks(store, server)
            for count in WAITING:
                _empty(store)
                fill(store, "tpp", count)
                tell(f"{count:,} waiting on a stream", [server], store, ["tpp"])
            for count in STREAMS:
                _empty(store)
                tell(f"{count:,} streams", [server], store, made(store, count))
            store.redis.close()
        with cluster(Path(name) / "cluster") as nodes:
            store = Store.open(
                "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes), Path(), Rules()
            )
            for count in STREAMS[1:]:
                for node in nodes:
                    node.ask(b"FLUSHALL")
                tell(f"{count:,} streams on a Cluster of three", nodes, store, made(store, count))
            store.redis.close()


@contextmanager
def _server(directory: Path) -> Iterator[RedisServer]:
    server = RedisServer(directory, "--appendfsync", "everysec").start()
    yield server
    server.kill()


def _empty(store: Store) -> None:
    store.redis.flushall()


def made(store: Store, count: int) -> list[str]:
    """The names of streams, each with ten SETs."""
    tpps = [f"tpp-{number}" for number in range(count)]
    for tpp in tpps:
        store.configure(tpp, "0" * 64, {})
        store.push_many(tpp, [(*secevent(number), "") for number in range(10)])
    return tpps


def fill(store: Store, tpp: str, count: int) -> None:
    """A stream with so many SETs."""
    store.configure(tpp, "0" * 64, {})
    for first in range(0, count, CHUNK):
        store.push_many(tpp, [(*secevent(number), "") for number in range(first, min(first + CHUNK, count))])


def tell(what: str, servers: Sequence[RedisServer], store: Store, tpps: Sequence[str]) -> None:
    """What a push takes, and a poll for one SET with the ack of the one before, of one core of Redis."""
    acks: dict[str, str] = {}
    for measured in (False, True):  # whatever is made with the first is there before we look
        took = {}
        for name in ("push", "poll"):
            before = [_calls(server) for server in servers]
            for number in range(SAMPLES if measured else SAMPLES // 10):
                tpp = tpps[number % len(tpps)]
                if name == "push":
                    store.push(tpp, *secevent(number, "p" if measured else "w"))
                else:
                    answer = store.poll(tpp, max_events=1, ack=[acks[tpp]] if tpp in acks else (), profile="r")
                    acks[tpp] = answer.sets[0][0].decode()
            spent = [_spent(was, _calls(server)) for was, server in zip(before, servers, strict=True)]
            took[name] = spent
    line = ", ".join(
        f"{name} {sum(s for s, _ in each) / sum(n for _, n in each):.0f} µs" for name, each in took.items()
    )
    shares = [f"{100 * n / sum(n for _, n in took['poll']):.0f} %" for _, n in took["poll"]]
    print(f"{what}: {line}" + (f"; shares {', '.join(shares)}" if len(servers) > 1 else ""), flush=True)


def _calls(server: RedisServer) -> Any:
    with redis.Redis(port=server.port, decode_responses=True) as client:
        return client.info("commandstats").get("cmdstat_evalsha", {"usec": 0, "calls": 0})


def _spent(before: Any, after: Any) -> tuple[int, int]:
    return after["usec"] - before["usec"], after["calls"] - before["calls"]


def _looks(store: Store, server: RedisServer) -> None:
    """What a poll takes that finds nothing, as a held one that was woken in vain: of Redis, and of the web process."""
    for _ in range(SAMPLES // 10):
        store.poll("tpp-1", max_events=1, profile="r")
    before, begun = _calls(server), time.process_time()
    for _ in range(SAMPLES):
        store.poll("tpp-1", max_events=1, profile="r")
    ours = time.process_time() - begun
    (spent, calls) = _spent(before, _calls(server))
    print(
        f"a look in vain: {spent / calls:.0f} µs of Redis, {1e6 * ours / SAMPLES:.0f} µs of the web process", flush=True
    )


def _bytes(store: Store) -> None:
    """Of a stream where nothing waits, of a SET that waits, and of the jti of one that has ended."""

    def used() -> int:
        return int(store.redis.info("memory")["used_memory_dataset"])

    count, tpps = 100_000, [f"tpp-{number}" for number in range(10_000)]
    before = used()
    for tpp in tpps:
        store.configure(tpp, "0" * 64, {})
    print(f"a stream: {(used() - before) / len(tpps):.0f} bytes", flush=True)
    before = used()
    fill(store, "tpp", count)
    print(f"a SET of 1 KB that waits: {(used() - before) / count:.0f} bytes", flush=True)
    empty = before
    acks: list[str] = []
    while (answer := store.poll("tpp", max_events=1_000, ack=acks, profile="r")).sets:
        acks = [jti.decode() for jti, _ in answer.sets]
    print(f"a jti that has ended: {(used() - empty) / count:.0f} bytes", flush=True)


if __name__ == "__main__":
    main()
