"""What every answer of ours carries, and how a refusal becomes one."""

import logging
import re
import uuid
from typing import Any

from flask import Flask, Response, current_app, request
from flask.sansio.scaffold import Scaffold
from werkzeug.exceptions import HTTPException
from werkzeug.wsgi import get_host

from eventpoll import pages, profiles
from eventpoll.auth import loggable
from eventpoll.errors import BY_STATUS, Refused
from eventpoll.failures import Unavailable
from eventpoll.refusals import refusal
from eventpoll.service import Service

log = logging.getLogger(__name__)

SAFE_ID = re.compile(r"[\x20-\x7e]{1,256}")

HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Cache-Control", "no-store"),
)
"""What every answer has, unless it says something else itself; the interaction id aside."""


def init(scaffold: Scaffold) -> None:
    """Have an application or a blueprint answer in our shapes."""
    scaffold.before_request(lambda: refuse_cross_site(request.environ))
    scaffold.after_request(finish)
    scaffold.register_error_handler(Refused, refuse)
    scaffold.register_error_handler(HTTPException, refuse_http)
    scaffold.register_error_handler(Unavailable, refuse_unavailable)
    scaffold.register_error_handler(Exception, refuse_unexpected)


def init_app(app: Flask) -> None:
    """For an application that is ours alone: unknown paths and methods get our shapes too."""
    app.after_request(finish)
    app.register_error_handler(HTTPException, refuse_http)


def interaction_id(environ: dict[str, Any]) -> str:
    """x-fapi-interaction-id: the caller's, whatever its form, if it is safe to echo; else a fresh UUID."""
    known: str | None = environ.get("eventpoll.interaction_id")
    if known is None:
        sent = environ.get("HTTP_X_FAPI_INTERACTION_ID", "")
        known = environ["eventpoll.interaction_id"] = sent if SAFE_ID.fullmatch(sent) else str(uuid.uuid4())
    return known


def finish(response: Response) -> Response:
    """The headers of every answer."""
    headers = response.headers
    if "x-fapi-interaction-id" in headers:  # what a blueprint answers passes here twice
        return response
    if response.status_code in (202, 204):  # no body, so no type of it
        headers.pop("Content-Type", None)
    headers.add("x-fapi-interaction-id", interaction_id(request.environ))
    for name, value in HEADERS:
        headers.setdefault(name, value)
    return response


def refuse_cross_site(environ: dict[str, Any]) -> None:
    """A browser on another site must not act with credentials that it keeps for ours. Raises Refused."""
    if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
        return
    site, origin = environ.get("HTTP_SEC_FETCH_SITE"), environ.get("HTTP_ORIGIN")
    if site not in (None, "same-origin", "none") or (
        origin is not None and origin.partition("://")[2] != get_host(environ)
    ):
        raise Refused("forbidden", "a page of another site may not do this")


def refuse(refused: Refused) -> Response:
    """The answer to a refused request, in the shape of its profile; in the console, to a browser, a page."""
    service: Service = current_app.extensions["eventpoll"]
    if refused.row.status == 403:
        service.door.challenge_token(request, refused)
    if pages.wanted():
        return pages.refused(refused, interaction_id(request.environ))
    profile = profiles.of_path(service.profiles, request.path)
    text = profile.refuse(refused, interaction_id(request.environ))
    response = Response(text, refused.row.status, refused.headers)
    if text:
        response.headers["Content-Type"] = profile.content_type
        response.headers["Content-Language"] = "en"  # RFC 8935 section 2.3
    else:
        del response.headers["Content-Type"]
    return response


def refuse_http(error: HTTPException) -> Response:
    """What Flask or Werkzeug refuse, in our shapes."""
    status = error.code or 500
    code = BY_STATUS.get(status, "internal" if status >= 500 else "malformed")
    refused = Refused(code, DESCRIPTIONS.get(status, (error.name or "error").lower()))
    allowed = getattr(error, "valid_methods", None)
    if allowed:
        refused.headers["Allow"] = ", ".join(sorted(allowed))
    response = refuse(refused)
    response.status_code = status
    return response


DESCRIPTIONS = {
    400: "the request cannot be read",
    404: "there is nothing at this path",
    405: "the method is not one that this path knows: see Allow",
    413: "the body is too large",
    500: "something went wrong here; it has been noted",
}


def refuse_unavailable(error: Unavailable) -> Response:
    """The store is away: try again. What was asked may or may not have been done; to ask again is safe."""
    log.error("The store is unavailable: %s", error)
    return refuse(refusal(error))


def refuse_unexpected(error: Exception) -> Response:
    """Our own mistake: told to the log, not to the caller."""
    path = loggable(request.environ, request.path)
    log.exception("Unexpected: %s %r", request.method, path, exc_info=error)
    return refuse(Refused("internal", DESCRIPTIONS[500]))
