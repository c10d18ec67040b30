"""The profile of RFC 8936: JSON in, JSON out. The other profiles change what differs."""

import json
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii
from typing import Any, ClassVar, cast

from flask import Request
from marshmallow import EXCLUDE, Schema, ValidationError, fields, post_load, validate

from eventpoll.delivery.transmitter import Poll
from eventpoll.errors import Refused
from eventpoll.sets.json import Malformed, encodes, read_object
from eventpoll.sets.schema import JSONBoolean, invalid, told
from eventpoll.store.records import Answer
from eventpoll.web.body import body, want_type

BRINGING = {"ack", "setErrs"}

MAX_EVENTS = told("The most SETs to return; absent: what the bank has set (100). 0: none, only ack and setErrs")
IMMEDIATELY = told("true: answer at once. Absent or false: the poll is held until there is a SET, or its time is up")
ACK = told("jtis of the SETs to settle for good, in whatever state; unknown ones have no effect")
SET_ERRS = told("jti -> error, of the SETs that could not be read or verified: they are parked for the bank to see")


class Jtis(fields.Field[list[str]]):
    """An array of jtis. Checked in one sweep: a list of marshmallow's strings costs 35 times as much."""

    def __init__(self, least: int, most: int | None, **options: Any) -> None:
        super().__init__(**options)
        self.least, self.most = least, most

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> list[str]:
        if not isinstance(value, list) or not all(type(jti) is str for jti in value):
            raise ValidationError("Must be an array of strings.")
        lengths = [len(jti) for jti in value]
        if value and (min(lengths) < self.least or (self.most is not None and max(lengths) > self.most)):
            raise ValidationError(f"Each jti must have {self.least} to {self.most} characters.")
        if not encodes("".join(value)):
            raise ValidationError("A jti is not well-formed Unicode.")
        return value


class SetErrs(fields.Field[dict[str, dict[str, str]]]):
    """An object: jti -> {"err", "description"}. With `allow_none`, a null member of an error counts as absent."""

    def __init__(self, *, description_required: bool, err: int | None, description: int | None, **options: Any) -> None:
        super().__init__(**options)
        self.description_required = description_required
        self.limits = {"err": err, "description": description}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> Any:
        if not isinstance(value, dict):
            raise ValidationError("Must be an object.")
        return {jti: self._one(jti, error) for jti, error in value.items()}

    def _one(self, jti: str, error: Any) -> dict[str, str]:
        if not isinstance(error, dict):
            raise ValidationError({jti: ["Must be an object."]})
        if not jti or not encodes(jti):
            raise ValidationError({jti: ["The jti must be a non-empty string of well-formed Unicode."]})
        kept = {}
        for member, keep in (("err", KEPT_ERR), ("description", KEPT_DESCRIPTION)):
            if member not in error or (self.allow_none and error[member] is None):
                if member == "err" or self.description_required:
                    raise ValidationError({jti: {member: [fields.Field.default_error_messages["required"]]}})
                continue
            text, most = error[member], self.limits[member]
            if not isinstance(text, str):
                raise ValidationError({jti: {member: ["Must be a string."]}})
            if (not text and (member == "err" or most)) or (most and len(text) > most):
                raise ValidationError({jti: {member: [f"Must have 1 to {most or keep} characters."]}})
            kept[member] = text[:keep]
        return kept


class PollSchema(Schema):
    """RFC 8936 section 2.2. Members that we do not know are ignored: real receivers send some.

    A null member counts as absent: Go and Java write one for a member without a value.
    """

    class Meta:
        unknown = EXCLUDE

    max_events = fields.Integer(
        strict=True,
        data_key="maxEvents",
        validate=validate.Range(min=0),
        allow_none=True,
        metadata=MAX_EVENTS,
    )
    return_immediately = JSONBoolean(data_key="returnImmediately", allow_none=True, metadata=IMMEDIATELY)
    ack = Jtis(0, None, allow_none=True, metadata=ACK)
    set_errs = SetErrs(
        description_required=False,
        err=None,
        description=None,
        data_key="setErrs",
        allow_none=True,
        metadata=SET_ERRS,
    )

    @post_load
    def _poll(self, members: dict[str, Any], **_: Any) -> Poll:
        return Poll(**{name: value for name, value in members.items() if value is not None})


class Profile:
    """RFC 8936: JSON in, JSON out. The other profiles change what differs."""

    letter: ClassVar[str] = "r"
    content_type: ClassVar[str] = "application/json"
    schema: ClassVar[Schema] = PollSchema()

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path
        self._known: dict[str, Poll] = {}

    def read(self, request: Request) -> dict[str, Any]:
        """Return the members of the request, not checked yet. Raises Refused."""
        want_type(request, "application/json", absent=True)
        return json_object(body(request))

    def poll(self, members: dict[str, Any]) -> Poll:
        """The poll that they ask for. Raises Refused."""
        try:
            return self._load(members)
        except ValidationError as error:
            raise invalid(error.messages) from None

    def _load(self, members: dict[str, Any]) -> Poll:
        """What the schema makes of them. Polls that bring nothing are much the same: it is asked once for each kind."""
        kind = repr(members) if len(members) <= 2 and not members.keys() & BRINGING else ""
        poll = self._known.get(kind)
        if poll is None:
            poll = self.schema.load(members)
            if kind and len(kind) <= 100 and len(self._known) < 1000:
                self._known[kind] = poll
        return cast(Poll, poll)

    def holds(self, poll: Poll) -> bool:
        """Whether the poll may wait: RFC 8936 section 2.2, and section 2.4.2 for maxEvents 0."""
        return not poll.return_immediately

    def write(self, answer: Answer, asked: Poll) -> tuple[bytes, int]:
        """The answer's body and status, written around the stored bytes: SETs are base64url and dots."""
        return b'{"sets":{' + sets_text(answer) + b'},"moreAvailable":' + boolean(answer.more) + b"}", 200

    def refuse(self, refusal: Refused, interaction_id: str) -> bytes:
        """The body of a refusal."""
        return json_bytes({"err": refusal.row.err, "description": refusal.description})


RFC8936 = Profile("rfc8936", "/events")


def json_object(text: bytes) -> dict[str, Any]:
    try:
        return read_object(text)
    except Malformed as error:
        raise Refused("malformed", str(error)) from None


def sets_text(answer: Answer) -> bytes:
    return b",".join(
        [b'%b:"%b"' % (encode_basestring_ascii(jti.decode()).encode(), secevent) for jti, secevent in answer.sets]
    )


def boolean(value: bool) -> bytes:
    return b"true" if value else b"false"


def json_bytes(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


KEPT_ERR, KEPT_DESCRIPTION = 128, 1024
"""Of a longer err or description, on the paths that set no limit, so many characters are kept."""
