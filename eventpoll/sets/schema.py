"""What the schemas of all JSON bodies share: strict fields, and marshmallow's mistakes as refusals."""

import math
from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields

from eventpoll.errors import Refused
from eventpoll.sets.json import Malformed, encodes, read_object


def told(text: str) -> dict[str, str]:
    """What /openapi.json says of a member."""
    return {"description": text}


class JSONBoolean(fields.Field[bool]):
    """true or false, and no word or number that may mean them."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError("Must be true or false.")
        return value


class JSONNumber(fields.Field[float]):
    """A number, and no word that reads like one."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            raise ValidationError("Must be a number.")
        return value


def _finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # JSON can write integers beyond every float
        return False


def well_formed(value: Any) -> None:
    """Raise ValidationError where a string in a JSON value, or the name of a member, has a lone surrogate."""
    if not encodes(value):
        raise ValidationError("Must be well-formed Unicode, without lone surrogates (\\ud800 to \\udfff).")


def first_mistake(messages: object) -> tuple[str, str]:
    """The first of marshmallow's messages: where, as member.member, and what."""
    names: list[str] = []
    while isinstance(messages, dict | list) and messages:
        if isinstance(messages, list):
            messages = messages[0]
        else:
            name, messages = next(iter(messages.items()))
            names.append(str(name))
    if names[2:] in (["key"], ["value"]):  # marshmallow's own words, in the errors of a Dict: no members
        names.pop()
    return ".".join(names), str(messages)


def invalid(messages: object) -> Refused:
    """What marshmallow found, as a refusal."""
    path, what = first_mistake(messages)
    path = path[:500]
    code = {
        "Missing data for required field.": "field_missing",
        "Unknown field.": "field_unexpected",
    }.get(what, "field_invalid")
    return Refused(code, f"{path}: {what[:1].lower()}{what[1:].rstrip('.')}" if path else what, path)


def load(schema: Schema, text: bytes) -> dict[str, Any]:
    """A JSON body, checked. Raises Refused."""
    try:
        members: dict[str, Any] = schema.load(read_object(text))
    except Malformed as error:
        raise Refused("malformed", str(error)) from None
    except ValidationError as error:
        raise invalid(error.messages) from None
    return members
