"""Peers that come as packages, at the same work: moto's SQS, and webdis, which has no semantics at all."""

import http.client
import json
import os
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

from bench import load, polls
from bench.client import jtis, poll_body
from bench.load import BadLoad, Load
from bench.results import Results
from bench.service import PROOF, Bench, basic
from bench.sets import secevent
from bench.sizes import Size
from harness import ROOT
from harness.ports import free_port
from harness.waiting import wait_for

PART = "peers"
MADE = ROOT / ".venv" / "bench"
PAGE = 10  # the most that SQS gives
OURS, MOTO = "SETs delivered and acked, one client", "moto's SQS: the same, one client"
FLOOR, FLOOR_TEN = "webdis: PING", "webdis: LRANGE of ten"
EMPTY, TEN = "eventpoll: empty poll", "eventpoll: ten a poll, with acks"
SEND_SECONDS = 30.0


class Client:
    """One client, one request at a time; it connects anew where it is hung up on."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """The body of the answer. Raises BadLoad where it is not 200."""
        self.connection.request("POST", path, body, dict(headers))
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise BadLoad(f"{path}: {answer.status} {text[:300]!r}")
        return text


def measure(bench: Bench, size: Size, results: Results) -> None:
    """Every round measures everything once; what is not installed is said."""
    wire = bench.wire
    wire.make((polls.TPP, polls.FEW), PROOF)
    steps: list[tuple[str, Callable[[], float]]] = [(OURS, _ours(bench, size))]
    moto, webdis = MADE / "bin" / "moto_server", MADE / "webdis" / "usr" / "bin" / "webdis"
    reason = ".venv/bench is not made: bench/install.sh makes it, and `make bench` runs that"
    if moto.exists():
        steps.append((MOTO, _moto(bench, moto, size)))
    else:
        results.leave_out(MOTO, reason)
    if webdis.exists():
        steps += _floor(bench, webdis, size)
    else:
        results.leave_out(FLOOR, reason)
    for turn in range(size.rounds):
        first = turn % len(steps)
        for name, step in [*steps[first:], *steps[:first]]:
            results.add(PART, name, step(), "/s")
    for tpp in (polls.TPP, polls.FEW):
        wire.clear(tpp)


def _ours(bench: Bench, size: Size) -> Callable[[], float]:
    client, headers = Client(bench.web.port), {"Authorization": basic(polls.TPP), "Content-Type": "application/json"}

    def step() -> float:
        settled, elapsed = 0, 0.0
        while elapsed < size.seconds:
            bench.wire.clear(polls.FEW)
            bench.wire.fill(polls.FEW, range(size.peer_sets))
            bench.wire.copy(polls.FEW, polls.TPP)
            start = perf_counter()
            acks = b""
            for _ in range(size.peer_sets // PAGE):
                found = jtis(client.ask("/events", poll_body(PAGE, acks), headers), PAGE)
                acks, settled = b",".join(found), settled + len(found)
            client.ask("/events", poll_body(0, acks), headers)
            elapsed += perf_counter() - start
        return settled / elapsed

    return step


def _moto(bench: Bench, program: Path, size: Size) -> Callable[[], float]:
    """The queue holds as many as our stream, or what can be sent to it in half a minute: it is slower with each."""
    port = free_port()
    running = bench.programs.start([str(program), "-H", "127.0.0.1", "-p", str(port)], bench.directory)
    client = Client(port)
    scope = "AWS4-HMAC-SHA256 Credential=bench/20260101/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=0"

    def ask(action: str, **members: object) -> Any:
        headers = {
            "Content-Type": "application/x-amz-json-1.0",
            "X-Amz-Target": f"AmazonSQS.{action}",
            "Authorization": scope,
        }
        return json.loads(client.ask("/", json.dumps(members).encode(), headers) or b"{}")

    def up() -> bool:
        running.check()
        try:
            ask("ListQueues")
        except OSError:
            client.connection.close()
            return False
        return True

    wait_for(up, 60, 0.1)
    names = (f"bench-{number}" for number in count())

    def step() -> float:
        url = ask("CreateQueue", QueueName=next(names))["QueueUrl"]
        start = perf_counter()
        for first in range(0, size.peer_sets, PAGE):
            entries = [{"Id": str(n), "MessageBody": secevent(first + n)[1]} for n in range(PAGE)]
            ask("SendMessageBatch", QueueUrl=url, Entries=entries)
            if perf_counter() - start > SEND_SECONDS:
                break
        settled, start = 0, perf_counter()
        while settled < size.peer_sets and (perf_counter() - start < 3 * size.seconds or not settled):
            found = ask("ReceiveMessage", QueueUrl=url, MaxNumberOfMessages=PAGE).get("Messages")
            if not found:
                break
            entries = [{"Id": str(n), "ReceiptHandle": one["ReceiptHandle"]} for n, one in enumerate(found)]
            ask("DeleteMessageBatch", QueueUrl=url, Entries=entries)
            settled += len(found)
        if not settled:
            raise BadLoad("moto handed out nothing")
        rate = settled / (perf_counter() - start)
        ask("DeleteQueue", QueueUrl=url)
        return rate

    return step


def _floor(bench: Bench, program: Path, size: Size) -> list[tuple[str, Callable[[], float]]]:
    """webdis on the same Redis, beside our polls under the same load."""
    port, wire = free_port(), bench.wire
    settings = {"redis_host": bench.redis.path, "http_host": "127.0.0.1", "http_port": port, "threads": 2}
    file = bench.directory / "webdis.json"
    file.write_text(json.dumps({**settings, "daemonize": False, "verbosity": 0, "logfile": os.devnull}))
    libraries = ":".join(str(path) for path in sorted((MADE / "webdis" / "usr" / "lib").glob("*-linux-*")))
    running = bench.programs.start([str(program), str(file)], bench.directory, {"LD_LIBRARY_PATH": libraries})
    url = f"http://127.0.0.1:{port}"
    wire.ask("DEL", "floor")
    wire.ask("RPUSH", "floor", *(secevent(number)[1] for number in range(PAGE)))
    asked = {page: polls.loads(page)["RFC 8936, Basic"] for page in (0, PAGE)}

    def up() -> bool:
        running.check()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/LRANGE/floor/0/9")
            return len(connection.getresponse().read()) > PAGE * 1000
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    wait_for(up, 20, 0.05)

    def ten() -> float:
        wire.clear(polls.FEW)
        wire.fill(polls.FEW, range(size.few_sets))
        wire.copy(polls.FEW, polls.TPP)
        return load.run(bench.web.url, asked[PAGE], size.seconds)

    def empty() -> float:
        wire.clear(polls.TPP)
        return load.run(bench.web.url, asked[0], size.seconds)

    return [
        (FLOOR, lambda: load.run(url, Load("fixed", "/PING"), size.seconds)),
        (EMPTY, empty),
        (FLOOR_TEN, lambda: load.run(url, Load("fixed", "/LRANGE/floor/0/9"), size.seconds)),
        (TEN, ten),
    ]
