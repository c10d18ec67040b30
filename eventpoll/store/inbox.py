"""The inbox in Redis: a stream that any client may add to, shared by the workers through a consumer group.

On Redis Cluster it lives on another node than the streams of the TPPs, so nothing here is one step with a push: an
entry is done with after its SET is queued, and whoever sees it again queues nothing new, as its jti is the same.
"""

import secrets
import socket
from dataclasses import dataclass
from typing import Any

import redis

from eventpoll.store import keys
from eventpoll.store.errors import errors
from eventpoll.store.store import Store

DEAD_KEPT = 10_000
IDLE_CONSUMER_MS = 3_600_000


@dataclass(frozen=True)
class Entry:
    """One entry of the inbox."""

    id: str
    fields: dict[str, str]


class Intake:
    """The inbox, as one worker sees it."""

    def __init__(self, store: Store) -> None:
        self._redis = store.redis
        self._name = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._looked = "0-0"  # how far the search for abandoned entries has come
        self._begun = True  # whether that search is the first since we joined

    def join(self) -> None:
        """Make the consumer group, from the first entry on; forget workers long gone. Raises Unavailable."""
        self._looked, self._begun = "0-0", True
        with errors():
            try:
                self._redis.xgroup_create(keys.INBOX, keys.INBOX_GROUP, id="0", mkstream=True)
            except redis.ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
            for consumer in self._redis.xinfo_consumers(keys.INBOX, keys.INBOX_GROUP):
                if consumer["pending"] == 0 and consumer["idle"] > IDLE_CONSUMER_MS:
                    self._redis.xgroup_delconsumer(keys.INBOX, keys.INBOX_GROUP, consumer["name"])

    def fresh(self, count: int, wait_ms: int) -> list[Entry]:
        """Entries that no worker has seen; waits for one. Raises Unavailable."""
        with errors():
            found: Any = self._redis.xreadgroup(
                keys.INBOX_GROUP, self._name, {keys.INBOX: ">"}, count=count, block=wait_ms or None
            )
        return [entry for _, entries in found or [] for entry in _entries(entries)]

    def abandoned(self, count: int, idle_ms: int) -> tuple[list[Entry], bool]:
        """Entries that a worker, dead or stuck, took so long ago: they are ours now; and whether there may be more.

        A call looks at some of the entries that are taken, and the next one goes on from there, so that many
        that have to wait never hide the ones behind them. The first search after `join` takes every entry over,
        however long ago it was taken: if the store's clock was set back meanwhile, that cannot be known, and what
        two workers mint is one SET all the same. Raises Unavailable.
        """
        with errors():
            answer = self._redis.xautoclaim(
                keys.INBOX,
                keys.INBOX_GROUP,
                self._name,
                min_idle_time=0 if self._begun else idle_ms,
                start_id=self._looked,
                count=count,
            )
        self._looked = answer[0].decode()
        self._begun = self._begun and self._looked != "0-0"
        return _entries(answer[1]), self._looked != "0-0"

    def done(self, entry: Entry) -> None:
        """Take an entry off the inbox. Raises Unavailable."""
        with errors():
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.xack(keys.INBOX, keys.INBOX_GROUP, entry.id)
            pipeline.xdel(keys.INBOX, entry.id)
            pipeline.execute()

    def bury(self, entry: Entry, reason: str) -> None:
        """Put an entry among the dead, with the reason, and take it off the inbox. Raises Unavailable.

        A worker that dies in between leaves it in both: it is buried twice then, under the same id.
        """
        with errors():
            ours = {"id": entry.id, "reason": reason.encode("utf-8", "backslashreplace")}
            theirs = {name: text.encode("utf-8", "surrogateescape") for name, text in entry.fields.items()}
            told: dict[Any, Any] = {**ours, **theirs, **ours}  # ours first, and ours where both have the name
            self._redis.xadd(keys.INBOX_DEAD, told, maxlen=DEAD_KEPT, approximate=True)
        self.done(entry)


def _entries(found: Any) -> list[Entry]:
    return [
        Entry(
            number.decode(), {name.decode("utf-8", "replace"): _text(value) for name, value in (fields or {}).items()}
        )
        for number, fields in found
        if number is not None  # Redis 6.2 tells so of an entry that was taken out of the stream by others
    ]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
