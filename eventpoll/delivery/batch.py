"""Push many events and SETs, with one result for each."""

from collections.abc import Iterable, Iterator
from typing import Any

from eventpoll.delivery.refusals import REFUSALS, refusal
from eventpoll.delivery.transmitter import Transmitter
from eventpoll.errors import Refused
from eventpoll.sets.event import Event, Signed, read_line
from eventpoll.store.errors import NoStream, Unavailable

CHUNK = 50
"""Maximum number of lines minted and pushed together. It bounds memory, and the time for which other requests wait."""


def push_lines(
    transmitter: Transmitter, tpp: str, lines: Iterable[bytes], scope: str = ""
) -> Iterator[list[dict[str, Any]]]:
    """Push each line, and yield lists of results in the order of the lines.

    A result is {"jti", "status"}, or {"status", "err", "description"} for a line that failed.
    `status` is the HTTP status that a separate request with this line would get. Blank lines are skipped.
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
    """Yield groups of 1, 2, 4 … CHUNK lines, blank lines left out, so that the first results arrive early.

    If reading raises Refused, yield the lines read so far, then raise it.
    """
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
