"""What is done to the servers while the load goes on: each fault is inflicted, lasts, and is taken back."""

import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from chaos.clients import TPPS
from chaos.proxy import Mode
from chaos.stage import QUICK, Stage
from harness.clocks import Steppable
from harness.redis_servers import RedisServer
from harness.waiting import wait_for


@dataclass(frozen=True)
class Kind:
    """A kind of fault. What it does returns a note for the report, if there is something to say.

    `cuts`: requests under way may be cut by it, or wait for its end.
    """

    name: str
    do: Callable[[Stage, float], str | None]
    may_lose: bool = False
    clock: bool = False
    cuts: bool = False


LAG = 0.8
"""Seconds of writes that a replica lacks when it takes over; less than it takes to be given up as well."""


class CannotBeDone(Exception):
    """Not on this machine; the message says why."""


# -- Redis ------------------------------------------------------------------------------------------------------------


def kill_redis(stage: Stage, seconds: float) -> None:
    """kill -9 of the one server; started again after a while."""
    (server,) = stage.servers
    server.kill()
    time.sleep(seconds / 5)
    server.start()


def restart_redis(stage: Stage, seconds: float) -> None:
    """An orderly end, and a start."""
    (server,) = stage.servers
    server.kill(signal.SIGTERM)
    server.start()


def stop_redis(stage: Stage, seconds: float) -> None:
    """SIGSTOP: it is there, takes connections, and answers nothing."""
    _freeze(_pid(stage.servers[0]), seconds)


def fail_over(stage: Stage, seconds: float) -> None:
    """kill -9 of a primary that has lost sight of its replica a moment ago: that one takes over, without what was
    written since, and the dead one comes back as a replica."""
    victim = stage.primary()
    follows = b"master_port:%d\r\n" % victim.port
    replica = _pid(next(each for each in stage.servers if follows in each.ask(b"INFO replication")))
    os.kill(replica, signal.SIGSTOP)
    try:
        victim.ask(b"CLIENT KILL TYPE replica")
        time.sleep(LAG)
        victim.kill()
    finally:
        os.kill(replica, signal.SIGCONT)
    others = [server for server in stage.servers if server is not victim]
    wanted = 3 if stage.kind == "cluster" else 1
    wait_for(lambda: sum(b"role:master" in each.ask(b"INFO replication") for each in others) == wanted, 60, 0.1)
    time.sleep(1)
    victim.start()
    wait_for(stage.is_whole, 90, 0.2)


def stop_primary(stage: Stage, seconds: float) -> None:
    """SIGSTOP of a primary until its replica has taken over and longer: it wakes up and thinks that it still is one."""
    _freeze(_pid(stage.primary()), max(seconds, 5.0))
    wait_for(stage.is_whole, 90, 0.2)


def move_slot(stage: Stage, seconds: float) -> str:
    """The slot of a TPP's stream goes to another node of the Cluster, key by key."""
    tpp = stage.chance.choice(TPPS).name
    slot = key_slot(tpp.encode())
    nodes: dict[int, Any] = {server.port: redis.Redis(port=server.port, **QUICK) for server in stage.primaries()}
    with stage.plain() as client:
        home = client.get_node_from_key(tpp).port
    port = stage.chance.choice([each for each in nodes if each != home])
    source, target = nodes[home], nodes[port]
    ids = [each.execute_command("CLUSTER MYID") for each in (source, target)]
    target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
    source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
    keys = 0
    while found := source.execute_command("CLUSTER GETKEYSINSLOT", slot, 10):
        for key in found:
            source.execute_command("MIGRATE", "127.0.0.1", port, key, 0, 5000)
            keys += 1
            time.sleep(seconds / 20)
    for each in (target, source, *nodes.values()):
        each.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[1])
    for each in nodes.values():
        each.close()
    return f"{keys} keys of {tpp}"


def flush_scripts(stage: Stage, seconds: float) -> None:
    """SCRIPT FLUSH: every server forgets the commands."""
    for server in stage.servers:
        server.ask(b"SCRIPT FLUSH")


def fill_memory(stage: Stage, seconds: float) -> None:
    """maxmemory below what is there, so that every write that needs some is refused."""
    server = stage.primary()
    assert server.ask(b"CONFIG SET maxmemory 1").startswith(b"+OK")
    time.sleep(seconds)
    assert server.ask(b"CONFIG SET maxmemory 0").startswith(b"+OK")


def fill_disk(stage: Stage, seconds: float) -> str:
    """No room for the append-only file: the server ends rather than answer what it cannot keep; then there is room."""
    (server,) = stage.servers
    process = server.process
    assert process is not None
    if stage.disk is not None:
        how, ballast = "a full tmpfs", stage.disk / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while file.write(b"\0" * 1_048_576):
                    pass
            except OSError:  # full
                pass
        done: Callable[[], None] = ballast.unlink
    else:
        how = "RLIMIT_FSIZE"
        largest = max(path.stat().st_size for path in Path(server.directory).rglob("*.aof"))
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest + 4096, resource.RLIM_INFINITY))
        done = list[None]().clear  # the limit went with the process
    try:
        wait_for(lambda: process.poll() is not None, 60, 0.05)
        time.sleep(seconds / 5)
    finally:
        done()
    server.start()
    return f"{how}; the server ended with {process.returncode}"


def step_clock(size: int) -> Callable[[Stage, float], str]:
    """The store's clock goes so many seconds ahead, then as many behind, then right again."""

    def do(stage: Stage, seconds: float) -> str:
        (server,) = stage.servers
        if not isinstance(server, Steppable) or not server.steppable:
            raise CannotBeDone("wants libfaketime")
        for step in (size, -size, 0):
            server.step(step)
            time.sleep(seconds / 3)
        return f"{size:+d} s, {-size:+d} s, +0 s"

    return do


# -- ours -------------------------------------------------------------------------------------------------------------


def kill_worker(stage: Stage, seconds: float) -> None:
    """kill -9 of one of gunicorn's workers; the master starts another."""
    before = stage.gunicorn_workers()
    os.kill(stage.chance.choice(before), signal.SIGKILL)
    wait_for(lambda: len(now := stage.gunicorn_workers()) == 2 and now != before, 30)


def kill_master(stage: Stage, seconds: float) -> None:
    """kill -9 of gunicorn's master; started again when its workers have followed it."""
    stage.kill_gunicorn()
    stage.restart_gunicorn()


def stop_worker(stage: Stage, seconds: float) -> None:
    """SIGSTOP of one of gunicorn's workers."""
    _freeze(stage.chance.choice(stage.gunicorn_workers()), seconds)


def roll(stage: Stage, seconds: float) -> None:
    """HUP: gunicorn starts new workers, and lets the old ones end in good order."""
    before = stage.gunicorn_workers()
    os.kill(stage.server.process.pid, signal.SIGHUP)
    wait_for(lambda: len(now := stage.gunicorn_workers()) == 2 and not set(now) & set(before), 60)


def kill_minter(stage: Stage, seconds: float) -> None:
    """kill -9 of one of the inbox's workers, in the midst of what has gathered; another is started."""
    running = [each for each in stage.workers.running if each.poll() is None]
    for each in running:
        os.kill(each.pid, signal.SIGSTOP)
    time.sleep(max(2.0, seconds / 5))
    victim = stage.chance.choice(running)
    os.kill(victim.pid, signal.SIGCONT)
    time.sleep(stage.chance.uniform(0.005, 0.03))
    victim.kill()
    for each in running:
        os.kill(each.pid, signal.SIGCONT)
    time.sleep(seconds / 10)
    stage.start_minter()


def stop_minter(stage: Stage, seconds: float) -> None:
    """SIGSTOP of one of the inbox's workers, for so long that others take its entries over; then it wakes up."""
    running = [each for each in stage.workers.running if each.poll() is None]
    _freeze(stage.chance.choice(running).pid, seconds * 1.3)


def break_network(mode: Mode, wait: float = 0.0, times: float = 1.0) -> Callable[[Stage, float], str]:
    """What the proxy does, so many times as long: before Redis, or, where there are several, before gunicorn."""

    def do(stage: Stage, seconds: float) -> str:
        stage.network.set(mode, wait)
        time.sleep(seconds * times)
        stage.network.set("pass")
        return "before gunicorn" if stage.replicated else "before Redis"

    return do


KINDS = {
    each.name: each
    for each in (
        Kind("kill -9 of Redis", kill_redis),
        Kind("restart of Redis", restart_redis),
        Kind("SIGSTOP of Redis", stop_redis),
        Kind("kill -9 of a primary, failover", fail_over, may_lose=True),
        Kind("SIGSTOP of a primary, failover", stop_primary, may_lose=True),
        Kind("slot migration", move_slot),
        Kind("SCRIPT FLUSH", flush_scripts),
        Kind("full memory", fill_memory),
        Kind("full disk", fill_disk),
        Kind("clock steps", step_clock(60), clock=True),
        Kind("clock a month off", step_clock(31 * 86_400), clock=True),
        Kind("kill -9 of a gunicorn worker", kill_worker, cuts=True),
        Kind("kill -9 of the gunicorn master", kill_master, cuts=True),
        Kind("SIGSTOP of a gunicorn worker", stop_worker, cuts=True),
        Kind("rolling restart (HUP)", roll),
        Kind("kill -9 of an inbox worker", kill_minter),
        Kind("SIGSTOP of an inbox worker", stop_minter),
        Kind("network cut", break_network("cut")),
        Kind("network silent", break_network("drop", times=2)),  # longer than an answer may take
        Kind("network slow", break_network("delay", 0.3)),
        Kind("replies halved", break_network("halve")),
    )
}


def _pid(server: RedisServer) -> int:
    assert server.process is not None
    return server.process.pid


def _freeze(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)
