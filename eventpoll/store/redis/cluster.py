"""A client of a Redis Cluster, and which of its servers keeps a key."""

import threading
from typing import Any

import redis
from redis.cluster import ClusterNode, RedisCluster


class Cluster:
    """A client of a Redis Cluster that looks for its nodes when first used: the driver's own does so at once, and a
    service that starts while the store is away could not."""

    def __init__(self, url: str, places: list[ClusterNode], **options: Any) -> None:
        self._url = url
        self._places = places
        self._options = options
        self._client: RedisCluster | None = None
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._found(), name)

    def close(self) -> None:
        """Let go of all connections."""
        if self._client is not None:
            self._client.close()

    def _found(self) -> RedisCluster:
        with self._lock:
            if self._client is None:
                self._client = RedisCluster(url=self._url, startup_nodes=list(self._places), **self._options)
            return self._client


def home_of(client: Cluster, key: str) -> tuple[int, str | None, redis.Redis | None]:
    """The slot of `key`, and of the server that keeps it, as far as is known, name and client: None if nobody does."""
    slot = client.keyslot(key)
    keepers = client.nodes_manager.slots_cache.get(slot)
    return (slot, keepers[0].name, client.get_redis_connection(keepers[0])) if keepers else (slot, None, None)
