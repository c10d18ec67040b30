"""What the Redis servers say of themselves: version, clock, persistence."""

from typing import Any

import redis

from eventpoll.store.errors import errors
from eventpoll.store.records import Facts
from eventpoll.store.redis.connection import nodes


def facts(client: redis.Redis) -> list[Facts]:
    """Return the facts of each server that stores streams, several on a Cluster. Raises Unavailable."""
    with errors():
        return [_facts(server) for server in nodes(client)]


def _facts(server: redis.Redis) -> Facts:
    told = server.info("server")
    seconds, micros = server.time()
    try:
        found = server.config_get("appendonly", "appendfsync", "maxmemory", "maxmemory-policy")
    except redis.ResponseError:  # managed services and strict ACLs forbid CONFIG
        found = {}
    settings = {_word(name): _word(value) for name, value in found.items() if value is not None}
    name = "Valkey" if "valkey_version" in told else "Redis"
    version = _word(told.get("valkey_version", told.get("redis_version")))
    program = _word(told.get("executable", ""))
    return Facts(name, version, int(seconds) + int(micros) / 1e6, settings, program)


def _word(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
