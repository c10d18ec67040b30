"""Families of events: a SET may carry a scope, and a token sees only what its scopes cover."""

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventpoll.records import EVERY_FAMILY, FAMILIES, Rules
from eventpoll.store import Store
from harness import ROOT, issuer
from harness.issuer import bearer, token
from harness.redis_servers import RedisServer
from harness.service import BANK, BANK_SETTINGS, Reply, Server, start_server
from harness.sets import set_of
from harness.waiting import wait_for

JSON = {"Content-Type": "application/json"}
SCOPES = ("accounts", "payments", "fundsconfirmations")
ACCOUNTS, PAYMENTS, FUNDS = "01", "02", "03"


def settings(redis_server: RedisServer, signing_keys: str, **others: str) -> dict[str, str]:
    """A service that takes tokens."""
    return {
        "REDIS_URL": redis_server.url.removesuffix("0") + "8",
        **BANK_SETTINGS,
        "EVENTPOLL_SIGNING_KEYS": signing_keys,
        "EVENTPOLL_LONG_POLL_SECONDS": "20",
        **issuer.settings(),
        **others,
    }


@pytest.fixture(scope="module")
def server(redis_server: RedisServer, signing_keys: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_server(settings(redis_server, signing_keys), tmp_path_factory.mktemp("families"))
    yield server
    server.stop()


def push(server: Server, tpp: str, jti: str, scope: str = "") -> str:
    """Mint a SET of a family."""
    event: dict[str, Any] = {"events": {"urn:test:event": {}}, "jti": jti, **({"scope": scope} if scope else {})}
    assert server.bank("POST", f"/streams/{tpp}/sets", event).status == 201
    return jti


def stream(server: Server, tpp: str) -> str:
    """A stream with a SET of each family, and one of none, which is the youngest."""
    server.tpp(tpp)
    for scope in SCOPES:
        push(server, tpp, f"{tpp}-{scope}", scope)
    push(server, tpp, f"{tpp}-none")
    return tpp


def poll(server: Server, tpp: str, scope: str, **members: Any) -> Any:
    """What a token of these scopes is answered, at once."""
    body = json.dumps({"returnImmediately": True, **members})
    reply = server.request("POST", "/events", body, {**JSON, **bearer(token(tpp, scope))})
    assert reply.status == 200, reply.body
    return reply.json


@pytest.mark.parametrize(
    ("scope", "seen"),
    [
        ("accounts", {"accounts", "none"}),
        ("payments", {"payments", "none"}),
        ("fundsconfirmations", {"fundsconfirmations", "none"}),
        ("accounts payments", {"accounts", "payments", "none"}),
        ("openid fundsconfirmations accounts", {"accounts", "fundsconfirmations", "none"}),
        ("accounts payments fundsconfirmations", {*SCOPES, "none"}),
        ("eventpolling", {*SCOPES, "none"}),
        ("eventpolling accounts", {*SCOPES, "none"}),
    ],
)
def test_a_token_sees_what_its_scopes_cover(server: Server, scope: str, seen: set[str]) -> None:
    """Issue 4: a SET without a scope is everyone's; eventpolling, which names no family, covers all."""
    tpp = stream(server, "sees-" + scope.replace(" ", "-"))
    answer = poll(server, tpp, scope)
    assert {jti.removeprefix(f"{tpp}-") for jti in answer["sets"]} == seen
    assert answer["moreAvailable"] is False


@pytest.mark.parametrize("path", ["/events", "/open-banking/v3.1/events", "/open-banking/v4.0/events"])
def test_a_secret_sees_everything_on_its_stream(server: Server, path: str) -> None:
    """Issue 4: default, everything on its stream: a secret has no scopes."""
    tpp = stream(server, "secret" + path.replace("/", "-"))
    assert len(server.poll(tpp, {"returnImmediately": True}, path).json["sets"]) == 4


def test_a_secret_and_the_bank_see_everything_on_wso2s_paths(server: Server) -> None:
    """The bank polls for the TPP as a gateway does; it has no scopes either."""
    tpp = stream(server, "gateway")
    assert len(server.wso2(tpp, {}).json["sets"]) == 4


def test_more_available_is_true_of_what_the_token_may_see(server: Server) -> None:
    """Decision 13: whether a next poll could return something; what another scope covers could not be."""
    tpp = stream(server, "more")
    first = poll(server, tpp, "accounts", maxEvents=1)
    assert (list(first["sets"]), first["moreAvailable"]) == ([f"{tpp}-accounts"], True)
    settled = poll(server, tpp, "accounts", ack=[f"{tpp}-accounts", f"{tpp}-none"], maxEvents=0)
    assert settled == {"sets": {}, "moreAvailable": False}
    assert poll(server, tpp, "payments", maxEvents=0)["moreAvailable"] is True
    assert poll(server, tpp, "eventpolling", maxEvents=1)["moreAvailable"] is True


def test_across_families_the_oldest_goes_first(server: Server) -> None:
    """Decision 1: oldest first, whatever the family."""
    server.tpp("oldest")
    jtis = [push(server, "oldest", f"o{n}", ("", *SCOPES)[(3 * n) % 4]) for n in range(8)]
    seen: list[str] = []
    for _ in jtis:
        (jti,) = poll(server, "oldest", "eventpolling", maxEvents=1)["sets"]
        poll(server, "oldest", "accounts", ack=[jti], maxEvents=0)
        seen.append(jti)
    assert seen == jtis


@pytest.mark.parametrize("scope", ["cards", "Accounts", "", "accounts payments", "eventpolling", 1, None, ["accounts"]])
def test_a_scope_that_is_no_family_is_refused_at_the_push(server: Server, scope: Any) -> None:
    """400, and nothing is queued: a SET that no token could see would wait for ever."""
    server.tpp("strict") if "strict" not in server.secrets else None
    event = {"events": {"urn:test:event": {}}, "scope": scope}
    assert server.bank("POST", "/streams/strict/sets", event).status == 400
    assert server.bank("GET", "/streams/strict").json["pending"] == 0


def sent(server: Server, path: str, body: str, content_type: str) -> Reply:
    """A push of the bank's."""
    return server.request("POST", path, body, {"Content-Type": content_type}, BANK)


def test_a_signed_set_gets_its_family_from_the_address(server: Server) -> None:
    """?scope=: inside what the bank signed there is no place for one."""
    server.tpp("signed")
    secevent = "application/secevent+jwt"
    assert sent(server, "/streams/signed/sets?scope=payments", set_of("s1"), secevent).status == 202
    assert sent(server, "/streams/signed/sets", set_of("s2"), secevent).status == 202
    assert sent(server, "/streams/signed/sets?scope=cards", set_of("s3"), secevent).status == 400
    assert list(poll(server, "signed", "accounts")["sets"]) == ["s2"]
    assert set(poll(server, "signed", "payments")["sets"]) == {"s1", "s2"}


def test_a_batch_gives_each_event_its_own_family_and_signed_sets_that_of_the_address(server: Server) -> None:
    """A JSON line says its own scope; a signed one cannot."""
    server.tpp("batched")
    lines = [
        json.dumps({"events": {"urn:test:event": {}}, "jti": "b1", "scope": "accounts"}),
        set_of("b2"),
        json.dumps({"events": {"urn:test:event": {}}, "jti": "b3", "scope": "cards"}),
    ]
    reply = sent(server, "/streams/batched/sets:batch?scope=payments", "\n".join(lines), "application/x-ndjson")
    assert [json.loads(line)["status"] for line in reply.body.splitlines()] == [201, 202, 400]
    assert list(poll(server, "batched", "accounts")["sets"]) == ["b1"]
    assert list(poll(server, "batched", "payments")["sets"]) == ["b2"]


def test_an_event_in_the_inbox_may_have_a_family(server: Server) -> None:
    """XADD eventpoll:inbox * tpp … scope accounts."""
    server.tpp("inboxed")
    store = Store.open(server.environ["REDIS_URL"], Path(), Rules())
    events = '{"urn:test:event":{}}'
    store.redis.xadd("eventpoll:inbox", {"tpp": "inboxed", "events": events, "jti": "i1", "scope": "payments"})
    store.redis.xadd("eventpoll:inbox", {"tpp": "inboxed", "events": events, "jti": "i2", "scope": "cards"})
    store.redis.close()
    worker = [sys.executable, "-m", "flask", "eventpoll", "worker", "--once"]
    subprocess.run(worker, cwd=ROOT, env={"PATH": "/usr/bin:/bin", **server.environ}, check=True, timeout=60)
    assert poll(server, "inboxed", "accounts")["sets"] == {}
    assert list(poll(server, "inboxed", "payments")["sets"]) == ["i1"]


def test_the_bank_sees_the_family_of_a_set_wherever_it_is(server: Server) -> None:
    """Listings and histories tell it: pending, in flight, parked, back again, and settled."""
    server.tpp("told")
    push(server, "told", "t1", "payments")

    def told() -> tuple[str, str]:
        record = server.bank("GET", "/streams/told/sets/t1").json
        return record["state"], record["scope"]

    assert told() == ("pending", "payments")
    poll(server, "told", "payments")
    assert told() == ("in_flight", "payments")
    poll(server, "told", "payments", setErrs={"t1": {"err": "invalid_key"}}, maxEvents=0)
    assert told() == ("parked", "payments")
    assert server.bank("GET", "/streams/told/sets?state=parked").json["sets"][0]["scope"] == "payments"
    assert server.bank("POST", "/streams/told/sets/t1/requeue").status == 200
    assert told() == ("pending", "payments")
    assert poll(server, "told", "accounts")["sets"] == {}
    assert list(poll(server, "told", "payments", ack=["nothing"])["sets"]) == ["t1"]
    poll(server, "told", "payments", ack=["t1"], maxEvents=0)
    assert told() == ("settled", "payments")


def test_the_operator_sees_the_family_of_a_set(server: Server) -> None:
    """docs/operations.md, "A TPP with a token sees no SETs": peek tells the family."""
    server.tpp("peeked")
    push(server, "peeked", "p1", "payments")
    push(server, "peeked", "p2")
    for jti, told in (("p1", True), ("p2", False)):
        command = [sys.executable, "-m", "flask", "eventpoll", "peek", "peeked", jti]
        environ = {"PATH": "/usr/bin:/bin", **server.environ}
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True, timeout=60)
        assert ("family is payments" in done.stdout) is told


def held(server: Server, tpp: str, scope: str, replies: list[Reply]) -> threading.Thread:
    """A poll that waits, in a thread of its own."""

    def ask() -> None:
        replies.append(server.request("POST", "/events", "{}", {**JSON, **bearer(token(tpp, scope))}))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread


def test_a_push_of_another_family_does_not_answer_a_held_poll(server: Server) -> None:
    """RFC 8936 section 2.4: held until there is something for this poll."""
    server.tpp("held")
    replies: list[Reply] = []
    thread = held(server, "held", "accounts", replies)
    store = Store.open(server.environ["REDIS_URL"], Path(), Rules())
    wait_for(lambda: store.redis.pubsub_numsub("eventpoll:{held}:wake")[0][1] == 1)
    store.redis.close()
    push(server, "held", "h1", "payments")
    push(server, "held", "h2", "accounts")
    thread.join(30)
    assert list(replies[0].json["sets"]) == ["h2"]
    assert server.bank("GET", "/streams/held/sets/h1").json["state"] == "pending"


def test_families_of_one_stream_share_nothing_with_another_stream(server: Server) -> None:
    """A scope is no way to another TPP's SETs."""
    for tpp in ("wall-a", "wall-b"):
        stream(server, tpp)
    answer = poll(server, "wall-a", "payments", ack=["wall-b-payments"])
    assert set(answer["sets"]) == {"wall-a-payments", "wall-a-none"}
    assert server.bank("GET", "/streams/wall-b").json["pending"] == 4


# -- in the store -----------------------------------------------------------------------------------------------


def look(store: Store, families: str = EVERY_FAMILY, max_events: int = 100, **options: Any) -> Any:
    """One poll."""
    return store.poll("tpp", max_events=max_events, profile="r", families=families, **options)


def jtis(answer: Any) -> list[str]:
    return [jti.decode() for jti, _ in answer.sets]


@pytest.fixture
def filled(store: Store) -> Store:
    """Eight SETs, the families in turn."""
    store.configure("tpp", "x", {})
    for number in range(8):
        store.push("tpp", f"j{number}", set_of(f"j{number}"), FAMILIES[number % 4])
    return store


def test_a_set_is_offered_again_to_those_who_may_see_it_alone(filled: Store) -> None:
    """Decision 2: redelivery, family by family, longest waiting first; two families do not hide each other."""
    assert jtis(look(filled)) == [f"j{n}" for n in range(8)]
    assert jtis(look(filled, ACCOUNTS)) == ["j0", "j1", "j4", "j5"]
    assert jtis(look(filled, PAYMENTS)) == ["j2", "j6", "j0", "j4"]
    assert jtis(look(filled)) == ["j3", "j7", "j1", "j5", "j2", "j6", "j0", "j4"]


def test_a_lease_holds_for_each_family(filled: Store) -> None:
    """Decision 2: the lease hides; the wait for the next is that of what the caller may see."""
    filled.configure("tpp", "x", {"redeliver_after": "60000"})
    assert jtis(look(filled, PAYMENTS)) == ["j0", "j2", "j4", "j6"]
    again = look(filled, PAYMENTS)
    assert (jtis(again), again.more) == ([], False)
    assert 50 < again.wait < 61
    assert jtis(look(filled, ACCOUNTS, 1)) == ["j1"]
    funds = look(filled, "3")
    assert (jtis(funds), funds.more) == (["j3", "j7"], False)


def test_a_lease_that_runs_out_is_told_to_those_who_may_see_it(filled: Store) -> None:
    """A held poll of another family does not wake for it."""
    filled.configure("tpp", "x", {"redeliver_after": "60000"})
    look(filled, "2")
    assert look(filled, "1", 0).wait is None
    assert look(filled, "2", 0).wait is not None


@pytest.mark.parametrize("families", ["0", "01", "0123", "23"])
def test_more_is_told_of_the_families_seen(filled: Store, families: str) -> None:
    """Decision 13, for every size of page."""
    count = 2 * len(families)
    assert [look(filled, families, size).more for size in (count - 1,)] == [True]
    acked = [f"j{n}" for n in range(8) if str(n % 4) in families]
    assert look(filled, families, 0, ack=acked).more is False


def test_peek_tells_all_families_oldest_first_page_by_page(filled: Store) -> None:
    """The bank's listing goes by age, over families, wherever it goes on."""
    for state, count in (("pending", 8), ("in_flight", 8), ("parked", 8)):
        seen: list[str] = []
        while page := filled.peek("tpp", state, 3, seen[-1] if seen else ""):
            assert [record.scope for record in page] == [FAMILIES[int(record.jti[1:]) % 4] for record in page]
            seen += [record.jti for record in page]
        assert seen == [f"j{n}" for n in range(count)]
        if state == "pending":
            look(filled)
        elif state == "in_flight":
            look(filled, max_events=0, set_errs={f"j{n}": {"err": "x"} for n in range(8)})


def test_status_tells_the_oldest_over_all_families(store: Store) -> None:
    """The age of the oldest, in whichever lane it lies."""
    store.configure("tpp", "x", {})
    store.push("tpp", "old", set_of("old"), "fundsconfirmations")
    with_age = store.status("tpp").oldest["pending"]
    wait_for(lambda: (store.status("tpp").oldest["pending"] or 0) > (with_age or 0) + 0.02)
    store.push("tpp", "new", set_of("new"))
    oldest = store.status("tpp").oldest["pending"]
    assert oldest is not None
    assert 0.02 < oldest < 60


def test_sweep_takes_out_what_is_old_of_every_family(redis_server: RedisServer, store: Store) -> None:
    """Retention holds for every family, and the end keeps the family."""
    store.configure("tpp", "x", {})
    for number in range(8):
        store.push("tpp", f"j{number}", set_of(f"j{number}"), FAMILIES[number % 4])
    look(store, "13")
    short = Store.open(redis_server.url, Path(), Rules(retention=0.001))
    wait_for(lambda: (store.status("tpp").oldest["pending"] or 0) > 0.01)
    assert jtis(short.poll("tpp", max_events=9, profile="r")) == []
    found, left = short.sweep("tpp")
    short.redis.close()
    assert (sorted(found), left) == ([f"j{n}" for n in range(8)], False)
    assert [store.find("tpp", f"j{n}").scope for n in range(4)] == list(FAMILIES)
    assert store.find("tpp", "j3").state == "expired"


def test_a_push_repeated_with_another_family_changes_nothing(filled: Store) -> None:
    """Decision 18: the first one is kept, where it lies."""
    assert filled.push("tpp", "j1", set_of("j1"), "payments").outcome == "repeated"
    assert filled.find("tpp", "j1").scope == "accounts"


def test_push_without_the_argument_pushes_a_set_of_no_family(store: Store, redis_server: RedisServer) -> None:
    """bank/push-set and scripts of before families give four arguments."""
    store.configure("tpp", "x", {})
    script = (ROOT / "eventpoll" / "lua" / "push.lua").read_text()
    from eventpoll import keys

    store.redis.eval(script, 12, *keys.of("tpp"), "plain", set_of("plain"))
    assert jtis(look(store, FUNDS)) == ["plain"]


def basic_json(part: str) -> Any:
    """One part of a compact serialisation, read."""
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def test_the_family_is_no_claim_of_the_set(server: Server) -> None:
    """RFC 8417 section 2.2: what is minted holds what the profile says, and no scope of ours."""
    server.tpp("claimless")
    push(server, "claimless", "c1", "accounts")
    text = poll(server, "claimless", "accounts")["sets"]["c1"]
    assert "scope" not in basic_json(text.split(".")[1])


WRONG: dict[str, Callable[[], str]] = {"no scope": lambda: "", "another word": lambda: "openid"}


@pytest.mark.parametrize("what", WRONG)
def test_a_token_without_a_scope_sees_nothing_not_even_sets_of_no_family(server: Server, what: str) -> None:
    """403, not an empty answer."""
    server.tpp("shut") if "shut" not in server.secrets else None
    reply = server.request("POST", "/events", "{}", {**JSON, **bearer(token("shut", WRONG[what]()))})
    assert reply.status == 403
