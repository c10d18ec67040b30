"""The profile of WSO2: Event Polling, and reading what its clients send."""

import base64
import binascii
import re
from typing import Any
from urllib.parse import parse_qsl

from flask import Request
from marshmallow import ValidationError, fields, validate

from eventpoll.delivery.transmitter import Poll
from eventpoll.errors import Refused
from eventpoll.profiles.rfc8936 import (
    MAX_EVENTS,
    SET_ERRS,
    PollSchema,
    Profile,
    SetErrs,
    boolean,
    json_bytes,
    sets_text,
)
from eventpoll.sets.json import Malformed, Marked, read_json, refuse_mark
from eventpoll.sets.schema import told
from eventpoll.store.records import Answer
from eventpoll.web.body import body, want_type


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
        allow_none=True,
        metadata=MAX_EVENTS,
    )
    return_immediately = fields.Raw(  # type: ignore[assignment]
        data_key="returnImmediately", allow_none=True, metadata=told("Not read: no poll is held")
    )
    set_errs = SetErrs(
        description_required=True,
        err=None,
        description=None,
        data_key="setErrs",
        allow_none=True,
        metadata=SET_ERRS,
    )


FORM_FIELDS = 100


class Wso2(Profile):
    """WSO2's Event Polling: a form field with base64 of the JSON, and WSO2's own words for errors."""

    letter = "w"
    content_type = "application/json; charset=utf-8"
    schema = Wso2PollSchema()

    def __init__(self, name: str, path: str, generation: int, empty_status: int = 200) -> None:
        super().__init__(name, path)
        self.generation = generation
        self.empty_status = empty_status
        self.client_header = "x-wso2-client_id" if generation == 3 else "x-wso2-client-id"
        self.resource_header = "x-wso2-resource_id" if generation == 3 else "x-wso2-resource-id"

    def read(self, request: Request) -> dict[str, Any]:
        return wso2_object(wso2_field(request))[1]

    def poll(self, members: dict[str, Any]) -> Poll:
        try:
            return self._load(members)
        except ValidationError:
            raise Refused("malformed", "Error in the request payload") from None

    def holds(self, poll: Poll) -> bool:
        return False

    def write(self, answer: Answer, asked: Poll) -> tuple[bytes, int]:
        text = b'{"moreAvailable":' + boolean(answer.more) + b',"sets":{' + sets_text(answer) + b"}}"
        # WSO2 looks for nothing where maxEvents is 0, and so never misses it.
        return text, 200 if answer.sets or answer.more or asked.max_events == 0 else self.empty_status

    def refuse(self, refusal: Refused, interaction_id: str) -> bytes:
        return json_bytes({"error_description": refusal.description, "error": refusal.row.wso2})

    def client(self, request: Request) -> str:
        """The TPP that the client header names, in either spelling; empty where there is none. Raises Refused."""
        return _one_header(request, "x-wso2-client-id")

    def resource(self, request: Request) -> str:
        """The resource that the resource header names, in either spelling; empty where there is none."""
        return _one_header(request, "x-wso2-resource-id")


WSO2_BASES = {3: "/api/openbanking/event-notifications", 4: "/api/fs/event-notifications"}


def wso2_field(request: Request) -> str:
    """Return the form field `request`. Raises Refused, with WSO2's words."""
    want_type(request, "application/x-www-form-urlencoded")
    text = body(request).decode("utf-8", "replace")
    _refuse_mark(text)
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=FORM_FIELDS)
    except ValueError:
        raise Refused("malformed", f"the form has more than {FORM_FIELDS} fields") from None
    values = [value for name, value in pairs if name == "request"]
    if not values:
        raise Refused("payload_missing", "No request payload found", "request")
    # More than one is no base64 any more: WSO2 joins them with a comma.
    return ",".join(values)


def wso2_object(text: str) -> tuple[str, dict[str, Any]]:
    """The object in a WSO2 request field: as it is written, and read. Raises Refused, with WSO2's words.

    The base64 may be wrapped, or bare of its padding, or not URL-encoded, so that each + came as a space.
    """
    text = re.sub(r"\\r|\\n|[\r\n\[\]]", "", text).strip(" ")
    _refuse_mark(text)
    if not text:
        raise Refused("malformed", "Request payload cannot be empty", "request")
    for guess in dict.fromkeys((text.replace(" ", "+"), text.replace(" ", ""))):
        try:
            unpadded = guess.rstrip("=")
            decoded = base64.b64decode(unpadded + "=" * (-len(unpadded) % 4), validate=True)
            _refuse_mark(decoded)
            value = read_json(decoded)
        except (binascii.Error, ValueError, Malformed):
            continue
        if isinstance(value, dict):
            return decoded.decode(), value
    raise Refused("malformed", "Error in the request payload", "request")


def _refuse_mark(text: bytes | str) -> None:
    try:
        refuse_mark(text)
    except Marked as error:
        raise Refused("malformed", str(error), "request") from None


def _one_header(request: Request, name: str) -> str:
    # x-wso2-client_id and x-wso2-client-id are one name in the environ. Both sent arrive joined by a comma, which
    # no name of a TPP holds: so the smuggled pair is refused with every other bad name.
    return request.headers.get(name, "").strip()
