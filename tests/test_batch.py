"""POST /streams/{tpp}/sets:batch over real sockets: a line in, a line out, as they come."""

import http.client
import json
import re
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.programs import children
from harness.redis_servers import RedisServer
from harness.service import BANK, Reply, Server, basic
from harness.sets import set_of
from harness.waiting import wait_for

NDJSON = {"Content-Type": "application/x-ndjson"}
MEBIBYTE = 1_048_576


def event(jti: str, name: str = "urn:test:event") -> str:
    return json.dumps({"jti": jti, "events": {name: {}}})


def batch(server: Server, tpp: str, lines: Iterable[str], **headers: str) -> Reply:
    body = "".join(f"{line}\n" for line in lines)
    return server.request("POST", f"/streams/{tpp}/sets:batch", body, {**NDJSON, **headers}, BANK)


def results(reply: Reply) -> list[dict[str, Any]]:
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in reply.body.splitlines()]


class Exchange:
    """A batch that is sent in pieces (chunked, RFC 9112 section 7.1) while its results are read."""

    def __init__(self, server: Server, tpp: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=40)
        self.connection.putrequest("POST", f"/streams/{tpp}/sets:batch")
        for name, value in {**NDJSON, "Authorization": basic(*BANK), "Transfer-Encoding": "chunked"}.items():
            self.connection.putheader(name, value)
        self.connection.endheaders()
        assert self.connection.sock is not None
        self.socket: socket.socket = self.connection.sock
        self.answer: http.client.HTTPResponse | None = None

    def send(self, text: str) -> None:
        self.socket.sendall(f"{len(text.encode()):x}\r\n{text}\r\n".encode())

    def end(self) -> None:
        self.socket.sendall(b"0\r\n\r\n")

    def result(self) -> dict[str, Any] | None:
        """The next result, None after the last."""
        if self.answer is None:
            self.answer = self.connection.getresponse()
            assert self.answer.status == 200
        line = self.answer.readline()
        return dict(json.loads(line)) if line else None

    def reset(self) -> None:
        """Cut the connection off, as a crash or a firewall does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


@contextmanager
def exchange(server: Server, tpp: str) -> Iterator[Exchange]:
    opened = Exchange(server, tpp)
    try:
        yield opened
    finally:
        opened.connection.close()


def stored(server: Server, tpp: str) -> dict[str, str]:
    """What the TPP is handed, without acknowledging it."""
    sets: dict[str, str] = server.poll(tpp, {"returnImmediately": True, "maxEvents": 1000}).json["sets"]
    return sets


def test_each_line_has_its_own_result_in_order(shared_server: Server) -> None:
    """decisions.md, "Batch": JSON events and signed SETs mixed, good and bad; a bad line hurts no other."""
    shared_server.tpp("batch-mixed")
    signed = set_of("b-signed")
    told = results(
        batch(
            shared_server,
            "batch-mixed",
            [
                event("b-1"),
                signed,
                "nonsense",
                event("b-1"),
                event("b-1", "urn:other"),
                f'"{signed}"',
                set_of("b-signed", {"urn:other": {}}),
                '{"events": {}}',
                '{"events": {"urn:a": {}}, "what": 1}',
                event("b-2"),
                "[]",
                '{"events": {"urn:a": NaN}}',
                '{"events": {"urn:a": {}}}',
            ],
        )
    )
    assert [line["status"] for line in told] == [201, 202, 400, 200, 409, 202, 409, 400, 400, 201, 400, 400, 201]
    assert [line.get("jti") for line in told[:2]] == ["b-1", "b-signed"]
    for line in told:
        assert set(line) == ({"jti", "status"} if line["status"] < 300 else {"status", "err", "description"})
    assert set(stored(shared_server, "batch-mixed")) == {"b-1", "b-signed", "b-2", told[-1]["jti"]}
    assert stored(shared_server, "batch-mixed")["b-signed"] == signed


@pytest.mark.parametrize("line", ["x" * 2000, '{"a": ' * 2000, "\x00", "ä" * 10, '"', '""', "{", "a.b.c", "\ufeff{}"])
def test_no_line_breaks_the_batch(shared_server: Server, line: str) -> None:
    """Whatever stands in a line, it is refused alone, with 400, and its neighbours are pushed."""
    tpp = f"batch-odd-{sum(line.encode())}"
    shared_server.tpp(tpp)
    told = results(batch(shared_server, tpp, [event("before"), line, event("after")]))
    assert [each["status"] for each in told] == [201, 400, 201]


def test_blank_lines_are_passed_over_and_the_last_needs_no_end(shared_server: Server) -> None:
    """Blank lines, CRLF and a last line without an end are what real files hold."""
    shared_server.tpp("batch-blank")
    body = f"\n  \n{event('a')}\r\n\r\n\t\n{event('b')}"
    reply = shared_server.request("POST", "/streams/batch-blank/sets:batch", body, NDJSON, BANK)
    assert [(each["jti"], each["status"]) for each in results(reply)] == [("a", 201), ("b", 201)]
    assert results(batch(shared_server, "batch-blank", [])) == []


@pytest.mark.parametrize(
    ("tpp", "headers", "auth", "status"),
    [
        ("batch-refused", {"Content-Type": "application/json"}, BANK, 415),
        ("batch-refused", {}, BANK, 415),
        ("batch-nobody", NDJSON, BANK, 404),
        ("batch refused", NDJSON, BANK, 400),
        ("batch-refused", NDJSON, None, 401),
        ("batch-refused", NDJSON, ("bank", "wrong"), 401),
    ],
)
def test_a_batch_that_cannot_begin_is_refused_as_a_whole(
    shared_server: Server, tpp: str, headers: dict[str, str], auth: tuple[str, str] | None, status: int
) -> None:
    """decisions.md, "Errors of the bank's calls": said before the first line, with err and description."""
    shared_server.bank("PUT", "/streams/batch-refused", {})
    path = f"/streams/{tpp.replace(' ', '%20')}/sets:batch"
    reply = shared_server.request("POST", path, event("x"), headers, auth)
    assert reply.status == status
    assert set(reply.json) == {"err", "description"}


def test_a_tpp_may_not_push(shared_server: Server) -> None:
    """interface.md: the bank's calls are for the bank."""
    secret = shared_server.tpp("batch-tpp")
    reply = shared_server.request("POST", "/streams/batch-tpp/sets:batch", event("x"), NDJSON, ("batch-tpp", secret))
    assert reply.status == 403
    assert stored(shared_server, "batch-tpp") == {}


def test_a_batch_has_at_most_10_000_lines(shared_server: Server) -> None:
    """decisions.md, "Batch": 10 000 lines are worked on; the next is refused, and nothing after it is read."""
    shared_server.tpp("batch-lines")
    lines = ["x"] * 9_999 + [event("last")]
    assert [each["status"] for each in results(batch(shared_server, "batch-lines", lines))][-2:] == [400, 201]
    told = results(batch(shared_server, "batch-lines", [*lines[:-1], event("10 000"), event("10 001"), event("never")]))
    assert len(told) == 10_001
    assert (told[9_999]["jti"], told[9_999]["status"]) == ("10 000", 201)
    assert (told[10_000]["status"], told[10_000]["err"]) == (413, "invalid_request")
    assert set(stored(shared_server, "batch-lines")) == {"last", "10 000"}


def test_more_than_16_mebibytes_are_refused_before_they_are_sent(shared_server: Server) -> None:
    """decisions.md, "Batch": 413 where Content-Length says so (RFC 9110 section 15.5.14)."""
    shared_server.tpp("batch-length")
    connection = http.client.HTTPConnection("127.0.0.1", shared_server.port, timeout=20)
    connection.putrequest("POST", "/streams/batch-length/sets:batch")
    sent = {**NDJSON, "Authorization": basic(*BANK), "Content-Length": str(16 * MEBIBYTE + 1)}
    for name, value in sent.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert set(json.loads(answer.read())) == {"err", "description"}
    connection.close()


def test_more_than_16_mebibytes_in_chunks_are_refused_where_they_begin(shared_server: Server) -> None:
    """The same where no length was given: the lines before have their results."""
    shared_server.tpp("batch-bytes")
    with exchange(shared_server, "batch-bytes") as sent:
        sent.send(event("first") + "\n")
        for _ in range(16):
            sent.send("x" * MEBIBYTE)
            sent.send("\n")
        told = []
        while line := sent.result():
            told.append(line)
    assert told[0] == {"jti": "first", "status": 201}
    assert told[-1]["status"] == 413
    assert [line["status"] for line in told[1:-1]] == [400] * (len(told) - 2)


def test_a_line_that_is_too_long_hurts_no_other(shared_server: Server) -> None:
    """A line has at most 1 MiB; those before it and behind it are pushed and told."""
    shared_server.tpp("batch-long")
    lines = [event(f"l-{number}") for number in range(53)]
    told = results(batch(shared_server, "batch-long", [*lines, "x" * (MEBIBYTE + 1), event("after")]))
    assert [line["status"] for line in told] == [201] * 53 + [413, 201]
    assert len(stored(shared_server, "batch-long")) == 54


def test_results_come_while_lines_are_still_sent(shared_server: Server) -> None:
    """decisions.md, "Batch": read and answered as a stream; here the last line is sent after the first result."""
    shared_server.tpp("batch-stream")
    with exchange(shared_server, "batch-stream") as sent:
        sent.send("".join(set_of(f"s-{number}") + "\n" for number in range(20)))
        assert sent.result() == {"jti": "s-0", "status": 202}
        assert sent.result() == {"jti": "s-1", "status": 202}
        halves = set_of("s-last")
        sent.send(halves[:50])
        sent.send(halves[50:] + "\n")
        sent.end()
        told: list[dict[str, Any]] = [{}, {}]
        while line := sent.result():
            told.append(line)
    assert len(told) == 21
    assert told[-1] == {"jti": "s-last", "status": 202}


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_batch_that_was_cut_is_sent_again_and_each_jti_is_there_once(
    shared_server: Server, chunked: bool, reset: bool
) -> None:
    """Issue 3, "What it must show". The cut falls into the signature of a SET: a piece of it must never be queued."""
    tpp = f"batch-cut-{chunked}-{reset}"
    shared_server.tpp(tpp)
    sets = {f"c-{number:03}": set_of(f"c-{number:03}") for number in range(130)}
    body = "".join(f"{text}\n" for text in sets.values())
    cut = body.index(sets["c-110"]) + len(sets["c-110"]) - 4
    if chunked:
        opened = Exchange(shared_server, tpp)
        opened.send(body[:cut])
    else:
        opened = Exchange.__new__(Exchange)
        opened.socket = socket.create_connection(("127.0.0.1", shared_server.port), 20)
        opened.connection = http.client.HTTPConnection("127.0.0.1", shared_server.port)
        opened.connection.sock = opened.socket
        head = f"POST /streams/{tpp}/sets:batch HTTP/1.1\r\nHost: x\r\nAuthorization: {basic(*BANK)}\r\n"
        head += f"Content-Type: application/x-ndjson\r\nContent-Length: {len(body)}\r\n\r\n"
        opened.socket.sendall((head + body[:cut]).encode())
    wait_for(lambda: shared_server.bank("GET", f"/streams/{tpp}").json["pending"] >= 50)
    if reset:
        opened.reset()
    else:
        opened.socket.shutdown(socket.SHUT_WR)
        wait_for(lambda: not opened.socket.recv(65536), 20)
        opened.connection.close()
    told = results(batch(shared_server, tpp, sets.values()))
    assert [(line.get("jti"), line["status"]) for line in told] == [(jti, 202) for jti in sets]
    assert stored(shared_server, tpp) == sets
    assert shared_server.bank("GET", f"/streams/{tpp}").json["pushed"] == 130


def test_minted_events_with_a_jti_are_safe_to_send_again(shared_server: Server) -> None:
    """decision 18: 201 the first time, 200 the second, also after the ack."""
    shared_server.tpp("batch-again")
    lines = [event(f"m-{number}") for number in range(60)]
    assert {line["status"] for line in results(batch(shared_server, "batch-again", lines))} == {201}
    acks = list(stored(shared_server, "batch-again"))[:30]
    shared_server.poll("batch-again", {"ack": acks, "maxEvents": 0, "returnImmediately": True})
    assert {line["status"] for line in results(batch(shared_server, "batch-again", lines))} == {200}
    assert len(stored(shared_server, "batch-again")) == 30


def test_a_full_stream_refuses_line_by_line(shared_server: Server) -> None:
    """Issue 3, "Retention": max_pending refuses with 429, and drops nothing."""
    shared_server.tpp("batch-full", max_pending=3)
    lines = [event(f"f-{number}") for number in range(5)]
    assert [line["status"] for line in results(batch(shared_server, "batch-full", lines))] == [201, 201, 201, 429, 429]
    assert set(stored(shared_server, "batch-full")) == {"f-0", "f-1", "f-2"}


def memory(server: Server) -> int:
    """The most memory, in kB, that any worker has had so far (VmHWM, proc(5))."""
    workers = children(server.process.pid)
    sizes = [re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{worker}/status").read_text()) for worker in workers]
    return max(int(size[1]) for size in sizes if size)


def test_the_memory_of_a_worker_does_not_grow_with_the_batch(
    serve: Callable[..., Server], own_redis: RedisServer
) -> None:
    """Issue 3, "Bulk": memory bounded. A batch of 15 MB grows a worker by far less than itself."""
    server = serve(REDIS_URL=own_redis.url)
    server.tpp("t")
    big = {"urn:test:event": {"text": "x" * 1000}}
    assert len(results(batch(server, "t", [set_of(f"small-{number}", big) for number in range(200)]))) == 200
    before = memory(server)
    lines = [set_of(f"big-{number}", big) for number in range(9_900)]
    assert sum(map(len, lines)) > 14_000_000
    assert {line["status"] for line in results(batch(server, "t", lines))} == {202}
    assert memory(server) - before < 7_000


def test_a_store_lost_in_the_middle_is_told_line_by_line(serve: Callable[..., Server], own_redis: RedisServer) -> None:
    """decision 19: 503 for each line that cannot be pushed; what was told 202 is there afterwards; a retry heals."""
    server = serve(REDIS_URL=own_redis.url)
    server.tpp("t")
    sets = {f"d-{number:03}": set_of(f"d-{number:03}") for number in range(200)}
    told = []
    with exchange(server, "t") as sent:
        sent.send("".join(f"{text}\n" for text in list(sets.values())[:100]))
        for _ in range(50):
            told.append(sent.result())
        own_redis.kill()
        sent.send("".join(f"{text}\n" for text in list(sets.values())[100:]))
        sent.end()
        while line := sent.result():
            told.append(line)
    kept = [jti for jti, line in zip(sets, told, strict=True) if line == {"jti": jti, "status": 202}]
    assert kept == list(sets)[: len(kept)]
    assert 50 <= len(kept) <= 100
    lost = told[len(kept) :]
    assert {((line or {})["status"], (line or {})["err"]) for line in lost} == {(503, "temporarily_unavailable")}
    refused = batch(server, "t", sets.values())
    assert refused.status == 503
    assert int(refused.headers["retry-after"]) > 0
    own_redis.start()
    assert server.bank("GET", "/streams/t").json["pending"] >= len(kept)
    assert {line["status"] for line in results(batch(server, "t", sets.values()))} == {202}
    assert stored(server, "t") == sets
