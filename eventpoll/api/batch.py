"""The lines of a batch, and of its answer."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from eventpoll.errors import Refused
from eventpoll.sets.json import BODY_BYTES

BATCH_LINES, BATCH_BYTES = 10_000, 16 * 1_048_576
PIECE_BYTES = 16_384


def read_lines(stream: Any, length: int) -> Iterator[bytes]:
    """The lines of a batch of `length` bytes, 0 where that is not known; of a line that is too long, no more than
    shows it. Raises Refused at the first line that is one too many, and where the rest does not come."""
    # In pieces where the length is known: gunicorn copies all that it has read ahead at each read. Else by the line,
    # as the client may wait for the result of the one that it has sent.
    read = partial(stream.read, PIECE_BYTES) if length else partial(stream.readline, PIECE_BYTES)
    left, number = BATCH_BYTES, 0
    begun: list[bytes] = []  # the pieces of a line that has not ended: joined once, as each join copies them all
    size = 0
    while True:
        try:
            piece = read()
        except Exception:  # the connection broke off, or a chunk is none: each server has its own words for it
            raise Refused("malformed", f"line {number + 1}: the batch cannot be read to its end") from None
        if not piece:
            break
        *ends, rest = piece[: max(left, 0)].split(b"\n")
        left -= len(piece)
        for end in ends:
            number += 1
            if number > BATCH_LINES:
                raise _too_many(number)
            yield b"".join([*begun, end])
            begun, size = [], 0
        if left < 0:
            raise _too_many(number + 1)
        if rest and size <= BODY_BYTES:
            begun.append(rest)
            size += len(rest)
    if BATCH_BYTES - left < length:
        raise Refused("malformed", f"line {number + 1}: the batch ends in the middle")
    if begun and number == BATCH_LINES:
        raise _too_many(number + 1)
    if begun:
        yield b"".join(begun)


def _too_many(number: int) -> Refused:
    limits = f"a batch has at most {BATCH_LINES} lines and {BATCH_BYTES} bytes"
    return Refused("too_large", f"line {number}: {limits}; from here on nothing was read")


def result_lines(chunks: Iterator[list[dict[str, Any]]]) -> Iterator[bytes]:
    try:
        for results in chunks:
            yield b"".join(map(line_of, results))
    except Refused as error:
        yield line_of({"status": error.row.status, "err": error.row.err, "description": error.description})


ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def line_of(value: dict[str, Any]) -> bytes:
    """A result as a line of application/x-ndjson."""
    return ENCODER.encode(value).encode("utf-8", "backslashreplace") + b"\n"
