"""Several Redis servers on this machine: a Cluster, or a primary with a replica and Sentinels. All are real."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import redis

from harness.ports import free_port
from harness.programs import redis_program
from harness.redis_servers import RedisServer, Tls, client_of, redis_server
from harness.waiting import wait_for

SLOTS = 16_384


@contextmanager
def cluster(
    directory: Path, primaries: int = 3, replicas: int = 0, tls: Tls | None = None
) -> Iterator[list[RedisServer]]:
    """Run a Redis Cluster until the block ends. Yield its servers: first the primaries, then a replica of each in turn.

    The nodes give up a node that is silent for three seconds. So one second of a slow machine or disk causes no
    failover.
    """
    nodes = []
    for number in range(primaries + replicas):
        port = str(free_port())
        nodes.append(
            redis_server(
                directory / str(number),
                *("--cluster-enabled", "yes", "--cluster-port", port, "--cluster-node-timeout", "3000"),
                *("--cluster-allow-replica-migration", "no"),
                *(("--tls-cluster", "yes") if tls else ()),
                tls=tls,
            ).start()
        )
    clients = [client_of(node.port, tls) for node in nodes]
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
def sentinels(
    directory: Path, number: int = 3, tls: Tls | None = None, patience: float = 1.0
) -> Iterator[tuple[list[RedisServer], list[int]]]:
    """Run a primary, its replica, and Sentinels that watch them under the name `eventpoll`, until the block ends.

    Yields the servers and the ports of the Sentinels. `patience` is the number of seconds after which the Sentinels
    give up a silent server. A test without failover needs a high value, because a busy machine or disk may delay a
    server by one second.
    """
    primary = redis_server(directory / "primary", "--repl-diskless-sync-delay", "0", tls=tls).start()
    replica = redis_server(directory / "replica", "--replicaof", "127.0.0.1", str(primary.port), tls=tls).start()
    ports, processes = [free_port() for _ in range(number)], []
    for port in ports:
        settings = directory / f"sentinel-{port}.conf"
        listen = tls.settings(port) if tls else [("port", str(port))]
        settings.write_text(
            "".join(f"{name} {text}\n" for name, text in listen)
            + f"sentinel monitor eventpoll 127.0.0.1 {primary.port} {number // 2 + 1}\n"
            f"sentinel down-after-milliseconds eventpoll {round(patience * 1000)}\n"
            "sentinel failover-timeout eventpoll 3000\n"
        )
        processes.append(subprocess.Popen([redis_program(), str(settings), "--sentinel"], stdout=subprocess.DEVNULL))
    try:
        for port in ports:
            wait_for(partial(_knows, port, number, tls), 30)
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


def _knows(port: int, number: int, tls: Tls | None) -> bool:
    with client_of(port, tls) as client:
        try:
            found: Any = client.sentinel_masters()["eventpoll"]
        except (redis.ConnectionError, KeyError):
            return False
    return bool(found["num-slaves"] >= 1 and found["num-other-sentinels"] == number - 1)
