"""Invariants that hold however many ask at once: a real Redis, several gunicorn workers, many threads."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eventpoll.failures import NoStream
from eventpoll.records import Rules
from eventpoll.store import Store
from harness.redis_servers import RedisServer
from harness.service import BANK, Server, basic
from harness.sets import set_of


def push_signed(server: Server, tpp: str, jti: str) -> int:
    headers = {"Content-Type": "application/secevent+jwt"}
    return server.request("POST", f"/streams/{tpp}/sets", set_of(jti), headers, BANK).status


def together(count: int, what: Callable[[int], object]) -> list[object]:
    """`what` of each number, all begun at the same moment."""
    start = threading.Barrier(count)

    def one(number: int) -> object:
        start.wait()
        return what(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


@pytest.mark.parametrize("lease", [0, 2])
def test_no_set_is_lost_or_comes_after_its_ack(shared_server: Server, lease: int) -> None:
    """decisions 2, 3 and 7 under a storm: pushers and pollers of two TPPs over HTTP, with acks and errors."""
    tpps = [f"storm-{lease}-{n}" for n in range(2)]
    for tpp in tpps:
        shared_server.tpp(tpp, redeliver_after=lease)
    pushed: dict[str, set[str]] = {tpp: {f"{tpp}.{n}" for n in range(120)} for tpp in tpps}
    acked: dict[str, dict[str, float]] = {tpp: {} for tpp in tpps}
    broken: list[str] = []
    lock = threading.Lock()

    def pusher(tpp: str, names: list[str]) -> None:
        for jti in names:
            if push_signed(shared_server, tpp, jti) != 202:
                broken.append(f"{jti} was not taken")

    def poller(tpp: str, seed: int) -> None:
        chance = random.Random(seed)
        ack: list[str] = []
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(acked[tpp]) < len(pushed[tpp]):
            most = chance.choice([1, 3, 10])
            asked = time.monotonic()
            value = {"ack": ack, "maxEvents": most, "returnImmediately": chance.random() < 0.8}
            reply = shared_server.poll(tpp, value)
            if reply.status == 429:  # so many are held already: the acks hold (decision 25)
                value["returnImmediately"] = True
            elif reply.status != 200:
                broken.append(f"{reply.status} {reply.body!r}")
                continue
            with lock:
                for jti in ack:
                    acked[tpp].setdefault(jti, time.monotonic())
                ack = []
                if reply.status == 429:
                    continue
                sets = reply.json["sets"]
                for jti, text in sets.items():
                    if jti not in pushed[tpp]:
                        broken.append(f"{jti} in the hands of {tpp}")
                    if text != set_of(jti):
                        broken.append(f"{jti} has changed")
                    if acked[tpp].get(jti, asked) < asked:
                        broken.append(f"{jti} came after its ack was answered")
                if len(sets) > most:
                    broken.append(f"{len(sets)} of {most}")
            ack = [jti for jti in sets if chance.random() < 0.8]

    threads = []
    for tpp in tpps:
        names = sorted(pushed[tpp])
        threads += [threading.Thread(target=pusher, args=(tpp, names[half::2])) for half in range(2)]
        threads += [threading.Thread(target=poller, args=(tpp, seed)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert broken == []
    for tpp in tpps:
        assert acked[tpp].keys() == pushed[tpp]
        status = shared_server.bank("GET", f"/streams/{tpp}").json
        assert (status["pending"], status["in_flight"], status["parked"]) == (0, 0, 0)
        assert (status["pushed"], status["acked"]) == (120, 120)


def test_with_a_lease_concurrent_polls_get_disjoint_sets(shared_server: Server) -> None:
    """decision 2: several pollers of one TPP share a stream without duplicates."""
    shared_server.tpp("disjoint", redeliver_after=3600)
    names = [f"jti-{n}" for n in range(100)]
    lines = "".join(json.dumps({"jti": jti, "events": {"urn:test:event": {}}}) + "\n" for jti in names)
    headers = {"Content-Type": "application/x-ndjson"}
    batch = shared_server.request("POST", "/streams/disjoint/sets:batch", lines, headers, BANK)
    assert batch.status == 200, batch.body
    got: list[str] = []

    def poll(_: int) -> None:
        while sets := shared_server.poll("disjoint", {"maxEvents": 7, "returnImmediately": True}).json["sets"]:
            assert len(sets) <= 7
            got.extend(sets)

    together(8, poll)
    assert sorted(got) == sorted(names)


def test_without_a_lease_each_answer_is_right_in_itself(shared_server: Server) -> None:
    """decision 1 and 7: concurrent polls may share SETs, and no answer holds more than was asked for."""
    shared_server.tpp("overlap")
    for n in range(10):
        push_signed(shared_server, "overlap", f"jti-{n}")
    answers = together(8, lambda _: shared_server.poll("overlap", {"maxEvents": 4, "returnImmediately": True}).json)
    assert all(len(answer["sets"]) == 4 and answer["moreAvailable"] is True for answer in answers)  # type: ignore[index]


def test_concurrent_pushes_of_one_jti_queue_it_once(shared_server: Server) -> None:
    """decision 18: one is told that it is new."""
    shared_server.tpp("once")
    event = {"jti": "only", "events": {"urn:test:event": {}}}
    statuses = together(12, lambda _: shared_server.bank("POST", "/streams/once/sets", event).status)
    assert Counter(statuses) == {201: 1, 200: 11}
    assert shared_server.bank("GET", "/streams/once").json["pending"] == 1


def test_concurrent_pushes_of_one_jti_with_other_bytes_keep_the_first(shared_server: Server) -> None:
    """decision 18: 202 for one, 409 for the others."""
    shared_server.tpp("kept")
    headers = {"Content-Type": "application/secevent+jwt"}

    def push(number: int) -> int:
        text = set_of("only", {"urn:test:event": {"number": number}})
        return shared_server.request("POST", "/streams/kept/sets", text, headers, BANK).status

    statuses = together(10, push)
    assert Counter(statuses) == {202: 1, 409: 9}
    (kept,) = shared_server.poll("kept", {"returnImmediately": True}).json["sets"].values()
    assert kept == set_of("only", {"urn:test:event": {"number": statuses.index(202)}})


def test_concurrent_puts_of_one_stream_give_one_secret(shared_server: Server) -> None:
    """PUT /streams/{tpp}: one 201, whose secret works."""
    replies = together(10, lambda _: shared_server.bank("PUT", "/streams/made-once", {}))
    made = [reply for reply in replies if reply.status == 201]  # type: ignore[attr-defined]
    assert len(made) == 1
    assert {reply.status for reply in replies} == {200, 201}  # type: ignore[attr-defined]
    shared_server.secrets["made-once"] = made[0].json["secret"]  # type: ignore[attr-defined]
    assert shared_server.poll("made-once", {"returnImmediately": True}).status == 200


def test_concurrent_acks_of_one_set_settle_it_once(shared_server: Server) -> None:
    """decision 3: repeated acks are 200 and count once."""
    shared_server.tpp("acked-once")
    shared_server.push("acked-once", "a")
    value = {"ack": ["a"], "maxEvents": 0, "returnImmediately": True}
    assert together(8, lambda _: shared_server.poll("acked-once", value).status) == [200] * 8
    assert shared_server.bank("GET", "/streams/acked-once").json["acked"] == 1


def test_an_ack_and_an_error_at_once_end_in_one_of_both(shared_server: Server) -> None:
    """decision 5: never in two states."""
    shared_server.tpp("either")
    names = [f"jti-{n}" for n in range(12)]
    for jti in names:
        push_signed(shared_server, "either", jti)
    error = {"err": "invalid_request", "description": "no"}

    def settle(number: int) -> int:
        jti = names[number // 2]
        what = {"ack": [jti]} if number % 2 else {"setErrs": {jti: error}}
        return shared_server.poll("either", {**what, "maxEvents": 0, "returnImmediately": True}).status

    assert set(together(24, settle)) == {200}
    status = shared_server.bank("GET", "/streams/either").json
    assert (status["pending"], status["in_flight"], status["parked"], status["acked"]) == (0, 0, 0, 12)


def test_one_connection_of_many_requests_and_many_connections_get_the_same(shared_server: Server) -> None:
    """Nothing depends on the worker or the connection that serves a poll."""
    shared_server.tpp("any-worker")
    shared_server.push("any-worker", "a")
    headers = {
        "Authorization": basic("any-worker", shared_server.secrets["any-worker"]),
        "Content-Type": "application/json",
    }
    body = '{"returnImmediately":true}'
    bodies = together(16, lambda _: shared_server.request("POST", "/events", body, headers).body)
    assert len(set(bodies)) == 1


def test_making_and_forgetting_a_stream_at_once_leaves_no_stream_unlisted(redis_server: RedisServer) -> None:
    """GET /streams names every stream that is there, whatever came between."""
    url = redis_server.url.removesuffix("0") + "6"
    stores = [Store.open(url, Path(), Rules()) for _ in range(4)]
    stores[0].redis.flushdb()

    def storm(number: int) -> None:
        for _ in range(100):
            if number % 2:
                stores[number].configure("here", "hash", {})
            else:
                try:
                    stores[number].forget("here")
                except NoStream:
                    continue

    together(4, storm)
    try:
        there = [stores[0].status("here").tpp]
    except NoStream:
        there = []
    assert [status.tpp for status in stores[0].streams()] == there
    for store in stores:
        store.redis.close()
