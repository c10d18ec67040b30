"""Every body that comes in: read strictly, and checked by one schema each."""

import math
import re
from collections.abc import Mapping
from typing import Any

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, post_load, validate

from eventpoll.errors import Refused
from eventpoll.records import FAMILIES
from eventpoll.transmitter import Poll

TPP = re.compile(r"[A-Za-z0-9._~@:+-]{1,128}")
KEPT_ERR, KEPT_DESCRIPTION = 128, 1024
"""Of a longer err or description, on the paths that set no limit, so many characters are kept."""


def told(text: str) -> dict[str, str]:
    """What /openapi.json says of a member."""
    return {"description": text}


MAX_EVENTS = told("The most SETs to return; absent: what the bank has set (100). 0: none, only ack and setErrs")
IMMEDIATELY = told("true: answer at once. Absent or false: the poll is held until there is a SET, or its time is up")
ACK = told("jtis of the SETs to settle for good, in whatever state; unknown ones have no effect")
SET_ERRS = told("jti -> error, of the SETs that could not be read or verified: they are parked for the bank to see")


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
        if not _encodes("".join(value)):
            raise ValidationError("A jti is not well-formed Unicode.")
        return value


class SetErrs(fields.Field[dict[str, dict[str, str]]]):
    """An object: jti -> {"err", "description"}."""

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
        if not jti or not _encodes(jti):
            raise ValidationError({jti: ["The jti must be a non-empty string of well-formed Unicode."]})
        kept = {}
        for member, keep in (("err", KEPT_ERR), ("description", KEPT_DESCRIPTION)):
            if member not in error:
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


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, which JSON can write and nothing can store
        return False
    return True


def _well_formed(text: str) -> None:
    if not _encodes(text):
        raise ValidationError("Must be well-formed Unicode.")


class PollSchema(Schema):
    """RFC 8936 section 2.2. Members that we do not know are ignored: real receivers send some."""

    class Meta:
        unknown = EXCLUDE

    max_events = fields.Integer(
        strict=True,
        data_key="maxEvents",
        validate=validate.Range(min=0),
        load_default=None,
        allow_none=False,
        metadata=MAX_EVENTS,
    )
    return_immediately = JSONBoolean(
        data_key="returnImmediately", load_default=None, allow_none=False, metadata=IMMEDIATELY
    )
    ack = Jtis(0, None, load_default=list, metadata=ACK)
    set_errs = SetErrs(
        description_required=False,
        err=None,
        description=None,
        data_key="setErrs",
        load_default=dict,
        metadata=SET_ERRS,
    )

    @post_load
    def _poll(self, members: dict[str, Any], **_: Any) -> Poll:
        return Poll(**members)


class ObiePollSchema(PollSchema):
    """OBEventPolling1: closed, with its own lengths."""

    class Meta:
        unknown = RAISE

    ack = Jtis(1, 128, load_default=list, metadata=ACK)
    set_errs = SetErrs(
        description_required=True,
        err=40,
        description=256,
        data_key="setErrs",
        load_default=dict,
        metadata=SET_ERRS,
    )


class Wso2Integer(fields.Integer):
    """An integer, or a string that Java's Integer.parseInt would take."""

    def _validated(self, value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value):
            return int(value)
        if type(value) is int:
            return value
        raise ValidationError("Not a valid integer.")


class Wso2PollSchema(PollSchema):
    """WSO2's: numbers may be strings, and returnImmediately is never read."""

    max_events = Wso2Integer(
        data_key="maxEvents",
        validate=validate.Range(min=0),
        load_default=None,
        allow_none=False,
        metadata=MAX_EVENTS,
    )
    return_immediately = fields.Raw(  # type: ignore[assignment]
        data_key="returnImmediately", load_default=None, allow_none=True, metadata=told("Not read: no poll is held")
    )
    set_errs = SetErrs(
        description_required=True,
        err=None,
        description=None,
        data_key="setErrs",
        load_default=dict,
        metadata=SET_ERRS,
    )


class StreamSchema(Schema):
    """The body of PUT /streams/{tpp}: what is null goes back to the service's own."""

    class Meta:
        unknown = RAISE

    redeliver_after = JSONNumber(
        allow_none=True,
        validate=validate.Range(min=0, max=31_536_000),
        metadata=told("Seconds for which a delivered SET is hidden (its lease)"),
    )
    max_deliveries = fields.Integer(
        strict=True,
        allow_none=True,
        validate=validate.Range(min=0, max=1_000_000),
        metadata=told("Park a SET at its n-th delivery without an ack; 0: never"),
    )
    on_error = fields.String(
        allow_none=True,
        validate=validate.OneOf(["park", "redeliver"]),
        metadata=told("What setErrs does: park the SET, or note the error and offer it again"),
    )
    set_profile = fields.String(
        allow_none=True,
        validate=validate.OneOf(["rfc8417", "obie", "wso2"]),
        metadata=told("The form of the SETs that are minted"),
    )
    audience = fields.String(
        allow_none=True,
        validate=[validate.Length(min=1, max=1024), _well_formed],
        metadata=told("aud of the SETs that are minted; unless set, the name of the TPP"),
    )
    max_pending = fields.Integer(
        strict=True,
        allow_none=True,
        validate=validate.Range(min=0),
        metadata=told(
            "The most SETs outstanding, or acknowledged with an error: a push over it is refused with 429; 0: no limit"
        ),
    )


class SecretSchema(Schema):
    """The body of POST /streams/{tpp}/secret."""

    class Meta:
        unknown = RAISE

    grace_seconds = JSONNumber(
        load_default=0,
        validate=validate.Range(min=0, max=31_536_000),
        metadata=told("For how long the old secret works too"),
    )


class EventSchema(Schema):
    """The body of POST /streams/{tpp}/sets: the events of one SET, and its claims."""

    class Meta:
        unknown = RAISE

    events = fields.Dict(
        keys=fields.String(validate=validate.Length(min=1)),
        values=fields.Dict(),
        required=True,
        validate=validate.Length(min=1, error="Must hold at least one event."),
        metadata=told("Event type, a URI unless the stream's profile is wso2 -> the event's members"),
    )
    jti = fields.String(
        validate=validate.Length(min=1, max=128), metadata=told("Makes a repeated push safe; absent: a random one")
    )
    sub = fields.String(metadata=told("The subject; the profile obie wants the URL of the affected resource"))
    sub_id = fields.Dict(metadata=told("The subject as RFC 9493 has it; not for the profile obie"))
    txn = fields.String(metadata=told("The transaction; the profile obie wants 1 to 128 characters"))
    toe = JSONNumber(metadata=told("Time of the event, in seconds since 1970"))
    scope = fields.String(
        validate=validate.OneOf(FAMILIES[1:]),
        metadata=told("The family: tokens of other families do not see the SET"),
    )


def check_tpp(name: str) -> str:
    """The name, if it may be the name of a TPP. Raises Refused."""
    if not TPP.fullmatch(name):
        raise Refused("field_invalid", "the name of a TPP is 1 to 128 of A-Z a-z 0-9 . _ ~ @ : + -", path="tpp")
    return name
