"""Error handlers: they turn a refusal, or any other exception, into an answer."""

import logging
from collections.abc import Callable

from flask import Response, current_app, request
from flask.sansio.scaffold import Scaffold
from werkzeug.exceptions import HTTPException

from eventpoll import profiles
from eventpoll.access.door import loggable
from eventpoll.delivery.refusals import refusal
from eventpoll.errors import BY_STATUS, Refused
from eventpoll.service import Service
from eventpoll.store.errors import Unavailable
from eventpoll.web.response import interaction_id

log = logging.getLogger(__name__)

PAGE = "eventpoll.refused_page"
"""Key of app.extensions, set by the console: the function that returns a page of a refusal, or None for no page."""


def init(scaffold: Scaffold) -> None:
    """Register our error handlers on an application or a blueprint, so that it answers in our shapes."""
    scaffold.register_error_handler(Refused, refuse)
    scaffold.register_error_handler(HTTPException, refuse_http)
    scaffold.register_error_handler(Unavailable, refuse_unavailable)
    scaffold.register_error_handler(Exception, refuse_unexpected)


def refuse(refused: Refused) -> Response:
    """Return the answer to a refused request, in the shape of its profile. A browser in the console gets a page."""
    service: Service = current_app.extensions["eventpoll"]
    if refused.row.status == 403:
        service.door.challenge_token(request, refused)
    page: Callable[[Refused, str], Response | None] | None = current_app.extensions.get(PAGE)
    answer = page(refused, interaction_id(request.environ)) if page is not None else None
    if answer is not None:
        return answer
    profile = profiles.of_path(service.profiles, request.path.removeprefix(service.prefix))
    text = profile.refuse(refused, interaction_id(request.environ))
    response = Response(text, refused.row.status, refused.headers)
    if text:
        response.headers["Content-Type"] = profile.content_type
        response.headers["Content-Language"] = "en"  # RFC 8935 section 2.3
    else:
        del response.headers["Content-Type"]
    return response


def refuse_http(error: HTTPException) -> Response:
    """Return the answer to a request that Flask or Werkzeug refuses, in our shapes."""
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
    """Return the 503 for a store that is not available.

    The request may or may not have taken effect. A retry is safe.
    """
    log.error("The store is unavailable: %s", error)
    return refuse(refusal(error))


def refuse_unexpected(error: Exception) -> Response:
    """Return the 500 for a fault of ours. The log has the exception; the caller does not see it."""
    path = loggable(request.environ, request.path)
    log.exception("Unexpected: %s %r", request.method, path, exc_info=error)
    return refuse(Refused("internal", DESCRIPTIONS[500]))
