"""Wake-ups on a Redis Cluster: a subscription on one connection to each primary."""

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
"""In an error, the name of a command that this server has not, or that this user may not give."""


class Moved(Exception):
    """The streams of a slot are on another server now."""

    def __init__(self, slot: int) -> None:
        super().__init__(slot)
        self.slot = slot


class Shard(Subscription):
    """The connection to one primary of a Cluster. It listens in both ways, as who publishes takes the one that his
    Redis and his ACL allow: plain wake-ups go to all nodes, sharded ones stay with those that have the stream."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self.deaf_since: float | None = None
        """Monotonic seconds since when this server lets us have plain wake-ups alone."""

    def listen(self, tpps: Iterable[str]) -> None:
        """Hear of these streams from now on; that it is so is itself heard, once for each."""
        tpps = list(tpps)
        self._send(
            *subscribe_commands("SSUBSCRIBE", tpps, 1), *subscribe_commands("SUBSCRIBE", tpps)
        )  # the answer to this comes last

    def leave(self, tpp: str) -> None:
        """No longer hear of this stream."""
        self._send(*subscribe_commands("SUNSUBSCRIBE", [tpp]), *subscribe_commands("UNSUBSCRIBE", [tpp]))

    def word(self) -> tuple[str | None, str | None]:
        """Wait for the next word: whose wake-up it is, or whose goodbye. Raises Moved and Unavailable."""
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
    """One connection, and a thread that reads it, to each primary that keeps a stream of which we are to hear.

    Where a slot or a server has gone, its streams are adrift: they are woken once, as a push may be missed; another
    thread asks where they are now, and there they are listened to again, which wakes them once more.
    """

    def __init__(self, client: redis.Redis) -> None:
        with errors():
            nodes(client)  # asks for them, the first time
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
        """Hear of these streams from now on; that it is so is itself heard, once for each at least."""
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
        """No longer hear of this stream."""
        with self._lock:
            home, slot = self._homes.pop(tpp, None), self._home(tpp)[0]
            if others := self._slots.pop(slot, set()) - {tpp}:
                self._slots[slot] = others
            self._tell(home, [tpp], leave=True)

    def heard(self) -> str | None:
        """Wait for the next wake-up and say whose it is; None if none comes for long. Raises Unavailable if closed."""
        try:
            news = self._news.get(timeout=wakeups.HEARTBEAT_SECONDS)
        except queue.Empty:
            return None
        if isinstance(news, Unavailable):
            raise news
        return news

    def close(self) -> None:
        """Let go of the connections; a waiting `heard` raises."""
        with self._lock:
            self._closed = True
            for shard in self._shards.values():
                if shard is not None:
                    shard.close()
        self._adrift.set()
        self._news.put(Unavailable("the subscription is closed"))

    def _hear(self, home: str, server: redis.Redis) -> None:
        """Of what one server says, until its connection breaks."""
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
        except Exception:  # whatever it is: its streams must not stay deaf
            if not self._closed:
                log.exception("The wake-up subscription at %s broke", home)
        with self._lock:
            del self._shards[home]
            self._lose(self._at(home))
        if shard is not None:
            shard.close()

    def _take(self, home: str, shard: Shard) -> None:
        """One word of this server."""
        woken, left, moved = None, None, None
        try:
            woken, left = shard.word()
        except Moved as error:
            moved = error.slot
        if woken is not None:
            self._news.put(woken)
        with self._lock:
            if left is not None and self._homes.get(left) == home:  # come back meanwhile, or moved: the server will say
                self._tell(home, [left])
            if moved is not None:
                self._lose([tpp for tpp in self._slots.get(moved, ()) if self._homes.get(tpp) == home])
            if shard.deaf_since is not None and time.monotonic() - shard.deaf_since > wakeups.HEARTBEAT_SECONDS:
                shard.deaf_since = time.monotonic()
                self._lose(self._at(home))  # others may publish the sharded way: have all look, and ask anew

    def _settle(self) -> None:
        """Find homes for the streams that are adrift."""
        seconds = FIRST_SECONDS
        while not self._closed:
            # When all is quiet, too: a server that was cut off from the others does not say what it lost.
            seconds = pause(seconds) if self._adrift.wait(wakeups.HEARTBEAT_SECONDS) else FIRST_SECONDS
            self._adrift.clear()
            try:
                with errors():
                    seek(self._client)
            except Unavailable as error:
                log.warning("No server of the Cluster says who keeps which slots: %s", error)
            except Exception:  # without this thread they would be adrift for ever
                log.exception("Asking who keeps which slots broke")
            with self._lock:
                self._lose([tpp for tpp, home in self._homes.items() if home and self._home(tpp)[1] != home])
                self.listen([tpp for tpp, home in self._homes.items() if home is None])

    def _home(self, tpp: str) -> tuple[int, str | None, redis.Redis | None]:
        """The slot of a stream, and who keeps it, by name and client: None where nobody does."""
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
                pass  # who reads there sees it too

    @staticmethod
    def _start(what: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=what, args=arguments, name="eventpoll-wake-shard", daemon=True).start()


def subscribe(client: redis.Redis) -> Subscription:
    """What hears the wake-ups of the store that this is a client of."""
    return ClusterSubscription(client) if isinstance(client, Cluster) else Subscription(client)
