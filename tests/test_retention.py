"""What is kept for how long: expiry in every state, the dedupe window, and the limit of a stream."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from eventpoll import keys
from harness.redis_servers import RedisServer
from harness.service import BANK, BANK_SETTINGS, Reply, Server, start_server
from harness.sets import set_of
from tests.test_model import SHIFT

SECONDS = 600
DEDUPE = 900


@pytest.fixture(scope="module")
def server(redis_server: RedisServer, signing_keys: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that keeps SETs for ten minutes, and remembers jtis for fifteen."""
    server = start_server(
        {
            "REDIS_URL": redis_server.url.removesuffix("0") + "3",
            **BANK_SETTINGS,
            "EVENTPOLL_SIGNING_KEYS": signing_keys,
            "EVENTPOLL_LONG_POLL_SECONDS": "0",
            "EVENTPOLL_RETENTION_DAYS": f"{SECONDS / 86400:.9f}",
            "EVENTPOLL_DEDUPE_SECONDS": str(DEDUPE),
        },
        tmp_path_factory.mktemp("retention"),
    )
    yield server
    server.stop()


def later(server: Server, tpp: str, seconds: int) -> None:
    """Have so many seconds pass on a stream: every moment that Redis holds is set back by as much."""
    with redis.Redis.from_url(server.environ["REDIS_URL"]) as client:
        client.eval(SHIFT, len(keys.of(tpp)), *keys.of(tpp), seconds)


def push_signed(server: Server, tpp: str, jti: str) -> Reply:
    headers = {"Content-Type": "application/secevent+jwt"}
    return server.request("POST", f"/streams/{tpp}/sets", set_of(jti), headers, BANK)


def polled(server: Server, tpp: str, **members: Any) -> list[str]:
    answer = server.poll(tpp, {"returnImmediately": True, **members}).json
    return list(answer["sets"])


def stands(server: Server, tpp: str) -> tuple[int, int, int, int]:
    """Pending, in flight, parked, expired."""
    told = server.bank("GET", f"/streams/{tpp}").json
    return told["pending"], told["in_flight"], told["parked"], told["expired"]


def lives(server: Server, tpp: str) -> None:
    """Three SETs: one in flight, one parked, one pending."""
    for jti in ("flight", "parked"):
        server.push(tpp, jti)
    assert polled(server, tpp) == ["flight", "parked"]
    polled(server, tpp, maxEvents=0, setErrs={"parked": {"err": "e", "description": "d"}})
    server.push(tpp, "pending")


def test_a_set_expires_in_every_state(server: Server) -> None:
    """decisions.md, "The life of a SET": retention passes, in any state; counted and logged, never silent."""
    server.tpp("expire")
    lives(server, "expire")
    assert stands(server, "expire") == (1, 1, 1, 0)
    later(server, "expire", SECONDS - 60)
    assert stands(server, "expire") == (1, 1, 1, 0)
    later(server, "expire", 61)
    assert stands(server, "expire") == (0, 0, 0, 3)
    assert polled(server, "expire") == []
    log = server.log.read_text()
    for jti in ("flight", "parked", "pending"):
        told = server.bank("GET", f"/streams/expire/sets/{jti}").json
        assert (told["state"], told["history"][-1]["what"]) == ("expired", "expired")
        assert "set" not in told
        assert f"'{jti}'" in log
    assert "Expired on the stream of expire" in log
    for state in ("pending", "in_flight", "parked"):
        assert server.bank("GET", f"/streams/expire/sets?state={state}").json == {"sets": []}


def test_what_is_past_its_retention_is_not_delivered_whether_swept_or_not(server: Server) -> None:
    """A poll alone, with no other call between, hands out nothing that is too old, and says there is no more."""
    server.tpp("unswept")
    lives(server, "unswept")
    later(server, "unswept", SECONDS + 1)
    assert server.poll("unswept", {"returnImmediately": True}).json == {"sets": {}, "moreAvailable": False}
    assert stands(server, "unswept") == (0, 0, 0, 3)


def test_an_old_set_can_still_be_acknowledged_without_harm(server: Server) -> None:
    """decision 3: unknown, repeated and foreign jtis are 200, no effect."""
    server.tpp("late-ack")
    server.push("late-ack", "late")
    assert polled(server, "late-ack") == ["late"]
    later(server, "late-ack", SECONDS + 1)
    assert stands(server, "late-ack")[3] == 1
    assert server.poll("late-ack", {"ack": ["late"], "maxEvents": 0, "returnImmediately": True}).status == 200
    assert server.bank("GET", "/streams/late-ack/sets/late").json["state"] == "expired"


def test_a_bank_that_only_pushes_is_safe_too(server: Server) -> None:
    """Issue 3, "Retention": as a by-product of normal traffic. Nobody polls, no worker runs, no one asks how it is."""
    server.tpp("pushes")
    for number in range(20):
        server.push("pushes", f"old-{number}")
    later(server, "pushes", SECONDS + 1)
    with redis.Redis.from_url(server.environ["REDIS_URL"]) as client:
        assert client.hexists("eventpoll:{pushes}:sets", "old-0")
        server.push("pushes")
        assert not client.hexists("eventpoll:{pushes}:sets", "old-0")
    assert "'old-0'" in server.log.read_text()


def test_a_push_within_the_dedupe_window_changes_nothing_and_after_it_is_new(server: Server) -> None:
    """decisions 3 and 18: the jti is remembered for DEDUPE_SECONDS after its ack, and no longer."""
    server.tpp("dedupe")
    assert push_signed(server, "dedupe", "twice").status == 202
    assert polled(server, "dedupe") == ["twice"]
    polled(server, "dedupe", ack=["twice"], maxEvents=0)
    for seconds in (0, DEDUPE - 60):
        later(server, "dedupe", seconds)
        assert push_signed(server, "dedupe", "twice").status == 202
        assert polled(server, "dedupe") == []
        assert server.bank("GET", "/streams/dedupe").json["pushed"] == 1
    later(server, "dedupe", 61)
    assert push_signed(server, "dedupe", "twice").status == 202
    assert polled(server, "dedupe") == ["twice"]
    assert server.bank("GET", "/streams/dedupe").json["pushed"] == 2
    assert server.bank("GET", "/streams/dedupe/sets/twice").json["state"] == "in_flight"


def test_an_expired_jti_is_remembered_like_an_acknowledged_one(server: Server) -> None:
    """decision 18: a retry of a push that comes late is no second SET."""
    server.tpp("late-push")
    push_signed(server, "late-push", "old")
    later(server, "late-push", SECONDS + 1)
    assert stands(server, "late-push")[3] == 1
    assert push_signed(server, "late-push", "old").status == 202
    assert polled(server, "late-push") == []


def test_a_settled_set_is_told_of_within_the_window_and_then_forgotten(server: Server) -> None:
    """interface.md: a settled one within the dedupe window says so; after it, 404."""
    server.tpp("forgotten")
    server.push("forgotten", "gone")
    polled(server, "forgotten", ack=["gone"])
    path = "/streams/forgotten/sets/gone"
    later(server, "forgotten", DEDUPE - 60)
    assert server.bank("GET", path).json["state"] == "settled"
    later(server, "forgotten", 61)
    assert server.bank("GET", path).status == 404


def test_a_full_stream_refuses_and_drops_nothing(server: Server) -> None:
    """Issue 3, "Retention": max_pending, 429 with Retry-After (RFC 6585 section 4) and a clear word."""
    server.tpp("full", max_pending=2)
    for jti in ("a", "b"):
        assert push_signed(server, "full", jti).status == 202
    refused = push_signed(server, "full", "c")
    minted = server.bank("POST", "/streams/full/sets", {"events": {"urn:a": {}}})
    for reply in (refused, minted):
        assert reply.status == 429
        assert int(reply.headers["retry-after"]) > 0
        assert reply.json["err"] == "too_many_requests"
        assert "as many SETs as it may" in reply.json["description"]
    assert push_signed(server, "full", "a").status == 202  # a repeat is no new SET
    assert polled(server, "full", ack=["a"]) == ["b"]
    assert push_signed(server, "full", "c").status == 202
    assert push_signed(server, "full", "d").status == 429
    assert server.bank("PUT", "/streams/full", {"max_pending": None}).status == 200
    assert push_signed(server, "full", "d").status == 202


def test_what_has_expired_takes_no_place(server: Server) -> None:
    """A stream full of SETs past their retention takes new ones, although nobody polls and no worker runs."""
    server.tpp("stale", max_pending=1)
    assert push_signed(server, "stale", "old").status == 202
    assert push_signed(server, "stale", "new").status == 429
    later(server, "stale", SECONDS + 1)
    assert push_signed(server, "stale", "new").status == 202
    assert polled(server, "stale") == ["new"]


def test_retention_is_told_apart_for_each_stream(server: Server) -> None:
    """The counters of one stream say nothing of another's."""
    for tpp in ("mine", "yours"):
        server.tpp(tpp)
    server.push("mine", "x")
    later(server, "mine", SECONDS + 1)
    assert stands(server, "mine") == (0, 0, 0, 1)
    assert stands(server, "yours") == (0, 0, 0, 0)


def test_a_requeue_does_not_prolong_a_life(server: Server) -> None:
    """decisions.md, "The life of a SET": retention passes in any state, and is counted from the push."""
    server.tpp("requeued")
    server.push("requeued", "x")
    polled(server, "requeued", setErrs={"x": {"err": "e", "description": "d"}}, maxEvents=0)
    assert server.bank("POST", "/streams/requeued/sets/x/requeue").status == 200
    later(server, "requeued", SECONDS + 1)
    assert stands(server, "requeued")[3] == 1
    assert polled(server, "requeued") == []
