"""Run the Lua commands on the server that stores a stream's keys: by SHA, in one round trip, never twice."""

import hashlib
import importlib.resources
from collections.abc import Sequence
from typing import Any

import redis
from gevent import monkey
from redis.exceptions import AskError, MovedError, NoScriptError, TryAgainError

from eventpoll.store import keys
from eventpoll.store.errors import Unavailable, errors
from eventpoll.store.redis.circuit_breaker import Circuit
from eventpoll.store.redis.connection import node_of, seek
from eventpoll.store.redis.pipelined import Command, RoundTrips

NAMES = (
    "push",
    "poll",
    "prove",
    "configure",
    "rotate",
    "status",
    "peek",
    "find",
    "requeue",
    "discard",
    "sweep",
    "forget",
)

NOT_RUN = (NoScriptError, MovedError, AskError, TryAgainError)
"""Error replies that prove that nothing was run: the server lacks the script, or does not store the keys."""

Argument = str | int | bytes


class Commands:
    """Runs the commands in eventpoll/store/lua by name."""

    def __init__(self, client: redis.Redis, *, fast_path: bool = True) -> None:
        self._client = client
        short = fast_path and monkey.is_module_patched("socket") and RoundTrips.serve(client)
        self._trips = RoundTrips(client) if short else None
        self._bulk = RoundTrips(client) if short else None  # a second connection, so that no poll waits behind a batch
        self._circuit = Circuit()
        lua = importlib.resources.files("eventpoll.store") / "lua"
        self.texts = {name: (lua / f"{name}.lua").read_text(encoding="utf-8") for name in NAMES}
        self.shas = {name: hashlib.sha1(text.encode()).hexdigest() for name, text in self.texts.items()}  # noqa: S324

    def run(self, name: str, tpp: str, *arguments: Argument) -> Any:
        """Run a command on a stream. Raises Unavailable, or the class of the command's named error."""
        names = keys.of(tpp)
        with errors(), self._circuit:
            try:
                return self._ask("EVALSHA", self.shas[name], len(names), *names, *arguments)
            except NoScriptError:  # the server lost its scripts (restart, flush) and ran nothing
                return self._ask("EVAL", self.texts[name], len(names), *names, *arguments)

    def fields(self, tpp: str, *names: str) -> list[bytes | None]:
        """Return some fields of a stream, None for a field that is not set. Uses no script. Raises Unavailable."""
        with errors(), self._circuit:
            found: list[bytes | None] = self._ask("HMGET", keys.of(tpp)[0], *names)
            return found

    def read(self, tpp: str, *asked: tuple[str, str, Sequence[str]]) -> list[Any]:
        """Run plain commands in one round trip. Return their replies in order.

        Each command is (command, key, arguments), where `key` is a name of keys.STREAM_KEYS.
        If the server refuses a command, its reply is the error. Raises Unavailable.
        """
        names = dict(zip(keys.STREAM_KEYS, keys.of(tpp), strict=True))
        commands: list[Command] = [(command, names[key], *arguments) for command, key, arguments in asked]
        with errors(), self._circuit:
            return self._ask_many(node_of(self._client, names["stream"]), commands, False)

    def run_many(
        self, name: str, calls: Sequence[tuple[str, Sequence[Argument]]], replicas: int = 0, wait_ms: int = 0
    ) -> list[Any]:
        """Run a command for each stream and its arguments, in one round trip to each server.

        Return the replies in order. If a command fails, its reply is the error.
        With `replicas`, that many replicas must have every write within `wait_ms` milliseconds. Raises Unavailable.
        """
        replies: list[Any] = [None] * len(calls)
        with errors(), self._circuit:
            for again in (False, True):
                for server, places in self._by_server(calls, replies).values():
                    asked: list[Command] = [("SCRIPT", "LOAD", self.texts[name])] if again else []
                    for place in places:
                        names = keys.of(calls[place][0])
                        asked.append(("EVALSHA", self.shas[name], len(names), *names, *calls[place][1]))
                    if replicas:
                        asked.append(("WAIT", replicas, wait_ms))
                    told = self._ask_many(server, asked, replicas > 0)[again:]
                    for place, reply in zip(places, told, strict=False):
                        replies[place] = reply
                    if replicas and not any(isinstance(reply, NOT_RUN) for reply in told):
                        _want(replicas, told[-1])
        return replies

    def _by_server(
        self, calls: Sequence[tuple[str, Sequence[Argument]]], replies: list[Any]
    ) -> dict[int, tuple[redis.Redis, list[int]]]:
        """Return the indexes of the calls that have not run, grouped by the server that they are for."""
        found: dict[int, tuple[redis.Redis, list[int]]] = {}
        for place, reply in enumerate(replies):
            if reply is None or isinstance(reply, NOT_RUN):
                server = node_of(self._client, keys.of(calls[place][0])[0])
                found.setdefault(id(server), (server, []))[1].append(place)
        return found

    def _ask(self, *command: Argument) -> Any:
        if self._trips is not None:
            return self._trips.ask(*command)
        return self._client.execute_command(*command)  # type: ignore[no-untyped-call]

    def _ask_many(self, server: redis.Redis, commands: Sequence[Command], waits: bool) -> list[Any]:
        if self._bulk is not None and not waits:
            return self._bulk.ask_many(commands)
        pipeline = server.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
        try:
            replies: list[Any] = pipeline.execute(raise_on_error=False)
        except (redis.ConnectionError, redis.TimeoutError):
            seek(self._client)
            raise
        if any(isinstance(reply, MovedError) for reply in replies):
            seek(self._client)
        return replies


def _want(replicas: int, have: Any) -> None:
    if isinstance(have, Exception):
        raise have
    if have < replicas:
        raise Unavailable(f"{have} of the {replicas} replicas that are wanted have it")
