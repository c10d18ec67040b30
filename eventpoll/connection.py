"""The way to Redis that REDIS_URL names; none named means the embedded server."""

from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from eventpoll.embedded import Embedded, NoServer

TIMEOUT_SECONDS = 5.0
"""How long one command may take before the caller is told that the store is away."""

MAX_CONNECTIONS = 64
"""Connections of one process; a request that finds none free waits for one."""


class EmbeddedConnection(redis.UnixDomainSocketConnection):
    """A connection that has the embedded server started where it does not answer."""

    def __init__(self, *, embedded: Embedded, **options: Any) -> None:
        super().__init__(path=embedded.path, **options)  # type: ignore[no-untyped-call]
        self._embedded = embedded

    def _connect(self) -> Any:
        self._embedded.join()
        try:
            return super()._connect()  # type: ignore[no-untyped-call]
        except OSError:
            try:
                self._embedded.ensure()
            except NoServer as error:
                raise redis.ConnectionError(str(error)) from None
            return super()._connect()  # type: ignore[no-untyped-call]


def options() -> dict[str, Any]:
    """What every connection of ours has: a command whose answer was lost is never repeated by the driver."""
    return {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        "protocol": 2,
    }


def connect(url: str | None, data_dir: Path) -> redis.Redis:
    """A client for the store; opens no connection yet."""
    pool_options = {**options(), "max_connections": MAX_CONNECTIONS, "timeout": TIMEOUT_SECONDS}
    if url is None:
        pool = redis.BlockingConnectionPool(  # type: ignore[no-untyped-call]
            connection_class=EmbeddedConnection, embedded=Embedded(data_dir), **pool_options
        )
    else:
        pool = redis.BlockingConnectionPool.from_url(url, **pool_options)
    return redis.Redis(connection_pool=pool)
