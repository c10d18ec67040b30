"""The headers and the interaction id of every answer, and the refusal of requests from other sites."""

import re
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from flask import Response, request
from werkzeug.wsgi import get_host

from eventpoll.errors import Refused

SAFE_ID = re.compile(r"[\x20-\x7e]{1,256}")

HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Cache-Control", "no-store"),
)
"""Default response headers; a view may override them. x-fapi-interaction-id is added separately."""


def interaction_id(environ: dict[str, Any]) -> str:
    """Return the x-fapi-interaction-id of a request.

    This is the caller's value, in whatever form, if it is safe to echo; else a new UUID.
    """
    known: str | None = environ.get("eventpoll.interaction_id")
    if known is None:
        sent = environ.get("HTTP_X_FAPI_INTERACTION_ID", "")
        known = environ["eventpoll.interaction_id"] = sent if SAFE_ID.fullmatch(sent) else str(uuid.uuid4())
    return known


def finish(response: Response) -> Response:
    """Add the headers of every answer to a response, and return the response."""
    headers = response.headers
    if "x-fapi-interaction-id" in headers:  # a response of a blueprint passes here twice
        return response
    if response.status_code in (202, 204):  # no body, so no Content-Type
        headers.pop("Content-Type", None)
    headers.add("x-fapi-interaction-id", interaction_id(request.environ))
    for name, value in HEADERS:
        headers.setdefault(name, value)
    return response


def refuse_cross_site(environ: dict[str, Any]) -> None:
    """Raise Refused if a page of another site sends this request, unless the method is GET or HEAD.

    Otherwise a browser on that site could act with the credentials that it keeps for ours.
    """
    if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
        return
    site, origin = environ.get("HTTP_SEC_FETCH_SITE"), environ.get("HTTP_ORIGIN")
    if site not in (None, "same-origin", "none") or (
        origin is not None and origin.partition("://")[2] != get_host(environ)
    ):
        raise Refused("forbidden", "a page of another site may not do this")


class Told(NamedTuple):
    """The answer to a poll, ready to send."""

    text: bytes
    status: int
    content_type: str
    headers: Mapping[str, str]
