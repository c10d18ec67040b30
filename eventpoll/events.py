"""An event as the bank writes it in JSON: one body, or a line of many."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from marshmallow import Schema, ValidationError

from eventpoll.errors import Refused, invalid
from eventpoll.failures import NoStream, Unavailable
from eventpoll.jsontext import Malformed, member_texts, read_object
from eventpoll.profiles import BODY_BYTES
from eventpoll.refusals import REFUSALS, refusal
from eventpoll.schemas import EventSchema
from eventpoll.secevent import Event, Signed
from eventpoll.transmitter import Transmitter

EVENT = EventSchema()
CHUNK = 50
"""The most lines that are minted and pushed together: bounds memory, and the time in which nobody else is served."""

ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def load(schema: Schema, text: bytes) -> dict[str, Any]:
    """A JSON body, checked. Raises Refused."""
    try:
        members: dict[str, Any] = schema.load(read_object(text))
    except Malformed as error:
        raise Refused("malformed", str(error)) from None
    except ValidationError as error:
        raise invalid(error.messages) from None
    return members


def read_event(text: bytes) -> Event:
    """The event that a JSON body asks to be minted, its texts kept to the letter. Raises Refused."""
    members = load(EVENT, text)
    texts = member_texts(text.decode())
    claims: dict[str, str] = {name: texts[name] for name in ("sub", "sub_id", "txn", "toe") if name in texts}
    return Event(texts["events"], claims, members.get("jti"), members.get("scope", ""))


def read_line(line: bytes, scope: str = "") -> Event | Signed:
    """An event to mint, or a SET as the bank signed it, bare or as a JSON string, of the family `scope`.

    Raises Refused.
    """
    line = line.strip()
    if len(line) > BODY_BYTES:
        raise Refused("too_large", f"a line has at most {BODY_BYTES} bytes")
    if line.startswith(b"{"):
        return read_event(line)
    return Signed(line.strip(b'"').decode("ascii", "replace"), scope)


def push_lines(
    transmitter: Transmitter, tpp: str, lines: Iterable[bytes], scope: str = ""
) -> Iterator[list[dict[str, Any]]]:
    """Push each line, and tell of each in its turn, of some at a time: {"jti", "status"}, or {"status", "err",
    "description"}.

    The status is the one that the line would have had as a request of its own. Blank lines are passed over.
    """
    for chunk in _chunks(lines):
        read: list[Event | Signed | Exception] = []
        for line in chunk:
            try:
                read.append(read_line(line, scope))
            except Refused as error:
                read.append(error)
        results: list[tuple[str, bool] | Exception]
        try:
            results = transmitter.push_many(tpp, read)
        except (NoStream, Unavailable) as error:
            results = [error] * len(read)
        yield [_result(item, result) for item, result in zip(read, results, strict=True)]


def _chunks(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The lines that are not blank, some at a time: few at first, so that the first results come soon. Where reading
    is refused, what came before is not lost."""
    chunk: list[bytes] = []
    size = 1
    try:
        for line in filter(bytes.strip, lines):
            chunk.append(line)
            if len(chunk) == size:
                yield chunk
                chunk, size = [], min(2 * size, CHUNK)
    except Refused:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def _result(item: Event | Signed | Exception, result: tuple[str, bool] | Exception) -> dict[str, Any]:
    if isinstance(result, tuple):
        jti, new = result
        return {"jti": jti, "status": 202 if isinstance(item, Signed) else 201 if new else 200}
    if type(result) not in REFUSALS:
        raise result
    told = refusal(result)
    return {"status": told.row.status, "err": told.row.err, "description": told.description}


def line_of(value: dict[str, Any]) -> bytes:
    """A result as a line of application/x-ndjson."""
    return ENCODER.encode(value).encode("utf-8", "backslashreplace") + b"\n"
