"""A view gets a proven caller or nothing; the usual poll still takes one round trip."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import Request
from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder

from eventpoll.access import proofs
from eventpoll.access.door import Bank, Door, hash_of
from eventpoll.access.passwords import Password
from eventpoll.access.proofs import Proofs
from eventpoll.errors import Refused
from eventpoll.store.errors import Denied, NoStream
from harness.redis_servers import RedisServer
from harness.service import Server, basic

POLL = '{"returnImmediately": true}'
JSON = {"Content-Type": "application/json"}


class Secrets:
    """A store that knows one secret, and counts how often it is asked."""

    def __init__(self) -> None:
        self.right: dict[str, str] = {}
        self.asked = 0

    def prove(self, tpp: str, proof: str) -> None:
        self.asked += 1
        if tpp not in self.right:
            raise NoStream("no stream of this TPP")
        if self.right[tpp] != proof:
            raise Denied("the secret is not the one of this stream")


def request_with(name: str, secret: str) -> Request:
    return Request(EnvironBuilder(headers=Headers({"Authorization": basic(name, secret)})).get_environ())


@pytest.mark.parametrize("name", ["tpp", "stranger", "bank"])
@pytest.mark.parametrize("ask", ["caller", "poller"])
def test_an_invented_secret_names_nobody(name: str, ask: str) -> None:
    """Issue 12: a view that asks who calls cannot forget the proof."""
    secrets = Secrets()
    secrets.right["tpp"] = hash_of("right")
    door = Door(Bank("bank", Password("password")), secrets.prove)
    asked: dict[str, Callable[[Any], Any]] = {
        "caller": lambda request: door.caller(request, ()),
        "poller": lambda request: door.poller(request, is_tpps=True),
    }
    with pytest.raises(Refused) as refused:
        asked[ask](request_with(name, "invented"))
    assert refused.value.row.status == 401


def test_what_is_no_poll_is_proven_each_time_and_a_poll_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that was right is remembered for polls alone, as poll.lua checks it again in its own step."""
    secrets, now = Secrets(), [1000.0]
    secrets.right["tpp"] = hash_of("right")
    monkeypatch.setattr("eventpoll.access.proofs.time.monotonic", lambda: now[0])
    door = Door(None, secrets.prove)
    shown = request_with("tpp", "right")
    for _ in range(3):
        assert door.poller(shown, is_tpps=True).polls
    assert secrets.asked == 1
    for _ in range(3):
        assert door.caller(shown, ()).name == "tpp"
    assert secrets.asked == 4
    now[0] += proofs.SECONDS
    door.poller(shown, is_tpps=True)
    assert secrets.asked == 5


def test_a_wrong_secret_is_not_remembered_and_a_revoked_one_is_forgotten() -> None:
    """The store is asked for each wrong secret; one that poll.lua refuses is proven anew."""
    secrets = Secrets()
    secrets.right["tpp"] = hash_of("right")
    door = Door(None, secrets.prove)
    for _ in range(2):
        with pytest.raises(Refused):
            door.poller(request_with("tpp", "wrong"), is_tpps=True)
    assert secrets.asked == 2
    caller = door.poller(request_with("tpp", "right"), is_tpps=True)
    door.revoked(request_with("tpp", "right"), caller)
    del secrets.right["tpp"]
    with pytest.raises(Refused):
        door.poller(request_with("tpp", "right"), is_tpps=True)
    assert secrets.asked == 4


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ones remembered longest go first."""
    monkeypatch.setattr(proofs, "MOST", 3)
    kept = Proofs()
    for number in range(5):
        kept.add(f"tpp-{number}", "proof")
    assert [kept.has(f"tpp-{number}", "proof") for number in range(5)] == [False, False, True, True, True]
    assert not kept.has("tpp-4", "another proof")


def scripts(redis: RedisServer) -> int:
    """How many Lua commands the server has run."""
    stats = redis.ask(b"INFO commandstats").decode()
    return sum(int(line.split("calls=")[1].split(",")[0]) for line in stats.splitlines() if "cmdstat_eval" in line)


def test_the_usual_poll_takes_one_round_trip(own_redis: RedisServer, serve: Callable[..., Server]) -> None:
    """The first of a worker takes one more, to prove the secret."""
    server = serve(REDIS_URL=own_redis.url, workers=1)
    server.tpp("tpp")
    server.poll("tpp", {"returnImmediately": True})
    for value in ({"returnImmediately": True}, {"returnImmediately": True, "ack": ["unknown"]}):
        before = scripts(own_redis)
        assert server.poll("tpp", value).status == 200
        assert scripts(own_redis) - before == 1


@pytest.mark.parametrize("end", ["rotated", "deleted", "made again"])
def test_a_secret_that_is_remembered_fetches_and_settles_nothing_once_it_is_revoked(
    shared_server: Server, end: str
) -> None:
    """poll.lua checks it in its own step: from that moment on nothing is done with it."""
    tpp = f"revoked-{end.replace(' ', '-')}"
    secret = shared_server.tpp(tpp)
    jti = shared_server.push(tpp)
    for _ in range(20):  # whichever worker is asked, it remembers the secret
        assert list(shared_server.poll(tpp, {"returnImmediately": True}).json["sets"]) == [jti]
    if end == "rotated":
        assert shared_server.bank("POST", f"/streams/{tpp}/secret").status == 200
    else:
        assert shared_server.bank("DELETE", f"/streams/{tpp}?force=true").status == 204
    if end == "made again":
        shared_server.tpp(tpp)
        shared_server.push(tpp, jti)
    for body in (POLL, json.dumps({"ack": [jti], "returnImmediately": True}), '{"maxEvents": -1}', "no JSON"):
        for _ in range(4):
            reply = shared_server.request("POST", "/events", body, JSON, (tpp, secret))
            assert (reply.status, b"sets" in reply.body) == (401, False) or (
                body in ('{"maxEvents": -1}', "no JSON") and reply.status == 400
            )
    if end != "deleted":
        assert shared_server.bank("GET", f"/streams/{tpp}/sets/{jti}").json["state"] != "settled"


def test_a_call_that_is_no_poll_refuses_a_revoked_secret_at_once(shared_server: Server) -> None:
    """It is proven each time: 403 says that the secret is right, 401 that it is not."""
    secret = shared_server.tpp("revoked-call")
    ask = ("GET", "/streams/revoked-call", None, None, ("revoked-call", secret))
    assert shared_server.poll("revoked-call", {"returnImmediately": True}).status == 200
    assert shared_server.request(*ask).status == 403
    assert shared_server.bank("POST", "/streams/revoked-call/secret").status == 200
    assert shared_server.request(*ask).status == 401
