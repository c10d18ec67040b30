"""gunicorn's gevent worker, as eventpoll wants it: it ends in good order, and stalled clients are let go."""

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
from eventpoll.web.connections import Addresses, Connection, TooMany, address_of

try:
    settings = Config.from_environ()
except ConfigError as error:
    sys.exit(str(error))

TURN_BYTES = 8_192
"""After so many bytes of a request, other requests have their turn."""

LAST_SECONDS = 1.0
"""How long a kept connection may still ask, once the worker is to end: the answer tells that it closes. One that is
closed unasked may cut a request that is on its way, and a proxy answers 502 then: see `python -m chaos.rolling`."""


class NoHost(errors.ParseException):  # type: ignore[misc]
    """RFC 9112 section 3.2: 400 to a request of HTTP/1.1 without a Host. gunicorn itself refuses two."""


UNREADABLE = {  # what of a request cannot be read: how it is told; the first that fits
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

PLAINLY: dict[type[BaseException], str] = {  # in more words than the phrase of the status
    NoHost: "the request has no Host header: HTTP/1.1 wants one",
    TooMany: "too many connections from this address: close some, then try again",
}


class Reader(SocketUnreader):  # type: ignore[misc]
    """Reads what a client sends, and lets other requests run in between.

    A read waits only while no bytes are there. Without turns, a client that sends faster than its chunks are parsed
    keeps the whole worker to itself.
    """

    taken = 0

    def chunk(self, size_hint: int | None = None) -> bytes:
        if self.taken >= TURN_BYTES:
            self.taken = 0
            hub = gevent.get_hub()
            hub.wait(hub.loop.timer(0))  # once round the loop: sleep(0) returns before the loop looks at connections
        piece: bytes = super().chunk(size_hint)
        self.taken += len(piece)
        return piece


parser.SocketUnreader = Reader


class Worker(GeventWorker):  # type: ignore[misc]
    """Lets go in good order: on SIGTERM held polls get their answer and idle connections are closed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.idle: set[Idle] = set()

    def timeout_ctx(self) -> Any:
        """The wait for a next request on a connection; no longer than a moment once the worker is to end."""
        return Idle(self.idle, self.cfg.keepalive if self.alive else LAST_SECONDS)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve a connection, from its first request to its end, unless its address has too many.

        The peer is known by the address that it has, whatever socket it came by.
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
        """Answer a request, and read what is left of its body, so that the next request can be found."""
        if req.version >= (1, 1) and all(name != "HOST" for name, _ in req.headers):
            raise NoHost
        super().handle_request(listener_name, req, sock, addr)
        if not sock.drained(req.body):
            raise StopIteration  # which closes the connection
        sock.rest()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Tell what is no request in our shape. Its words are neither sent back nor logged: they may hold a secret."""
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


def unmapped(addr: Any) -> Any:
    """What accept() returns, with the IPv4 address of a peer who speaks IPv4 to a socket for IPv6: without ::ffff:."""
    if isinstance(addr, tuple) and addr[0].startswith("::ffff:") and "." in addr[0]:
        return addr[0].removeprefix("::ffff:"), addr[1]
    return addr


def ssl_context(config: Any, default: Any) -> Any:
    """For TLS of our own: the limits of time and of connections hold for the handshake as well."""
    context = default()
    wrap = context.wrap_socket

    def within(sock: Any, *args: Any, **options: Any) -> Any:
        addr = None
        try:
            addr = sock.getpeername()
            with addresses.one_more(addr), gevent.Timeout(settings.request_seconds, TimeoutError("too slow")):
                return wrap(sock, *args, **options)
        except OSError as error:  # gevent would log a traceback of each
            logging.getLogger("gunicorn.error").warning("No TLS with %s: %s", address_of(addr) or "-", error)
            raise gevent.GreenletExit from None

    context.wrap_socket = within
    return context


def is_proxy(address: str) -> bool:
    """Whether a peer speaks for many: any one does behind a proxy that writes X-Forwarded-For."""
    from eventpoll.access.certificate import is_trusted  # here, as eventpoll imports prometheus_client: see raw_env

    return settings.proxy_hops > 0 or is_trusted(address, settings.trusted_proxies)


addresses = Addresses(settings.max_connections_per_address, is_proxy)
