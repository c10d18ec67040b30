"""The three ways of speaking: RFC 8936, OBIE, WSO2. A profile reads a request and writes an answer or a refusal;
what happens to a SET is the same for all."""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring_ascii
from typing import Any, ClassVar, NamedTuple, cast
from urllib.parse import parse_qsl

from flask import Request
from marshmallow import Schema, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from eventpoll.errors import Refused, invalid
from eventpoll.jsontext import Malformed, read_json, read_object
from eventpoll.records import Answer
from eventpoll.schemas import ObiePollSchema, PollSchema, Wso2PollSchema
from eventpoll.transmitter import Poll

BODY_BYTES = 1_048_576
UNPROVEN_BYTES = 16_384
"""A larger body is parsed once its sender is proven; a smaller one before, so that the poll proves in its own step."""

ACCEPT_CHARACTERS = 1_000
"""A longer `Accept` is disregarded (RFC 9110 section 12.5.1): sent in many fields it may take a second to parse."""

FORM_FIELDS = 100
BRINGING = {"ack", "setErrs"}


Prove = Callable[[], None]
"""Raises Refused unless the caller's credentials are right."""


class Told(NamedTuple):
    """The answer to a poll, as it goes out."""

    text: bytes
    status: int
    content_type: str
    headers: Mapping[str, str]


class Profile:
    """RFC 8936: JSON in, JSON out. The other profiles change what differs."""

    letter: ClassVar[str] = "r"
    content_type: ClassVar[str] = "application/json"
    schema: ClassVar[Schema] = PollSchema()

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path
        self._known: dict[str, Poll] = {}

    def read(self, request: Request, prove: Prove = lambda: None) -> dict[str, Any]:
        """The members of the request, unjudged; `prove` as in `body`. Raises Refused."""
        want_type(request, "application/json", absent=True)
        return _object(body(request, prove=prove))

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
        return b'{"sets":{' + _sets(answer) + b'},"moreAvailable":' + _boolean(answer.more) + b"}", 200

    def refuse(self, refusal: Refused, interaction_id: str) -> bytes:
        """The body of a refusal."""
        return _json({"err": refusal.row.err, "description": refusal.description})


class Obie(Profile):
    """OBIE Aggregated Polling: a closed schema, OBErrorResponse1 of its version."""

    letter = "o"
    content_type = "application/json; charset=utf-8"
    schema = ObiePollSchema()

    def __init__(self, name: str, path: str, version: int) -> None:
        super().__init__(name, path)
        self.version = version

    def read(self, request: Request, prove: Prove = lambda: None) -> dict[str, Any]:
        want_type(request, "application/json")
        return _object(body(request, prove=prove))

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
            return _json(
                {
                    "Code": f"{row.status} {PHRASES.get(row.status, 'Error')}",
                    "Id": interaction_id[:40],
                    "Message": refusal.description[:500],
                    "Errors": [error],
                }
            )
        return _json({"Errors": [error]})


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

    def read(self, request: Request, prove: Prove = lambda: None) -> dict[str, Any]:
        return wso2_object(wso2_field(request, prove))[1]

    def poll(self, members: dict[str, Any]) -> Poll:
        try:
            return self._load(members)
        except ValidationError:
            raise Refused("malformed", "Error in the request payload") from None

    def holds(self, poll: Poll) -> bool:
        return False

    def write(self, answer: Answer, asked: Poll) -> tuple[bytes, int]:
        text = b'{"moreAvailable":' + _boolean(answer.more) + b',"sets":{' + _sets(answer) + b"}}"
        # WSO2 looks for nothing where maxEvents is 0, and so never misses it.
        return text, 200 if answer.sets or answer.more or asked.max_events == 0 else self.empty_status

    def refuse(self, refusal: Refused, interaction_id: str) -> bytes:
        return _json({"error_description": refusal.description, "error": refusal.row.wso2})

    def client(self, request: Request) -> str:
        """The TPP that the client header names, in either spelling; empty where there is none. Raises Refused."""
        return _one_header(request, "x-wso2-client-id")

    def resource(self, request: Request) -> str:
        """The resource that the resource header names, in either spelling; empty where there is none."""
        return _one_header(request, "x-wso2-resource-id")


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

RFC8936 = Profile("rfc8936", "/events")
WSO2_BASES = {3: "/api/openbanking/event-notifications", 4: "/api/fs/event-notifications"}


def all_profiles(wso2_empty_status: int = 200) -> list[Profile]:
    """Every profile that polls are answered in, a path each."""
    return [
        RFC8936,
        Obie("obie_v3", "/open-banking/v3.1/events", 3),
        Obie("obie_v4", "/open-banking/v4.0/events", 4),
        *(Wso2(f"wso2_{n}", f"{base}/events", n, wso2_empty_status) for n, base in WSO2_BASES.items()),
    ]


def of_path(profiles: list[Profile], path: str) -> Profile:
    """The profile in which a refusal on `path` is told, our path or near it; RFC 8936's for all that is not a poll."""
    for profile in profiles:
        if path.startswith(profile.path.removesuffix("events")) and profile is not RFC8936:
            return profile
    return RFC8936


def want_type(request: Request, wanted: str, absent: bool = False) -> None:
    """Raises Refused unless the body is declared as `wanted` (or, where `absent`, as nothing), in UTF-8 and not
    compressed (RFC 9110 section 15.5.16: `Accept-Encoding` then says what is taken)."""
    if request.environ.get("CONTENT_TYPE") == wanted and "HTTP_CONTENT_ENCODING" not in request.environ:
        return
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    declared = request.mimetype == wanted or (absent and not request.headers.get("Content-Type", "").strip())
    if not declared or charset not in ("utf-8", "utf8", "us-ascii"):
        raise Refused("media_type", f"the Content-Type must be {wanted}", "Content-Type")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        headers = {"Accept-Encoding": "identity"}
        raise Refused("media_type", "the body must not be compressed", "Content-Encoding", headers)


def want_json_answer(request: Request) -> None:
    """Raises Refused where `Accept` leaves no way to answer in JSON (RFC 9110 section 12.5.1)."""
    accept = request.headers.get("Accept")
    if not accept or accept == "*/*" or accept == "application/json" or len(accept) > ACCEPT_CHARACTERS:
        return
    best = (-1, 0.0)
    for value, quality in request.accept_mimetypes:
        name, _, parameters = value.lower().replace(" ", "").partition(";")
        rank = ("*/*", "application/*", "application/json").index(name) if name in JSON_RANGES else -1
        if "charset=" in parameters and "utf-8" not in parameters and "utf8" not in parameters:
            rank = -1
        best = max(best, (rank, quality))
    if best[0] < 0 or best[1] <= 0:
        raise Refused("not_acceptable", "the answer is application/json, which Accept excludes", "Accept")


JSON_RANGES = ("*/*", "application/*", "application/json")


def body(request: Request, limit: int = BODY_BYTES, prove: Prove = lambda: None) -> bytes:
    """The whole body, of more than UNPROVEN_BYTES only after `prove`. Raises Refused: 413 for one over the limit, which
    is not kept."""
    # One byte more than we take: of a chunked body Werkzeug drops what is over its limit, and says nothing.
    request.max_content_length = limit + 1
    try:
        text: bytes | None = request.get_data(cache=False)
    except RequestEntityTooLarge:
        raise _too_large(limit) from None
    except Exception:  # the connection broke off, or a chunk is none: each server has its own words for it
        text = None
    if text is None or len(text) < (request.content_length or 0):
        raise Refused("malformed", "the body cannot be read to its end")
    if len(text) > limit:
        raise _too_large(limit)
    if len(text) > UNPROVEN_BYTES:
        prove()
    return text


def wso2_field(request: Request, prove: Prove = lambda: None) -> str:
    """The form field `request`; `prove` as in `body`. Raises Refused, with WSO2's words."""
    want_type(request, "application/x-www-form-urlencoded")
    text = body(request, prove=prove).decode("utf-8", "replace")
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
    if not text:
        raise Refused("malformed", "Request payload cannot be empty", "request")
    for guess in dict.fromkeys((text.replace(" ", "+"), text.replace(" ", ""))):
        try:
            unpadded = guess.rstrip("=")
            decoded = base64.b64decode(unpadded + "=" * (-len(unpadded) % 4), validate=True)
            value = read_json(decoded)
        except (binascii.Error, ValueError, Malformed):
            continue
        if isinstance(value, dict):
            return decoded.decode(), value
    raise Refused("malformed", "Error in the request payload", "request")


def _object(text: bytes) -> dict[str, Any]:
    try:
        return read_object(text)
    except Malformed as error:
        raise Refused("malformed", str(error)) from None


def _too_large(limit: int) -> Refused:
    return Refused("too_large", f"the body is over {limit} bytes")


def _one_header(request: Request, name: str) -> str:
    # x-wso2-client_id and x-wso2-client-id are one name in the environ. Both sent arrive joined by a comma, which
    # no name of a TPP holds: so the smuggled pair is refused with every other bad name.
    return request.headers.get(name, "").strip()


def _sets(answer: Answer) -> bytes:
    return b",".join(
        [b'%b:"%b"' % (encode_basestring_ascii(jti.decode()).encode(), secevent) for jti, secevent in answer.sets]
    )


def _boolean(value: bool) -> bytes:
    return b"true" if value else b"false"


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
