"""Read an HTTP body: its media type, its size, and whether JSON may be answered."""

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge

from eventpoll.errors import Refused
from eventpoll.sets.json import BODY_BYTES

ACCEPT_CHARACTERS = 1_000
"""A longer `Accept` is disregarded (RFC 9110 section 12.5.1): sent in many fields it may take a second to parse."""


def want_type(request: Request, wanted: str, absent: bool = False) -> None:
    """Raises Refused unless the body is declared as `wanted` (or, where `absent`, as nothing), in UTF-8 and not
    compressed (RFC 9110 section 15.5.16: `Accept-Encoding` then says what is taken)."""
    if request.environ.get("CONTENT_TYPE") == wanted and "HTTP_CONTENT_ENCODING" not in request.environ:
        return
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    declared = request.mimetype == wanted or (absent and not request.headers.get("Content-Type", "").strip())
    if not declared or charset not in ("utf-8", "utf8", "us-ascii"):
        raise Refused("media_type", f"the Content-Type must be {wanted}", "Content-Type")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        headers = {"Accept-Encoding": "identity"}
        raise Refused("media_type", "the body must not be compressed", "Content-Encoding", headers)


def want_json_answer(request: Request) -> None:
    """Raises Refused where `Accept` leaves no way to answer in JSON (RFC 9110 section 12.5.1)."""
    accept = request.headers.get("Accept")
    if not accept or accept == "*/*" or accept == "application/json" or len(accept) > ACCEPT_CHARACTERS:
        return
    best = (-1, 0.0)
    for value, quality in request.accept_mimetypes:
        name, _, parameters = value.lower().replace(" ", "").partition(";")
        rank = ("*/*", "application/*", "application/json").index(name) if name in JSON_RANGES else -1
        if "charset=" in parameters and "utf-8" not in parameters and "utf8" not in parameters:
            rank = -1
        best = max(best, (rank, quality))
    if best[0] < 0 or best[1] <= 0:
        raise Refused("not_acceptable", "the answer is application/json, which Accept excludes", "Accept")


JSON_RANGES = ("*/*", "application/*", "application/json")


def body(request: Request, limit: int = BODY_BYTES) -> bytes:
    """Return the whole body. Raises Refused: 413 for a body over the limit, which is not kept."""
    # One byte more than we take: of a chunked body Werkzeug drops what is over its limit, and says nothing.
    request.max_content_length = limit + 1
    try:
        text: bytes | None = request.get_data(cache=False)
    except RequestEntityTooLarge:
        raise too_large(limit) from None
    except Exception:  # the connection broke off, or a chunk is none: each server has its own words for it
        text = None
    if text is None or len(text) < (request.content_length or 0):
        raise Refused("malformed", "the body cannot be read to its end")
    if len(text) > limit:
        raise too_large(limit)
    return text


def too_large(limit: int) -> Refused:
    return Refused("too_large", f"the body is over {limit} bytes")
