"""Wake-ups on a Redis Cluster, through one connection to each primary."""

import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable

import redis
from redis.exceptions import MovedError

from eventpoll.store import keys
from eventpoll.store.errors import Unavailable, errors
from eventpoll.store.redis import wakeups
from eventpoll.store.redis.cluster import Cluster, home_of
from eventpoll.store.redis.connection import nodes, seek
from eventpoll.store.redis.wakeups import FIRST_SECONDS, Subscription, pause, subscribe_commands

log = logging.getLogger(__name__)

SHARDED = re.compile(r"\bs(un)?subscribe", re.I)
"""Matches an error that names a sharded command which the server lacks or the user may not run."""


class Moved(Exception):
    """The streams of this slot are now on another server."""

    def __init__(self, slot: int) -> None:
        super().__init__(slot)
        self.slot = slot


class Shard(Subscription):
    """The connection to one primary of a Cluster.

    It uses SUBSCRIBE and SSUBSCRIBE, because publishers use whichever their Redis version and ACL allow.
    Plain wake-ups go to all nodes. Sharded ones stay on the nodes that store the stream.
    """

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self.deaf_since: float | None = None
        """Monotonic time, in seconds, since which this server delivers plain wake-ups only."""

    def listen(self, tpps: Iterable[str]) -> None:
        """Subscribe to these streams. Each confirmation arrives as one wake-up of its stream."""
        tpps = list(tpps)
        self._send(
            *subscribe_commands("SSUBSCRIBE", tpps, 1), *subscribe_commands("SUBSCRIBE", tpps)
        )  # SUBSCRIBE comes last: its confirmation is the wake-up

    def leave(self, tpp: str) -> None:
        """Unsubscribe from this stream."""
        self._send(*subscribe_commands("SUNSUBSCRIBE", [tpp]), *subscribe_commands("UNSUBSCRIBE", [tpp]))

    def word(self) -> tuple[str | None, str | None]:
        """Wait for the next message. Return (TPP, None) for a wake-up, (None, TPP) for a sharded unsubscription.

        Return (None, None) for any other message. Raises Moved and Unavailable.
        """
        try:
            kind, tpp = self._read()
        except Unavailable as error:
            if isinstance(error.__cause__, MovedError):
                raise Moved(error.__cause__.slot_id) from None
            if not SHARDED.search(str(error)):
                raise
            if self.deaf_since is None:
                log.warning("Wake-ups of this shard are heard in the plain way alone: %s", error)
                self.deaf_since = time.monotonic()
            return None, None
        if kind == b"ssubscribe":
            self.deaf_since = None
        wakes = kind in (b"subscribe", b"message", b"smessage")
        return tpp if wakes else None, tpp if kind == b"sunsubscribe" else None


class ClusterSubscription(Subscription):
    """One connection, with a thread that reads it, to each primary that stores a subscribed stream.

    When a slot moves or a server fails, its streams are adrift: no connection subscribes to them. Each such stream is
    woken once, because a push may have been missed. Another thread asks the Cluster for their servers and subscribes
    there, which wakes them once more.
    """

    def __init__(self, client: redis.Redis) -> None:
        with errors():
            nodes(client)  # the first call discovers the nodes
        assert isinstance(client, Cluster)
        self._client = client
        self._lock = threading.RLock()
        self._homes: dict[str, str | None] = {}  # stream -> server; None: adrift
        self._slots: dict[int, set[str]] = {}  # slot -> streams
        self._shards: dict[str, Shard | None] = {}  # server -> its connection; None: not yet
        self._adrift = threading.Event()
        self._news: queue.SimpleQueue[str | Unavailable] = queue.SimpleQueue()
        self._closed = False
        self._start(self._settle)

    def listen(self, tpps: Iterable[str]) -> None:
        """Subscribe to these streams. Each confirmation arrives as a wake-up, at least one for each stream."""
        with self._lock:
            told: dict[str, list[str]] = {}
            for tpp in tpps:
                slot, home, server = self._home(tpp)
                self._slots.setdefault(slot, set()).add(tpp)
                if home is None or server is None:
                    self._lose([tpp])
                    continue
                self._homes[tpp] = home
                told.setdefault(home, []).append(tpp)
                if home not in self._shards:
                    self._shards[home] = None
                    self._start(self._hear, home, server)
            for home, theirs in told.items():
                self._tell(home, theirs)

    def leave(self, tpp: str) -> None:
        """Unsubscribe from this stream."""
        with self._lock:
            home, slot = self._homes.pop(tpp, None), self._home(tpp)[0]
            if others := self._slots.pop(slot, set()) - {tpp}:
                self._slots[slot] = others
            self._tell(home, [tpp], leave=True)

    def heard(self) -> str | None:
        """Wait for the next wake-up. Return its TPP, or None after HEARTBEAT_SECONDS. Raises Unavailable if closed."""
        try:
            news = self._news.get(timeout=wakeups.HEARTBEAT_SECONDS)
        except queue.Empty:
            return None
        if isinstance(news, Unavailable):
            raise news
        return news

    def close(self) -> None:
        """Close the connections. A waiting `heard` raises Unavailable."""
        with self._lock:
            self._closed = True
            for shard in self._shards.values():
                if shard is not None:
                    shard.close()
        self._adrift.set()
        self._news.put(Unavailable("the subscription is closed"))

    def _hear(self, home: str, server: redis.Redis) -> None:
        """Process the messages of one server until its connection breaks."""
        shard = None
        try:
            shard = Shard(server)
            with self._lock:
                self._shards[home] = shard
                shard.listen(self._at(home))
            while not self._closed:
                self._take(home, shard)
        except Unavailable as error:
            if not self._closed:
                log.warning("The wake-up subscription at %s is down: %s", home, error)
        except Exception:  # any error: its streams must not stay without a subscription
            if not self._closed:
                log.exception("The wake-up subscription at %s broke", home)
        with self._lock:
            del self._shards[home]
            self._lose(self._at(home))
        if shard is not None:
            shard.close()

    def _take(self, home: str, shard: Shard) -> None:
        """Process one message of this server."""
        woken, left, moved = None, None, None
        try:
            woken, left = shard.word()
        except Moved as error:
            moved = error.slot
        if woken is not None:
            self._news.put(woken)
        with self._lock:
            # The stream was left and joined again, or its slot moved. The reply to a new SSUBSCRIBE shows which.
            if left is not None and self._homes.get(left) == home:
                self._tell(home, [left])
            if moved is not None:
                self._lose([tpp for tpp in self._slots.get(moved, ()) if self._homes.get(tpp) == home])
            if shard.deaf_since is not None and time.monotonic() - shard.deaf_since > wakeups.HEARTBEAT_SECONDS:
                shard.deaf_since = time.monotonic()
                self._lose(self._at(home))  # publishers may use SPUBLISH: wake all, then subscribe again

    def _settle(self) -> None:
        """Find the servers of the streams that are adrift, and subscribe there."""
        seconds = FIRST_SECONDS
        while not self._closed:
            # Look also without an event: a server cut off from the others does not report the slots it lost.
            seconds = pause(seconds) if self._adrift.wait(wakeups.HEARTBEAT_SECONDS) else FIRST_SECONDS
            self._adrift.clear()
            try:
                with errors():
                    seek(self._client)
            except Unavailable as error:
                log.warning("No server of the Cluster says who keeps which slots: %s", error)
            except Exception:  # any error: without this thread, streams would stay adrift
                log.exception("Asking who keeps which slots broke")
            with self._lock:
                self._lose([tpp for tpp, home in self._homes.items() if home and self._home(tpp)[1] != home])
                self.listen([tpp for tpp, home in self._homes.items() if home is None])

    def _home(self, tpp: str) -> tuple[int, str | None, redis.Redis | None]:
        """Return the slot of a stream, and the name and client of its server, both None if no server is known."""
        return home_of(self._client, keys.wake(tpp))

    def _at(self, home: str) -> list[str]:
        return [tpp for tpp, theirs in self._homes.items() if theirs == home]

    def _lose(self, tpps: list[str]) -> None:
        for tpp in tpps:
            self._tell(self._homes.get(tpp), [tpp], leave=True)
            self._homes[tpp] = None
            self._news.put(tpp)
            self._adrift.set()

    def _tell(self, home: str | None, tpps: list[str], leave: bool = False) -> None:
        shard = self._shards.get(home) if home is not None else None
        if shard is not None:
            try:
                for tpp in tpps if leave else ():
                    shard.leave(tpp)
                if not leave:
                    shard.listen(tpps)
            except Unavailable:
                pass  # the thread that reads this connection gets the same error

    @staticmethod
    def _start(what: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=what, args=arguments, name="eventpoll-wake-shard", daemon=True).start()


def subscribe(client: redis.Redis) -> Subscription:
    """Return a subscription to the wake-ups of this client's store."""
    return ClusterSubscription(client) if isinstance(client, Cluster) else Subscription(client)
