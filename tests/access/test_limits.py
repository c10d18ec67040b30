"""Limits: how often a TPP polls, how slowly a wrong password is told, how much may be asked and held."""

import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient

from eventpoll.access import failed_logins
from eventpoll.access.failed_logins import FREE, Slowing
from eventpoll.settings import Config, ConfigError
from harness import issuer
from harness.issuer import bearer, token
from harness.redis_servers import RedisServer
from harness.service import BANK, BANK_SETTINGS, Reply, Server, basic, start_server
from harness.waiting import wait_for

JSON = {"Content-Type": "application/json"}
NOW = {"returnImmediately": True}
PATHS = ("/events", "/open-banking/v3.1/events", "/open-banking/v4.0/events")
WSO2 = "/api/openbanking/event-notifications/events"
RATE = 5


@pytest.fixture(scope="module")
def server(redis_server: RedisServer, signing_keys: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two workers, and five polls an hour for each TPP."""
    environ = {
        "REDIS_URL": redis_server.url.removesuffix("0") + "9",
        **BANK_SETTINGS,
        "EVENTPOLL_SIGNING_KEYS": signing_keys,
        "EVENTPOLL_LONG_POLL_SECONDS": "1",
        "EVENTPOLL_POLL_RATE": f"{RATE}/hour",
        "EVENTPOLL_MAX_ACKS": "3",
        "EVENTPOLL_FAILED_LOGIN_SECONDS": "8",
        **issuer.settings(),
    }
    server = start_server(environ, tmp_path_factory.mktemp("limits"), workers=2)
    yield server
    server.stop()


@pytest.fixture
def tpp(server: Server) -> str:
    """A TPP that has not polled yet."""
    name = f"tpp-{uuid.uuid4().hex[:8]}"
    server.tpp(name)
    return name


def exhaust(server: Server, tpp: str) -> None:
    """Poll as often as may be."""
    for _ in range(RATE):
        assert server.poll(tpp, NOW).status == 200


def test_over_its_rate_a_tpp_gets_429_whichever_worker_answers(server: Server, tpp: str) -> None:
    """Issue 4: EVENTPOLL_POLL_RATE, per TPP, counted over all workers."""
    assert [server.poll(tpp, NOW).status for _ in range(RATE + 8)] == [200] * RATE + [429] * 8


def test_polls_that_come_together_are_counted_each(server: Server, tpp: str) -> None:
    """Nobody polls more by polling at once."""
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(server.poll(tpp, NOW).status)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(statuses) == [200] * RATE + [429] * (20 - RATE)


def test_every_poll_tells_what_is_left(server: Server, tpp: str) -> None:
    """draft-ietf-httpapi-ratelimit-headers: RateLimit-Policy and RateLimit, on success and on refusal."""
    for number in range(RATE + 2):
        reply = server.poll(tpp, NOW)
        assert reply.headers["ratelimit-policy"] == f'"poll";q={RATE};w=3600'
        found = re.fullmatch(r'"poll";r=(\d+);t=(\d+)', reply.headers["ratelimit"])
        assert found
        assert int(found[1]) == max(0, RATE - 1 - number)
        assert 0 < int(found[2]) <= 3600


@pytest.mark.parametrize("path", [*PATHS, WSO2])
def test_a_429_says_when_to_come_back_in_the_shape_of_its_profile(server: Server, tpp: str, path: str) -> None:
    """RFC 6585 section 4; RFC 9110 section 10.2.3: Retry-After in whole seconds."""
    exhaust(server, tpp)
    if path == WSO2:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        auth = (tpp, server.secrets[tpp])
        reply = server.request("POST", path, "request=e30=", headers, auth)
        assert reply.json["error"] == "too_many_requests"
    else:
        reply = server.poll(tpp, NOW, path)
        assert reply.json.get("err") == "too_many_requests" or reply.json["Errors"][0]["ErrorCode"] in (
            "U014",
            "UK.OBIE.Rules.FailsControlParameters",
        )
    assert reply.status == 429
    assert 0 < int(reply.headers["retry-after"]) <= 3600
    assert reply.headers["x-fapi-interaction-id"]


def test_of_a_poll_over_the_rate_nothing_takes_effect(server: Server, tpp: str) -> None:
    """docs/protocol.md: neither acks nor errors hold, and nothing is delivered."""
    jti = server.push(tpp)
    for _ in range(RATE):
        assert server.poll(tpp, {**NOW, "maxEvents": 0}).status == 200
    for members in ({"ack": [jti]}, {"setErrs": {jti: {"err": "invalid_key"}}}, {}):
        assert server.poll(tpp, {**NOW, **members}).status == 429
    record = server.bank("GET", f"/streams/{tpp}/sets/{jti}").json
    assert (record["state"], record["deliveries"]) == ("pending", 0)


def test_another_tpp_and_the_bank_are_not_slowed(server: Server, tpp: str) -> None:
    """Issue 4: one TPP can never slow down another."""
    server.tpp(f"{tpp}-other")
    exhaust(server, tpp)
    assert server.poll(tpp, NOW).status == 429
    assert server.poll(f"{tpp}-other", NOW).status == 200
    assert server.bank("GET", f"/streams/{tpp}").status == 200


@pytest.mark.parametrize("authorization", ["wrong secret", "no secret", "bad token", "none"])
def test_strangers_cannot_use_up_what_a_tpp_may_ask(server: Server, tpp: str, authorization: str) -> None:
    """Only who is known counts: else anyone could lock a TPP out."""
    headers = {
        "wrong secret": {"Authorization": basic(tpp, "wrong")},
        "no secret": {"Authorization": basic(tpp, "")},
        "bad token": bearer(token(tpp) + "x"),
        "none": {},
    }[authorization]
    for _ in range(RATE + 2):
        assert server.request("POST", "/events", "{}", {**JSON, **headers}).status == 401
    exhaust(server, tpp)


def test_tokens_and_secrets_count_together(server: Server, tpp: str) -> None:
    """A rate is a TPP's, however it says who it is."""
    exhaust(server, tpp)
    reply = server.request("POST", "/events", json.dumps(NOW), {**JSON, **bearer(token(tpp))})
    assert reply.status == 429


def test_the_banks_polls_for_a_tpp_count_as_the_tpps(server: Server, tpp: str) -> None:
    """A gateway in front polls for many: each has its own rate."""
    assert [server.wso2(tpp, {}).status for _ in range(RATE + 2)] == [200] * RATE + [429] * 2
    server.tpp(f"{tpp}-other")
    assert server.wso2(f"{tpp}-other", {}).status == 200


def test_by_default_there_is_no_rate(shared_server: Server) -> None:
    """Issue 4: off by default; then no RateLimit header promises anything."""
    shared_server.tpp("unlimited")
    reply = shared_server.poll("unlimited", NOW)
    assert "ratelimit" not in reply.headers


def test_a_store_that_is_away_is_503_not_429(serve: Callable[..., Server], own_redis: RedisServer) -> None:
    """Decision 19: where nothing can be counted, nothing can be answered either."""
    server = serve(REDIS_URL=own_redis.url, EVENTPOLL_POLL_RATE="10/second", **issuer.settings())
    server.tpp("tpp")
    assert server.poll("tpp", NOW).status == 200
    own_redis.kill()
    form = {"Content-Type": "application/x-www-form-urlencoded", "x-wso2-client-id": "tpp"}
    for path, body, headers in (
        ("/events", '{"returnImmediately":true}', {**JSON, "Authorization": basic("tpp", server.secrets["tpp"])}),
        ("/events", '{"returnImmediately":true}', {**JSON, **bearer(token())}),
        ("/open-banking/v4.0/events", '{"returnImmediately":true}', {**JSON, **bearer(token())}),
        ("/api/fs/event-notifications/events", "request=e30", {**form, "Authorization": basic(*BANK)}),
    ):
        reply = server.request("POST", path, body, headers)
        assert (reply.status, int(reply.headers["retry-after"]) >= 1) == (503, True), path


@pytest.mark.parametrize("text", ["10/second", "600/minute", "5000/hour", "10 per 5 minutes", "1/second"])
def test_a_rate_is_written_as_one_says_it(text: str) -> None:
    """EVENTPOLL_POLL_RATE, e.g. 10/second."""
    rate = Config.from_environ({"EVENTPOLL_POLL_RATE": text}).poll_rate
    assert rate is not None
    assert rate.amount == int(re.findall(r"\d+", text)[0])


@pytest.mark.parametrize("text", ["10", "0/second", "ten/second", "10/fortnight", "-1/second", "10/second;5/minute"])
def test_a_rate_that_is_none_stops_the_start(text: str) -> None:
    """interface.md: one line for each mistake."""
    with pytest.raises(ConfigError, match="EVENTPOLL_POLL_RATE"):
        Config.from_environ({"EVENTPOLL_POLL_RATE": text})


# -- wrong passwords --------------------------------------------------------------------------------------------


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each failure slept; no time passes."""
    slept: list[float] = []
    monkeypatch.setattr(failed_logins, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=slept.append))
    return slept


def test_failures_are_told_more_slowly_the_more_there_are(naps: list[float]) -> None:
    """Issue 4: failed logins slowed per address and name; a few typing errors cost nothing."""
    slowing = Slowing(1.0)
    for _ in range(FREE):
        slowing.failed("192.0.2.1", "tpp")
    assert naps == []
    for _ in range(20):
        slowing.failed("192.0.2.1", "tpp")
    assert naps == sorted(naps)
    assert len(naps) == 20
    assert (naps[-1], max(naps)) == (1.0, 1.0)


def test_another_address_or_name_is_not_slowed(naps: list[float]) -> None:
    """Whoever guesses a TPP's secret slows himself down, and neither that TPP nor his neighbour."""
    slowing = Slowing(1.0)
    for _ in range(FREE + 5):
        slowing.failed("192.0.2.1", "tpp")
    before = len(naps)
    slowing.failed("192.0.2.2", "tpp")
    slowing.failed("192.0.2.1", "other")
    assert len(naps) == before


def test_what_is_remembered_of_failures_is_bounded() -> None:
    """Whoever makes up names fills no memory, however long they are."""
    slowing = Slowing(0.0)
    for number in range(failed_logins.REMEMBERED + 10):
        slowing.failed("192.0.2.1", f"{number}" + "x" * 1000)
    assert len(slowing._failures) == failed_logins.REMEMBERED
    assert max(len(name) for _, name in slowing._failures) <= 128


def test_slowed_callers_do_not_pile_up(naps: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that waits holds a connection: so many, and the others are told at once."""
    monkeypatch.setattr(failed_logins, "MOST_SLOWED", 0)
    slowing = Slowing(1.0)
    for _ in range(FREE + 10):
        slowing.failed("192.0.2.1", "tpp")
    assert naps == []


def test_right_credentials_pass_at_once_while_wrong_ones_wait(server: Server, tpp: str) -> None:
    """Issue 4: without letting anyone lock a TPP out, not even from its own address under its own name."""
    answered: list[int] = []

    def guess(number: int) -> None:
        headers = {**JSON, "Authorization": basic(tpp, f"guess-{number}")}
        answered.append(server.request("POST", "/events", "{}", headers).status)

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(4 * FREE)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(answered) >= FREE)
    assert server.poll(tpp, NOW).status == 200
    assert server.bank("GET", "/streams").status == 200
    assert len(answered) < len(threads)
    for thread in threads:
        thread.join(30)
    assert answered == [401] * len(threads)
    assert server.poll(tpp, NOW).status == 200


def test_only_wrong_credentials_are_counted(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that right ones wait for nothing, whoever failed before in the same name from the same address."""
    failed: list[str] = []
    monkeypatch.setattr(Slowing, "failed", lambda self, address, name: failed.append(f"{address} {name}"))
    bank = {"Authorization": basic(*BANK)}
    secret = client.put("/streams/tpp", headers=bank).get_json()["secret"]
    right = {"Authorization": basic("tpp", secret)}
    for path in PATHS:
        assert client.post(path, json=NOW, headers=right).status_code == 200
    assert client.post("/events", json={"maxEvents": -1}, headers=right).status_code == 400
    assert client.get("/streams", headers=right).status_code == 403
    assert failed == []
    assert client.post("/events", json=NOW, headers={"Authorization": basic("tpp", "wrong")}).status_code == 401
    assert client.get("/streams", headers={"Authorization": basic(BANK[0], "wrong")}).status_code == 401
    assert failed == ["127.0.0.1 tpp", f"127.0.0.1 {BANK[0]}"]
    for guess in ("a:b", "a:b:", "c:d", ":"):  # each of another name, where the last colon divides
        assert client.get("/streams", headers={"Authorization": basic(BANK[0], guess)}).status_code == 401
    assert failed[2:] == [f"127.0.0.1 {BANK[0]}"] * 4


# -- how much ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "members", [{"ack": list("abcd")}, {"ack": ["a", "b"], "setErrs": {"c": {"err": "x"}, "d": {"err": "x"}}}]
)
def test_more_jtis_than_may_be_are_refused_whole(server: Server, tpp: str, members: dict[str, Any]) -> None:
    """Decision 17: 400; decision 16: none of them is applied."""
    for jti in "abcd":
        server.push(tpp, jti)
    assert server.poll(tpp, {**NOW, **members}).status == 400
    stream = server.bank("GET", f"/streams/{tpp}").json
    assert (stream["pending"], stream["acked"], stream["parked"]) == (4, 0, 0)
    assert server.poll(tpp, {**NOW, "ack": ["a", "b", "c"]}).status == 200


@pytest.mark.parametrize("path", PATHS)
def test_a_body_over_one_mebibyte_is_refused(server: Server, tpp: str, path: str) -> None:
    """Decision 16: 413, and no more of it is read than that."""
    reply = server.request("POST", path, b'{"ack":["' + b"x" * 1_048_576 + b'"]}', JSON, (tpp, server.secrets[tpp]))
    assert reply.status == 413


@pytest.mark.parametrize(
    "text",
    [
        b"POST /events HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 9_000 + b"\r\n\r\n",
        b"POST /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + b"x" * 9_000 + b"\r\n\r\n",
        b"POST /events HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: x\r\n" % n for n in range(200)) + b"\r\n",
        b"POST /events?" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["a long header", "a long token", "many headers", "a long line"],
)
def test_headers_have_their_size(server: Server, text: bytes) -> None:
    """RFC 9112 section 3, RFC 6585 section 5: refused, and the worker goes on."""
    assert server.raw(text).status in (400, 414, 431)
    assert server.request("GET", "/healthz").status == 200


def test_a_request_has_fifty_headers_at_most(server: Server) -> None:
    """Issue 11, 11: RFC 6585 section 5 for more."""
    for count, status in ((50, 200), (51, 431)):
        headers = b"".join(b"X-%d: x\r\n" % number for number in range(count - 1))
        assert server.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n").status == status


def test_a_token_of_the_longest_length_is_read(server: Server, tpp: str) -> None:
    """Tokens with many claims go through: what a header may hold, a token may."""
    text = token(tpp, filler="x" * 4000)
    assert server.request("POST", "/events", json.dumps(NOW), {**JSON, **bearer(text)}).status == 200


def _is_held(store: redis.Redis, tpp: str) -> bool:
    return bool(store.pubsub_numsub(f"eventpoll:{{{tpp}}}:wake")[0][1] == 1)


def _keep(replies: list[Reply], ask: Callable[[], Reply]) -> None:
    replies.append(ask())


def test_held_polls_are_limited_per_stream_and_per_worker(
    serve: Callable[..., Server], redis_server: RedisServer
) -> None:
    """Decision 25: 429 for the stream, 503 for the worker, each with Retry-After; the acks of such a poll hold."""
    server = serve(
        REDIS_URL=redis_server.url.removesuffix("0") + "10",
        EVENTPOLL_MAX_HELD_POLLS="1",
        EVENTPOLL_MAX_HELD_POLLS_PER_WORKER="2",
        EVENTPOLL_LONG_POLL_SECONDS="20",
    )
    store = redis.Redis.from_url(redis_server.url)
    replies: list[Reply] = []
    threads = []
    for tpp, probe, status in (("held-a", "held-a", 429), ("held-b", "held-c", 503)):
        for name in {tpp, probe} - set(server.secrets):
            server.tpp(name)
        ask = partial(server.poll, tpp, {})
        threads.append(threading.Thread(target=_keep, args=(replies, ask), daemon=True))
        threads[-1].start()
        wait_for(partial(_is_held, store, tpp))
        refused = server.poll(probe, {"ack": ["unknown"]})
        assert (refused.status, int(refused.headers["retry-after"]) >= 1) == (status, True)
    for tpp in ("held-a", "held-b"):
        server.push(tpp)
    for thread in threads:
        thread.join(20)
    store.close()
    assert [reply.status for reply in replies] == [200, 200]
