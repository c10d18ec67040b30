"""What is put under stress: real Redis servers in one of four arrangements, gunicorn, and the inbox's workers."""

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from chaos.clients import QUIET, TPPS
from chaos.proxy import Proxy
from harness.clocks import Steppable
from harness.programs import children, is_running
from harness.redis_servers import RedisServer
from harness.service import BANK_SETTINGS, Server, start_server
from harness.topologies import cluster, sentinels
from harness.waiting import wait_for
from harness.workers import KEY, Workers

QUICK: dict[str, Any] = {"socket_timeout": 5, "socket_connect_timeout": 5, "decode_responses": True}


class Stage:
    """One arrangement, running. `network` stands before Redis where there is one server, else before gunicorn."""

    def __init__(self, kind: str, directory: Path, seed: int) -> None:
        self.kind, self.directory, self.chance, self.seed = kind, directory, random.Random(f"{seed} {kind}"), seed
        self.servers: list[RedisServer] = []
        self.sentinels: list[int] = []
        self.disk: Path | None = None
        self.network: Proxy
        self.server: Server
        self.workers: Workers
        self.url = ""

    @property
    def replicated(self) -> bool:
        """Whether a replica may take over."""
        return self.kind != "single"

    @property
    def watched(self) -> bool:
        """Whether Sentinels name the primary."""
        return self.kind in ("sentinel", "waiting")

    def port(self) -> int:
        """Where clients ask."""
        return self.network.port if self.replicated else self.server.port

    # -- Redis ----------------------------------------------------------------------------------------------------

    def plain(self) -> Any:
        """A plain client of the store's, past the proxy; it repeats nothing by itself: XADD adds twice then."""
        once: dict[str, Any] = {**QUICK, "retry": Retry(NoBackoff(), 0)}
        if self.kind == "single":
            return redis.Redis(port=self.servers[0].port, **once)
        if self.watched:
            return Sentinel([("127.0.0.1", port) for port in self.sentinels], **QUICK).master_for("eventpoll", **once)  # type: ignore[no-untyped-call]
        return redis.RedisCluster(
            startup_nodes=[redis.cluster.ClusterNode("127.0.0.1", each.port) for each in self.servers],  # type: ignore[no-untyped-call]
            **once,
        )

    def primaries(self) -> list[RedisServer]:
        """The servers that take writes; in a Cluster those that have slots."""
        return [server for server in self.servers if b"role:master" in server.ask(b"INFO replication")]

    def primary(self) -> RedisServer:
        """The server that the Sentinels name; in a Cluster any that takes writes."""
        if not self.watched:
            return self.chance.choice(self.primaries())
        for port in self.sentinels:
            try:
                with redis.Redis(port=port, **QUICK) as client:
                    found: Any = client.sentinel_get_master_addr_by_name("eventpoll")
                return next(server for server in self.servers if server.port == int(found[1]))
            except (redis.RedisError, StopIteration):
                continue
        raise redis.ConnectionError("no Sentinel answers")

    def clients(self) -> list[Any]:
        """A client for each server that keeps streams, for looking."""
        return [redis.Redis(port=server.port, **QUICK) for server in self.primaries()]

    def follows(self, server: RedisServer) -> bool:
        """Whether it is a replica that has all there is."""
        told = server.ask(b"INFO replication")
        return b"role:slave" in told and b"master_link_status:up" in told

    def is_whole(self) -> bool:
        """Whether every server is what it is to be: one primary or three, and each of the others a replica."""
        wanted = 3 if self.kind == "cluster" else 1
        if len(self.primaries()) != wanted or sum(map(self.follows, self.servers)) != len(self.servers) - wanted:
            return False
        if self.watched:
            return self.primary() == self.primaries()[0]
        return self.kind == "single" or all(b"cluster_state:ok" in each.ask(b"CLUSTER INFO") for each in self.servers)

    # -- ours -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start gunicorn and the inbox's workers, and make the streams."""
        self.settings = {
            "REDIS_URL": self.url,
            **BANK_SETTINGS,
            "EVENTPOLL_SIGNING_KEYS": KEY,
            "EVENTPOLL_LONG_POLL_SECONDS": "4",
            "EVENTPOLL_FAILED_LOGIN_SECONDS": "0",
            "EVENTPOLL_WAIT_REPLICAS": str(int(self.kind == "waiting")),
        }
        self.server = start_server(self.settings, self.directory / "served", workers=2)
        if self.replicated:
            self.network = Proxy(self.server.port, self.seed)
        for tpp in (*TPPS, *QUIET):
            self.server.tpp(tpp.name, redeliver_after=tpp.lease)
        self.workers = Workers(self.url, self.directory / "workers.log")
        for _ in range(2):
            self.start_minter()

    def start_minter(self) -> None:
        """Start one more of the inbox's workers."""
        self.workers.start(EVENTPOLL_WAIT_REPLICAS=self.settings["EVENTPOLL_WAIT_REPLICAS"])

    def restart_gunicorn(self) -> None:
        """Start it anew on its port, once those who had it are gone."""
        secrets, port = self.server.secrets, self.server.port
        self.server = start_server(self.settings, self.directory / "served", workers=2, port=port)
        self.server.secrets = secrets

    def gunicorn_workers(self) -> list[int]:
        """The processes that serve."""
        return children(self.server.process.pid)

    def kill_gunicorn(self) -> None:
        """kill -9 of the master, and wait until its workers have noticed."""
        orphans = self.gunicorn_workers()
        self.server.process.kill()
        self.server.process.wait()
        wait_for(lambda: not any(map(is_running, orphans)), 40)

    def is_well(self) -> bool:
        """Whether everything answers: a poll of each TPP, whichever worker it comes to, and a write."""
        try:
            for tpp in TPPS:
                for _ in range(2):
                    value = {"maxEvents": 0, "returnImmediately": True}
                    if tpp.profile != "wso2" and self.server.poll(tpp.name, value, timeout=10).status != 200:
                        return False
            return self.server.request("GET", "/readyz", timeout=10).status == 200
        except OSError:
            return False

    def stop(self) -> None:
        """End what is ours."""
        self.workers.stop()
        if self.server.process.poll() is None:
            self.server.stop(signal.SIGTERM)
        self.network.stop()


@contextmanager
def stage(kind: str, directory: Path, seed: int, *, mount: bool) -> Iterator[Stage]:
    """An arrangement by name: single, sentinel, waiting, cluster.

    `mount`: put the one server's files on a disk of their own, that can be filled, if that may be done here.
    """
    made = Stage(kind, directory, seed)
    with ExitStack() as stack:
        if kind == "single":
            files = directory / "redis"
            files.mkdir(parents=True)
            if mount and _mount(files):
                made.disk = files
                stack.callback(partial(subprocess.run, ["umount", str(files)], check=False))
            server = Steppable(files)
            stack.callback(server.kill)
            made.servers = [server.start()]
            made.network = Proxy(server.port, seed)
            made.url = f"redis://127.0.0.1:{made.network.port}/0"
        elif made.watched:
            made.servers, made.sentinels = stack.enter_context(sentinels(directory / "sentinels"))
            made.url = "redis+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in made.sentinels) + "/eventpoll"
        else:
            made.servers = stack.enter_context(cluster(directory / "cluster", replicas=3))
            made.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in made.servers)
        stack.callback(made.stop)
        made.start()
        yield made


def _mount(directory: Path) -> bool:
    if os.getuid() != 0 or shutil.which("mount") is None:
        return False
    command = ["mount", "-t", "tmpfs", "-o", "size=1g", "none", str(directory)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
