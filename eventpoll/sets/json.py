"""JSON as RFC 8259 has it, read strictly: what two readers could take differently is refused."""

import json
import re
from codecs import BOM_UTF8
from typing import Any

DEEPEST = 500
"""Levels of nesting that are taken: far more than any event has, fewer than a reader of ours can stack."""

STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
"""A pattern for a string with its quotes, or for the rest of a text whose last string does not end. Each repetition is
possessive, so the pattern never goes back, and the last quote is optional, so it never fails: no character is read
twice. Without that, a text of many quotes and no end takes time by the square of its length."""

BRACKETS = re.compile(rf"{STRING}|[\[\]{{}}]", re.DOTALL)

BLANK = re.compile(r"[ \t\r\n]*")


class Malformed(Exception):
    """The text is not the JSON that we take; the message says why."""


class Marked(Malformed):
    """A byte order mark stands before the JSON."""


def read_json(body: bytes | str) -> Any:
    """Parse JSON as RFC 8259 has it: no duplicate members, no NaN, no bottomless nesting. Raises Malformed."""
    try:
        text = body.decode("utf-8") if isinstance(body, bytes) else body
        refuse_mark(text)
        if text.count("[") + text.count("{") > DEEPEST:
            _check_depth(text)
        return DECODER.decode(text)
    except UnicodeDecodeError:
        raise Malformed("the body is not UTF-8") from None
    except RecursionError:
        raise Malformed("the JSON is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise Malformed(f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except ValueError as error:
        raise Malformed(f"the body is not JSON that we take: {error}") from None


def refuse_mark(text: bytes | str) -> None:
    """Raise Marked where a byte order mark stands before a text: it is invisible, so the error names it."""
    if text.startswith(BOM_UTF8) if isinstance(text, bytes) else text.startswith("\ufeff"):
        raise Marked("the text begins with a byte order mark: send it without one (RFC 8259 section 8.1)")


def read_object(body: bytes | str) -> dict[str, Any]:
    """The same, of an object. Raises Malformed."""
    value = read_json(body)
    if not isinstance(value, dict):
        raise Malformed("the body must be a JSON object")
    return value


def member_texts(text: str) -> dict[str, str]:
    """The members of a JSON object as they are written, to the letter: numbers keep their digits and members
    their order. The text must have passed `read_object`."""

    def skip(at: int) -> int:
        return BLANK.match(text, at).end()  # type: ignore[union-attr]

    found: dict[str, str] = {}
    at = skip(skip(0) + 1)
    while text[at] != "}":
        name, at = PLAIN.raw_decode(text, at)
        begin = skip(skip(at) + 1)
        _, end = PLAIN.raw_decode(text, begin)
        found[name] = text[begin:end]
        at = skip(end)
        if text[at] == ",":
            at = skip(at + 1)
    return found


def encodes(value: Any) -> bool:
    """Return whether UTF-8 can write each string and each name of a member in a JSON value.

    It cannot where one holds a lone surrogate, which JSON can escape. Strict readers refuse such a text.
    """
    try:
        (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_depth(text: str) -> None:
    depth = 0
    for bracket in BRACKETS.findall(text):
        depth += 1 if bracket in "[{" else -1 if bracket in "]}" else 0
        if depth > DEEPEST:
            raise Malformed("the JSON is nested too deeply")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member stands twice")
    return members


def _integer(digits: str) -> int:
    if len(digits) > 4000:  # reading a number takes time by the square of its length, so Python stops near here too
        raise ValueError("a number has more than 4000 digits")
    return int(digits)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


PLAIN = json.JSONDecoder()
DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_int=_integer)
"""Made once: json.loads makes one for each text."""

BODY_BYTES = 1_048_576
