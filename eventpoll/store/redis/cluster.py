"""Client of a Redis Cluster, and a lookup of the server that stores a key."""

import threading
from typing import Any

import redis
from redis.cluster import ClusterNode, RedisCluster


class Cluster:
    """A client of a Redis Cluster that discovers its nodes at first use.

    The driver's client does so in its constructor, so the service could not start while the store is unavailable.
    """

    def __init__(self, url: str, places: list[ClusterNode], **options: Any) -> None:
        self._url = url
        self._places = places
        self._options = options
        self._client: RedisCluster | None = None
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._found(), name)

    def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            self._client.close()

    def _found(self) -> RedisCluster:
        with self._lock:
            if self._client is None:
                self._client = RedisCluster(url=self._url, startup_nodes=list(self._places), **self._options)
            return self._client


def home_of(client: Cluster, key: str) -> tuple[int, str | None, redis.Redis | None]:
    """Return the slot of `key`, and the name and client of its server, both None if no server is known."""
    slot = client.keyslot(key)
    keepers = client.nodes_manager.slots_cache.get(slot)
    return (slot, keepers[0].name, client.get_redis_connection(keepers[0])) if keepers else (slot, None, None)
