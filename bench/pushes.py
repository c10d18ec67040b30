"""Pushes/s: minted, and signed as they are; single and in batches; beside the bare signing rate."""

import queue
import re
import subprocess
import sys
import threading
from pathlib import Path
from time import perf_counter

from bench import load
from bench.client import Connection, request_text
from bench.load import BadLoad, Load
from bench.results import Results
from bench.servers import WORKERS, Web
from bench.service import ALGORITHMS, BANK, PROOF, Bench, basic
from bench.sets import event, secevent
from bench.sizes import Size
from harness import ROOT

PART = "pushes/s"
TPP = "pushed"
SETS, BATCH = f"/streams/{TPP}/sets", f"/streams/{TPP}/sets:batch"
BARE = "bare Flask"
CLIENTS = 8
FASTEST = 12_000
"""Single pushes/s that no machine of ours reaches: so many SETs are at hand for each second."""


def measure(bench: Bench, size: Size, results: Results) -> None:
    """Every round measures everything once."""
    bench.wire.make([TPP], PROOF)
    made = _file(bench.directory / "sets", int(FASTEST * (size.seconds + 0.5)))
    batches = _batches(size.batch, size.batches)
    for turn in range(size.rounds):
        _add(
            results, "signed, single", bench, _single(bench.web, _load("push", "application/secevent+jwt", made), size)
        )
        flask = Load("fixed", "/page/0", "{}")
        results.add(PART, BARE, load.run(bench.bare.url, flask, size.seconds), "/s")
        _add(results, "signed, batch", bench, _batch(bench.web, batches))
        for algorithm in ALGORITHMS if turn % 2 else ALGORITHMS[::-1]:
            web, bare = bench.webs[algorithm], f"bare signing with {algorithm}, {WORKERS} processes"
            minted = _load("fixed", "application/json", None, event().decode())
            _add(results, f"minted with {algorithm}, single", bench, _single(web, minted, size))
            lines = size.batch // (4 if algorithm == "PS256" else 1)
            rate = _batch(web, [b"\n".join([event()] * lines)] * size.batches)
            _add(results, f"minted with {algorithm}, batch", bench, rate)
            results.add(PART, bare, signing_rate(algorithm, size.seconds), "/s")


def _add(results: Results, name: str, bench: Bench, rate: float) -> None:
    results.add(PART, name, rate, "/s")
    bench.wire.clear(TPP)


def _load(script: str, content_type: str, file: Path | None, body: str | None = None) -> Load:
    return Load(script, SETS, body, content_type, basic(*BANK), file=file)


def _single(web: Web, asked: Load, size: Size) -> float:
    return load.run(web.url, asked, size.seconds)


def _file(path: Path, count: int) -> Path:
    path.write_text("".join(secevent(number, "p")[1] + "\n" for number in range(count)))
    return path


def _batches(lines: int, count: int) -> list[bytes]:
    return [
        "\n".join(secevent(number, "b")[1] for number in range(part * lines, (part + 1) * lines)).encode()
        for part in range(count)
    ]


def _batch(web: Web, bodies: list[bytes]) -> float:
    """SETs/s of so many batches, sent by a few clients at once, each batch on a connection of its own, so that the
    worker that is free takes it. Raises BadLoad unless each line was queued."""
    left: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    answers: list[bytes] = []
    for body in bodies:
        left.put(body)

    def send() -> None:
        while True:
            try:
                body = left.get_nowait()
            except queue.Empty:
                return
            connection = Connection(web.port)
            text = request_text(BATCH, body, "application/x-ndjson", basic(*BANK))
            answers.append(connection.ask_to_the_end(text))
            connection.close()

    clients = [threading.Thread(target=send, daemon=True) for _ in range(CLIENTS)]
    start = perf_counter()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    elapsed = perf_counter() - start
    wanted = sum(body.count(b"\n") + 1 for body in bodies)
    queued = sum(len(re.findall(rb'"status":20[12]\}', answer)) for answer in answers)
    if queued != wanted:
        raise BadLoad(f"{queued} of {wanted} lines of the batches were queued: {answers[:1]!r}"[:600])
    return wanted / elapsed


def signing_rate(algorithm: str, seconds: float) -> float:
    """SETs/s that as many processes sign as the service has workers, and do nothing else."""
    arguments = [sys.executable, "-m", "bench.signing", algorithm, str(seconds)]
    processes = [subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(WORKERS)]
    return sum(float(process.communicate(timeout=60 + seconds)[0]) for process in processes)
