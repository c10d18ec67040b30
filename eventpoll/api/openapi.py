"""/openapi.json, built from the schemas that check requests and from the table of refusals; /docs shows it."""

import importlib.resources
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Blueprint, Response, request
from marshmallow import fields

from eventpoll import __version__
from eventpoll.access.tokens import BANK_SCOPE
from eventpoll.api.openapi_bank import metrics_call, set_calls, stream_calls
from eventpoll.api.openapi_call import JSON, Call, Content
from eventpoll.api.openapi_polls import create_events_call, open_calls, poll_call
from eventpoll.api.openapi_shapes import SHAPES, Shape, ref, text
from eventpoll.delivery.stream_settings import SecretSchema, StreamSchema
from eventpoll.errors import CODES, Refused
from eventpoll.profiles import all_profiles
from eventpoll.profiles.obie import Obie, ObiePollSchema
from eventpoll.profiles.rfc8936 import Jtis, PollSchema, Profile, SetErrs
from eventpoll.profiles.wso2 import Wso2, Wso2Integer, Wso2PollSchema
from eventpoll.service import Service
from eventpoll.sets.event import EventSchema
from eventpoll.sets.schema import JSONBoolean, JSONNumber

SECONDS = 300
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

ABOUT = """Security Event Tokens (RFC 8417) for those who poll for them: RFC 8936, UK Open Banking's Aggregated Polling
and WSO2's Event Polling, over one store. A request that is refused with 4xx has no effect, but for 429 to a poll that
could not be held: its `ack` and `setErrs` hold. After a 503 or 500 it is safe to ask again. Another method than a
path has is answered 405, with `Allow`."""

TAGS = {
    "tpp": ("Polling", "What TPPs send, with their own name and secret, or a token."),
    "bank": ("The bank", "With the bank's own credentials, or a token with its scope."),
    "anyone": ("Open", "Without credentials."),
}
SCHEMAS = {
    "Poll": PollSchema(),
    "ObiePoll": ObiePollSchema(),
    "Wso2Poll": Wso2PollSchema(),
    "StreamSettings": StreamSchema(),
    "NewSecretWanted": SecretSchema(),
    "Event": EventSchema(),
}
SECURITY = {
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "A TPP: the name of its stream, and its secret. The bank: its own name and password.",
    },
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "Where the bank has set it up: an access token of its authorisation server (RFC 6750).",
    },
}
HEADERS: dict[str, tuple[str, Shape]] = {
    "x-fapi-interaction-id": ("Yours if you sent one, else a fresh UUID", text()),
    "WWW-Authenticate": ("Which credentials are wanted (RFC 9110)", text()),
    "Accept-Encoding": ("Sent where the body is compressed: the encodings that are taken (RFC 9110)", text()),
    "Retry-After": ("Seconds after which to ask again", {"type": "integer", "minimum": 1}),
    "RateLimit": ("Polls that are left, and seconds until all are; where the bank limits them", text()),
    "RateLimit-Policy": ("How many polls in how many seconds; where the bank limits them", text()),
}
LIMITED = ("RateLimit", "RateLimit-Policy")
STATUSES = {
    400: "The request cannot be read, or is wrong",
    401: "No credentials, or wrong ones",
    403: "Known, but not allowed; or a page of another site",
    404: "Nothing of that name",
    406: "`Accept` excludes JSON",
    409: "It is not in a state for that",
    413: "The body is too large",
    415: "The wrong `Content-Type`, a charset that is not UTF-8, or a compressed body",
    429: "Too many",
    500: "Our mistake; it has been noted",
    503: "The store is away, starting, full or read-only; or too much is asked at once. Ask again",
}
PLACEHOLDER = "4f8e6a42-8a3c-4d6e-9b1f-0c2d3e4f5a6b"


def all_calls() -> Iterator[Call]:
    """Yield every call: those of the profiles, of the bank, and of anyone."""
    yield from map(poll_call, all_profiles())
    yield from stream_calls()
    yield from set_calls()
    yield from (create_events_call(profile) for profile in all_profiles() if isinstance(profile, Wso2))
    yield metrics_call()
    yield from open_calls()


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    """Return the whole document. It is the same for every caller, so it is built once."""
    plugin = MarshmallowPlugin()
    spec = APISpec(
        "eventpoll",
        __version__,
        "3.1.0",
        [plugin],
        info={"description": ABOUT, "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"}},
        servers=[{"url": ".", "description": "this server"}],
        tags=[{"name": name, "description": words} for name, words in TAGS.values()],
    )
    converter = plugin.converter
    assert converter is not None
    converter.map_to_openapi_type(JSONBoolean, "boolean", None)  # type: ignore[no-untyped-call]
    converter.map_to_openapi_type(JSONNumber, "number", None)  # type: ignore[no-untyped-call]
    converter.add_attribute_function(_ours)  # type: ignore[no-untyped-call]
    for name, checked in SCHEMAS.items():
        spec.components.schema(name, schema=checked)
    for name in SHAPES:
        spec.components.schema(name, SHAPES[name])
    for name, (words, schema) in HEADERS.items():
        spec.components.header(name, {"description": words, "schema": schema})
    for name, scheme in SECURITY.items():
        spec.components.security_scheme(name, scheme)
    for call in all_calls():
        spec.path(call.path, operations={call.method.lower(): _operation(call)})
    return json.loads(json.dumps(spec.to_dict()))  # type: ignore[no-any-return]  # plain values instead of apispec's


def _ours(_: Any, field: Any, ret: Shape) -> Shape:
    """Return what apispec cannot know of our fields: members to add to `ret`, the schema that apispec made.

    This is an attribute function of apispec. It also changes members of `ret` that do not fit.
    """
    if "default" in ret and ret["default"] is None:
        del ret["default"]  # None means that the member may be absent, not that it may be null
    if isinstance(field, Jtis | SetErrs | Wso2Integer):
        return _of_poll(field)
    if isinstance(field, fields.Dict):
        if "minLength" in ret:  # apispec writes the limit of a string; here it counts members
            ret["minProperties"] = ret.pop("minLength")
        return {"propertyNames": {"minLength": 1}} if field.key_field is not None else {}
    return {}


def _of_poll(field: Jtis | SetErrs | Wso2Integer) -> Shape:
    """Return the shape of a poll's member. Where the field takes null, `type` names it too."""
    null = ["null"] if field.allow_none else []
    if isinstance(field, Wso2Integer):
        return {"type": ["integer", "string", *null], "pattern": "^[+-]?[0-9]{1,18}$"}
    if isinstance(field, Jtis):
        most = {} if field.most is None else {"maxLength": field.most}
        shape: Shape = {"type": "array", "items": {"type": "string", "minLength": field.least, **most}}
    else:
        shape = {"type": "object", "propertyNames": {"minLength": 1}, "additionalProperties": _set_err(field)}
    return {**shape, "type": [shape["type"], *null]} if null else shape


def _set_err(field: SetErrs) -> Shape:
    members: dict[str, Shape] = {
        name: {"type": "string", **({"maxLength": most} if most else {})} for name, most in field.limits.items()
    }
    members["err"]["minLength"] = 1
    if field.limits["description"]:
        members["description"]["minLength"] = 1
    if field.allow_none and not field.description_required:
        members["description"]["type"] = ["string", "null"]
    required = ["err", "description"] if field.description_required else ["err"]
    return {"type": "object", "properties": members, "required": required}


def _operation(call: Call) -> dict[str, Any]:
    """Return the OpenAPI operation of a call."""
    answers = {status: _answer(call, status, *told) for status, told in call.gives.items()}
    for status in sorted({CODES[code].status for code in call.refusals}):
        refused = _refusal(call, status)
        if status in answers:  # WSO2's 404 is an answer without SETs, not a refusal
            continue
        answers[status] = refused
    operation: dict[str, Any] = {
        "operationId": call.name,
        "summary": call.summary,
        "tags": [TAGS[call.who][0]],
        "parameters": list(call.parameters),
        "responses": {str(status): answers[status] for status in sorted(answers)},
        "security": {"tpp": [{"basic": []}, {"bearer": []}], "bank": [{"basic": []}, {"bearer": [BANK_SCOPE]}]}.get(
            call.who, []
        ),
    }
    if call.description:
        operation["description"] = call.description
    if call.takes:
        content = {kind: _content(body) for kind, body in call.takes.items()}
        operation["requestBody"] = {"required": not call.optional, "content": content}
    return operation


def _content(body: Content) -> dict[str, Any]:
    examples = {name: {"value": value} for name, value in body.examples.items()}
    return {"schema": body.schema, **({"examples": examples} if examples else {})}


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-fapi-interaction-id", *names)}


def _answer(call: Call, status: int, words: str, kind: str, body: Content | None) -> dict[str, Any]:
    limited = LIMITED if call.who == "tpp" else ()
    content = {} if body is None else {"content": {kind: _content(body)}}
    return {"description": words, "headers": _headers(*limited), **content}


def _refusal(call: Call, status: int) -> dict[str, Any]:
    """Return the response for all refusals of a call with one status: the profile's shape, and an example of each."""
    codes = [code for code in CODES if code in call.refusals and CODES[code].status == status]
    challenge, later = ("WWW-Authenticate",), ("Retry-After",)
    more = {401: challenge, 403: challenge, 415: ("Accept-Encoding",), 429: later, 503: later}
    limited = LIMITED if call.who == "tpp" and status == 429 else ()
    told: dict[str, Any] = {
        "description": f"{STATUSES[status]} ({', '.join(codes)})",
        "headers": _headers(*more.get(status, ()), *limited),
    }
    examples = {}
    for code in codes:
        words = call.refusals[code]
        named = words.partition(":")[0] if code.startswith("field_") and ": " in words else ""
        path = {"media_type": "Content-Type", "not_acceptable": "Accept"}.get(code, named)
        if shown := call.profile.refuse(Refused(code, words, path), PLACEHOLDER):
            examples[code] = json.loads(shown)
    if examples:
        kind = call.profile.content_type.partition(";")[0]
        told["content"] = {kind: _content(Content(_error(call.profile, codes), examples))}
    return told


def _error(profile: Profile, codes: list[str]) -> Shape:
    """Return the shape of a refusal in a profile, with the names that the profile gives to these codes."""
    rows = [CODES[code] for code in codes]

    def names(*all_names: str) -> Shape:
        return {"enum": list(dict.fromkeys(all_names))}

    if isinstance(profile, Wso2):
        return ref("Wso2Error", properties={"error": names(*[row.wso2 for row in rows])})
    if isinstance(profile, Obie):
        of_version = [row.obie_v3 if profile.version == 3 else row.obie_v4 for row in rows]
        error = {"items": {"properties": {"ErrorCode": names(*of_version)}}}
        return ref(f"OBErrorResponse1v{profile.version}", properties={"Errors": error})
    return ref("Error", properties={"err": names(*[row.err for row in rows])})


def blueprint(service: Service) -> Blueprint:
    """Return the blueprint of /openapi.json and of /docs, which shows it with the files of Swagger UI's package."""
    bp = Blueprint("openapi", __name__)
    ours, theirs = importlib.resources.files("eventpoll.api") / "static", importlib.resources.files("flask_swagger_ui")
    pages = {
        "docs": (ours / "docs.html", "text/html; charset=utf-8"),
        "docs/docs.js": (ours / "docs.js", "text/javascript; charset=utf-8"),
        "docs/docs.css": (ours / "docs.css", "text/css; charset=utf-8"),
        "docs/swagger-ui.css": (theirs / "dist" / "swagger-ui.css", "text/css; charset=utf-8"),
        "docs/swagger-ui-bundle.js": (theirs / "dist" / "swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    }

    @bp.get("/openapi.json", provide_automatic_options=False)
    def openapi() -> Response:
        """Return the description of this service for programs: the OpenAPI document."""
        response = Response(_text(), content_type=JSON)
        response.headers["Cache-Control"] = f"public, max-age={SECONDS}"
        return response

    def page(name: str) -> Response:
        """Return a file of /docs, the description of this service for people."""
        file, kind = pages[name]
        response = Response(file.read_bytes(), content_type=kind)
        response.headers["Content-Security-Policy"] = PAGE_POLICY
        response.headers["Cache-Control"] = "no-cache"
        response.add_etag()
        return response.make_conditional(request)  # type: ignore[return-value]

    for name in pages:
        bp.add_url_rule(
            f"/{name}", name.replace(".", "_"), page, defaults={"name": name}, provide_automatic_options=False
        )
    return bp


@lru_cache(maxsize=1)
def _text() -> str:
    return json.dumps(document(), ensure_ascii=False, separators=(",", ":"))
