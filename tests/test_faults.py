"""What goes wrong around us: killed processes, and a store that is away, loading, read-only, full or cannot persist."""

import json
import os
import random
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from http.client import HTTPException
from pathlib import Path

import pytest
import redis

from harness.programs import children, is_running
from harness.redis_servers import RedisServer
from harness.service import BANK, Reply, Server, basic
from harness.sets import set_of
from harness.waiting import wait_for

ERROR = {"err": "invalid_request", "description": "no"}


def push_signed(server: Server, tpp: str, jti: str) -> Reply:
    return server.request(
        "POST", f"/streams/{tpp}/sets", set_of(jti), {"Content-Type": "application/secevent+jwt"}, BANK
    )


def outstanding(server: Server, tpp: str) -> set[str]:
    """Every jti on the stream, whatever its state."""
    found: set[str] = set()
    for state in ("pending", "in_flight", "parked"):
        after = ""
        while True:
            page = server.bank("GET", f"/streams/{tpp}/sets?state={state}&limit=1000&after={after}").json
            found |= {row["jti"] for row in page["sets"]}
            if not (after := page.get("next", "")):
                break
    return found


# -- kill -9 ----------------------------------------------------------------------------------------------------------


class Storm:
    """Pushes, polls and acks from many threads; what was promised is written down when the answer is read."""

    def __init__(self, tpp: str) -> None:
        self.tpp = tpp
        self.taken: set[str] = set()
        self.ack_sent: set[str] = set()
        self.acked: set[str] = set()
        self.came_back: list[str] = []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, server: Server) -> "Storm":
        self._threads = [threading.Thread(target=self._push, args=(server, n), daemon=True) for n in range(3)]
        self._threads += [threading.Thread(target=self._poll, args=(server, n), daemon=True) for n in range(3)]
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _push(self, server: Server, number: int) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            jti = f"{number}-{count}"
            try:
                if push_signed(server, self.tpp, jti).status == 202:
                    self.taken.add(jti)
            except (OSError, HTTPException):
                time.sleep(0.01)

    def _poll(self, server: Server, seed: int) -> None:
        chance = random.Random(seed)
        ack: list[str] = []
        while not self._stop.is_set():
            self.ack_sent.update(ack)
            held_before = set(self.acked)
            try:
                reply = server.poll(self.tpp, {"ack": ack, "maxEvents": 10, "returnImmediately": True})
                if reply.status != 200:
                    continue
                sets = reply.json["sets"]
            except (OSError, HTTPException):  # cut: whether the acks hold is not known
                time.sleep(0.01)
                continue
            self.acked.update(ack)
            self.came_back += [jti for jti in sets if jti in held_before]
            ack = [jti for jti in sets if chance.random() < 0.5]

    def check(self, server: Server) -> None:
        """Nothing that was promised is broken."""
        there = outstanding(server, self.tpp)
        assert len(self.taken) > 20
        assert len(self.acked) > 10
        assert self.came_back == []
        assert self.taken - there - self.ack_sent == set(), "pushes answered 202 are lost"
        assert there & self.acked == set(), "acks answered 200 are lost"


def store_pid(server: Server) -> int:
    """The embedded server of a gunicorn; 0 while it is being started."""
    return int((server.log.parent / ".data" / "redis.pid").read_text() or 0)


@pytest.mark.parametrize("killed", ["gunicorn", "everything"])
def test_after_kill_9_every_promise_holds(serve: Callable[..., Server], tmp_path: Path, killed: str) -> None:
    """decision 19 and issue 2: every push answered 2xx is there, every ack answered 200 holds."""
    directory = tmp_path / "killed"
    server = serve(workers=2, directory=directory)
    secret = server.tpp("one")
    storm = Storm("one").start(server)
    wait_for(lambda: len(storm.taken) > 60 and len(storm.acked) > 30, 30)
    store, master = store_pid(server), server.process.pid
    workers = [pid for pid in children(master) if pid != store]
    assert len(workers) == 2
    for pid in [*([store] if killed == "everything" else []), master, *workers]:
        os.kill(pid, signal.SIGKILL)
    server.process.wait()
    storm.stop()
    again = serve(workers=2, directory=directory)
    again.secrets["one"] = secret
    assert (store_pid(again) == store) is (killed == "gunicorn")
    storm.check(again)
    last = store_pid(again)
    assert again.stop() == 0
    wait_for(lambda: not is_running(last))  # the last user stops it, after a kill too


def test_the_embedded_store_killed_alone_is_started_by_the_next_request(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    """Issue 2: a kill -9 of the server in the middle of a storm loses nothing, and needs no restart of ours."""
    server = serve(workers=2, directory=tmp_path / "store-killed")
    server.tpp("one")
    storm = Storm("one").start(server)
    for number in range(1, 4):
        wait_for(lambda n=number: len(storm.taken) > 40 * n and len(storm.acked) > 20 * n, 30)  # type: ignore[misc]
        os.kill(pid := store_pid(server), signal.SIGKILL)
        wait_for(lambda old=pid: store_pid(server) not in (0, old))  # type: ignore[misc]
    wait_for(lambda: server.request("GET", "/readyz").status == 200)
    storm.stop()
    storm.check(server)


def test_after_the_master_is_killed_its_workers_stop_the_store(serve: Callable[..., Server], tmp_path: Path) -> None:
    """The last user stops the embedded server: orphaned workers leave by themselves, and are users of their own."""
    server = serve(workers=2, directory=tmp_path / "orphans")
    server.tpp("one")
    pid, master = store_pid(server), server.process.pid
    workers = [child for child in children(master) if child != pid]
    os.kill(master, signal.SIGKILL)
    server.process.wait()
    wait_for(lambda: not any(map(is_running, workers)), 20)
    wait_for(lambda: not is_running(pid))


# -- a store that refuses ---------------------------------------------------------------------------------------------


@contextmanager
def down(server: RedisServer) -> Iterator[None]:
    server.kill()
    yield
    server.start()


@contextmanager
def loading(server: RedisServer) -> Iterator[None]:
    """What Redis says while it reads its files, for as long as we like."""
    server.kill()
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", server.port)))

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=say, args=(connection,), daemon=True).start()

        def say(connection: socket.socket) -> None:
            with connection:
                try:
                    while asked := connection.recv(65536):
                        line = b"-LOADING Redis is loading the dataset in memory\r\n"
                        connection.sendall(line * max(1, asked.count(b"\r\n*") + 1))
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    server.start()


@contextmanager
def read_only(server: RedisServer) -> Iterator[None]:
    server.ask(b"CONFIG SET replica-serve-stale-data yes")
    assert server.ask(b"REPLICAOF 127.0.0.1 1").startswith(b"+OK")
    yield
    assert server.ask(b"REPLICAOF NO ONE").startswith(b"+OK")


@contextmanager
def full(server: RedisServer) -> Iterator[None]:
    assert server.ask(b"CONFIG SET maxmemory 1").startswith(b"+OK")
    yield
    assert server.ask(b"CONFIG SET maxmemory 0").startswith(b"+OK")


@contextmanager
def cannot_persist(server: RedisServer) -> Iterator[None]:
    """A snapshot that fails, so that Redis answers MISCONF to every write."""
    in_the_way = server.directory / "dump.rdb"
    in_the_way.unlink(missing_ok=True)
    (in_the_way / "full").mkdir(parents=True)
    assert server.ask(b'CONFIG SET save "3600 1"').startswith(b"+OK")
    server.ask(b"BGSAVE")
    wait_for(lambda: b"rdb_last_bgsave_status:err" in server.ask(b"INFO persistence"))
    yield
    shutil.rmtree(in_the_way)
    server.ask(b"BGSAVE")
    wait_for(lambda: b"rdb_last_bgsave_status:ok" in server.ask(b"INFO persistence"))


FORM = {"Content-Type": "application/x-www-form-urlencoded", "x-wso2-client-id": "one"}
JSON = {"Content-Type": "application/json"}
SIGNED = {"Content-Type": "application/secevent+jwt"}
EMPTY = "request=e30"  # {}


def asked(server: Server) -> dict[str, tuple[Reply, Callable[[dict[str, object]], bool]]]:
    """Every poll and every write of the bank's, with the shape that its refusal has."""
    tpp = {**JSON, "Authorization": basic("one", server.secrets["one"])}
    poll = json.dumps({"ack": ["a"], "setErrs": {"b": ERROR}, "returnImmediately": True})

    def rfc(body: dict[str, object]) -> bool:
        return body.keys() == {"err", "description"} and body["err"] == "temporarily_unavailable"

    def obie3(body: dict[str, object]) -> bool:
        return body.keys() == {"Code", "Id", "Message", "Errors"} and str(body["Code"]).startswith("503")

    def obie4(body: dict[str, object]) -> bool:
        return bool(body["Errors"])

    def wso2(body: dict[str, object]) -> bool:
        return list(body) == ["error_description", "error"]

    event = json.dumps({"jti": "new", "events": {"urn:test:event": {}}})
    request = server.request
    wso2_path = "/api/{}/event-notifications/{}"
    calls: dict[str, tuple[Reply, Callable[[dict[str, object]], bool]]] = {
        "rfc8936": (request("POST", "/events", poll, tpp), rfc),
        "held": (request("POST", "/events", "{}", tpp), rfc),
        "obie v3.1": (request("POST", "/open-banking/v3.1/events", poll, tpp), obie3),
        "obie v4.0": (request("POST", "/open-banking/v4.0/events", poll, tpp), obie4),
        "wso2 3": (request("POST", wso2_path.format("openbanking", "events"), EMPTY, FORM, BANK), wso2),
        "wso2 4": (request("POST", wso2_path.format("fs", "events"), EMPTY, FORM, BANK), wso2),
        "create-events": (
            request(
                "POST",
                wso2_path.format("fs", "create-events"),
                "request=eyJ1cm46dGVzdDpldmVudCI6e319",
                {**FORM, "x-wso2-resource-id": "acc-1"},
                BANK,
            ),
            wso2,
        ),
        "event": (request("POST", "/streams/one/sets", event, JSON, BANK), rfc),
        "signed": (request("POST", "/streams/one/sets", set_of("new"), SIGNED, BANK), rfc),
        "put": (request("PUT", "/streams/two", "{}", JSON, BANK), rfc),
    }
    return calls


@pytest.mark.parametrize("fault", [down, loading, read_only, full, cannot_persist])
def test_a_store_that_refuses_is_a_503_and_never_an_empty_200(
    serve: Callable[..., Server], own_redis: RedisServer, fault: Callable[[RedisServer], AbstractContextManager[None]]
) -> None:
    """decision 19: 503 with Retry-After, never an empty 200, never a lost ack answered 200; then all goes on."""
    server = serve(REDIS_URL=own_redis.url)
    server.tpp("one", redeliver_after=3600)
    for jti in ("a", "b", "c"):
        assert push_signed(server, "one", jti).status == 202
    assert server.poll("one", {"maxEvents": 2}).status == 200
    with fault(own_redis):
        for name, (reply, shape) in asked(server).items():
            assert reply.status == 503, (name, reply)
            assert reply.headers["retry-after"].isdigit(), name
            assert shape(reply.json), (name, reply.body)
        assert server.request("GET", "/healthz").status == 200
        assert server.request("GET", "/readyz").status == 503
        only_ack = server.poll("one", {"ack": ["a"], "maxEvents": 0, "returnImmediately": True})
        assert only_ack.status == (200 if fault is full else 503)  # it frees memory: a full store lets it through
    wait_for(lambda: server.request("GET", "/readyz").status == 200)
    assert outstanding(server, "one") == ({"b", "c"} if fault is full else {"a", "b", "c"})
    last = server.poll("one", {"ack": ["a", "b"], "returnImmediately": True}).json
    assert last == {"sets": {"c": set_of("c")}, "moreAvailable": False}
    assert push_signed(server, "one", "d").status == 202
    assert [row["tpp"] for row in server.bank("GET", "/streams").json["streams"]] == ["one"]


@pytest.mark.parametrize("fault", [down, loading])
def test_a_store_that_is_away_cannot_be_looked_at(
    serve: Callable[..., Server], own_redis: RedisServer, fault: Callable[[RedisServer], AbstractContextManager[None]]
) -> None:
    """decision 19, for the bank's reading calls; who is not let in is not told so either."""
    server = serve(REDIS_URL=own_redis.url)
    server.tpp("one")
    push_signed(server, "one", "a")
    calls = [
        ("GET", "/streams"),
        ("GET", "/streams/one"),
        ("GET", "/streams/one/sets?state=pending"),
        ("GET", "/streams/one/sets/a"),
        ("POST", "/streams/one/sets/a/requeue"),
        ("DELETE", "/streams/one/sets/a"),
        ("DELETE", "/streams/one"),
        ("POST", "/streams/one/secret"),
    ]
    with fault(own_redis):
        for method, path in calls:
            reply = server.bank(method, path)
            assert (reply.status, reply.json["err"]) == (503, "temporarily_unavailable"), path
            assert reply.headers["retry-after"].isdigit()
        assert server.request("POST", "/events", "{}", JSON, ("one", "wrong")).status == 503
        assert server.request("POST", "/events", "{}", JSON).status == 401
    assert outstanding(server, "one") == {"a"}


def test_redis_restarted_between_requests_is_not_noticed(serve: Callable[..., Server], own_redis: RedisServer) -> None:
    """Connections that went with the old server are not used again; commands are loaded anew."""
    server = serve(REDIS_URL=own_redis.url)
    server.tpp("one")
    for number in range(3):
        assert push_signed(server, "one", f"jti-{number}").status == 202
        own_redis.kill()
        own_redis.start()
        assert len(server.poll("one", {"returnImmediately": True}).json["sets"]) == number + 1


def test_a_script_flush_is_not_noticed(serve: Callable[..., Server], own_redis: RedisServer) -> None:
    """NOSCRIPT: loaded again, and run once."""
    server = serve(REDIS_URL=own_redis.url)
    server.tpp("one")
    client = redis.Redis.from_url(own_redis.url)
    client.script_flush()
    assert push_signed(server, "one", "a").status == 202
    client.script_flush()
    assert list(server.poll("one").json["sets"]) == ["a"]
    client.script_flush()
    batch = json.dumps({"jti": "b", "events": {"urn:test:event": {}}}) + "\n"
    headers = {"Content-Type": "application/x-ndjson"}
    assert server.request("POST", "/streams/one/sets:batch", batch, headers, BANK).status == 200
    assert server.bank("GET", "/streams/one").json["pushed"] == 2
    client.close()


def test_the_server_starts_and_waits_for_a_store_that_is_not_there_yet(
    serve: Callable[..., Server], own_redis: RedisServer
) -> None:
    """Whichever is started first: requests get 503 until the store is there."""
    own_redis.kill()
    server = serve(REDIS_URL=own_redis.url)
    assert server.request("GET", "/healthz").status == 200
    assert server.bank("PUT", "/streams/one", {}).status == 503
    own_redis.start()
    server.tpp("one")
    assert server.poll("one", {"returnImmediately": True}).status == 200
