"""What SETs take in the store: bytes in each state, on the disk, and the time of a restart."""

import shutil
import signal
from time import perf_counter

from bench import growth
from bench.resp import RedisError
from bench.results import Results
from bench.servers import Redis, Web
from bench.service import PROOF, Bench, environ
from bench.sets import SET_CHARACTERS
from bench.sizes import Size
from eventpoll.store.redis.embedded import shipped
from harness.waiting import wait_for

MEMORY, FILE = "Redis' bytes for a SET, against its size", "append-only file"
APPENDED, REWRITTEN = "as appended", "rewritten"
TPP = "stored"
CHUNK = 500
ERROR = '{"err":"jwtAud","description":"not for us"}'


def restart_name(how: str) -> str:
    """A line's name."""
    return f"restart after kill -9, to ready, file {how}"


def measure(bench: Bench, size: Size, results: Results) -> None:
    """On the server of PATH, with growth while the SETs are there; then on the one that comes with pip."""
    count = size.waiting[-1]
    redis = Redis(bench.programs, bench.directory / "stored")
    web = Web(bench.programs, bench.directory / "stored-web", environ(redis)).ready()
    _load(redis, count, results)
    _restart(redis, web, count, APPENDED, results)
    redis.wire.ask("BGREWRITEAOF")
    wait_for(lambda: _written(redis), 120, 0.05)
    _restart(redis, web, count, REWRITTEN, results)
    copied = bench.directory / "embedded"
    shutil.copytree(redis.directory / "appendonlydir", copied / "appendonlydir")
    growth.waiting(redis, web, TPP, size, results)
    web.end()
    _states(redis, results)
    redis.end()
    shutil.rmtree(redis.directory)
    _shipped(bench, shipped(), redis, count, results)
    shutil.rmtree(copied)


def _shipped(bench: Bench, program: str | None, other: Redis, count: int, results: Results) -> None:
    """It reads the other server's file: that spares pushing everything again."""
    if program in (None, other.program):
        results.leave_out(f"{MEMORY}: a second server", "only one is here: on PATH, or of pip's package")
        return
    redis = Redis(bench.programs, bench.directory / "embedded", program)
    if redis.wire.pending(TPP) != count:
        raise RedisError(f"{redis.name()} read {redis.wire.pending(TPP)} of {count} SETs")
    pending = redis.memory()
    _states(redis, results)
    redis.wire.ask("FLUSHALL", "SYNC")
    _add(results, "pending", redis, pending - redis.memory(), count)
    redis.end()


def _load(redis: Redis, count: int, results: Results) -> None:
    before, start = redis.memory(), perf_counter()
    redis.wire.make([TPP], PROOF)
    redis.wire.fill(TPP, range(count), "m")
    results.add(FILE, "pushed straight into Redis", count / (perf_counter() - start), "/s")
    _add(results, "pending", redis, redis.memory() - before, count)


def _restart(redis: Redis, web: Web, count: int, how: str, results: Results) -> None:
    """Ready is when the service says so again, and every SET is there."""
    redis.wire.ask("CONFIG", "SET", "appendfsync", "always")  # else the kill takes what was held back
    redis.wire.ask("SET", "last", "")
    results.add(FILE, f"bytes for a SET, {how}, against its size", redis.file_bytes() / count / SET_CHARACTERS, "×")
    redis.end(signal.SIGKILL)
    start = perf_counter()
    redis.start()
    wait_for(lambda: web.answers("/readyz"), 60, 0.005)
    results.add(FILE, restart_name(how), perf_counter() - start, "s")
    if redis.wire.pending(TPP) != count:
        raise RedisError(f"{redis.wire.pending(TPP)} of {count} SETs are there after the restart")


def _written(redis: Redis) -> bool:
    told = redis.wire.info("persistence")
    return told["aof_rewrite_in_progress"] == told["aof_rewrite_scheduled"] == "0"


def _states(redis: Redis, results: Results) -> None:
    """Hand all out, then have all reported: what each SET takes more than before."""
    wire = redis.wire
    count, before = wire.pending(TPP), redis.memory()
    jtis: list[bytes] = []
    while wire.pending(TPP):
        for reply in wire.many([wire.poll(TPP, min(CHUNK, wire.pending(TPP)))]):
            jtis += reply[5::2]
    _add(results, "in flight, more", redis, redis.memory() - before, count)
    before = redis.memory()
    for first in range(0, len(jtis), CHUNK):
        some = jtis[first : first + CHUNK]
        errors = [part for jti in some for part in (jti, ERROR)]
        for reply in wire.many([wire.poll(TPP, 0, errors=errors)]):
            if reply[4] != len(some):
                raise RedisError(f"{reply[4]} of {len(some)} were parked")
    _add(results, "parked with an error, more than in flight", redis, redis.memory() - before, count)


def _add(results: Results, state: str, redis: Redis, size: int, count: int) -> None:
    results.add(MEMORY, f"{state}, {redis.name()}", size / count / SET_CHARACTERS, "×")
