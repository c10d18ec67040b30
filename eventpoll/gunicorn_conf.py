"""The settings of gunicorn: gevent workers, so that a held poll takes neither a thread nor a connection to Redis."""

from gevent import monkey

monkey.patch_all()  # before anything that opens sockets is imported

import os  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from eventpoll import __version__  # noqa: E402
from eventpoll.web import gunicorn_worker  # noqa: E402
from eventpoll.web.gunicorn_worker import settings  # noqa: E402


def on_starting(server: Any) -> None:
    """Log the version. Make the directory in which all workers count their polls, for this user alone."""
    server.log.info("eventpoll %s", __version__)
    shutil.rmtree(COUNTS, ignore_errors=True)  # left by a killed process that had the same number
    COUNTS.mkdir(mode=0o700)


def child_exit(server: Any, worker: Any) -> None:
    """Take the held polls of a worker that ended out of the metrics; its counts stay."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid, str(COUNTS))  # type: ignore[no-untyped-call]


def on_exit(server: Any) -> None:
    """Remove the directory of the counts."""
    shutil.rmtree(COUNTS, ignore_errors=True)


def when_ready(server: Any) -> None:
    """Log where SETs are kept, and refuse to start on a store that a newer version has written.

    The embedded store is started here, and stays as long as the master does.
    """
    from eventpoll.service import Service
    from eventpoll.store.errors import NewerLayout, Unavailable

    store = Service.build(settings).transmitter.store
    try:
        server.log.info("%s", store.describe())
        store.check_layout()
    except NewerLayout as error:
        on_exit(server)
        sys.exit(f"eventpoll does not start: {error}")
    except Unavailable as error:
        server.log.error("The store is not available: %s. Requests get 503 until it is.", error)
    store.redis.close()


bind = f"0.0.0.0:{settings.port}"
workers = settings.web_concurrency
worker_class = gunicorn_worker.Worker
ssl_context = gunicorn_worker.ssl_context
worker_connections = settings.max_held_polls_per_worker + 1000
backlog = 4096
graceful_timeout = 30  # longer than the longest hold; Heroku kills after 30 s
timeout = 60
limit_request_fields = 50
sendfile = False  # sendfile would bypass Connection and its time limits
keepalive = 75  # longer than the usual proxy keeps its side open
accesslog = None
control_socket_disable = True
COUNTS = Path(tempfile.gettempdir()) / f"eventpoll-{os.getuid()}-{os.getpid()}"
raw_env = [f"PROMETHEUS_MULTIPROC_DIR={COUNTS}"]  # prometheus_client reads it when it is first imported

# WSO2 spells its header x-wso2-client_id, and gunicorn drops names with an underscore that are not listed here. Every
# peer may send it, as the view reads it only beside the bank's credentials. No other header of a proxy is trusted.
forwarder_headers = "X-WSO2-CLIENT_ID,X-WSO2-RESOURCE_ID"
forwarded_allow_ips = "*"
secure_scheme_headers: dict[str, str] = {}
