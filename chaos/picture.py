"""What lies in the store, read with a plain client: nothing of eventpoll's own is asked."""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

KINDS = {
    "stream": "hash",
    "pending": "zset",
    "sets": "hash",
    "inflight": "hash",
    "inflight_order": "zset",
    "leases": "zset",
    "parked": "hash",
    "parked_order": "zset",
    "requeued": "hash",
    "settled": "hash",
    "settled_before": "hash",
}
"""The keys of a stream and their types, as docs/redis-layout.md has them."""

SPANNING = {
    "eventpoll:streams": "zset",
    "eventpoll:inbox": "stream",
    "eventpoll:clock": "zset",
    "eventpoll:forgotten": "hash",
    "eventpoll:inbox:dead": "stream",
}
NAME = re.compile(r"eventpoll:\{([^{}]+)\}:([a-z_]+)")


@dataclass
class Stream:
    """All keys of one TPP; a sorted set as name -> score."""

    stream: dict[str, str] = field(default_factory=dict)
    pending: dict[str, int] = field(default_factory=dict)
    sets: dict[str, str] = field(default_factory=dict)
    inflight: dict[str, str] = field(default_factory=dict)
    inflight_order: dict[str, int] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)
    parked: dict[str, str] = field(default_factory=dict)
    parked_order: dict[str, int] = field(default_factory=dict)
    requeued: dict[str, str] = field(default_factory=dict)
    settled: dict[str, str] = field(default_factory=dict)
    settled_before: dict[str, str] = field(default_factory=dict)

    @property
    def outstanding(self) -> set[str]:
        """Every jti that waits, is in flight or parked."""
        return self.pending.keys() | self.inflight.keys() | self.parked.keys()

    @property
    def ended(self) -> dict[str, str]:
        """jti -> how it ended."""
        return {**self.settled_before, **self.settled}


@dataclass
class Picture:
    """The whole store at a moment when nothing moves: `at` by the journal's clock."""

    at: float = float("inf")
    streams: dict[str, Stream] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)
    inbox: list[str] = field(default_factory=list)  # ids
    taken: int = 0  # entries that a worker has, and has not finished
    dead: list[dict[str, str]] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)  # keys that no document knows, of a wrong type, or that expire


def take(servers: Iterable[Any]) -> Picture:
    """The picture of what these servers keep: the one, or the primaries of a Cluster; clients that decode."""
    picture = Picture(time.monotonic())
    for server in servers:
        for key in server.scan_iter(count=1000):
            kind = server.type(key)
            known = NAME.fullmatch(key)
            if kind != (KINDS.get(known[2]) if known else SPANNING.get(key)) or server.ttl(key) != -1:
                picture.strange.append(f"{key} ({kind})")
            elif known:
                values = server.hgetall(key) if kind == "hash" else _scores(server, key)
                setattr(picture.streams.setdefault(known[1], Stream()), known[2], values)
            elif key == "eventpoll:streams":
                picture.listed = set(server.zrange(key, 0, -1))
            elif key == "eventpoll:inbox":
                picture.inbox = [number for number, _ in server.xrange(key)]
                picture.taken = sum(group["pending"] for group in server.xinfo_groups(key))
            elif key == "eventpoll:inbox:dead":
                picture.dead = [fields for _, fields in server.xrange(key)]
    return picture


def _scores(server: Any, key: str) -> dict[str, int]:
    return {name: int(score) for name, score in server.zrange(key, 0, -1, withscores=True)}


def weigh(servers: Iterable[Any]) -> tuple[int, int]:
    """How many keys there are, and the bytes of the data set by the servers' own count."""
    keys = memory = 0
    for server in servers:
        keys += server.dbsize()
        memory += int(server.info("memory")["used_memory_dataset"])
    return keys, memory
