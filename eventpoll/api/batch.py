"""Read the lines of a batch, and write the lines of its answer."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from eventpoll.errors import Refused
from eventpoll.sets.json import BODY_BYTES

BATCH_LINES, BATCH_BYTES = 10_000, 16 * 1_048_576
PIECE_BYTES = 16_384


def read_lines(stream: Any, length: int) -> Iterator[bytes]:
    """Yield the lines of a batch of `length` bytes; `length` is 0 if it is not known.

    Yield a line over BODY_BYTES only in part. The part is over BODY_BYTES too, so the caller sees that it is too long.
    Raises Refused at the first line over the limit of lines or bytes, and if the body ends or breaks off early.
    """
    # With a known length, read in pieces: gunicorn copies all that it has read ahead at each read. Without one, read
    # line by line: the client may wait for the result of a line before it sends the next.
    read = partial(stream.read, PIECE_BYTES) if length else partial(stream.readline, PIECE_BYTES)
    left, number = BATCH_BYTES, 0
    begun: list[bytes] = []  # pieces of a line that has not ended; joined once, because each join copies them all
    size = 0
    while True:
        try:
            piece = read()
        except Exception:  # broken connection or invalid chunk: each server raises its own class
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
    """Yield the results as lines, some at a time. If reading the batch raises Refused, end with a line for it."""
    try:
        for results in chunks:
            yield b"".join(map(line_of, results))
    except Refused as error:
        yield line_of({"status": error.row.status, "err": error.row.err, "description": error.description})


ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def line_of(value: dict[str, Any]) -> bytes:
    """Return a result as a line of application/x-ndjson."""
    return ENCODER.encode(value).encode("utf-8", "backslashreplace") + b"\n"
