"""gunicorn's gevent worker for eventpoll: it shuts down gracefully and disconnects stalled clients."""

import json
import logging
import sys
import uuid
from http import HTTPStatus
from typing import Any

import gevent
from gunicorn import util
from gunicorn.http import errors, parser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.ggevent import GeventWorker

from eventpoll.settings import Config, ConfigError
from eventpoll.web.connections import Addresses, Connection, TooMany, address_of, unmapped

try:
    settings = Config.from_environ()
except ConfigError as error:
    sys.exit(str(error))

TURN_BYTES = 8_192
"""Bytes of a request after which other requests get a turn."""

LAST_SECONDS = 1.0
"""Seconds that idle keep-alive connections stay open after SIGTERM; the last response says `Connection: close`.
Closing them at once may cut off a request that is on its way. A proxy then answers 502: see `python -m chaos.rolling`.
"""


class NoHost(errors.ParseException):  # type: ignore[misc]
    """A request of HTTP/1.1 has no Host header: the answer is 400 (RFC 9112 section 3.2).

    gunicorn itself refuses a request with two.
    """


UNREADABLE = {  # error: status of the answer. The first class that matches counts
    errors.InvalidResponseHeader: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.InvalidResponseHeaderName: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    errors.ParseException: HTTPStatus.BAD_REQUEST,
    TooMany: HTTPStatus.TOO_MANY_REQUESTS,
    BaseException: HTTPStatus.INTERNAL_SERVER_ERROR,
}

PLAINLY: dict[type[BaseException], str] = {  # descriptions that say more than the phrase of the status
    NoHost: "the request has no Host header: HTTP/1.1 wants one",
    TooMany: "too many connections from this address: close some, then try again",
}


class Reader(SocketUnreader):  # type: ignore[misc]
    """Reads what a client sends, and lets other requests run in between.

    A read waits only while no bytes are there. Without turns, a client that sends faster than its chunks are parsed
    blocks all other requests of the worker.
    """

    taken = 0

    def chunk(self, size_hint: int | None = None) -> bytes:
        if self.taken >= TURN_BYTES:
            self.taken = 0
            hub = gevent.get_hub()
            hub.wait(hub.loop.timer(0))  # one turn of the loop: sleep(0) returns before the loop checks connections
        piece: bytes = super().chunk(size_hint)
        self.taken += len(piece)
        return piece


parser.SocketUnreader = Reader


class Worker(GeventWorker):  # type: ignore[misc]
    """Shuts down gracefully: on SIGTERM it answers held polls and closes idle connections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.idle: set[Idle] = set()

    def timeout_ctx(self) -> Any:
        """Return the timeout of the wait for a connection's next request; LAST_SECONDS once the worker shuts down."""
        return Idle(self.idle, self.cfg.keepalive if self.alive else LAST_SECONDS)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve a connection from its first request to its end, unless its address has too many.

        A peer that speaks IPv4 has the same address on an IPv4 socket and on an IPv6 socket.
        """
        addr = unmapped(addr)
        try:
            with addresses.one_more(addr):
                connection = Connection(client, settings.request_seconds)
                super().handle(listener, connection, addr)
                if connection.late and connection.coming.moved:
                    self.log.warning("Unreadable request from %s: it came too slowly", address_of(addr) or "-")
        except TooMany as error:
            self.handle_error(None, client, addr, error)

    def handle_request(self, listener_name: Any, req: Any, sock: Connection, addr: Any) -> None:
        """Answer a request, then read the rest of its body, so that the next request can be found.

        Raises NoHost. Raises StopIteration, to close the connection, if the rest is too long or does not arrive.
        """
        if req.version >= (1, 1) and all(name != "HOST" for name, _ in req.headers):
            raise NoHost
        super().handle_request(listener_name, req, sock, addr)
        if not sock.drained(req.body):
            raise StopIteration  # gunicorn then closes the connection
        sock.rest()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer an unparseable request with our JSON error.

        Do not echo or log the parser's message: it may hold a secret.
        """
        status = next(found for kind, found in UNREADABLE.items() if isinstance(exc, kind))
        what = str(getattr(req, "path", "a request")).partition(":")[0]
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            self.log.error("Error handling %r", what, exc_info=exc)
        else:
            self.log.warning("Unreadable request from %s: %s", address_of(addr) or "-", type(exc).__name__)
        err = "too_many_requests" if status == 429 else "invalid_request" if status < 500 else "server_error"
        told = json.dumps({"err": err, "description": PLAINLY.get(type(exc), status.phrase)})
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            "Connection: close",
            "Content-Type: application/json",
            "Content-Language: en",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            f"x-fapi-interaction-id: {uuid.uuid4()}",
            f"Content-Length: {len(told)}",
            *(["Retry-After: 5"] if status == HTTPStatus.TOO_MANY_REQUESTS else []),
        ]
        try:
            util.write_nonblock(client, "\r\n".join([*lines, "", told]).encode())
        except OSError:
            pass  # the client no longer reads

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        gevent.spawn(self.let_go)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Shut down gracefully on Ctrl-C too, in a second or two."""
        self.handle_exit(sig, frame)

    def let_go(self) -> None:
        """Answer the held polls, then close the connections that are idle after LAST_SECONDS."""
        if self.wsgi is not None:  # None if the signal came before the application was loaded
            self.wsgi.extensions["eventpoll"].transmitter.waiting.release()
        gevent.sleep(LAST_SECONDS)
        for connection in list(self.idle):
            gevent.get_hub().loop.run_callback(connection.close)


class Idle:
    """A connection that waits for its next request. The worker's set `idle` holds it while it waits."""

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
        """End the wait now, if the connection still waits. The hub calls this, so that nothing runs in between."""
        if self in self.idle:
            self.greenlet.throw(self.timeout)


def ssl_context(config: Any, default: Any) -> Any:
    """Return the context for TLS of our own. It applies the limits of time and of connections to the handshake too."""
    context = default()
    wrap = context.wrap_socket

    def within(sock: Any, *args: Any, **options: Any) -> Any:
        addr = None
        try:
            addr = sock.getpeername()
            with addresses.one_more(addr), gevent.Timeout(settings.request_seconds, TimeoutError("too slow")):
                return wrap(sock, *args, **options)
        except OSError as error:  # otherwise gevent logs a traceback for each
            logging.getLogger("gunicorn.error").warning("No TLS with %s: %s", address_of(addr) or "-", error)
            raise gevent.GreenletExit from None

    context.wrap_socket = within
    return context


def is_proxy(address: str) -> bool:
    """Return whether a peer connects for many clients.

    Every peer does if EVENTPOLL_PROXY_HOPS is above 0, because a proxy then writes X-Forwarded-For.
    """
    from eventpoll.access.certificate import is_trusted  # here, so that gunicorn's settings import no Flask

    return settings.proxy_hops > 0 or is_trusted(address, settings.trusted_proxies)


addresses = Addresses(settings.max_connections_per_address, is_proxy)
