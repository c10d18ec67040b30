"""Render the console's pages: templates that escape everything, times and ages in words, bars, indented JSON."""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from flask import Response, current_app, request
from jinja2 import Environment, PackageLoader, StrictUndefined

from eventpoll.errors import Refused
from eventpoll.sets.json import STRING
from eventpoll.store.records import Hour, Status
from eventpoll.web.representations import when

ROOT = "/console"
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
LATE = 86400
"""Seconds. A stream is behind if a SET is pending or in flight for longer."""

DEEPEST = 20
"""The deepest level to which JSON is indented."""

COUNTED = ("pushed", "delivered", "acked")
TOKENS = re.compile(STRING + r'|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)
TITLES = {401: "Who are you?", 403: "Not allowed", 404: "Not found", 500: "Our mistake", 503: "Away at the moment"}


def page(name: str, code: int = 200, **values: Any) -> Response:
    """Return a page made from the template `name`; `code` is the HTTP status."""
    values = {"done": "", "now": datetime.now(UTC), "interaction_id": "", **values}
    response = Response(templates.get_template(f"{name}.html").render(values), code)
    response.headers["Content-Type"] = "text/html; charset=utf-8"
    response.headers["Content-Security-Policy"] = POLICY
    return response


def wanted() -> bool:
    """Return whether the request is for the console and accepts HTML, so that a refusal must be a page."""
    return f"{request.path}/".startswith(f"{root()}/") and "text/html" in request.headers.get("Accept", "")


def refused(refusal: Refused, interaction_id: str) -> Response | None:
    """Return a refusal as a page, or None where the request does not ask for a page."""
    if not wanted():
        return None
    status = refusal.row.status
    title = TITLES.get(status, "That cannot be done")
    response = page("refused", status, title=title, refusal=refusal, interaction_id=interaction_id)
    response.headers.update(refusal.headers)
    return response


# -- for the templates -------------------------------------------------------------------------------------------


def root() -> str:
    """Return the path of the console, below the prefix of the service."""
    return f"{current_app.extensions['eventpoll'].prefix}{ROOT}"


def at(*segments: str, **query: object) -> str:
    """Return the address of a console page, with the prefix at which the service is mounted.

    `segments` form the path, `query` the query string. Empty and None values of `query` are left out.
    """
    path = "".join("/" + quote(segment, safe="") for segment in segments)
    asked = urlencode({name: value for name, value in query.items() if value not in ("", None)})
    return f"{request.script_root}{root()}{path}" + (f"?{asked}" if asked else "")


def at_set(tpp: str, jti: str, **query: object) -> str:
    """Return the address of a SET's page.

    A browser would resolve a "." or ".." in the jti as part of the path. The address of such a SET uses the search.
    """
    if {".", ".."} & set(re.split(r"[/\\]", jti)):
        return at("search", tpp=tpp, jti=jti, **query)
    return at("streams", tpp, "sets", jti, **query)


def visible(text: str) -> str:
    """Escape invisible and bidirectional characters in text from outside."""
    return "".join(
        char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1].replace("\x7f", "\\u007f")
        for char in text
    )


def duration(seconds: float) -> str:
    """Return an age in words, in its largest unit: days, hours, minutes or seconds."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            return counted(int(seconds // size), unit)
    return counted(int(seconds), "second")


def thousands(number: int) -> str:
    """Return a number with a narrow space between its groups of three digits."""
    return f"{number:,}".replace(",", "\u202f")


def counted(number: int, thing: str) -> str:
    """Return a number with the name of what it counts, in the plural where it is not 1."""
    many = thing[:-1] + "ies" if thing.endswith("y") and not thing.endswith("ay") else thing + "s"
    return f"{thousands(number)} {thing if number == 1 else many}"


def moment(fields: Mapping[str, str], name: str) -> datetime | None:
    """Return the time in the field `name` of a stream (milliseconds in the store), or None where it has none."""
    return datetime.fromtimestamp(int(fields[name]) / 1000, UTC) if name in fields else None


def bars(hours: Sequence[Hour]) -> list[dict[str, Any]]:
    """Return the hourly counts as three rows of bars on one scale, one row for each name in COUNTED.

    A row has its `name` and its `sum`. `ground` is the y coordinate of its base line in the picture. `outline` is the
    SVG path of its bars.
    """
    most = max([1, *(getattr(hour, name) for hour in hours for name in COUNTED)])
    rows = []
    for row, name in enumerate(COUNTED, 1):
        numbers = [getattr(hour, name) for hour in hours]
        tall = [(place, max(2, round(28 * number / most))) for place, number in enumerate(numbers) if number]
        outline = "".join(f"M{8 * place + 1} {34 * row - 2}v-{height}h6v{height}z" for place, height in tall)
        rows.append({"name": name, "sum": sum(numbers), "ground": 34 * row - 2, "outline": outline})
    return rows


def oldest(status: Status) -> float | None:
    """Return the seconds since the oldest SET of a stream was pushed, in any state; None where there is no SET."""
    return max((age for age in status.oldest.values() if age is not None), default=None)


def wrong(status: Status) -> list[str]:
    """Return what is wrong with a stream, in words; usually an empty list."""
    found = []
    if late := [age for state in ("pending", "in_flight") if (age := status.oldest[state] or 0) > LATE]:
        found.append(f"a SET waits for {duration(max(late))}")
    if status.pending and "polled_at" not in status.fields:
        found.append("never polled")
    if status.parked:
        found.append(f"{status.parked} parked")
    return found


def rank(status: Status) -> tuple[bool, float, str]:
    """Return the sort key of a stream: problems first, then by the age of the oldest SET, then by name."""
    return not wrong(status), -(oldest(status) or 0.0), status.tpp


def readable(part: str) -> str | None:
    """Return a part of a SET as indented JSON, or None where it is not text.

    Only white space differs from the part: every other character stays as the issuer wrote it.
    """
    try:
        text = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    lines: list[str] = []
    line: list[str] = []
    depth, before = 0, ""
    for word in TOKENS.findall(text):
        begins, ends = before in ("{", "["), word in ("}", "]")
        depth -= ends
        if (begins or before == ",") != ends:
            lines.append("".join(line))
            line = ["  " * min(depth, DEEPEST)]
        line.append(": " if word == ":" else word)
        depth += word in ("{", "[")
        before = word
    return "\n".join([*lines, "".join(line)])


def times(part: str) -> dict[str, datetime]:
    """Return the claims that are times (RFC 7519 section 4.1, RFC 8417 section 2.2) as datetimes, by name.

    Returns {} where the part cannot be read.
    """
    try:
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        told = {
            name: claims[name] for name in ("iat", "toe", "nbf", "exp") if isinstance(claims.get(name), int | float)
        }
        return {name: datetime.fromtimestamp(number, UTC) for name, number in told.items()}
    except (ValueError, OverflowError, OSError, AttributeError, RecursionError):
        return {}


templates = Environment(
    loader=PackageLoader("eventpoll.console"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
"""The console's own environment, separate from Flask's.

Its templates cannot read the configuration, and a bank's own templates cannot replace them.
"""
templates.filters.update(visible=visible, duration=duration, when=when, thousands=thousands)
templates.globals.update(at=at, at_set=at_set, counted=counted, root=ROOT)
