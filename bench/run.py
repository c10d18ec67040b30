"""The benchmark: python -m bench.run. Each part measures its contenders in turn, in one run; the report tells."""

import argparse
import os
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from bench import fsync, growth, held, peers, polls, pushes, report, stored
from bench.results import Results
from bench.servers import Programs, raise_limits
from bench.service import Bench
from bench.sizes import SIZES, Size

PARTS: dict[str, Callable[[Bench, Size, Results], None]] = {
    "polls": polls.measure,
    "pushes": pushes.measure,
    "held polls": held.measure,
    "what SETs take, restarts, growth with what waits": stored.measure,
    "growth with streams": growth.streams,
    "appendfsync": fsync.measure,
    "peers": peers.measure,
}
RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
FILES_WANTED = 12_000


def main() -> None:
    """Measure everything, print the results, and write them."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    size = os.environ.get("BENCH") or "full"
    parser.add_argument("--size", choices=sorted(SIZES), default=size, help="full (12 minutes), short (2), smoke")
    parser.add_argument("--smoke", action="store_const", dest="size", const="smoke", help="the same as --size smoke")
    parser.add_argument("--output", type=Path, help="where to write the results, instead of bench/RESULTS.md")
    asked = parser.parse_args()
    if asked.size not in SIZES:
        parser.error(f"BENCH={asked.size}: one of {', '.join(SIZES)}")
    if not Path("/proc/self/schedstat").exists():
        parser.error("the benchmark reads /proc/PID/schedstat: it runs on Linux")
    files = raise_limits()
    if files < FILES_WANTED and asked.size == "full":
        parser.error(f"10 000 held polls want {FILES_WANTED} open files, and {files} are allowed: ulimit -n")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    text, good = run(SIZES[asked.size])
    print(text)
    if asked.output or asked.size == "full":
        report.save(text, asked.output or RESULTS)
    else:
        print(f"A look, not a measurement: {RESULTS.name} is left as it is. --output writes it elsewhere.")
    if not good:
        sys.exit("A part failed: see what stands under Not measured.")


def run(size: Size) -> tuple[str, bool]:
    """Every part; the report, and whether all went well."""
    results, programs, start = Results(), Programs(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        try:
            bench = Bench(programs, Path(name))
            server = bench.redis.name()
            for part, measure in PARTS.items():
                print(f"{time.monotonic() - start:6.1f} s  {part}", file=sys.stderr, flush=True)
                try:
                    measure(bench, size, results)
                except Exception as error:  # what the other parts measured is not lost
                    traceback.print_exc()
                    results.fail(part, error)
        finally:
            programs.end_all()
    command = shlex.join(["python", "-m", "bench.run", *sys.argv[1:]])
    if os.environ.get("BENCH"):
        command = f"BENCH={os.environ['BENCH']} {command}"
    return report.write(results, size, command, server, time.monotonic() - start), not results.failed


if __name__ == "__main__":
    main()
