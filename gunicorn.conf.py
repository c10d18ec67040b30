"""gunicorn, as eventpoll wants it: gevent, so that a held poll costs neither a thread nor a connection."""

from gevent import monkey

monkey.patch_all()  # before anything that opens sockets is imported

import atexit  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from gunicorn.http import parser  # noqa: E402
from gunicorn.http.unreader import SocketUnreader  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from eventpoll.settings import counts_folder  # noqa: E402
from eventpoll.web import gunicorn_worker  # noqa: E402
from eventpoll.web.gunicorn_worker import settings  # noqa: E402

TURN_BYTES = 8_192
"""After so many bytes of a request, the others have their turn."""


class Reader(SocketUnreader):  # type: ignore[misc]
    """Reads what a client sends, and lets others have their turn in between. A read waits only while nothing is there:
    without turns, a client that sends faster than its chunks are parsed has the whole worker to itself."""

    taken = 0

    def chunk(self, size_hint: int | None = None) -> bytes:
        if self.taken >= TURN_BYTES:
            self.taken = 0
            hub = gevent.get_hub()
            hub.wait(hub.loop.timer(0))  # once round the loop: sleep(0) comes back before it looks at the connections
        piece: bytes = super().chunk(size_hint)
        self.taken += len(piece)
        return piece


parser.SocketUnreader = Reader


def everywhere(port: int) -> list[str]:
    """All addresses of this machine, as gunicorn binds them. One socket is for both protocols as a rule."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            apart = probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            probe.bind(("::", 0))
    except OSError:  # there is no IPv6 here
        return [f"0.0.0.0:{port}"]
    return [f"[::]:{port}", f"0.0.0.0:{port}"] if apart else [f"[::]:{port}"]


def child_exit(server: Any, worker: Any) -> None:
    """A worker that ends, however it does, holds no more polls; what it counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid, str(COUNTS))  # type: ignore[no-untyped-call]


def make_counts() -> None:
    """Make the directory in which all workers count their polls, for this user alone, until the master ends.

    A start that fails earlier, as the port is in use, leaves nothing behind.
    """
    shutil.rmtree(COUNTS, ignore_errors=True)  # of a process that had our number, and was killed
    try:
        COUNTS.mkdir(mode=0o700)
    except OSError as error:  # anybody may have made something of this name
        sys.exit(f"{COUNTS} cannot be made ({error.strerror}): remove it, or set TMPDIR to a folder of this user alone")
    master = os.getpid()
    atexit.register(lambda: shutil.rmtree(COUNTS, ignore_errors=True) if os.getpid() == master else None)


def when_ready(server: Any) -> None:
    """Say where SETs are kept. The embedded store is started here, and stays as long as the master does."""
    make_counts()
    from eventpoll.service import Service
    from eventpoll.store.errors import Unavailable

    for warning in settings.warnings:
        server.log.warning("%s", warning)
    store = Service.build(settings).transmitter.store
    try:
        server.log.info("%s", store.describe())
    except Unavailable as error:
        server.log.error("The store is not available: %s. Requests get 503 until it is.", error)
    store.redis.close()


bind = everywhere(settings.port)
workers = settings.web_concurrency
worker_class = gunicorn_worker.Worker
ssl_context = gunicorn_worker.ssl_context
worker_connections = settings.max_held_polls_per_worker + 1000
backlog = 4096
graceful_timeout = 30  # held polls are answered at once; Heroku kills after 30 s
timeout = 60
limit_request_fields = 50
sendfile = False  # it would go past Connection
keepalive = 75  # longer than the usual proxy keeps its side open
accesslog = None
control_socket_disable = True
COUNTS = counts_folder()
raw_env = [f"PROMETHEUS_MULTIPROC_DIR={COUNTS}"]  # where prometheus_client looks, before it is first imported

# WSO2 spells its header x-wso2-client_id, and gunicorn drops names with an underscore unless told. Let through from
# any peer: it counts only beside the bank's credentials. Nothing else is believed of a peer: no scheme, no path.
forwarder_headers = "X-WSO2-CLIENT_ID,X-WSO2-RESOURCE_ID"
forwarded_allow_ips = "*"
secure_scheme_headers: dict[str, str] = {}
