"""The inbox: a Redis stream that any client may add to. Workers share it through a consumer group.

On a Redis Cluster, the inbox may be on another node than the streams of the TPPs. So a push and the removal of its
entry cannot be one atomic step. A worker removes an entry after its SET is queued. If another worker mints the same
entry again, it queues nothing new, because the jti is the same.
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
    """Access of one worker to the inbox."""

    def __init__(self, store: Store) -> None:
        self._redis = store.redis
        self._name = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._looked = "0-0"  # entry id at which the search for abandoned entries goes on
        self._begun = True  # True during the first search after `join`

    def join(self) -> None:
        """Create the consumer group from the first entry on, and delete idle workers' consumers. Raises Unavailable."""
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
        """Return up to `count` entries that no worker has read. Wait up to `wait_ms` for one. Raises Unavailable."""
        with errors():
            found: Any = self._redis.xreadgroup(
                keys.INBOX_GROUP, self._name, {keys.INBOX: ">"}, count=count, block=wait_ms or None
            )
        return [entry for _, entries in found or [] for entry in _entries(entries)]

    def abandoned(self, count: int, idle_ms: int) -> tuple[list[Entry], bool]:
        """Take over entries that a dead or stuck worker took at least `idle_ms` ago.

        Return the entries, and True if there may be more. Each call searches a part of the taken entries, and the next
        call goes on from there. So entries that must wait never hide the ones behind them.
        The first search after `join` takes over every entry, whatever its age. The store's clock may have been set
        back, and then the age is unknown. If two workers mint the same entry, the result is one SET.
        Raises Unavailable.
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
        """Remove an entry from the inbox. Raises Unavailable."""
        with errors():
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.xack(keys.INBOX, keys.INBOX_GROUP, entry.id)
            pipeline.xdel(keys.INBOX, entry.id)
            pipeline.execute()

    def bury(self, entry: Entry, reason: str) -> None:
        """Add an entry to the dead entries with the reason, then remove it from the inbox. Raises Unavailable.

        If the worker dies in between, the entry stays in both. It is then buried twice, under the same id.
        """
        with errors():
            ours = {"id": entry.id, "reason": reason.encode("utf-8", "backslashreplace")}
            theirs = {name: text.encode("utf-8", "surrogateescape") for name, text in entry.fields.items()}
            told: dict[Any, Any] = {**ours, **theirs, **ours}  # ours come first and win over fields of the same name
            self._redis.xadd(keys.INBOX_DEAD, told, maxlen=DEAD_KEPT, approximate=True)
        self.done(entry)


def _entries(found: Any) -> list[Entry]:
    return [
        Entry(
            number.decode(), {name.decode("utf-8", "replace"): _text(value) for name, value in (fields or {}).items()}
        )
        for number, fields in found
        if number is not None  # Redis 6.2 returns None for an entry that another client deleted
    ]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
