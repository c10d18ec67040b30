"""How the console's pages are made: templates that escape everything, times and ages in words, bars, JSON to read."""

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
"""Seconds after which a SET that is pending or in flight says that its stream is behind."""

DEEPEST = 20
"""Levels by which JSON is indented."""

COUNTED = ("pushed", "delivered", "acked")
TOKENS = re.compile(STRING + r'|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)
TITLES = {401: "Who are you?", 403: "Not allowed", 404: "Not found", 500: "Our mistake", 503: "Away at the moment"}


def page(name: str, code: int = 200, **values: Any) -> Response:
    """A page, from its template; `code` is the HTTP status."""
    values = {"done": "", "now": datetime.now(UTC), "interaction_id": "", **values}
    response = Response(templates.get_template(f"{name}.html").render(values), code)
    response.headers["Content-Type"] = "text/html; charset=utf-8"
    response.headers["Content-Security-Policy"] = POLICY
    return response


def wanted() -> bool:
    """Whether a refusal is for a person with a browser, who was about to see the console."""
    return f"{request.path}/".startswith(f"{root()}/") and "text/html" in request.headers.get("Accept", "")


def refused(refusal: Refused, interaction_id: str) -> Response | None:
    """A refusal, as a page; None where no page is wanted."""
    if not wanted():
        return None
    status = refusal.row.status
    title = TITLES.get(status, "That cannot be done")
    response = page("refused", status, title=title, refusal=refusal, interaction_id=interaction_id)
    response.headers.update(refusal.headers)
    return response


# -- what the templates use --------------------------------------------------------------------------------------


def root() -> str:
    """Return the path of the console, below the prefix of the service."""
    return f"{current_app.extensions['eventpoll'].prefix}{ROOT}"


def at(*segments: str, **query: object) -> str:
    """The address of a page of the console, wherever the service is mounted."""
    path = "".join("/" + quote(segment, safe="") for segment in segments)
    asked = urlencode({name: value for name, value in query.items() if value not in ("", None)})
    return f"{request.script_root}{root()}{path}" + (f"?{asked}" if asked else "")


def at_set(tpp: str, jti: str, **query: object) -> str:
    """The address of a SET's page. What a browser would take for a way up goes by the search."""
    if {".", ".."} & set(re.split(r"[/\\]", jti)):
        return at("search", tpp=tpp, jti=jti, **query)
    return at("streams", tpp, "sets", jti, **query)


def visible(text: str) -> str:
    """A text of someone else's, with what cannot be seen, or turns the reading round, as an escape."""
    return "".join(
        char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1].replace("\x7f", "\\u007f")
        for char in text
    )


def duration(seconds: float) -> str:
    """An age in words: its largest unit."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            return counted(int(seconds // size), unit)
    return counted(int(seconds), "second")


def thousands(number: int) -> str:
    """A number, with its thousands apart."""
    return f"{number:,}".replace(",", "\u202f")


def counted(number: int, thing: str) -> str:
    """A number of things."""
    many = thing[:-1] + "ies" if thing.endswith("y") and not thing.endswith("ay") else thing + "s"
    return f"{thousands(number)} {thing if number == 1 else many}"


def moment(fields: Mapping[str, str], name: str) -> datetime | None:
    """A time among the fields of a stream."""
    return datetime.fromtimestamp(int(fields[name]) / 1000, UTC) if name in fields else None


def bars(hours: Sequence[Hour]) -> list[dict[str, Any]]:
    """What was counted, as three rows of bars on one scale: of each its name, its sum, where its ground is in the
    picture, and the outline of its bars (SVG)."""
    most = max([1, *(getattr(hour, name) for hour in hours for name in COUNTED)])
    rows = []
    for row, name in enumerate(COUNTED, 1):
        numbers = [getattr(hour, name) for hour in hours]
        tall = [(place, max(2, round(28 * number / most))) for place, number in enumerate(numbers) if number]
        outline = "".join(f"M{8 * place + 1} {34 * row - 2}v-{height}h6v{height}z" for place, height in tall)
        rows.append({"name": name, "sum": sum(numbers), "ground": 34 * row - 2, "outline": outline})
    return rows


def oldest(status: Status) -> float | None:
    """Seconds since the oldest SET of a stream was pushed, whatever its state."""
    return max((age for age in status.oldest.values() if age is not None), default=None)


def wrong(status: Status) -> list[str]:
    """What is wrong with a stream, in words; nothing, as a rule."""
    found = []
    if late := [age for state in ("pending", "in_flight") if (age := status.oldest[state] or 0) > LATE]:
        found.append(f"a SET waits for {duration(max(late))}")
    if status.pending and "polled_at" not in status.fields:
        found.append("never polled")
    if status.parked:
        found.append(f"{status.parked} parked")
    return found


def rank(status: Status) -> tuple[bool, float, str]:
    """By what streams are ordered: where something is wrong first, then by the age of the oldest, then by name."""
    return not wrong(status), -(oldest(status) or 0.0), status.tpp


def readable(part: str) -> str | None:
    """A part of a SET as indented JSON, to the letter but for the blanks; None where it is no text."""
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
    """The claims that are times (RFC 7519 section 4.1, RFC 8417 section 2.2), to be read as such."""
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
"""Not Flask's: they know nothing of the configuration, and a bank's own templates cannot take their place."""
templates.filters.update(visible=visible, duration=duration, when=when, thousands=thousands)
templates.globals.update(at=at, at_set=at_set, counted=counted, root=ROOT)
