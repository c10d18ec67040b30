"""gunicorn, as eventpoll wants it: gevent, so that a held poll costs neither a thread nor a connection."""

from gevent import monkey

monkey.patch_all()  # before anything that opens sockets is imported

import json  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import uuid  # noqa: E402
from http import HTTPStatus  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from gunicorn import util  # noqa: E402
from gunicorn.http import errors  # noqa: E402
from gunicorn.workers.ggevent import GeventWorker  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from config import Config, ConfigError  # noqa: E402

try:
    settings = Config.from_environ()
except ConfigError as error:
    sys.exit(str(error))


STALLED_SECONDS = 30.0

LAST_SECONDS = 1.0
"""How long a kept connection may still ask, once the worker is to end: the answer tells that it closes. One that is
closed unasked may cut a request that is on its way, and a proxy answers 502 then: see `python -m chaos.rolling`."""

UNREADABLE = {  # what of a request cannot be read: how it is told; the first that fits
    errors.InvalidResponseHeader: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.InvalidResponseHeaderName: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    errors.ParseException: HTTPStatus.BAD_REQUEST,
    BaseException: HTTPStatus.INTERNAL_SERVER_ERROR,
}


class Worker(GeventWorker):  # type: ignore[misc]
    """Lets go in good order: on SIGTERM held polls get their answer and idle connections are closed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.idle: set[Idle] = set()

    def timeout_ctx(self) -> Any:
        """The wait for a next request on a connection; no longer than a moment once the worker is to end."""
        return Idle(self.idle, self.cfg.keepalive if self.alive else LAST_SECONDS)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """A client that sends or takes nothing for so long is let go; it holds a connection meanwhile, no worker."""
        sock.settimeout(STALLED_SECONDS)
        try:
            return super().handle_request(listener_name, req, sock, addr)
        finally:
            sock.settimeout(None)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Tell what is no request in our shape. Its words are neither sent back nor logged: they may hold a secret."""
        status = next(found for kind, found in UNREADABLE.items() if isinstance(exc, kind))
        what = getattr(req, "path", "a request")
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            self.log.error("Error handling %r", what, exc_info=exc)
        else:
            self.log.warning("Unreadable request from %s: %s", addr[0] if addr else "-", type(exc).__name__)
        told = json.dumps({"err": "invalid_request" if status < 500 else "server_error", "description": status.phrase})
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            "Connection: close",
            "Content-Type: application/json",
            "Content-Language: en",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            f"x-fapi-interaction-id: {uuid.uuid4()}",
            f"Content-Length: {len(told)}",
        ]
        try:
            util.write_nonblock(client, "\r\n".join([*lines, "", told]).encode())
        except OSError:
            pass  # nobody is there to hear it

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        gevent.spawn(self.let_go)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Ctrl-C: in good order too; it takes a second or two."""
        self.handle_exit(sig, frame)

    def let_go(self) -> None:
        """Answer the held polls, then close the connections on which nothing was asked meanwhile."""
        if self.wsgi is not None:  # else told to end before it had begun
            self.wsgi.extensions["eventpoll"].transmitter.waiting.release()
        gevent.sleep(LAST_SECONDS)
        for connection in list(self.idle):
            gevent.get_hub().loop.run_callback(connection.close)


class Idle:
    """A connection that waits for its next request, known to the worker while it waits."""

    def __init__(self, idle: "set[Idle]", seconds: float) -> None:
        self.idle = idle
        self.timeout = gevent.Timeout(seconds, False)  # type: ignore[arg-type]
        self.greenlet = gevent.getcurrent()

    def __enter__(self) -> None:
        self.idle.add(self)
        self.timeout.__enter__()

    def __exit__(self, *raised: Any) -> bool | None:
        self.idle.discard(self)
        return self.timeout.__exit__(*raised)

    def close(self) -> None:
        """Have its time be over now, if it still waits. Called by the hub, so that nothing comes between."""
        if self in self.idle:
            self.greenlet.throw(self.timeout)


def ssl_context(config: Any, default: Any) -> Any:
    """For TLS of our own: a client that does not finish its handshake is let go as well."""
    context = default()
    wrap = context.wrap_socket

    def within(sock: Any, *args: Any, **options: Any) -> Any:
        sock.settimeout(STALLED_SECONDS)
        return wrap(sock, *args, **options)

    context.wrap_socket = within
    return context


def on_starting(server: Any) -> None:
    """Make the directory in which all workers count their polls, for this user alone."""
    shutil.rmtree(COUNTS, ignore_errors=True)  # of a process that had our number, and was killed
    try:
        COUNTS.mkdir(mode=0o700)
    except OSError as error:  # anybody may have made something of this name
        sys.exit(f"{COUNTS} cannot be made ({error.strerror}): remove it, or set TMPDIR to a folder of this user alone")


def child_exit(server: Any, worker: Any) -> None:
    """A worker that ends, however it does, holds no more polls; what it counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid, str(COUNTS))  # type: ignore[no-untyped-call]


def on_exit(server: Any) -> None:
    """Take the counts away."""
    shutil.rmtree(COUNTS, ignore_errors=True)


def when_ready(server: Any) -> None:
    """Say where SETs are kept. The embedded store is started here, and stays as long as the master does."""
    from eventpoll.failures import Unavailable
    from eventpoll.service import Service

    store = Service.build(settings).transmitter.store
    try:
        server.log.info("%s", store.describe())
    except Unavailable as error:
        server.log.error("The store is not available: %s. Requests get 503 until it is.", error)
    store.redis.close()


bind = f"0.0.0.0:{settings.port}"
workers = settings.web_concurrency
worker_class = Worker
worker_connections = settings.max_held_polls_per_worker + 1000
backlog = 4096
graceful_timeout = 30  # longer than the longest hold; Heroku kills after 30 s
timeout = 60
keepalive = 75  # longer than the usual proxy keeps its side open
accesslog = None
control_socket_disable = True
COUNTS = Path(tempfile.gettempdir()) / f"eventpoll-{os.getuid()}-{os.getpid()}"
raw_env = [f"PROMETHEUS_MULTIPROC_DIR={COUNTS}"]  # where prometheus_client looks, before it is first imported

# WSO2 spells its header x-wso2-client_id, and gunicorn drops names with an underscore unless told. Let through from
# any peer: it counts only beside the bank's credentials. Nothing else is believed of a peer: no scheme, no path.
forwarder_headers = "X-WSO2-CLIENT_ID,X-WSO2-RESOURCE_ID"
forwarded_allow_ips = "*"
secure_scheme_headers: dict[str, str] = {}
