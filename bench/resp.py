"""Redis, spoken to directly: a pipelining client, and the service's own Lua commands."""

import selectors
import socket
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from time import perf_counter, time
from typing import Any

import hiredis

from bench.sets import secevent
from eventpoll.store import keys
from eventpoll.store.records import Rules

LUA = Path(__file__).resolve().parent.parent / "eventpoll" / "store" / "lua"
RULES = Rules()
RETENTION, DEDUPE = round(RULES.retention * 1000), round(RULES.dedupe * 1000)


def clock() -> tuple[int, int]:
    """What the service tells of time: its clock, and how near the store's must be."""
    return round(time()), round(RULES.max_clock_skew)


class RedisError(Exception):
    """What Redis answered where it should not."""


def pack(*parts: object) -> bytes:
    """A command as Redis reads it."""
    texts = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    return b"*%d\r\n" % len(texts) + b"".join([b"$%d\r\n%b\r\n" % (len(text), text) for text in texts])


class Wire:
    """A connection on a Unix socket."""

    def __init__(self, path: str, db: int = 0) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.reader = hiredis.Reader()
        self.shas: dict[str, bytes] = {}
        self.ask("SELECT", db)
        for name in ("push", "poll", "configure"):
            self.shas[name] = self.ask("SCRIPT", "LOAD", (LUA / f"{name}.lua").read_text())

    def close(self) -> None:
        """Let go."""
        self.socket.close()

    def reply(self) -> Any:
        """The next reply. Raises RedisError."""
        while (found := self.reader.gets()) is False:
            part = self.socket.recv(262_144)
            if not part:
                raise RedisError("Redis closed the connection")
            self.reader.feed(part)
        if isinstance(found, Exception):
            raise RedisError(str(found))
        return found

    def ask(self, *parts: object) -> Any:
        """One command, and its reply."""
        self.socket.sendall(pack(*parts))
        return self.reply()

    def many(self, commands: Iterable[bytes], depth: int = 200) -> Iterator[Any]:
        """Commands as `pack` makes them, `depth` at a time; their replies."""
        rest, waited = iter(commands), 0
        while batch := list(islice(rest, depth)):
            self.socket.sendall(b"".join(batch))
            for _ in range(waited):  # of the batch before: Redis has the next one meanwhile
                yield self.reply()
            waited = len(batch)
        for _ in range(waited):
            yield self.reply()

    def info(self, section: str) -> dict[str, str]:
        """A section of INFO."""
        lines = self.ask("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    # -- the service's commands -------------------------------------------------------------------------------------

    def command(self, name: str, tpp: str, *args: object) -> bytes:
        """One of the Lua commands, as the service sends it."""
        return pack("EVALSHA", self.shas[name], len(keys.STREAM_KEYS), *keys.of(tpp), *args)

    def poll(self, tpp: str, most: int, acks: Iterable[Any] = (), proof: str = "", errors: Iterable[Any] = ()) -> bytes:
        """A poll with the service's own rules."""
        acks = list(acks)
        return self.command(
            "poll", tpp, proof, most, 0, 0, "park", RETENTION, DEDUPE, *clock(), "r", "0123", len(acks), *acks, *errors
        )

    def push(self, tpp: str, name: str, text: str) -> bytes:
        """A push as the service sends it."""
        return self.command("push", tpp, name, text, DEDUPE, RETENTION, 0, 0, 0, *clock())

    def make(self, tpps: Iterable[str], proof: str) -> None:
        """Streams with one secret."""
        for tpp in tpps:
            self.socket.sendall(pack("ZADD", keys.STREAMS, 0, tpp) + self.command("configure", tpp, proof))
            self.reply()
            self.reply()

    def fill(self, tpp: str, numbers: Iterable[int], letter: str = "s") -> int:
        """Push SETs; how many."""
        count = 0
        for reply in self.many(self.push(tpp, *secevent(number, letter)) for number in numbers):
            if reply[0] != b"queued":
                raise RedisError(f"pushed twice: {reply}")
            count += 1
        return count

    def copy(self, source: str, target: str) -> None:
        """Have what waits on one stream wait on another, which loses what it had. In one step: a poll of the load
        before may still be on its way."""
        commands = [pack("MULTI")]
        for key, old, new in zip(keys.STREAM_KEYS, keys.of(source), keys.of(target), strict=True):
            if key in ("pending", "sets"):
                commands.append(pack("COPY", old, new, "REPLACE"))
            elif key != "stream":
                commands.append(pack("DEL", new))
        list(self.many([*commands, pack("EXEC")]))

    def pending(self, tpp: str) -> int:
        """How many SETs wait that were never handed out."""
        return int(self.ask("ZCARD", keys.of(tpp)[1]))

    def clear(self, tpp: str) -> None:
        """Take everything from a stream but its settings."""
        self.ask("DEL", *keys.of(tpp)[1:-1])


def drive(path: str, tpp: str, proof: str, page: int, seconds: float, *, empty: bool = False) -> float:
    """Polls/s of the same Lua by a pipelining client, each with the acks of a page before. Raises RedisError."""
    connections, depth = 4, 8 if empty else 2
    seconds = max(seconds, page / 4000)  # the first answers take their time
    wires = [Wire(path) for _ in range(connections)]
    chosen = selectors.DefaultSelector()
    polls, start = 0, perf_counter()
    for wire in wires:
        chosen.register(wire.socket, selectors.EVENT_READ, wire)
        wire.socket.sendall(wire.poll(tpp, page, (), proof) * depth)
    while not polls or perf_counter() - start < seconds:  # a rate of 0 is no figure
        for key, _ in chosen.select(1):
            wire = key.data
            wire.reader.feed(wire.socket.recv(1_048_576))
            while (found := wire.reader.gets()) is not False:
                if isinstance(found, Exception) or len(found) != (5 if empty else 5 + 2 * page):
                    raise RedisError(f"{tpp} ran dry, or refused: {str(found)[:200]}")
                polls += 1
                wire.socket.sendall(wire.poll(tpp, page, found[5::2], proof))
    elapsed = perf_counter() - start
    for wire in wires:
        wire.close()
    return polls / elapsed
