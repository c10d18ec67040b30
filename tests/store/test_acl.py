"""The users that docs/operations.md makes in Redis may do all that the service does, and nothing that it does not."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import redis
from flask import Flask

from app import create_app
from eventpoll.settings import Config
from eventpoll.store import inbox
from eventpoll.store.inbox import Intake
from eventpoll.store.records import Rules
from eventpoll.store.redis import wakeups
from eventpoll.store.store import Store
from harness import ROOT
from harness.redis_servers import RedisServer
from harness.service import BANK, Server, start_server
from harness.sets import set_of
from harness.topologies import cluster, sentinels
from harness.waiting import wait_for

ADMIN, PASSWORD = "admin", "PASSWORD"
WEB, WORKER, SHELL = "eventpoll", "eventpoll-worker", "eventpoll-bank"
EVERYWHERE, CLUSTER, REPLICAS, SENTINELS = range(4)
"""The blocks of docs/operations.md that make users, in their order."""

EVENT: dict[str, Any] = {"urn:test:event": {}}
TPPS = ("tpp-0", "tpp-1", "tpp-2")


def documented(user: str, *blocks: int) -> list[list[str]]:
    """The lines that make a user."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    found = re.findall(r"^```\n((?:ACL SETUSER .*\n)+)```$", text, re.M)
    lines = [line.split() for block in blocks for line in found[block].splitlines()]
    return [line for line in lines if line[2] == user]


def granted(user: str, *blocks: int) -> set[str]:
    """The commands that these lines grant."""
    return {word[1:] for line in documented(user, *blocks) for word in line if word.startswith("+")}


class Guarded:
    """A server on which nobody may do anything but those users, and an administrator who watches."""

    def __init__(self, port: int, *blocks: int, alone: bool = True) -> None:
        client: Any
        with redis.Redis(port=port) as client:
            for line in (line for user in (WEB, WORKER, SHELL) for line in documented(user, *blocks)):
                client.execute_command(*line)
            client.execute_command("ACL", "SETUSER", ADMIN, "on", f">{PASSWORD}", "~*", "&*", "+@all")
            if alone:
                client.execute_command("ACL", "SETUSER", "default", "off")
        self.admin: Any = redis.Redis(port=port, username=ADMIN, password=PASSWORD, decode_responses=True)

    def used(self) -> set[str]:
        """Commands that were run since the last look, inside scripts too."""
        stats = self.admin.info("commandstats")
        self.admin.config_resetstat()
        return {name.removeprefix("cmdstat_") for name, told in stats.items() if told["calls"]}

    def denied(self) -> list[tuple[str, str]]:
        """What was asked for and refused. That a client tells its name is not needed."""
        log = self.admin.acl_log()
        return [(each["username"], each["object"]) for each in log if each["object"] != "client|setinfo"]


def settings(environ: dict[str, str], url: str) -> dict[str, str]:
    """Of a service that uses all that needs the store."""
    return {
        **environ,
        "REDIS_URL": url,
        "EVENTPOLL_BANK_PASSWORD": BANK[1],
        "EVENTPOLL_LONG_POLL_SECONDS": "20",
        "EVENTPOLL_POLL_RATE": "900/hour",
        "EVENTPOLL_DEDUPE_SECONDS": "0",  # every sweep drops a window, however fast it follows another
    }


def shell(app: Flask, *arguments: str) -> Any:
    """What a command of the operator's prints as JSON."""
    done = app.test_cli_runner().invoke(args=["eventpoll", *arguments, "--json"])
    assert done.exit_code == 0, (arguments, done.output)
    return json.loads(done.stdout.splitlines()[-1])


def polled_at(server: Server, tpp: str) -> Any:
    return server.bank("GET", f"/streams/{tpp}").json["last_poll"]


def life(server: Server, environ: dict[str, str], tpps: Sequence[str] = TPPS) -> None:
    """All that the service and its operator do with streams and SETs."""
    operator = create_app(Config.from_environ(environ))
    assert server.request("GET", "/readyz").status == 200
    for tpp in tpps:
        server.tpp(tpp, max_pending=100)
        held = Thread(target=server.poll, args=(tpp,))
        held.start()
        wait_for(partial(polled_at, server, tpp))
        server.push(tpp, "one")
        held.join(15)
        assert not held.is_alive()  # woken
        assert server.bank("GET", f"/streams/{tpp}").json["in_flight"] == 1
        lines = "\n".join(json.dumps({"jti": jti, "events": EVENT}) for jti in ("two", "three", "four"))
        batch = server.request(
            "POST", f"/streams/{tpp}/sets:batch", lines, {"Content-Type": "application/x-ndjson"}, BANK
        )
        assert [json.loads(line)["status"] for line in batch.body.splitlines()] == [201] * 3
        errors = {jti: {"err": "jwtIss", "description": "no"} for jti in ("two", "three")}
        told = server.poll(tpp, {"ack": ["one", "four"], "setErrs": errors, "returnImmediately": True})
        assert (told.status, told.json["sets"]) == (200, {})
        assert "ratelimit" in told.headers
        assert [each["jti"] for each in shell(operator, "errors", tpp)["sets"]] == ["two", "three"]
        assert len(shell(operator, "peek", tpp)["sets"]) == 2
        assert shell(operator, "requeue", tpp, "two")["sets"][0]["status"] == "requeued"
        assert server.bank("POST", f"/streams/{tpp}/sets/two/requeue").status == 409  # it is not parked
        assert shell(operator, "purge", tpp, "three")["sets"][0]["status"] == "discarded"
        assert server.bank("GET", f"/streams/{tpp}/sets/two").json["state"] == "pending"
        assert server.bank("POST", f"/streams/{tpp}/secret", {}).status == 200
    assert [each["tpp"] for each in shell(operator, "streams")["streams"]] == list(tpps)
    shell(operator, "purge")
    for path in ("/metrics", "/console", f"/console/streams/{tpps[1]}", "/console/search?jti=two"):
        assert server.bank("GET", path).status == 200, path
    assert server.bank("DELETE", f"/streams/{tpps[0]}?force=true").status in (200, 204)
    checked = {**environ, "EVENTPOLL_BANK_PASSWORD": "long-enough-for-the-check"}
    shell(create_app(Config.from_environ(checked)), "check")


def heartbeat(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a subscription does when nothing happens for long, and when a poll is over."""
    monkeypatch.setattr(wakeups, "HEARTBEAT_SECONDS", 0.05)
    store = Store.open(url, Path(), Rules())
    listening = store.subscribe()
    listening.listen(["tpp-1"])
    wait_for(lambda: listening.heard() == "tpp-1")  # on a Cluster None when all was quiet for a moment
    assert listening.heard() is None  # PING was answered
    listening.leave("tpp-1")
    assert listening.heard() is None
    listening.close()
    store.redis.close()


def push_set(url: str, tpp: str, **more: str) -> None:
    """A SET, from a shell of the bank's."""
    done = subprocess.run(
        [str(ROOT / "bank" / "push-set"), tpp],
        input=set_of("shell"),
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "REDIS_URL": url, **more},
        timeout=60,
    )
    assert done.stdout == "shell: queued\n", done.stderr


def work(environ: dict[str, str], url: str) -> None:
    """What the inbox holds is minted; SETs that are there are past their time."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "eventpoll", "worker", "--once"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environ, "REDIS_URL": url, "EVENTPOLL_RETENTION_DAYS": "0.0000001"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, "not available" in done.stderr) == (0, False), done.stderr


def forget_workers(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker takes out the names of those that have gone an hour ago."""
    monkeypatch.setattr(inbox, "IDLE_CONSUMER_MS", -1)
    store = Store.open(url, Path(), Rules())
    Intake(store).join()
    store.redis.close()


def put_into_inbox(client: Any) -> None:
    for tpp in ("tpp-1", "nobody"):
        client.xadd("eventpoll:inbox", {"tpp": tpp, "events": json.dumps(EVENT)})


def url_of(user: str, scheme: str, places: str) -> str:
    return f"{scheme}://{user}:{PASSWORD}@{places}"


Start = Callable[[dict[str, str]], Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start gunicorn with these settings and no others."""
    servers: list[Server] = []

    def run(environ: dict[str, str]) -> Server:
        servers.append(start_server(environ, tmp_path / "served", workers=2))
        return servers[-1]

    yield run
    for server in servers:
        server.stop()


def test_each_user_may_do_what_it_does_and_no_more(
    own_redis: RedisServer, start: Start, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 6, 1: the least ACL. Nothing is refused, and each command that is granted is run: it cannot be left out."""
    guarded = Guarded(own_redis.port, EVERYWHERE)
    url = {user: url_of(user, "redis", f"127.0.0.1:{own_redis.port}/0") for user in (WEB, WORKER, SHELL)}
    guarded.used()
    theirs = settings(environ, url[WEB])
    life(start(theirs), theirs)
    heartbeat(url[WEB], monkeypatch)
    assert guarded.denied() == []
    assert granted(WEB, EVERYWHERE) - guarded.used() == set()

    push_set(url[SHELL], "tpp-1")
    with redis.Redis.from_url(url[SHELL], protocol=2) as client:
        put_into_inbox(client)
    assert guarded.denied() == []
    assert granted(SHELL, EVERYWHERE) - guarded.used() == set()

    guarded.admin.script_flush()
    work(theirs, url[WORKER])
    forget_workers(url[WORKER], monkeypatch)
    assert guarded.denied() == []
    assert granted(WORKER, EVERYWHERE) - guarded.used() == set()
    assert guarded.admin.xlen("eventpoll:inbox") == 0
    assert guarded.admin.hget("eventpoll:{tpp-1}:stream", "expired") == "2"
    assert guarded.admin.zcard("eventpoll:{tpp-1}:pending") == 1


def test_a_cluster_wants_a_few_commands_more(
    tmp_path: Path, start: Start, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 6, 1: what the driver asks a Cluster for, sharded wake-ups, and nothing else."""
    with cluster(tmp_path / "cluster") as nodes:
        guarded = [Guarded(node.port, EVERYWHERE, CLUSTER) for node in nodes]
        places = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        url = {user: url_of(user, "redis+cluster", places) for user in (WEB, WORKER, SHELL)}

        def used() -> set[str]:
            return set().union(*(each.used() for each in guarded))

        used()
        theirs = settings(environ, url[WEB])
        life(start(theirs), theirs)
        heartbeat(url[WEB], monkeypatch)
        assert granted(WEB, CLUSTER) - used() == set()
        push_set(url[SHELL], "tpp-1")
        assert granted(SHELL, CLUSTER) - used() == set()
        with redis.RedisCluster(host="127.0.0.1", port=nodes[0].port, username=ADMIN, password=PASSWORD) as client:
            put_into_inbox(client)
        used()
        work(theirs, url[WORKER])
        forget_workers(url[WORKER], monkeypatch)
        assert granted(WORKER, CLUSTER) - used() == set()
        assert [each.denied() for each in guarded] == [[], [], []]


def test_sentinels_want_a_user_too(
    tmp_path: Path, start: Start, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 6, 1 and 2: on the Sentinels one command, on the servers as without them; and WAIT where it is set."""
    with sentinels(tmp_path / "sentinels", patience=10) as (servers, ports):
        primary, _ = [Guarded(server.port, EVERYWHERE, REPLICAS, alone=False) for server in servers]
        watched: list[Any] = []
        for port in ports:
            watched.append(redis.Redis(port=port, decode_responses=True))
            for line in [*documented(WEB, SENTINELS), *documented(SHELL, SENTINELS)]:
                watched[-1].execute_command(*line)
            watched[-1].execute_command(
                "ACL", "SETUSER", "default", "-sentinel|masters", "-sentinel|get-master-addr-by-name"
            )
        places = ",".join(f"127.0.0.1:{port}" for port in ports) + "/eventpoll?sentinel_password=PASSWORD"
        url = {
            user: url_of(user, "redis+sentinel", f"{places}&sentinel_username={watcher}")
            for user, watcher in ((WEB, WEB), (WORKER, WEB), (SHELL, SHELL))
        }
        primary.used()
        theirs = {**settings(environ, url[WEB]), "EVENTPOLL_WAIT_REPLICAS": "1", "EVENTPOLL_WAIT_REPLICAS_MS": "4000"}
        life(start(theirs), theirs)
        heartbeat(url[WEB], monkeypatch)
        assert granted(WEB, REPLICAS) - primary.used() == set()
        push_set(url[SHELL], "tpp-1")
        put_into_inbox(primary.admin)
        primary.admin.script_flush()
        work(theirs, url[WORKER])
        assert granted(WORKER, REPLICAS) - primary.used() == set()
        assert primary.denied() == []
        assert [each.acl_log() for each in watched] == [[]] * len(ports)
        for each in watched:
            each.close()
