"""The bank's calls, described for /openapi.json."""

import json
from collections.abc import Iterator

from eventpoll.api.bank import LISTED, MOST_LISTED
from eventpoll.api.batch import BATCH_BYTES, BATCH_LINES
from eventpoll.api.openapi_call import (
    BANKS,
    EVENTS,
    FULL,
    JSON,
    LINES,
    NAME,
    NO_MINT,
    SET,
    SIGNED,
    STREAM,
    TPP,
    WRITTEN,
    Call,
    Content,
    gives,
    jwt,
    param,
)
from eventpoll.api.openapi_shapes import Shape, ref, text
from eventpoll.store.records import FAMILIES, STATES

MOMENT = "2026-11-21T10:00:00.000Z"
LISTED_SET = {
    "jti": "event-1",
    "state": "parked",
    "deliveries": 1,
    "pushed_at": MOMENT,
    "delivered_at": MOMENT,
    "parked_at": MOMENT,
    "err": "invalid_key",
    "description": "unknown kid",
}
HISTORY = [{"at": MOMENT, "what": what, "by": by} for what, by in (("pushed", "bank"), ("delivered", "rfc8936"))]
STATUS = {
    "tpp": "tpp-1",
    "pending": 0,
    "in_flight": 2,
    "parked": 1,
    "oldest_seconds": {"pending": None, "in_flight": 12.5, "parked": 60.25},
    "last_poll": MOMENT,
    "last_push": MOMENT,
    "created_at": MOMENT,
    "redeliver_after": 30.0,
    "max_deliveries": 10,
    "on_error": "park",
    "set_profile": "rfc8417",
    "audience": "tpp-1",
    "max_pending": 0,
    **{"pushed": 3, "delivered": 3, "acked": 0, "reported": 1, "discarded": 0, "expired": 0},
}
JTI = param(
    "path", "jti", ref("JTI"), "Which SET. Percent-encoded where it has a slash", required=True, example="event-1"
)
LIMIT = param(
    "query",
    "limit",
    {"type": "integer", "minimum": 1, "maximum": MOST_LISTED, "default": LISTED},
    "The most to list",
    example=10,
)
SCOPE = param(
    "query",
    "scope",
    {"type": "string", "enum": list(FAMILIES)},
    "The family of the signed SETs: tokens of other families do not see them",
)


def _after(what: str) -> Shape:
    return param("query", "after", {"type": "string"}, f"List those behind this {what}: the last one seen")


def stream_calls() -> Iterator[Call]:
    """Yield the calls about streams and their secrets."""
    settings = {"a lease, and no more than ten deliveries": {"redeliver_after": 30, "max_deliveries": 10}}
    yield Call(
        "GET",
        "/streams",
        "list_streams",
        "How each stream stands, by name",
        "bank",
        parameters=(LIMIT, _after("name")),
        gives={200: gives("The streams", "Streams", {"streams": [STATUS]})},
        refusals={**BANKS, "field_invalid": f"limit: a whole number from 1 to {MOST_LISTED}"},
    )
    yield Call(
        "PUT",
        "/streams/{tpp}",
        "put_stream",
        "Make a TPP's stream, or change its settings",
        "bank",
        "Every member is optional; null goes back to the service's own.",
        parameters=(TPP,),
        takes={JSON: Content(ref("StreamSettings"), settings)},
        optional=True,
        gives={
            200: gives("It was there, and is changed", "Stream", STATUS),
            201: gives("It is new: its secret is shown this once", "NewStream", {**STATUS, "secret": "2gXw…"}),
        },
        refusals={**BANKS, **WRITTEN, **NAME, "key_invalid": NO_MINT},
    )
    yield Call(
        "GET",
        "/streams/{tpp}",
        "get_stream",
        "How a stream stands",
        "bank",
        parameters=(TPP,),
        gives={200: gives("Counts, ages, times, settings in force", "Stream", STATUS)},
        refusals={**BANKS, **STREAM},
    )
    force = param("query", "force", {"type": "string", "enum": ["true", "false"]}, "true: even if SETs are outstanding")
    yield Call(
        "DELETE",
        "/streams/{tpp}",
        "delete_stream",
        "Forget a stream",
        "bank",
        parameters=(TPP, force),
        gives={204: ("It is gone", "", None)},
        refusals={**BANKS, **STREAM, "conflict": "SETs are outstanding: settle them, or say force=true"},
    )
    new = {"tpp": "tpp-1", "secret": "v9Qd…", "grace_seconds": 3600.0}
    yield Call(
        "POST",
        "/streams/{tpp}/secret",
        "post_secret",
        "A new secret for a TPP",
        "bank",
        parameters=(TPP,),
        takes={JSON: Content(ref("NewSecretWanted"), {"the old one works for another hour": {"grace_seconds": 3600}})},
        optional=True,
        gives={200: gives("The secret, shown this once", "NewSecret", new)},
        refusals={**BANKS, **WRITTEN, **STREAM},
    )


def set_calls() -> Iterator[Call]:
    """Yield the calls about SETs."""
    event = {"an event, with a jti so that it may be repeated": {"events": EVENTS, "jti": "event-1"}}
    pushed = {"jti": "event-1"}
    yield Call(
        "POST",
        "/streams/{tpp}/sets",
        "push",
        "Push a SET",
        "bank",
        "JSON: an event, minted and signed here. A signed SET (RFC 8935 section 2) is queued as it is.",
        parameters=(TPP, SCOPE),
        takes={
            JSON: Content(ref("Event"), event),
            SIGNED: Content(ref("SET"), {"a SET as the bank signed it": jwt("event-2")}),
        },
        gives={
            200: gives("The jti was there, with the same events", "Pushed", pushed),
            201: gives("Minted and queued", "Pushed", pushed),
            202: ("The signed SET is queued, or was there", "", None),
        },
        refusals={
            **BANKS,
            **STREAM,
            **FULL,
            **WRITTEN,
            "media_type": f"the Content-Type must be {JSON} or {SIGNED}",
            "field_missing": "events: missing data for required field",
            "key_invalid": "the SET names no key of the bank's",
            "signature_invalid": "the signature of the SET does not fit the bank's keys",
            "conflict": "this jti has other events or bytes already; the first ones are kept",
        },
    )
    lines = "\n".join([json.dumps({"events": EVENTS, "jti": "event-3"}), jwt("event-4"), ""])
    results = '{"jti":"event-3","status":201}\n{"jti":"event-4","status":202}\n'
    yield Call(
        "POST",
        "/streams/{tpp}/sets:batch",
        "push_batch",
        "Push many SETs",
        "bank",
        f"A JSON event or a signed SET a line, at most {BATCH_LINES} lines and {BATCH_BYTES} bytes. "
        "A bad line hurts no other.",
        parameters=(TPP, SCOPE),
        takes={LINES: Content(text("A line each"), {"an event and a signed SET": lines})},
        gives={
            200: (
                "A `BatchResult` for each line in",
                LINES,
                Content(text("A line each"), {"usual": results}),
            )
        },
        refusals={
            **BANKS,
            **STREAM,
            "too_large": f"a batch has at most {BATCH_BYTES} bytes",
            "media_type": f"the Content-Type must be {LINES}",
        },
    )
    state = param("query", "state", {"type": "string", "enum": list(STATES), "default": STATES[0]}, "Which SETs")
    yield Call(
        "GET",
        "/streams/{tpp}/sets",
        "list_sets",
        "The SETs of one state, oldest first",
        "bank",
        parameters=(TPP, state, LIMIT, _after("jti")),
        gives={200: gives("The SETs", "ListedSets", {"sets": [LISTED_SET]})},
        refusals={**BANKS, **STREAM, "field_invalid": f"state: one of {', '.join(STATES)}"},
    )
    yield Call(
        "GET",
        "/streams/{tpp}/sets/{jti}",
        "get_set",
        "One SET, with its whole history",
        "bank",
        parameters=(TPP, JTI),
        gives={200: gives("The SET", "WholeSet", {**LISTED_SET, "history": HISTORY, "set": jwt("event-1")})},
        refusals={**BANKS, **SET},
    )
    not_parked = {"conflict": "the SET is not parked"}
    yield Call(
        "DELETE",
        "/streams/{tpp}/sets/{jti}",
        "delete_set",
        "Discard a parked SET",
        "bank",
        parameters=(TPP, JTI),
        gives={204: ("It is gone", "", None)},
        refusals={**BANKS, **SET, **not_parked},
    )
    yield Call(
        "POST",
        "/streams/{tpp}/sets/{jti}/requeue",
        "requeue",
        "Put a parked SET back",
        "bank",
        parameters=(TPP, JTI),
        gives={200: gives("It is pending again", "Requeued", {"jti": "event-1", "state": "pending"})},
        refusals={**BANKS, **SET, **not_parked},
    )


def metrics_call() -> Call:
    """Return the call of /metrics."""
    text_of = {"usual": "# TYPE eventpoll_streams gauge\neventpoll_streams 3.0\n"}
    return Call(
        "GET",
        "/metrics",
        "metrics",
        "Counts and latencies, for Prometheus",
        "bank",
        "Answered while the store is away too: then eventpoll_store_up is 0.",
        gives={200: ("Prometheus' text format", "text/plain", Content(text("A line each"), text_of))},
        refusals={**BANKS, "unavailable": "tokens cannot be checked at the moment: try again"},
    )
