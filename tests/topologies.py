"""More than one Redis: a Cluster, and a primary with a replica and Sentinels, each of real servers on this machine."""

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import redis

from bench.servers import free_port
from eventpoll.embedded import binary
from tests.conftest import RedisServer, wait_for

SLOTS = 16_384


@dataclass(frozen=True)
class Tls:
    """Files with which servers let nobody in but by TLS and with a certificate, and with which one gets in."""

    authority: str
    certificate: str
    key: str

    def settings(self, port: int) -> list[tuple[str, str]]:
        """Of a server, of either kind."""
        return [
            ("port", "0"),
            ("tls-port", str(port)),
            ("tls-ca-cert-file", self.authority),
            ("tls-cert-file", self.certificate),
            ("tls-key-file", self.key),
            ("tls-replication", "yes"),
        ]

    @property
    def options(self) -> dict[str, str]:
        """Of a client, by redis-py's names; of a URL too."""
        return {"ssl_ca_certs": self.authority, "ssl_certfile": self.certificate, "ssl_keyfile": self.key}


class TlsRedisServer(RedisServer):
    """A server that speaks nothing but TLS."""

    name = "127.0.0.1"
    """What its certificate is for."""

    def __init__(self, directory: Path, *arguments: str, tls: Tls) -> None:
        super().__init__(directory, *arguments)
        self.tls = tls
        ours = [word for name, text in tls.settings(self.port) for word in (f"--{name}", text)]
        self.arguments = (*ours, *arguments)
        self.url = self.url.replace("redis:", "rediss:")

    def ask(self, command: bytes) -> bytes:
        """One inline command, raw; empty where nobody answers."""
        context = ssl.create_default_context(cafile=self.tls.authority)
        context.load_cert_chain(self.tls.certificate, self.tls.key)
        try:
            with (
                socket.create_connection(("127.0.0.1", self.port), 10) as plain,
                context.wrap_socket(plain, server_hostname=self.name) as connection,
            ):
                connection.sendall(command + b"\r\n")
                return connection.recv(65536)
        except OSError:
            return b""


def redis_server(directory: Path, *arguments: str, tls: Tls | None = None) -> RedisServer:
    """A server that is not started yet, with TLS or without."""
    directory.mkdir(parents=True, exist_ok=True)
    return TlsRedisServer(directory, *arguments, tls=tls) if tls else RedisServer(directory, *arguments)


def client_of(port: int, tls: Tls | None = None) -> Any:
    """A plain client of one server."""
    options: dict[str, Any] = {"ssl": True, **tls.options} if tls else {}
    return redis.Redis(port=port, decode_responses=True, **options)


@contextmanager
def cluster(
    directory: Path, primaries: int = 3, replicas: int = 0, tls: Tls | None = None
) -> Iterator[list[RedisServer]]:
    """A Redis Cluster; the primaries come first, then a replica of each in turn. Who is silent for three seconds is
    given up: a server that the machine or its disk holds up for one is not."""
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
    """A primary and its replica, and the ports of the Sentinels that watch them under the name `eventpoll`.

    `patience`: seconds after which one that is silent is given up. Many, where none is to be: a busy machine or disk
    may hold a server up for one.
    """
    primary = redis_server(directory / "primary", "--repl-diskless-sync-delay", "0", tls=tls).start()
    replica = redis_server(directory / "replica", "--replicaof", "127.0.0.1", str(primary.port), tls=tls).start()
    program = shutil.which("redis-server") or binary()
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
        processes.append(subprocess.Popen([program, str(settings), "--sentinel"], stdout=subprocess.DEVNULL))
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
