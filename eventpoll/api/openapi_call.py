"""Data classes for one API operation in /openapi.json: caller, request, responses, errors.

Also the texts of refusals, the examples and the parameters that several operations share.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eventpoll.access.failed_logins import GUESSED
from eventpoll.api.openapi_shapes import Shape, ref, text
from eventpoll.profiles.rfc8936 import RFC8936, Profile
from eventpoll.sets.json import BODY_BYTES

JSON, FORM, SIGNED, LINES = (
    "application/json",
    "application/x-www-form-urlencoded",
    "application/secevent+jwt",
    "application/x-ndjson",
)


@dataclass(frozen=True)
class Content:
    """A body of one media type, with examples: purpose of the example -> the example."""

    schema: Shape
    examples: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One call. `refusals`: code of errors.CODES that the call may answer with -> the usual text."""

    method: str
    path: str
    name: str
    summary: str
    who: str
    description: str = ""
    profile: Profile = RFC8936
    parameters: tuple[Shape, ...] = ()
    takes: Mapping[str, Content] = field(default_factory=dict)
    optional: bool = False
    gives: Mapping[int, tuple[str, str, Content | None]] = field(default_factory=dict)  # text, media type, body
    refusals: Mapping[str, str] = field(default_factory=dict)


# -- refusals ----------------------------------------------------------------------------------------------------

ANY = {"malformed": "the request cannot be read", "internal": "something went wrong here; it has been noted"}
AWAY = {"unavailable": "the store is not available at the moment: try again"}
KNOWN = {
    "malformed": "the body must be a JSON object",
    "unauthenticated": "the credentials are not right",
    "internal": ANY["internal"],
    **AWAY,
}
BANKS = {
    **KNOWN,
    "malformed": ANY["malformed"],
    "forbidden": "this is the bank's to do, and these are a TPP's credentials",
    "too_many": GUESSED,
}
TYPED = {
    "too_large": f"the body is over {BODY_BYTES} bytes",
    "media_type": f"the Content-Type must be {JSON}",
}
FORMED = {
    **TYPED,
    "media_type": f"the Content-Type must be {FORM}",
    "malformed": "Error in the request payload",
    "payload_missing": "No request payload found",
    "header_invalid": "Invalid characters found in the request headers",
}
NAME = {"field_invalid": "the name of a TPP is 1 to 128 of A-Z a-z 0-9 . _ ~ @ : + -"}
STREAM = {**NAME, "not_found": "there is no stream of this TPP"}
SET = {**NAME, "not_found": "there is no such SET on this stream"}
WRITTEN = {**TYPED, "malformed": KNOWN["malformed"], "field_unexpected": "colour: unknown field"}
NO_MINT = "no signing key can sign for the profile wso2: it wants RSA, RS256"
FULL = {"too_many": "the stream holds as many SETs as it may"}

# -- examples ----------------------------------------------------------------------------------------------------

EVENTS = {"urn:uk:org:openbanking:events:resource-update": {"subject": "acc-1"}}


def jwt(jti: str) -> str:
    """Return a SET as a bank may have signed it; its signature is a placeholder."""
    parts = [{"alg": "PS256", "typ": "secevent+jwt"}, {"iss": "https://bank.example", "jti": jti, "events": EVENTS}]
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*coded, "c2lnbmF0dXJl"])


def form(value: Any) -> str:
    """Return a JSON value as the field `request` of WSO2's form has it: in base64."""
    return base64.b64encode(json.dumps(value).encode()).decode()


def formed(schema: Shape, examples: Mapping[str, Any]) -> dict[str, Content]:
    """Return the request body of a WSO2 path: a form whose field `request` is JSON of that schema, in base64."""
    request = text(
        "The JSON, in base64", contentEncoding="base64", contentMediaType=JSON, contentSchema=schema, minLength=1
    )
    shape = {"type": "object", "properties": {"request": request}, "required": ["request"]}
    return {FORM: Content(shape, {name: {"request": form(value)} for name, value in examples.items()})}


# -- parameters --------------------------------------------------------------------------------------------------


def param(where: str, name: str, schema: Shape, words: str, **beside: Any) -> Shape:
    """Return a parameter; `where` is path, query or header."""
    return {"in": where, "name": name, "schema": schema, "description": words, **beside}


TPP = param("path", "tpp", ref("TPP"), "The TPP whose stream it is", required=True, example="tpp-1")


def gives(words: str, name: str, example: Any = None) -> tuple[str, str, Content]:
    """Return a JSON answer with the schema `name`, for `Call.gives`."""
    return words, JSON, Content(ref(name), {} if example is None else {"usual": example})
