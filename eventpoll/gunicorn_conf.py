"""The settings of gunicorn. With gevent workers, a held poll needs neither a thread nor a connection to Redis."""

from gevent import monkey

monkey.patch_all()  # before any import of a module that opens sockets

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
    """Return the addresses that gunicorn must bind to listen on all addresses of this machine.

    Usually one IPv6 socket serves IPv4 too.
    """
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            apart = probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            probe.bind(("::", 0))
    except OSError:  # this machine has no IPv6
        return [f"0.0.0.0:{port}"]
    return [f"[::]:{port}", f"0.0.0.0:{port}"] if apart else [f"[::]:{port}"]


def child_exit(server: Any, worker: Any) -> None:
    """Remove the held polls of a worker that ended from the metrics. Its counts stay."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid, str(COUNTS))  # type: ignore[no-untyped-call]


def make_counts() -> None:
    """Make the directory in which all workers count their polls. Exit with a message if that fails.

    Only this user has access. The directory lasts until the master ends. gunicorn binds its port before this call, so a
    start that fails because the port is in use leaves no directory.
    """
    shutil.rmtree(COUNTS, ignore_errors=True)  # a killed process with the same number may have left one
    try:
        COUNTS.mkdir(mode=0o700)
    except OSError as error:  # any user may have made a file of this name in a shared folder
        sys.exit(f"{COUNTS} cannot be made ({error.strerror}): remove it, or set TMPDIR to a folder of this user alone")
    master = os.getpid()
    atexit.register(lambda: shutil.rmtree(COUNTS, ignore_errors=True) if os.getpid() == master else None)


def when_ready(server: Any) -> None:
    """Log where SETs are kept, and exit if a newer version has written the store.

    This call starts the embedded store, which runs as long as the master.
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
graceful_timeout = 30  # a worker answers its held polls at once; Heroku kills after 30 s
timeout = 60
limit_request_fields = 50
sendfile = False  # sendfile would bypass Connection and its time limits
keepalive = 75  # longer than most proxies keep their side open
accesslog = None
control_socket_disable = True
COUNTS = counts_folder()
raw_env = [f"PROMETHEUS_MULTIPROC_DIR={COUNTS}"]  # prometheus_client reads it on its first import

# WSO2 writes its header as x-wso2-client_id. gunicorn drops header names with an underscore, except those listed here.
# Every peer may send it, because the view reads it only together with the bank's credentials. gunicorn trusts no other
# header of a proxy.
forwarder_headers = "X-WSO2-CLIENT_ID,X-WSO2-RESOURCE_ID"
forwarded_allow_ips = "*"
secure_scheme_headers: dict[str, str] = {}
