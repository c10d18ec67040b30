"""Redis Cluster and Sentinel behind the same service: real servers, real failovers."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from eventpoll.delivery.held_polls import Hold, Waiting
from eventpoll.store import keys
from eventpoll.store.errors import Unavailable
from eventpoll.store.records import Rules
from eventpoll.store.store import Store
from harness import ROOT
from harness.ports import free_port
from harness.programs import environment
from harness.redis_servers import RedisServer
from harness.service import BANK, Reply, Server, start_server
from harness.sets import set_of
from harness.topologies import cluster, sentinels
from harness.waiting import wait_for
from harness.workers import Workers
from tests.delivery.test_long_poll import Held
from tests.worker.test_inbox import delivered

TPPS = [f"tpp-{number}" for number in range(6)]  # on all three nodes: see the first test
NDJSON = {"Content-Type": "application/x-ndjson"}
EVENT: dict[str, Any] = {"urn:test:event": {}}


def cluster_url(nodes: list[RedisServer]) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes[:3])


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """A Cluster of three primaries, for the tests that leave it as it is."""
    with cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture
def on_cluster(nodes: list[RedisServer]) -> Iterator[Store]:
    """A store on it, empty."""
    for node in nodes:
        assert node.ask(b"FLUSHALL").startswith(b"+OK")
    store = Store.open(cluster_url(nodes), Path(), Rules())
    yield store
    store.redis.close()


@pytest.fixture
def server(on_cluster: Store, nodes: list[RedisServer], serve: Callable[..., Server]) -> Server:
    """gunicorn with two workers on the Cluster."""
    return serve(
        REDIS_URL=cluster_url(nodes),
        workers=2,
        EVENTPOLL_LONG_POLL_SECONDS="20",
        EVENTPOLL_MAX_HELD_POLLS="1000",
        EVENTPOLL_POLL_RATE="900/hour",
    )


def keys_of(node: RedisServer) -> set[str]:
    with redis.Redis(port=node.port, decode_responses=True) as client:
        return set(client.keys("*"))


def test_the_whole_life_of_sets_on_a_cluster(server: Server, nodes: list[RedisServer]) -> None:
    """house.md: all keys of a TPP have one hash tag; streams lie on all nodes, and one list tells them all."""
    for tpp in TPPS:
        server.tpp(tpp)
        server.push(tpp, "one")
        lines = "\n".join(json.dumps({"jti": jti, "events": EVENT}) for jti in ("one", "two", "three"))
        reply = server.request("POST", f"/streams/{tpp}/sets:batch", lines, NDJSON, BANK)
        assert [json.loads(line)["status"] for line in reply.body.splitlines()] == [200, 201, 201]
        found = server.poll(tpp, {"returnImmediately": True, "maxEvents": 2})
        assert (list(found.json["sets"]), found.json["moreAvailable"]) == (["one", "two"], True)
        assert "ratelimit" in found.headers
        answer = server.poll(tpp, {"ack": ["one"], "setErrs": {"two": {"err": "jwtIss", "description": "no"}}})
        assert list(answer.json["sets"]) == ["three"]
        assert server.bank("POST", f"/streams/{tpp}/sets/two/requeue").status in (200, 204)
    told = server.bank("GET", "/streams").json["streams"]
    assert [(each["tpp"], each["pending"], each["in_flight"]) for each in told] == [(tpp, 1, 1) for tpp in TPPS]
    homes = [{key.split("{")[1].split("}")[0] for key in keys_of(node) if "{" in key} for node in nodes]
    assert all(homes)
    assert sorted(tpp for home in homes for tpp in home & set(TPPS)) == TPPS
    assert server.bank("DELETE", f"/streams/{TPPS[0]}?force=true").status in (200, 204)
    assert [each["tpp"] for each in server.bank("GET", "/streams").json["streams"]] == TPPS[1:]


def asked(node: RedisServer, *command: Any) -> Any:
    """What one node answers."""
    with redis.Redis(port=node.port, decode_responses=True) as client:
        return client.execute_command(*command)


def sharded(nodes: list[RedisServer]) -> list[set[str]]:
    """Of which TPPs each node hands out sharded wake-ups."""
    return [{name.split("{")[1].split("}")[0] for name in asked(node, "PUBSUB", "SHARDCHANNELS")} for node in nodes]


def home_of(tpp: str, nodes: list[RedisServer]) -> RedisServer:
    """The primary that keeps a stream, on a Cluster that is as it was made."""
    return next(node for node in nodes if str(node.port) == asked_home(node, tpp))


def asked_home(node: RedisServer, tpp: str) -> str:
    slot = key_slot(tpp.encode())
    (port,) = (row[2][1] for row in asked(node, "CLUSTER", "SLOTS") if row[0] <= slot <= row[1])
    return str(port)


def listeners(tpp: str, node: RedisServer) -> int:
    """How many workers hear the sharded wake-ups of a stream at this node."""
    return int(asked(node, "PUBSUB", "SHARDNUMSUB", keys.wake(tpp))[1])


def is_heard_twice(tpp: str, node: RedisServer) -> bool:
    return listeners(tpp, node) == 2


def hold(server: Server, tpp: str, node: RedisServer, workers: int = 1) -> list[Held]:
    """Polls of a stream that so many workers hold, or more."""
    polls: list[Held] = []

    def more() -> bool:
        if listeners(tpp, node) >= workers:
            return True
        polls.append(Held(server, tpp))
        return False

    wait_for(more, 20, 0.1)
    return [poll for poll in polls if poll.reply is None or poll.reply.status != 503]  # its worker had yet to find out


def test_a_push_wakes_a_poll_on_every_worker_and_its_word_stays_on_the_shard(
    server: Server, on_cluster: Store, nodes: list[RedisServer]
) -> None:
    """Decision 12: on whichever worker it is held. Issue 6, 1: sharded publish/subscribe, so no other node hears."""
    held: dict[str, list[Held]] = {}
    for tpp in TPPS:
        server.tpp(tpp)
        held[tpp] = hold(server, tpp, home_of(tpp, nodes), workers=2)
    found = sharded(nodes)
    assert all(found)
    assert found == [{tpp for tpp in TPPS if home_of(tpp, nodes) is node} for node in nodes]
    clients: list[Any] = [redis.Redis(port=node.port, decode_responses=True) for node in nodes]
    plain = [client.pubsub() for client in clients]
    for each in plain:
        each.psubscribe("eventpoll:*")
        assert each.get_message(timeout=5)
    for tpp in TPPS:
        on_cluster.push(tpp, "woken", set_of("woken"))
    assert all(list(poll.answer(15).json["sets"]) == ["woken"] for polls in held.values() for poll in polls)
    for number, client in enumerate(clients):
        client.publish(f"eventpoll:end-{number}", "")  # what this node published before has arrived before it
    for each in plain:
        told = [each.get_message(timeout=5) for _ in nodes]
        assert sorted(word["channel"] for word in told if word) == [f"eventpoll:end-{n}" for n in range(3)]
        each.close()
    wait_for(lambda: sharded(nodes) == [set(), set(), set()])
    assert [asked(node, "PUBSUB", "CHANNELS") for node in nodes] == [[], [], []]


def test_the_inbox_is_on_another_node_than_the_streams(
    on_cluster: Store, nodes: list[RedisServer], tmp_path: Path
) -> None:
    """Issue 3, 6: workers mint each entry once, wherever its stream is; a bad one is buried with its reason."""
    for tpp in TPPS:
        on_cluster.configure(tpp, "", {})
    with redis.RedisCluster(port=nodes[1].port, host="127.0.0.1", decode_responses=True) as client:
        for number in range(60):
            client.xadd("eventpoll:inbox", {"tpp": TPPS[number % 6], "events": json.dumps(EVENT), "txn": str(number)})
        client.xadd("eventpoll:inbox", {"tpp": "nobody", "events": json.dumps(EVENT)})
    workers = Workers(cluster_url(nodes), tmp_path / "workers.log")
    try:
        running = [workers.start("--once") for _ in range(2)]
        assert [each.wait(60) for each in running] == [0, 0], workers.log.read_text()
    finally:
        workers.stop()
    assert sorted(int(claims["txn"]) for tpp in TPPS for claims in delivered(on_cluster, tpp).values()) == list(
        range(60)
    )
    assert on_cluster.dead_entries() == 1
    assert on_cluster.redis.xlen("eventpoll:inbox") == 0


def test_push_set_finds_the_node(on_cluster: Store, nodes: list[RedisServer]) -> None:
    """interface.md: redis-cli is enough, whichever server it asks first."""
    for tpp in TPPS:
        on_cluster.configure(tpp, "", {})
        done = push_set(cluster_url(nodes), tpp)
        assert (done.returncode, done.stdout) == (0, "shell: queued\n"), done.stderr
    assert [on_cluster.status(tpp).pending for tpp in TPPS] == [1] * 6


def push_set(url: str, tpp: str) -> "subprocess.CompletedProcess[str]":
    environ = {"PATH": os.environ["PATH"], "REDIS_URL": url}
    return subprocess.run(
        [str(ROOT / "bank" / "push-set"), tpp],
        input=set_of("shell"),
        capture_output=True,
        text=True,
        env=environ,
        timeout=60,
    )


CONFORMANCE = ["tests/promises/test_conformance.py", "tests/profiles/test_wso2.py", "tests/profiles/test_clients.py"]


def conforms(url: str) -> None:
    """The tests of what TPPs were promised, as they are, on this store. Raises AssertionError."""
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "--store", url]
    done = subprocess.run(
        [*command, *CONFORMANCE],
        cwd=ROOT,
        env=environment(counted=False),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 700


def test_the_conformance_tests_pass_unchanged_on_a_cluster(nodes: list[RedisServer]) -> None:
    """Issue 6: whoever polls cannot tell where his SETs are kept."""
    conforms(cluster_url(nodes))


def test_the_conformance_tests_pass_unchanged_behind_sentinels(tmp_path: Path) -> None:
    """The same."""
    with sentinels(tmp_path / "sentinels", patience=10) as (_, ports):
        conforms("redis+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in ports) + "/eventpoll")


def move(tpp: str, source: RedisServer, target: RedisServer) -> None:
    """Give a stream's slot, and what it holds, to another primary."""
    slot = key_slot(tpp.encode())
    ids = [asked(node, "CLUSTER MYID") for node in (source, target)]
    asked(target, "CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
    asked(source, "CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
    for key in asked(source, "CLUSTER GETKEYSINSLOT", slot, 100):
        asked(source, "MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
    for node in (target, source):
        asked(node, "CLUSTER SETSLOT", slot, "NODE", ids[1])


def test_a_poll_that_is_held_while_its_slot_moves_is_woken_from_its_new_home(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    """Issue 6, 1 and 3: resharding is survived, there and back; a node that has gone on holds what it held."""
    with cluster(tmp_path / "cluster") as nodes:
        settings = {**environ, "REDIS_URL": cluster_url(nodes), "EVENTPOLL_LONG_POLL_SECONDS": "25"}
        settings["EVENTPOLL_MAX_HELD_POLLS"] = "1000"
        server = start_server(settings, tmp_path / "served", workers=2)
        try:
            for tpp in TPPS:
                server.tpp(tpp)
            source = home_of("tpp-0", nodes)
            target = next(node for node in nodes if node is not source)
            for number, (old, new) in enumerate([(source, target), (target, source)]):
                polls = [*hold(server, "tpp-0", old, workers=2), *hold(server, "tpp-1", home_of("tpp-1", nodes))]
                move("tpp-0", old, new)
                wait_for(partial(is_heard_twice, "tpp-0", new))
                assert listeners("tpp-0", old) == 0
                assert all(poll.reply is None for poll in polls)
                for tpp in ("tpp-0", "tpp-1"):
                    server.push(tpp, f"jti-{number}")
                assert all(list(poll.answer(15).json["sets"]) == [f"jti-{number}"] for poll in polls)
                for tpp in ("tpp-0", "tpp-1"):
                    assert server.poll(tpp, {"ack": [f"jti-{number}"], "maxEvents": 0, "returnImmediately": True})
        finally:
            server.stop()


def test_slots_that_move_take_their_streams_along(on_cluster: Store, nodes: list[RedisServer]) -> None:
    """While its keys move one by one, a stream is away: Redis runs no command on several keys then. Afterwards a
    client with an old map is told where to go, for one command and for each line of a batch: nothing is lost."""
    tpp, other = "moving", Store.open(cluster_url(nodes), Path(), Rules())
    for store in (on_cluster, other):
        store.configure(tpp, "", {})
    on_cluster.push(tpp, "before", set_of("before"))
    slot = key_slot(b"moving")
    home = slot * 3 // 16_384
    clients: list[Any] = [redis.Redis(port=nodes[n % 3].port, decode_responses=True) for n in (home, home + 1)]
    source, target = clients
    ids = [str(client.execute_command("CLUSTER MYID")) for client in (source, target)]

    target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
    source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
    for key in source.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
        source.execute_command("MIGRATE", "127.0.0.1", nodes[(home + 1) % 3].port, key, 0, 5000)
    for store in (on_cluster, other):
        assert isinstance(store.push_many(tpp, [("early", set_of("early"), "")])[0], Unavailable)
    for client in (target, source):
        client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[1])
    moved_to = str(nodes[(home + 1) % 3].port)
    wait_for(lambda: all(asked_home(node, tpp) == moved_to for node in nodes))  # who asks the third is told so as well

    outcomes = other.push_many(tpp, [(jti, set_of(jti), "") for jti in ("moved", "before")])  # MOVED
    assert [getattr(each, "outcome", each) for each in outcomes] == ["queued", "repeated"]
    assert [jti for jti, _ in on_cluster.poll(tpp, max_events=9, profile="r").sets] == [b"before", b"moved"]
    for client in (source, target):
        client.close()
    other.redis.close()


def test_the_service_starts_while_the_cluster_is_away(tmp_path: Path, environ: dict[str, str]) -> None:
    """Decision 19: 503 until it is there, and no restart then."""
    with cluster(tmp_path / "cluster") as nodes:
        for node in nodes:
            node.kill()
        server = start_server({**environ, "REDIS_URL": cluster_url(nodes)}, tmp_path / "served")
        try:
            assert server.request("GET", "/readyz").status == 503
            assert server.bank("PUT", "/streams/one", {}).status == 503
            for node in nodes:
                node.start()
            wait_for(lambda: server.request("GET", "/readyz").status == 200, 30)
            server.tpp("one")
            server.push("one", "a")
            assert list(server.poll("one").json["sets"]) == ["a"]
        finally:
            server.stop()


def is_taken(push: Callable[[], Reply]) -> bool:
    return push().json.get("status") in (200, 201)


def until_let_in(server: Server, tpp: str) -> Reply:
    """A poll, repeated as 503 asks: each worker finds out for itself that a server is gone."""
    replies: list[Reply] = []

    def ask() -> bool:
        replies.append(server.poll(tpp, {"returnImmediately": True}))
        assert replies[-1].status in (200, 503)
        return replies[-1].status == 200

    wait_for(ask, 60, 0.1)
    return replies[-1]


def test_when_a_primary_of_a_cluster_dies_its_replica_goes_on(tmp_path: Path, environ: dict[str, str]) -> None:
    """503 while nobody has the slots; then as before, with all that the replica had, and no restart."""
    with cluster(tmp_path / "cluster", replicas=3) as nodes:
        server = start_server({**environ, "REDIS_URL": cluster_url(nodes)}, tmp_path / "served", workers=2)
        try:
            for tpp in TPPS:
                server.tpp(tpp)
                server.push(tpp, "before")
            assert nodes[0].ask(b"WAIT 1 5000").startswith(b":")
            nodes[0].kill()
            line = json.dumps({"jti": "after", "events": EVENT})
            for tpp in TPPS:
                batch = partial(server.request, "POST", f"/streams/{tpp}/sets:batch", line, NDJSON, BANK)
                wait_for(partial(is_taken, batch), 60, 0.1)
                assert list(until_let_in(server, tpp).json["sets"]) == ["before", "after"]
        finally:
            server.stop()


def test_held_polls_survive_that_a_primary_dies_and_that_one_steps_back(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    """Issue 6, 3: polls of a dead primary are told 503, those of the others are left alone; whoever keeps the stream
    next wakes. CLUSTER FAILOVER, as for an upgrade: nobody is told anything, and all are woken."""
    with cluster(tmp_path / "cluster", replicas=3) as nodes:
        settings = {**environ, "REDIS_URL": cluster_url(nodes), "EVENTPOLL_LONG_POLL_SECONDS": "28"}
        settings["EVENTPOLL_MAX_HELD_POLLS"] = "1000"
        server = start_server(settings, tmp_path / "served", workers=2)

        def all_woken(held: dict[str, list[Held]], jti: str) -> None:
            assert [tpp for tpp, polls in held.items() if any(poll.reply for poll in polls)] == []
            for tpp, polls in held.items():
                server.push(tpp, jti)
                assert {tuple(poll.answer(15).json["sets"]) for poll in polls} == {(jti,)}
                assert server.poll(tpp, {"ack": [jti], "maxEvents": 0, "returnImmediately": True}).status == 200

        try:
            for tpp in TPPS:
                server.tpp(tpp)
            homes = {tpp: home_of(tpp, nodes[:3]) for tpp in TPPS}
            died, stepped = homes["tpp-0"], next(node for node in nodes[:3] if node is not homes["tpp-0"])
            heir, other = (nodes[3 + nodes.index(node)] for node in (died, stepped))
            held = {tpp: hold(server, tpp, homes[tpp], workers=2) for tpp in TPPS}
            asked(died, "WAIT", 1, 5000)
            died.kill()
            for tpp in (tpp for tpp in TPPS if homes[tpp] is died):
                assert {poll.answer(30).status for poll in held[tpp]} == {503}
                until_let_in(server, tpp)
                homes[tpp] = heir
                held[tpp] = hold(server, tpp, heir, workers=2)
            all_woken(held, "after-a-death")

            held = {tpp: hold(server, tpp, homes[tpp], workers=2) for tpp in TPPS}
            assert asked(other, "CLUSTER FAILOVER")
            wait_for(lambda: asked(other, "ROLE")[0] == "master")
            for tpp in (tpp for tpp in TPPS if homes[tpp] is stepped):
                until_let_in(server, tpp)
            all_woken(held, "after-a-step-back")
        finally:
            server.stop()


def test_what_is_heard_at_the_wrong_server_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that was cut off from its Cluster, or stepped back, says nothing of it to who listens."""
    monkeypatch.setattr("eventpoll.store.redis.wakeups.HEARTBEAT_SECONDS", 0.3)
    with cluster(tmp_path / "cluster", replicas=3) as nodes:
        store = Store.open(cluster_url(nodes), Path(), Rules())
        store.configure("tpp-0", "", {})
        old = home_of("tpp-0", nodes[:3])
        new = nodes[3 + nodes.index(old)]
        subscription = store.subscribe()
        subscription.listen(["tpp-0"])
        wait_for(lambda: subscription.heard() == "tpp-0")  # None when all was quiet for a moment
        assert (listeners("tpp-0", old), listeners("tpp-0", new)) == (1, 0)
        assert asked(new, "CLUSTER FAILOVER")
        wait_for(lambda: (listeners("tpp-0", old), listeners("tpp-0", new)) == (0, 1), 20)
        subscription.leave("tpp-0")
        wait_for(lambda: listeners("tpp-0", new) == 0)
        subscription.close()

        def is_closed() -> bool:
            try:
                subscription.heard()  # what was on its way comes first
            except Unavailable:
                return True
            return False

        wait_for(is_closed)
        store.redis.close()


def timed(held: Hold, seconds: float) -> float:
    started = time.monotonic()
    held.wait(seconds)
    return time.monotonic() - started


NO_SHARDED = [word for name in ("SPUBLISH", "SSUBSCRIBE", "SUNSUBSCRIBE") for word in ("--rename-command", name, "")]


@pytest.mark.parametrize("program", ["redis", "valkey"])
@pytest.mark.parametrize("kind", ["single", "cluster", "cluster without sharded publish/subscribe"])
def test_a_push_wakes_on_each_kind_of_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, kind: str
) -> None:
    """Issue 6, 1: sharded where the server has it, and it is a Cluster; else as ever. A renamed command is like Redis
    6.2, which has none of these."""
    if program == "valkey":
        monkeypatch.setattr("harness.programs.shutil.which", lambda name: None)  # then pip's is taken
    clustered = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())] if kind != "single" else []
    node = RedisServer(tmp_path, *clustered, *(NO_SHARDED if "without" in kind else ())).start()
    try:
        assert (b"valkey_version" in node.ask(b"INFO server")) == (program == "valkey")
        if clustered:
            asked(node, "CLUSTER ADDSLOTSRANGE", 0, 16_383)
            wait_for(lambda: b"cluster_state:ok" in node.ask(b"CLUSTER INFO"))
        store = Store.open(f"redis+cluster://127.0.0.1:{node.port}" if clustered else node.url, Path(), Rules())
        store.configure("tpp", "", {})
        waiting = Waiting(store.subscribe, 5, 5)
        with waiting.held("tpp", None) as held:
            held.wait(20)  # until it is heard
            assert timed(held, 0.2) >= 0.15
            store.push("tpp", "a", set_of("a"))
            assert timed(held, 20) < 10  # not by a look after 15 s
        used = redis.Redis(port=node.port).info("commandstats")
        assert ("cmdstat_spublish" in used, "cmdstat_publish" in used) == (kind == "cluster", kind != "cluster")
        store.redis.close()
    finally:
        node.kill()


@pytest.mark.parametrize("listens", ["+ssubscribe", "-ssubscribe"])
@pytest.mark.parametrize("publishes", ["+spublish", "-spublish"])
def test_whoever_lacks_the_sharded_commands_wakes_and_is_woken(
    nodes: list[RedisServer], on_cluster: Store, monkeypatch: pytest.MonkeyPatch, listens: str, publishes: str
) -> None:
    """Users of before, and a bank's user beside them: the listener listens in both ways; where he may not, and others
    may publish so, he looks from time to time."""
    monkeypatch.setattr("eventpoll.store.redis.wakeups.HEARTBEAT_SECONDS", 0.5)
    places = cluster_url(nodes).partition("//")[2]
    for node in nodes:
        for user, less in (("listener", listens), ("publisher", publishes)):
            asked(node, "ACL", "SETUSER", user, "on", "nopass", "~*", "&*", "+@all", less)
    stores = [Store.open(f"redis+cluster://{user}:x@{places}", Path(), Rules()) for user in ("listener", "publisher")]
    try:
        on_cluster.configure("tpp", "", {})
        waiting = Waiting(stores[0].subscribe, 5, 5)
        with waiting.held("tpp", None) as held:
            held.wait(20)
            stores[1].push("tpp", "a", set_of("a"))
            assert timed(held, 20) < 15
            stores[1].push("tpp", "b", set_of("b"))
            assert timed(held, 20) < 15
    finally:
        for store in stores:
            store.redis.close()
        for node in nodes:
            asked(node, "ACL", "DELUSER", "listener", "publisher")


def named(sentinel: int) -> int:
    """The port of the primary, as a Sentinel says."""
    with redis.Redis(port=sentinel, decode_responses=True) as client:
        return int(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "eventpoll")[1])


def test_when_the_primary_dies_the_sentinels_name_another(tmp_path: Path, environ: dict[str, str]) -> None:
    """interface.md, redis+sentinel://: the same, also for a poll that is held meanwhile, and for push-set."""
    with sentinels(tmp_path / "sentinels") as ((primary, replica), ports):
        url = "redis+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in ports) + "/eventpoll"
        server = start_server({**environ, "REDIS_URL": url}, tmp_path / "served", workers=2)
        try:
            server.tpp("one")
            server.push("one", "before")
            assert push_set(url, "one").stdout == "shell: queued\n"
            wait_for(lambda: replica.ask(b"HGET eventpoll:{one}:stream pushed").endswith(b"2\r\n"))
            primary.kill()
            assert list(until_let_in(server, "one").json["sets"]) == ["before", "shell"]
            wait_for(lambda: all(named(port) == replica.port for port in ports))  # push-set takes the first one's word
            assert push_set(url, "one").stdout == "shell: repeated\n"
        finally:
            server.stop()


def test_a_push_is_answered_when_so_many_replicas_have_it(tmp_path: Path, environ: dict[str, str]) -> None:
    """Issue 6, 2: EVENTPOLL_WAIT_REPLICAS. Until then 503; to repeat the push is safe, and waits as the first did."""
    with sentinels(tmp_path / "sentinels", number=1, patience=30) as ((primary, replica), _):
        settings = {"EVENTPOLL_WAIT_REPLICAS": "1", "EVENTPOLL_WAIT_REPLICAS_MS": "2000"}
        server = start_server({**environ, **settings, "REDIS_URL": primary.url}, tmp_path / "served")
        try:
            server.tpp("one")
            server.push("one", "a")
            assert b"a" in replica.ask(b"ZRANGE eventpoll:{one}:pending 0 -1")
            assert replica.process is not None
            replica.process.send_signal(signal.SIGSTOP)
            for _ in range(2):  # the second is a repeat: it writes nothing, and is no more answered than the first
                assert server.bank("POST", "/streams/one/sets", {"jti": "b", "events": EVENT}).status == 503
            line = json.dumps({"jti": "b", "events": EVENT})
            told = server.request("POST", "/streams/one/sets:batch", line, NDJSON, BANK).json
            assert told["status"] == 503
            replica.process.send_signal(signal.SIGCONT)
            wait_for(lambda: server.bank("POST", "/streams/one/sets", {"jti": "b", "events": EVENT}).status == 200)
            assert b"b" in replica.ask(b"ZRANGE eventpoll:{one}:pending 0 -1")
        finally:
            server.stop()


@pytest.mark.parametrize("url", ["redis+cluster://127.0.0.1:1,127.0.0.1:2", "redis+sentinel://127.0.0.1:1/eventpoll"])
def test_where_none_of_the_servers_answers_the_store_is_away(url: str) -> None:
    """Decision 19, whatever the driver calls it."""
    store = Store.open(url, Path(), Rules())
    with pytest.raises(Unavailable):
        store.ping()
    with pytest.raises(Unavailable):
        store.push_many("tpp", [("a", set_of("a"), "")])
    with pytest.raises(Unavailable):
        store.subscribe()
    store.redis.close()
