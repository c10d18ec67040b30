"""Which server had the embedded store best run: `python -m bench.embedded [PROGRAM…]` compares those that are here.

Each takes its turn in each round, with the embedded store's settings, one command at a time as a small bank's service
sends them. Times are the server's own processor time, which neighbours on the machine disturb least. The medians of the
rounds are printed, and how the others stand to the first.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

from bench.resp import RedisError
from bench.servers import Programs, Redis
from bench.service import PROOF
from bench.sets import SET_CHARACTERS, secevent
from eventpoll.store.redis.embedded import programs

ROUNDS, PUSHES, SETS, PAGE = 7, 2_000, 20_000, 10
TPP = "embedded"


def turn(redis: Redis) -> Iterator[tuple[str, float]]:
    """One round of one server: what was measured, and the figure."""
    wire = redis.wire
    wire.ask("CONFIG", "SET", "appendfsync", "always")
    wire.make([TPP], PROOF)
    start, used = perf_counter(), cpu(redis)
    for number in range(PUSHES):
        wire.socket.sendall(wire.push(TPP, *secevent(number)))
        if wire.reply()[0] != b"queued":
            raise RedisError("pushed twice")
    yield "pushes/s, one after the other", PUSHES / (perf_counter() - start)
    yield "push, µs", (cpu(redis) - used) / PUSHES * 1e6
    wire.clear(TPP)
    memory, held = redis.memory(), resident(redis)
    wire.fill(TPP, range(SETS), "h")
    yield "memory for a waiting SET, against its size", (redis.memory() - memory) / SETS / SET_CHARACTERS
    yield "the same, as the system counts it", (resident(redis) - held) / SETS / SET_CHARACTERS
    used, polls = cpu(redis), 0
    acks: list[bytes] = []
    while wire.pending(TPP) > SETS // 2:
        wire.socket.sendall(wire.poll(TPP, PAGE, acks, PROOF))
        acks = wire.reply()[5::2]
        polls += 1
    yield f"poll of {PAGE} with acks, µs", (cpu(redis) - used) / polls * 1e6
    wire.clear(TPP)
    used = cpu(redis)
    for _ in range(SETS):
        wire.socket.sendall(wire.poll(TPP, PAGE, (), PROOF))
        wire.reply()
    yield "empty poll, µs", (cpu(redis) - used) / SETS * 1e6


def cpu(redis: Redis) -> float:
    """Seconds of processor time that the server has used."""
    told = redis.wire.info("cpu")
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


def resident(redis: Redis) -> int:
    """Bytes of memory that it occupies."""
    return int(redis.wire.info("memory")["used_memory_rss"])


def main() -> None:
    """Measure, and print a table."""
    here = sys.argv[1:] or list(programs().values())
    running, names = Programs(), {}
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(ROUNDS):
        for program in here:
            with tempfile.TemporaryDirectory() as place:
                redis = Redis(running, Path(place), program)
                names[program] = f"{redis.name()}, {redis.wire.info('memory')['mem_allocator']}"
                for what, figure in turn(redis):
                    found.setdefault(what, {}).setdefault(program, []).append(figure)
                redis.end()
    width = max(map(len, found))
    for program in here:
        print(f"{names[program]}: {shutil.which(program) or program}")
    for what, figures in found.items():
        middle = [median(figures[program]) for program in here]
        print(f"{what:{width}}", *(f"{figure:12.2f} ({figure / middle[0]:.2f}×)" for figure in middle))


if __name__ == "__main__":
    main()
