"""The profile of UK Open Banking (OBIE): Aggregated Polling."""

from typing import Any

from flask import Request
from marshmallow import RAISE, fields, validate

from eventpoll.delivery.transmitter import Poll
from eventpoll.errors import Refused
from eventpoll.profiles.rfc8936 import (
    ACK,
    IMMEDIATELY,
    MAX_EVENTS,
    SET_ERRS,
    Jtis,
    PollSchema,
    Profile,
    SetErrs,
    json_bytes,
    json_object,
)
from eventpoll.sets.schema import JSONBoolean
from eventpoll.web.body import body, want_type


class ObiePollSchema(PollSchema):
    """OBEventPolling1: closed, without null, with its own lengths."""

    class Meta:
        unknown = RAISE

    max_events = fields.Integer(strict=True, data_key="maxEvents", validate=validate.Range(min=0), metadata=MAX_EVENTS)
    return_immediately = JSONBoolean(data_key="returnImmediately", metadata=IMMEDIATELY)
    ack = Jtis(1, 128, metadata=ACK)
    set_errs = SetErrs(
        description_required=True,
        err=40,
        description=256,
        data_key="setErrs",
        metadata=SET_ERRS,
    )


class Obie(Profile):
    """OBIE Aggregated Polling: a closed schema, OBErrorResponse1 of its version."""

    letter = "o"
    content_type = "application/json; charset=utf-8"
    schema = ObiePollSchema()

    def __init__(self, name: str, path: str, version: int) -> None:
        super().__init__(name, path)
        self.version = version

    def read(self, request: Request) -> dict[str, Any]:
        want_type(request, "application/json")
        return json_object(body(request))

    def holds(self, poll: Poll) -> bool:
        """As the RFC has it, but that maxEvents 0 wants an answer at once (draft 01, which OBIE cites)."""
        return not poll.return_immediately and poll.max_events != 0

    def refuse(self, refusal: Refused, interaction_id: str) -> bytes:
        row = refusal.row
        if row.status == 401:
            return b""
        error = {"ErrorCode": row.obie_v3 if self.version == 3 else row.obie_v4, "Message": refusal.description[:500]}
        if refusal.path:
            error["Path"] = refusal.path[:500]
        if self.version == 3:
            return json_bytes(
                {
                    "Code": f"{row.status} {PHRASES.get(row.status, 'Error')}",
                    "Id": interaction_id[:40],
                    "Message": refusal.description[:500],
                    "Errors": [error],
                }
            )
        return json_bytes({"Errors": [error]})


PHRASES = {
    400: "BadRequest",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    413: "PayloadTooLarge",
    415: "UnsupportedMediaType",
    429: "TooManyRequests",
    500: "InternalServerError",
    503: "ServiceUnavailable",
}
