"""Connections to the Redis in REDIS_URL: one server, Sentinel or Cluster. Without a URL: the embedded server."""

from pathlib import Path
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from eventpoll import redis_url
from eventpoll.redis_url import RedisUrl
from eventpoll.store.redis.cluster import Cluster
from eventpoll.store.redis.embedded import Embedded, NoServer

TIMEOUT_SECONDS = 5.0
"""Timeout of one command, in seconds. After it, the caller gets Unavailable."""

MAX_CONNECTIONS = 32
"""Pool size for each process and server. A caller waits while all are in use. Pipelined connections are not counted."""


class EmbeddedConnection(redis.UnixDomainSocketConnection):
    """A connection that starts the embedded server if it does not answer."""

    def __init__(self, *, embedded: Embedded, **options: Any) -> None:
        super().__init__(path=embedded.path, **options)  # type: ignore[no-untyped-call]
        self._embedded = embedded

    def _connect(self) -> Any:
        if self._embedded.join():  # the server may be starting: wait until it has read its file
            self._ensure()
        try:
            return self._connect_to_ours()
        except OSError:
            self._ensure()
            return self._connect_to_ours()

    def _connect_to_ours(self) -> Any:
        found = super()._connect()  # type: ignore[no-untyped-call]
        try:
            self._embedded.check_peer(found)
        except OSError:
            found.close()
            raise
        return found

    def _ensure(self) -> None:
        try:
            self._embedded.ensure()
        except NoServer as error:
            raise redis.ConnectionError(str(error)) from None


class SentinelPool(SentinelConnectionPool, redis.BlockingConnectionPool):
    """Pool of connections to the primary that the Sentinels currently name. A caller waits while all are in use."""


def options() -> dict[str, Any]:
    """Return options for every connection. The driver never repeats a command whose reply was lost."""
    return {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        "protocol": 2,
    }


def connect(url: str | None, data_dir: Path) -> redis.Redis:
    """Return a client for the store. Opens no connection yet. Raises redis_url.BadUrl."""
    pool = {**options(), "max_connections": MAX_CONNECTIONS, "timeout": TIMEOUT_SECONDS}
    if url is None:
        return redis.Redis(
            connection_pool=redis.BlockingConnectionPool(  # type: ignore[no-untyped-call]
                connection_class=EmbeddedConnection, embedded=Embedded(data_dir), **pool
            )
        )
    store = redis_url.read(url)
    pool |= store.options
    if store.kind == "sentinel":
        return _sentinel(store, pool)
    if store.kind == "cluster":
        others = [ClusterNode(*place) for place in store.places[1:]]  # type: ignore[no-untyped-call]
        blocking = redis.BlockingConnectionPool
        return cast(redis.Redis, Cluster(store.first(), others, connection_pool_class=blocking, **pool))
    pool |= {**store.login, "db": store.db}
    if store.kind == "unix":
        pool |= {"connection_class": redis.UnixDomainSocketConnection, "path": store.path}
    else:
        ((host, port),) = store.places
        kind = redis.SSLConnection if store.tls else redis.Connection
        pool |= {"connection_class": kind, "host": host, "port": port}
    return redis.Redis(connection_pool=redis.BlockingConnectionPool(**pool))  # type: ignore[no-untyped-call]


def nodes(client: redis.Redis) -> list[redis.Redis]:
    """Return a client for each server that stores streams: one, or every primary of a Cluster."""
    if not isinstance(client, Cluster):
        return [client]
    return [client.get_redis_connection(node) for node in client.get_primaries()]


def node_of(client: redis.Redis, key: str) -> redis.Redis:
    """Return the client of the server that stores `key`. On a Cluster, the key may have moved since."""
    if not isinstance(client, Cluster):
        return client
    return cast(redis.Redis, client.get_redis_connection(client.get_node_from_key(key)))


def seek(client: redis.Redis) -> None:
    """Refresh the topology of a Cluster after a node failed to answer. For other clients, do nothing."""
    if isinstance(client, Cluster):
        client.nodes_manager.initialize()


def apart(client: redis.Redis) -> Any:
    """Return a new connection outside the pool, for a subscription."""
    pool = client.connection_pool
    return pool.connection_class(**{**pool.connection_kwargs, **options()})


def _sentinel(store: RedisUrl, pool: dict[str, Any]) -> redis.Redis:
    theirs = {name: pool.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    if store.tls:
        pool["ssl"] = True
    tls = {name: value for name, value in pool.items() if name.startswith("ssl")}
    sentinel = Sentinel(list(store.places), sentinel_kwargs={**options(), **theirs, **tls})  # type: ignore[no-untyped-call]
    client = sentinel.master_for(  # type: ignore[no-untyped-call]
        store.service, connection_pool_class=SentinelPool, db=store.db, **store.login, **pool
    )
    return cast(redis.Redis, client)
