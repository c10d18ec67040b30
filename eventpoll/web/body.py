"""Read an HTTP body: its media type, its size, and whether JSON may be answered."""

import re

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_list_header, parse_options_header

from eventpoll.errors import Refused
from eventpoll.sets.json import BODY_BYTES

ACCEPT_CHARACTERS = 1_000
"""A longer `Accept` is disregarded (RFC 9110 section 12.5.1): sent in many fields it may take a second to parse."""


def want_type(request: Request, wanted: str, absent: bool = False) -> None:
    """Raise Refused unless the body is declared as `wanted` (or, where `absent`, as nothing), in UTF-8 and not
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
    """Raise Refused where `Accept` is readable and leaves no way to answer in JSON (RFC 9110 section 12.5.1).

    The most specific range that fits decides. A member that cannot be read excludes nothing: it counts as the least
    specific range that takes JSON.
    """
    accept = request.headers.get("Accept")
    if not accept or accept == "*/*" or accept == "application/json" or len(accept) > ACCEPT_CHARACTERS:
        return
    best = max((_json_quality(member) for member in parse_list_header(accept)), default=UNREADABLE)
    if best[0] < 0 or best[1] <= 0:
        raise Refused("not_acceptable", "the answer is application/json, which Accept excludes", "Accept")


def _json_quality(member: str) -> tuple[int, float]:
    """Return how specifically a member of `Accept` names JSON, -1 where it names something else, and its quality."""
    name, parameters = parse_options_header(member.lower())
    name = "*/*" if name == "*" else name  # Java writes the one for the other
    quality = parameters.get("q", "1").strip()
    if not MEDIA_RANGE.fullmatch(name) or not QUALITY.fullmatch(quality):
        return UNREADABLE
    if name not in JSON_RANGES or not UTF_8.search(parameters.get("charset", "utf-8")):
        return (-1, 0.0)
    return JSON_RANGES.index(name), float(quality)


JSON_RANGES = ("*/*", "application/*", "application/json")
UNREADABLE = (0, 1.0)
UTF_8 = re.compile("utf-?8")
MEDIA_RANGE = re.compile(r"\*/\*|[\w!#$%&'+.^`|~-]+/(?:\*|[\w!#$%&'+.^`|~-]+)", re.ASCII)
QUALITY = re.compile(r"0?\.[0-9]+|[01](?:\.0*)?", re.ASCII)


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
