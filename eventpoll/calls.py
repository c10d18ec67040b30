"""What /openapi.json tells of a call: who may make it, what goes in, what comes out, what may be refused."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eventpoll.profiles import BODY_BYTES, RFC8936, Profile
from eventpoll.rates import GUESSED
from eventpoll.shapes import Shape, ref, text

JSON, FORM, SIGNED, LINES = (
    "application/json",
    "application/x-www-form-urlencoded",
    "application/secevent+jwt",
    "application/x-ndjson",
)


@dataclass(frozen=True)
class Content:
    """A body of one media type, and examples of it: what each is for -> itself."""

    schema: Shape
    examples: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One call. `refusals` are the codes of errors.CODES that it may be answered with, each with usual words."""

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
    gives: Mapping[int, tuple[str, str, Content | None]] = field(default_factory=dict)  # words, media type, body
    refusals: Mapping[str, str] = field(default_factory=dict)


# -- what may be refused -----------------------------------------------------------------------------------------

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
    """A SET as a bank may have signed it."""
    parts = [{"alg": "PS256", "typ": "secevent+jwt"}, {"iss": "https://bank.example", "jti": jti, "events": EVENTS}]
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*coded, "c2lnbmF0dXJl"])


def form(value: Any) -> str:
    """A JSON value as the field `request` of WSO2's form."""
    return base64.b64encode(json.dumps(value).encode()).decode()


def formed(schema: Shape, examples: Mapping[str, Any]) -> dict[str, Content]:
    """What a WSO2 path takes: JSON of that schema, in base64, in a form."""
    request = text(
        "The JSON, in base64", contentEncoding="base64", contentMediaType=JSON, contentSchema=schema, minLength=1
    )
    shape = {"type": "object", "properties": {"request": request}, "required": ["request"]}
    return {FORM: Content(shape, {name: {"request": form(value)} for name, value in examples.items()})}


# -- parameters --------------------------------------------------------------------------------------------------


def param(where: str, name: str, schema: Shape, words: str, **beside: Any) -> Shape:
    """A parameter: `where` is path, query or header."""
    return {"in": where, "name": name, "schema": schema, "description": words, **beside}


TPP = param("path", "tpp", ref("TPP"), "The TPP whose stream it is", required=True, example="tpp-1")


def gives(words: str, name: str, example: Any = None) -> tuple[str, str, Content]:
    """An answer in JSON, of the schema `name`, for `Call.gives`."""
    return words, JSON, Content(ref(name), {} if example is None else {"usual": example})
