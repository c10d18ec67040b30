"""Held polls, over real sockets: what wakes them, what frees them, and what they cost."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from eventpoll import keys
from harness import ROOT
from harness.programs import children
from harness.redis_servers import RedisServer
from harness.service import BANK_SETTINGS, Reply, Server, basic, start_server
from harness.sets import set_of
from harness.waiting import wait_for

HOLD = 15.0
"""Seconds for which the server of these tests holds; an answer that takes less was woken."""


@pytest.fixture(scope="module")
def holding(redis_server: RedisServer, signing_keys: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two workers that hold for long."""
    environ = {
        "REDIS_URL": redis_server.url.removesuffix("0") + "5",
        **BANK_SETTINGS,
        "EVENTPOLL_SIGNING_KEYS": signing_keys,
        "EVENTPOLL_LONG_POLL_SECONDS": str(HOLD),
        "EVENTPOLL_MAX_HELD_POLLS": "1000",
    }
    server = start_server(environ, tmp_path_factory.mktemp("holding"), workers=2)
    yield server
    server.stop()


@pytest.fixture
def raw(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """The server that `holding` uses, asked directly."""
    client = redis.Redis.from_url(redis_server.url.removesuffix("0") + "5")
    yield client
    client.close()


class Held:
    """A poll in a thread of its own."""

    def __init__(self, server: Server, tpp: str, value: Any = None) -> None:
        self.started = time.monotonic()
        self.seconds = 0.0
        self.reply: Reply | None = None
        self._thread = threading.Thread(target=self._ask, args=(server, tpp, value), daemon=True)
        self._thread.start()

    def _ask(self, server: Server, tpp: str, value: Any) -> None:
        self.reply = server.poll(tpp, value)
        self.seconds = time.monotonic() - self.started

    def answer(self, seconds: float = HOLD - 5) -> Reply:
        """The answer; fails where none comes in `seconds`."""
        self._thread.join(seconds)
        assert self.reply is not None, "the poll was not answered"
        return self.reply


def listeners(client: redis.Redis, tpp: str) -> int:
    """How many workers hold polls of `tpp`."""
    return int(client.pubsub_numsub(keys.wake(tpp))[0][1])


def hold(server: Server, client: redis.Redis, tpp: str, value: Any = None) -> Held:
    """A poll that is held: the worker listens for its stream."""
    poll = Held(server, tpp, value)
    wait_for(lambda: listeners(client, tpp))
    time.sleep(0.2)  # past its first look after the subscription
    assert poll.reply is None
    return poll


def name(request: pytest.FixtureRequest) -> str:
    """A stream of the test's own."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name)[-100:]


def test_a_poll_is_held_and_answered_empty_in_time(shared_server: Server) -> None:
    """RFC 8936 section 2.5; decision 12: LONG_POLL_SECONDS, then 200 and empty."""
    shared_server.tpp("patient")
    poll = Held(shared_server, "patient")
    reply = poll.answer(20)
    assert (reply.status, reply.json) == (200, {"sets": {}, "moreAvailable": False})
    assert poll.seconds >= 1.9


# -- what wakes -------------------------------------------------------------------------------------------------------


def _over_http(server: Server, client: redis.Redis, tpp: str) -> None:
    server.push(tpp, "woken")


def _by_lua(server: Server, client: redis.Redis, tpp: str) -> None:
    script = (ROOT / "eventpoll/lua/push.lua").read_text()
    assert client.eval(script, 12, *keys.of(tpp), "woken", set_of("woken")) == [b"queued"]


def _by_command(server: Server, client: redis.Redis, tpp: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flask", "eventpoll", "push", tpp],
        input=set_of("woken").encode(),
        env={**server.environ, "PATH": os.environ["PATH"]},
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("push", [_over_http, _by_lua, _by_command])
def test_a_push_by_any_means_wakes(
    holding: Server, raw: redis.Redis, request: pytest.FixtureRequest, push: Callable[..., None]
) -> None:
    """decision 12: over HTTP, with redis-cli, from the command line."""
    tpp = name(request)
    holding.tpp(tpp)
    poll = hold(holding, raw, tpp)
    push(holding, raw, tpp)
    assert list(poll.answer().json["sets"]) == ["woken"]


def test_a_push_wakes_the_polls_of_every_worker(holding: Server, raw: redis.Redis) -> None:
    """decision 12: on whichever worker it is held."""
    holding.tpp("everywhere")
    polls = [Held(holding, "everywhere")]
    while listeners(raw, "everywhere") < 2:
        assert len(polls) < 100
        polls.append(Held(holding, "everywhere"))
        time.sleep(0.1)
    holding.push("everywhere", "woken")
    assert all("woken" in poll.answer().json["sets"] for poll in polls)


def test_a_requeue_wakes(holding: Server, raw: redis.Redis) -> None:
    """decision 12."""
    holding.tpp("requeued")
    holding.push("requeued", "a")
    error = {"setErrs": {"a": {"err": "invalid_request", "description": "no"}}}
    poll = hold(holding, raw, "requeued", error)
    assert holding.bank("POST", "/streams/requeued/sets/a/requeue").status < 300
    assert list(poll.answer().json["sets"]) == ["a"]


def test_a_lease_running_out_wakes(holding: Server) -> None:
    """decision 12: nobody needs to say so."""
    holding.tpp("leased", redeliver_after=1.5)
    holding.push("leased", "a")
    began = time.monotonic()
    assert list(holding.poll("leased").json["sets"]) == ["a"]
    poll = Held(holding, "leased")
    assert list(poll.answer().json["sets"]) == ["a"]
    assert poll.started + poll.seconds - began >= 1.4


def test_a_change_of_settings_wakes(holding: Server, raw: redis.Redis) -> None:
    """A lease that is taken away lets held polls go."""
    holding.tpp("changed", redeliver_after=3600)
    holding.push("changed", "a")
    assert list(holding.poll("changed").json["sets"]) == ["a"]
    poll = hold(holding, raw, "changed")
    assert holding.bank("PUT", "/streams/changed", {"redeliver_after": 0}).status == 200
    assert list(poll.answer().json["sets"]) == ["a"]


def test_a_push_between_the_look_and_the_hold_is_not_missed(holding: Server) -> None:
    """A poll that is about to be held looks again once pushes are heard."""
    holding.tpp("narrow", redeliver_after=3600)
    for number in range(40):
        poll = Held(holding, "narrow")
        if number % 4:
            time.sleep(0.001 * (number % 4))
        holding.push("narrow", f"jti-{number}")
        assert list(poll.answer().json["sets"]) == [f"jti-{number}"]


def test_max_events_0_is_held_until_something_waits_and_gets_nothing(holding: Server, raw: redis.Redis) -> None:
    """decision 11; RFC 8936 section 2.4.2: a long poll still occurs, though no SET is returned."""
    holding.tpp("zero")
    poll = hold(holding, raw, "zero", {"maxEvents": 0})
    holding.push("zero", "a")
    assert poll.answer().json == {"sets": {}, "moreAvailable": True}
    assert holding.bank("GET", "/streams/zero").json["pending"] == 1


def test_with_a_lease_one_push_answers_one_of_two_held_polls(holding: Server, raw: redis.Redis) -> None:
    """decision 2 and 12: the other goes on waiting."""
    holding.tpp("shared", redeliver_after=3600)
    polls = [hold(holding, raw, "shared"), Held(holding, "shared")]
    time.sleep(0.3)
    holding.push("shared", "first")
    wait_for(lambda: any(poll.reply for poll in polls))
    time.sleep(0.3)
    assert [poll.reply is None for poll in polls].count(True) == 1
    holding.push("shared", "second")
    assert sorted(jti for poll in polls for jti in poll.answer().json["sets"]) == ["first", "second"]


# -- what is safe -----------------------------------------------------------------------------------------------------


def test_acks_hold_before_the_poll_is_held(holding: Server, raw: redis.Redis) -> None:
    """decision 12: acks and setErrs take effect before the hold."""
    holding.tpp("early")
    for jti in ("acked", "reported"):
        holding.push("early", jti)
    value = {"ack": ["acked"], "setErrs": {"reported": {"err": "invalid_key", "description": "no"}}}
    poll = hold(holding, raw, "early", value)
    assert holding.bank("GET", "/streams/early/sets/acked").json["state"] == "settled"
    assert holding.bank("GET", "/streams/early/sets/reported").json["state"] == "parked"
    holding.push("early", "last")
    assert list(poll.answer().json["sets"]) == ["last"]


def hang(server: Server, tpp: str, secret: str) -> socket.socket:
    """A poll whose answer nobody reads yet."""
    head = f"POST /events HTTP/1.1\r\nHost: a\r\nAuthorization: {basic(tpp, secret)}\r\nContent-Length: 2\r\n"
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(f"{head}Content-Type: application/json\r\n\r\n{{}}".encode())
    return connection


@pytest.mark.parametrize("lease", [0, 3600])
def test_a_client_that_hangs_up_loses_nothing_and_frees_its_place(
    holding: Server, raw: redis.Redis, lease: int
) -> None:
    """RFC 8936 section 2.5; with a lease, a SET handed to nobody would be hidden."""
    tpp = f"gone-{lease}"
    secret = holding.tpp(tpp, redeliver_after=lease)
    connection = hang(holding, tpp, secret)
    wait_for(lambda: listeners(raw, tpp) == 1)
    time.sleep(0.2)
    connection.close()
    wait_for(lambda: listeners(raw, tpp) == 0)
    holding.push(tpp, "a")
    assert list(holding.poll(tpp).json["sets"]) == ["a"]
    assert holding.bank("GET", f"/streams/{tpp}/sets/a").json["deliveries"] == 1


@pytest.mark.parametrize("how", ["deleted", "rotated"])
def test_a_held_poll_that_is_no_longer_let_in_is_told_so(holding: Server, raw: redis.Redis, how: str) -> None:
    """decision 20: 401 with WWW-Authenticate, at once, and no SET for who holds an old secret."""
    holding.tpp(how)
    poll = hold(holding, raw, how)
    if how == "deleted":
        assert holding.bank("DELETE", f"/streams/{how}").status == 204
    else:
        assert holding.bank("POST", f"/streams/{how}/secret", {}).status == 200
    reply = poll.answer()
    assert reply.status == 401
    assert "www-authenticate" in reply.headers


def test_a_secret_in_its_grace_goes_on_waiting(holding: Server, raw: redis.Redis) -> None:
    """POST /streams/{tpp}/secret: the old one works for another grace_seconds."""
    holding.tpp("grace")
    poll = hold(holding, raw, "grace")
    assert holding.bank("POST", "/streams/grace/secret", {"grace_seconds": 600}).status == 200
    holding.push("grace", "a")
    assert list(poll.answer().json["sets"]) == ["a"]


# -- limits -----------------------------------------------------------------------------------------------------------


def test_too_many_held_polls_are_refused_and_their_acks_hold(
    serve: Callable[..., Server], own_redis: RedisServer
) -> None:
    """decision 25: over the stream's limit 429, over the worker's 503, each with Retry-After; all acks hold."""
    server = serve(
        REDIS_URL=own_redis.url,
        EVENTPOLL_LONG_POLL_SECONDS="15",
        EVENTPOLL_MAX_HELD_POLLS="2",
        EVENTPOLL_MAX_HELD_POLLS_PER_WORKER="3",
    )
    client = redis.Redis.from_url(own_redis.url)
    for tpp in ("one", "two", "three"):
        server.tpp(tpp)
    server.push("one", "a")
    server.push("three", "b")
    assert list(server.poll("one").json["sets"]) == ["a"]
    first, *others = hold(server, client, "one", {"ack": ["a"]}), Held(server, "one"), Held(server, "one")
    server.push("three", "c")
    wait_for(lambda: [poll for poll in others if poll.reply])
    (refused,) = [poll for poll in others if poll.reply]  # whichever came last
    assert refused.answer().status == 429
    polls = [first, *(poll for poll in others if poll is not refused)]
    for tpp, jti, status, err in (
        ("one", None, 429, "too_many_requests"),
        ("three", ["b", "c"], 503, "temporarily_unavailable"),
    ):
        if status == 503:
            polls.append(hold(server, client, "two"))
        reply = server.poll(tpp, {"ack": jti} if jti else {})
        assert (reply.status, reply.json["err"]) == (status, err)
        assert reply.headers["retry-after"].isdigit()
    assert server.bank("GET", "/streams/three").json["acked"] == 2
    assert server.poll("three", {"returnImmediately": True}).status == 200
    connection = hang(server, "two", server.secrets["two"])
    assert connection.recv(100).startswith(b"HTTP/1.1 503 ")
    connection.close()
    for tpp in ("one", "two"):
        server.push(tpp, "last")
    assert [list(poll.answer().json["sets"]) for poll in polls] == [["last"]] * 3
    poll = hold(server, client, "three")  # the places are free again
    server.push("three", "d")
    assert list(poll.answer().json["sets"]) == ["d"]
    client.close()


def test_a_client_that_hung_up_frees_its_place_for_the_next(
    serve: Callable[..., Server], own_redis: RedisServer
) -> None:
    """decision 25 counts polls that are held, not those that were."""
    server = serve(REDIS_URL=own_redis.url, EVENTPOLL_LONG_POLL_SECONDS="15", EVENTPOLL_MAX_HELD_POLLS="1")
    secret = server.tpp("one")
    client = redis.Redis.from_url(own_redis.url)
    for _ in range(3):
        connection = hang(server, "one", secret)
        wait_for(lambda: listeners(client, "one") == 1)
        assert server.poll("one").status == 429
        connection.close()
        wait_for(lambda: listeners(client, "one") == 0)
    client.close()


def test_long_poll_seconds_0_never_holds(serve: Callable[..., Server], own_redis: RedisServer) -> None:
    """decision 12: 0 turns holding off, and every poll answers at once."""
    server = serve(REDIS_URL=own_redis.url, EVENTPOLL_LONG_POLL_SECONDS="0")
    server.tpp("one")
    for value in ({}, {"returnImmediately": False}, {"maxEvents": 0}):
        poll = Held(server, "one", value)
        assert poll.answer().json == {"sets": {}, "moreAvailable": False}
    assert own_redis.ask(b"PUBSUB CHANNELS") == b"*0\r\n"


# -- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_the_server_answers_what_it_holds_and_exits_0(
    serve: Callable[..., Server], own_redis: RedisServer, how: signal.Signals
) -> None:
    """Issue 2: SIGTERM answers the held polls and exits cleanly; connections on which nothing is asked do not
    keep it."""
    server = serve(workers=2, REDIS_URL=own_redis.url, EVENTPOLL_LONG_POLL_SECONDS="25")
    server.tpp("one")
    client = redis.Redis.from_url(own_redis.url)
    idle = [http.client.HTTPConnection("127.0.0.1", server.port) for _ in range(4)]
    for connection in idle[:2]:  # kept alive after an answer
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
    for connection in idle[2:]:  # not a word yet
        connection.connect()
    polls = [hold(server, client, "one"), *(Held(server, "one") for _ in range(5))]
    wait_for(lambda: b"\neventpoll_held_polls 6.0\n" in server.bank("GET", "/metrics").body)
    started = time.monotonic()
    assert server.stop(how) == 0
    assert time.monotonic() - started < 20
    for poll in polls:
        reply = poll.answer()
        assert (reply.status, reply.json) == (200, {"sets": {}, "moreAvailable": False})
    for connection in idle:
        assert connection.sock.recv(100) == b""
        connection.close()
    assert "Traceback" not in server.log.read_text()
    client.close()


# -- the cost ---------------------------------------------------------------------------------------------------------


def _threads(server: Server) -> int:
    pids = [server.process.pid, *children(server.process.pid)]
    return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids)


def test_300_held_polls_cost_no_connection_to_redis_and_no_thread(
    serve: Callable[..., Server], own_redis: RedisServer
) -> None:
    """Issue 2: one subscription per worker wakes its held polls."""
    server = serve(REDIS_URL=own_redis.url, EVENTPOLL_LONG_POLL_SECONDS="25", EVENTPOLL_MAX_HELD_POLLS="1000")
    client = redis.Redis.from_url(own_redis.url)
    secret = server.tpp("many")
    first = hang(server, "many", secret)
    wait_for(lambda: listeners(client, "many"))
    threads = _threads(server)
    connections = [hang(server, "many", secret) for _ in range(299)]
    # Each looks twice: once when it comes, once when pushes are heard.
    wait_for(lambda: client.info("commandstats")["cmdstat_evalsha"]["calls"] >= 600, 30)
    assert listeners(client, "many") == 1
    subscribed = [row for row in client.client_list() if row["sub"] != "0"]
    assert len(subscribed) == 1
    assert len(client.client_list()) <= 70  # the pool of one worker has 64
    assert _threads(server) <= threads + 10  # gevent's own few, which look up names
    server.push("many", "a")
    for connection in [first, *connections]:
        connection.settimeout(20)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 200
        assert json.loads(answer.read())["sets"].keys() == {"a"}
        connection.close()
    wait_for(lambda: listeners(client, "many") == 0)
    client.close()


# -- the store comes and goes -----------------------------------------------------------------------------------------


def test_a_restart_of_redis_does_not_leave_held_polls_deaf(
    serve: Callable[..., Server], own_redis: RedisServer
) -> None:
    """decision 19: held polls are answered (503 while the store is away); later ones hear pushes again."""
    server = serve(REDIS_URL=own_redis.url, EVENTPOLL_LONG_POLL_SECONDS="20")
    server.tpp("one")
    client = redis.Redis.from_url(own_redis.url)
    before = hold(server, client, "one")
    own_redis.kill()
    reply = before.answer()
    assert reply.status == 503
    assert reply.headers["retry-after"].isdigit()
    own_redis.start()
    poll = hold(server, client, "one")
    server.push("one", "a")
    assert list(poll.answer().json["sets"]) == ["a"]
    # Only the subscription is cut: the polls stay, and hear again.
    poll = hold(server, client, "one", {"ack": ["a"]})
    assert client.client_kill_filter(_type="pubsub") == 1
    wait_for(lambda: listeners(client, "one") == 1)
    assert poll.reply is None
    server.push("one", "b")
    assert list(poll.answer().json["sets"]) == ["b"]
    client.close()
