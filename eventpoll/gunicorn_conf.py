"""The settings of gunicorn: gevent workers, so that a held poll takes neither a thread nor a connection to Redis."""

from gevent import monkey

monkey.patch_all()  # before anything that opens sockets is imported

import atexit  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

from eventpoll import __version__  # noqa: E402
from eventpoll.settings import counts_folder  # noqa: E402
from eventpoll.web import gunicorn_worker  # noqa: E402
from eventpoll.web.gunicorn_worker import settings  # noqa: E402


def on_starting(server: Any) -> None:
    """Log the version."""
    server.log.info("eventpoll %s", __version__)


def everywhere(port: int) -> list[str]:
    """Return all addresses of this machine, as gunicorn binds them. As a rule one socket serves both protocols."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            apart = probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            probe.bind(("::", 0))
    except OSError:  # there is no IPv6 here
        return [f"0.0.0.0:{port}"]
    return [f"[::]:{port}", f"0.0.0.0:{port}"] if apart else [f"[::]:{port}"]


def child_exit(server: Any, worker: Any) -> None:
    """Take the held polls of a worker that ended out of the metrics; its counts stay."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid, str(COUNTS))  # type: ignore[no-untyped-call]


def make_counts() -> None:
    """Make the directory in which all workers count their polls, for this user alone, until the master ends.

    A start that fails earlier, as the port is in use, leaves nothing behind.
    """
    shutil.rmtree(COUNTS, ignore_errors=True)  # left by a killed process that had the same number
    try:
        COUNTS.mkdir(mode=0o700)
    except OSError as error:  # anybody may have made something of this name
        sys.exit(f"{COUNTS} cannot be made ({error.strerror}): remove it, or set TMPDIR to a folder of this user alone")
    master = os.getpid()
    atexit.register(lambda: shutil.rmtree(COUNTS, ignore_errors=True) if os.getpid() == master else None)


def when_ready(server: Any) -> None:
    """Log where SETs are kept, and refuse to start on a store that a newer version has written.

    The embedded store is started here, and stays as long as the master does.
    """
    make_counts()
    from eventpoll.service import Service
    from eventpoll.store.errors import NewerLayout, Unavailable

    for warning in settings.warnings:
        server.log.warning("%s", warning)
    store = Service.build(settings).transmitter.store
    try:
        server.log.info("%s", store.describe())
        store.check_layout()
    except NewerLayout as error:
        sys.exit(f"eventpoll does not start: {error}")
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
sendfile = False  # sendfile would bypass Connection and its time limits
keepalive = 75  # longer than the usual proxy keeps its side open
accesslog = None
control_socket_disable = True
COUNTS = counts_folder()
raw_env = [f"PROMETHEUS_MULTIPROC_DIR={COUNTS}"]  # prometheus_client reads it when it is first imported

# WSO2 spells its header x-wso2-client_id, and gunicorn drops names with an underscore that are not listed here. Every
# peer may send it, as the view reads it only beside the bank's credentials. No other header of a proxy is trusted.
forwarder_headers = "X-WSO2-CLIENT_ID,X-WSO2-RESOURCE_ID"
forwarded_allow_ips = "*"
secure_scheme_headers: dict[str, str] = {}
