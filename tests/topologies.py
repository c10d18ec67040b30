"""More than one Redis: a Cluster, and a primary with a replica and Sentinels, each of real servers on this machine."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import redis

from eventpoll.embedded import binary
from tests.conftest import RedisServer, free_port, wait_for

SLOTS = 16_384


@contextmanager
def cluster(directory: Path, primaries: int = 3, replicas: int = 0) -> Iterator[list[RedisServer]]:
    """A Redis Cluster; the primaries come first, then a replica of each in turn."""
    nodes = []
    for number in range(primaries + replicas):
        (directory / str(number)).mkdir(parents=True)
        port = str(free_port())
        nodes.append(
            RedisServer(
                directory / str(number),
                *("--cluster-enabled", "yes", "--cluster-port", port, "--cluster-node-timeout", "1000"),
                *("--cluster-allow-replica-migration", "no"),
            ).start()
        )
    clients: list[Any] = [redis.Redis(port=node.port, decode_responses=True) for node in nodes]
    try:
        for number, client in enumerate(clients[:primaries]):
            first, last = SLOTS * number // primaries, SLOTS * (number + 1) // primaries - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            bus = node.arguments[node.arguments.index("--cluster-port") + 1]
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        wait_for(lambda: all(len(client.cluster("NODES")) == len(nodes) for client in clients), 30)
        for number, client in enumerate(clients[primaries:]):
            client.execute_command("CLUSTER", "REPLICATE", clients[number % primaries].execute_command("CLUSTER MYID"))
        wait_for(lambda: all(client.cluster("INFO")["cluster_state"] == "ok" for client in clients), 30)
        for node in nodes[primaries:]:
            wait_for(partial(_follows, node), 30)
        yield nodes
    finally:
        for client in clients:
            client.close()
        for node in nodes:
            node.kill()


@contextmanager
def sentinels(directory: Path, number: int = 3) -> Iterator[tuple[list[RedisServer], list[int]]]:
    """A primary and its replica, and the ports of the Sentinels that watch them under the name `eventpoll`."""
    for name in ("primary", "replica"):
        (directory / name).mkdir(parents=True)
    primary = RedisServer(directory / "primary", "--repl-diskless-sync-delay", "0").start()
    replica = RedisServer(directory / "replica", "--replicaof", "127.0.0.1", str(primary.port)).start()
    program = shutil.which("redis-server") or binary()
    ports, processes = [free_port() for _ in range(number)], []
    for port in ports:
        settings = directory / f"sentinel-{port}.conf"
        settings.write_text(
            f"port {port}\n"
            f"sentinel monitor eventpoll 127.0.0.1 {primary.port} {number // 2 + 1}\n"
            "sentinel down-after-milliseconds eventpoll 1000\n"
            "sentinel failover-timeout eventpoll 3000\n"
        )
        processes.append(subprocess.Popen([program, str(settings), "--sentinel"], stdout=subprocess.DEVNULL))
    try:
        for port in ports:
            wait_for(partial(_knows, port, number), 30)
        wait_for(partial(_follows, replica), 30)
        yield [primary, replica], ports
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for server in (primary, replica):
            server.kill()


def _follows(replica: RedisServer) -> bool:
    return b"master_link_status:up" in replica.ask(b"INFO replication")


def _knows(port: int, number: int) -> bool:
    with redis.Redis(port=port, decode_responses=True) as client:
        try:
            found: Any = client.sentinel_masters()["eventpoll"]
        except (redis.ConnectionError, KeyError):
            return False
    return bool(found["num-slaves"] >= 1 and found["num-other-sentinels"] == number - 1)
