"""The calls of TPPs, of WSO2's gateways and of anyone, described for /openapi.json."""

from collections.abc import Iterator

from eventpoll import __version__
from eventpoll.api.openapi_call import (
    ANY,
    AWAY,
    BANKS,
    EVENTS,
    FORMED,
    FULL,
    JSON,
    KNOWN,
    TYPED,
    Call,
    Content,
    formed,
    gives,
    jwt,
    param,
)
from eventpoll.api.openapi_shapes import Shape, ref, text
from eventpoll.profiles.obie import Obie
from eventpoll.profiles.rfc8936 import Profile
from eventpoll.profiles.wso2 import WSO2_BASES, Wso2
from eventpoll.sets.minting import SUBJECT_MEMBERS

POLLS = {
    "fetch up to two SETs": {"maxEvents": 2, "returnImmediately": True},
    "acknowledge one, report another, fetch what comes next": {
        "ack": ["event-1"],
        "setErrs": {"event-2": {"err": "invalid_key", "description": "unknown kid"}},
        "returnImmediately": True,
    },
    "only acknowledge": {"ack": ["event-1"], "maxEvents": 0, "returnImmediately": True},
}


INTERACTION = param(
    "header", "x-fapi-interaction-id", text(maxLength=256), "Comes back in the answer, and stands in the log"
)
CREATED = {
    "type": "object",
    "additionalProperties": {"type": "object"},
    "propertyNames": {"minLength": 1},
    "minProperties": 1,
}


def poll_call(profile: Profile) -> Call:
    """Return the call that polls in a profile."""
    refusals = {
        **KNOWN,
        **TYPED,
        "field_invalid": "maxEvents: must be greater than or equal to 0",
        "field_missing": "setErrs.event-1.err: missing data for required field",
        "forbidden": "the bank's token polls for nobody here: a TPP's credentials are wanted",
        "not_acceptable": "the answer is application/json, which Accept excludes",
        "too_many": "too many polls are held on this stream: poll with returnImmediately",
    }
    answer = {"sets": {"event-1": jwt("event-1")}, "moreAvailable": False}
    told = "The SETs, and whether there are more. `ack` and `setErrs` hold"
    answers = {200: gives(told, "PollAnswer", answer)}
    parameters: list[Shape] = [INTERACTION]
    takes: dict[str, Content] = {}
    words = "One request does it all: first `ack`, then `setErrs`, then the fetch, in one step. "
    if isinstance(profile, Wso2):
        refusals.pop("field_missing")
        refusals |= {
            **FORMED,
            "field_invalid": "more than 10000 jtis in one request",
            "forbidden": f"{profile.client_header} names another TPP",
            "header_missing": f"Missing header {profile.client_header}",
            "client_unknown": "A client was not found for the client id : 'tpp-9' in the database.. ",
            "too_many": "more than 10 polls in 1 s: nothing of this one took effect",
        }
        takes = formed(ref("Wso2Poll"), POLLS)
        empty = {"moreAvailable": False, "sets": {}}
        answers[404] = gives("The same with nothing in it, where the bank keeps WSO2's own way", "PollAnswer", empty)
        words += "WSO2's Event Polling: no poll is held. The bank's credentials poll for the TPP that the header names."
        parameters.append(
            param(
                "header",
                profile.client_header,
                ref("TPP"),
                "The TPP; optional with its own credentials. The name is taken with a hyphen or an underscore",
                example="tpp-1",
            )
        )
    elif isinstance(profile, Obie):
        refusals["field_unexpected"] = "stream_id: unknown field"
        takes = {JSON: Content(ref("ObiePoll"), POLLS)}
        words += "OBIE's Aggregated Polling. Held where `returnImmediately` is not true and `maxEvents` is not 0."
    else:
        takes = {JSON: Content(ref("Poll"), POLLS)}
        words += "RFC 8936. Held where `returnImmediately` is not true."
    return Call(
        "POST",
        profile.path,
        f"poll_{profile.name}",
        {"r": "Poll (RFC 8936)", "o": "Poll (OBIE)", "w": "Poll (WSO2)"}[profile.letter],
        "tpp",
        words,
        profile,
        tuple(parameters),
        takes,
        gives=answers,
        refusals=refusals,
    )


def create_events_call(profile: Wso2) -> Call:
    """Return the call that creates an event in the way of WSO2."""
    headers = (
        param("header", profile.client_header, ref("TPP"), "For which TPP", required=True, example="tpp-1"),
        param("header", profile.resource_header, text(), "`sub` of the SET", required=True, example="acc-1"),
        param("header", "x-idempotency-key", text(), "Makes a repeated call safe: the same key, the same jti"),
    )
    return Call(
        "POST",
        f"{WSO2_BASES[profile.generation]}/create-events",
        f"create_events_{profile.generation}",
        "Create an event (WSO2)",
        "bank",
        "WSO2's event creation. The JSON in the form is an object: event -> its members.",
        profile,
        headers,
        formed(CREATED, {"one event": EVENTS}),
        gives={201: gives("Minted and queued", "Created", {"notificationsID": "0d0d98d5-bc5e-4f7c-8ab4-f1ab8b3d0ee2"})},
        refusals={
            **BANKS,
            **FORMED,
            **FULL,
            "header_missing": f"Missing header {profile.client_header}",
            "client_unknown": "A client was not found for the client id : 'tpp-9' in the database. ",
            "field_invalid": f"events.{''.join(EVENTS)}.subject: OBEventSubject1 wants {', '.join(SUBJECT_MEMBERS)}",
            "key_invalid": "minting is off: EVENTPOLL_SIGNING_KEYS is not set; signed SETs still pass",
            "conflict": "this jti has other events or bytes already; the first ones are kept",
        },
    )


def open_calls() -> Iterator[Call]:
    """Yield the calls without credentials."""

    def status(word: str, **more: str) -> Content:
        members = {"status": {"const": word}, **{name: {"type": "string"} for name in more}}
        shape = {"type": "object", "properties": members, "required": list(members)}
        return Content(shape, {"usual": {"status": word, **more}})

    yield Call(
        "GET",
        "/healthz",
        "healthz",
        "Whether the process answers",
        "anyone",
        gives={200: ("It does", JSON, status("ok", version=__version__))},
        refusals=ANY,
    )
    yield Call(
        "GET",
        "/readyz",
        "readyz",
        "Whether the store can be written to",
        "anyone",
        gives={200: ("It can", JSON, status("ready"))},
        refusals={**ANY, **AWAY},
    )
    yield Call(
        "GET",
        "/.well-known/jwks.json",
        "jwks",
        "The public keys of the SETs that are minted here (RFC 7517)",
        "anyone",
        gives={200: gives("A JWK Set", "Keys", {"keys": [{"kty": "OKP", "kid": "1", "crv": "Ed25519", "x": "11qY…"}]})},
        refusals=ANY,
    )
    yield Call(
        "GET",
        "/openapi.json",
        "openapi",
        "This document",
        "anyone",
        gives={200: ("OpenAPI 3.1", JSON, Content({"type": "object", "required": ["openapi", "paths"]}))},
        refusals=ANY,
    )
