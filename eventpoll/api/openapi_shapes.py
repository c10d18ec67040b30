"""Shapes of answers, as JSON Schema (2020-12), for /openapi.json. sets/schema.py checks requests."""

from typing import Any

from eventpoll.store.records import BY, COUNTERS, FAMILIES, HAPPENINGS, UNKNOWN

Shape = dict[str, Any]


def ref(name: str, **beside: Any) -> Shape:
    """Return a reference to a schema of the document, narrowed by the members in `beside`."""
    return {"$ref": f"#/components/schemas/{name}", **beside}


def record(members: dict[str, Shape], optional: tuple[str, ...] = (), **beside: Any) -> Shape:
    """Return the shape of an object. It always has its members, except the optional ones."""
    required = [name for name in members if name not in optional]
    return {"type": "object", "properties": members, "required": required, **beside}


def text(description: str = "", **beside: Any) -> Shape:
    """Return the shape of a string."""
    return {"type": "string", **({"description": description} if description else {}), **beside}


def whole(description: str = "", **beside: Any) -> Shape:
    """Return the shape of a count: an integer from 0."""
    return {"type": "integer", "minimum": 0, **({"description": description} if description else {}), **beside}


def _setting(name: str) -> Shape:
    return {"$ref": f"#/components/schemas/StreamSettings/properties/{name}"}


def _or_null(shape: Shape) -> Shape:
    return {**shape, "type": [shape["type"], "null"]}


MOMENT = text("RFC 3339, UTC, in milliseconds", format="date-time")
SECONDS = {"type": "number", "minimum": 0}
JTI = text("The SET's identifier", minLength=1, maxLength=128)
TPP_NAME = text("The name of a TPP, and so of its stream", pattern="^[A-Za-z0-9._~@:+-]{1,128}$")
PART = "[A-Za-z0-9_-]+"
SECEVENT = text("A Security Event Token (RFC 8417): a signed JWT", pattern=rf"^{PART}\.{PART}\.{PART}$")
STATE = text("Where the SET is in its life", enum=["pending", "in_flight", "parked", "settled", "expired"])
SECRET = text("The TPP's password, shown this once")
FAMILY = text("The family of its events", enum=list(FAMILIES[1:]))

POLL_ANSWER = record(
    {
        "sets": {
            "type": "object",
            "description": "jti -> SET. An object, so in no order",
            "additionalProperties": ref("SET"),
            "propertyNames": {"maxLength": 128},
        },
        "moreAvailable": {"type": "boolean", "description": "Whether a next poll could return something more"},
    }
)

STREAM = {
    "tpp": ref("TPP"),
    "pending": whole("SETs that were never delivered, or are requeued"),
    "in_flight": whole("SETs that were delivered and not settled"),
    "parked": whole("SETs that were reported, or delivered too often"),
    "oldest_seconds": record(
        {state: _or_null(SECONDS) for state in ("pending", "in_flight", "parked")},
        description="For how long the oldest SET of each state has been there; null: none is",
    ),
    "last_poll": _or_null(MOMENT),
    "last_push": _or_null(MOMENT),
    "created_at": MOMENT,
    **{
        name: _setting(name)
        for name in ("redeliver_after", "max_deliveries", "on_error", "set_profile", "audience", "max_pending")
    },
    **{name: whole("Since the stream was made") for name in COUNTERS},
}

LISTED_SET = {
    "jti": ref("JTI"),
    "state": STATE,
    "deliveries": whole("Since it was pushed, or requeued"),
    "scope": FAMILY,
    "pushed_at": MOMENT,
    "delivered_at": MOMENT,
    "leased_until": MOMENT,
    "parked_at": MOMENT,
    "settled_at": MOMENT,
    "err": text("What the TPP reported, or undelivered"),
    "description": text("The same, in words"),
}
SOMETIMES = tuple(name for name in LISTED_SET if name not in ("jti", "state", "deliveries", "pushed_at"))

HISTORY = {
    "type": "array",
    "description": "What happened to it, oldest first",
    "items": record(
        {
            "at": MOMENT,
            "what": text(enum=["pushed", *HAPPENINGS.values(), UNKNOWN]),
            "by": text(enum=[*BY.values(), UNKNOWN]),
        }
    ),
}
WHOLE_SET = {
    **LISTED_SET,
    "history": HISTORY,
    "earlier_deliveries": whole("Deliveries that the history is too short to show", minimum=1),
    "set": ref("SET"),
}

STATUS = whole("The status that the line would have had as a request of its own", minimum=200, maximum=599)
ERROR_MEMBERS = {"err": text("A code of RFC 8935 where it has one"), "description": text("For people to read")}


def _obie_error(code: str) -> Shape:
    members = {
        "ErrorCode": text(code),
        "Message": text("For people to read", maxLength=500),
        "Path": text("The member or header at fault", maxLength=500),
    }
    return {"type": "array", "minItems": 1, "items": record(members, ("Path",))}


SHAPES: dict[str, Shape] = {
    "SET": SECEVENT,
    "JTI": JTI,
    "TPP": TPP_NAME,
    "PollAnswer": POLL_ANSWER,
    "Stream": record(STREAM),
    "NewStream": record({**STREAM, "secret": SECRET}),
    "Streams": record(
        {
            "streams": {"type": "array", "items": ref("Stream")},
            "next": text("There are more: ask for those after this name"),
        },
        ("next",),
    ),
    "NewSecret": record({"tpp": ref("TPP"), "secret": SECRET, "grace_seconds": SECONDS}),
    "Pushed": record({"jti": ref("JTI")}),
    "BatchResult": {
        "description": "What became of one line",
        "anyOf": [record({"jti": ref("JTI"), "status": STATUS}), record({"status": STATUS, **ERROR_MEMBERS})],
    },
    "ListedSet": record(LISTED_SET, SOMETIMES),
    "ListedSets": record(
        {
            "sets": {"type": "array", "items": ref("ListedSet")},
            "next": text("There are more: ask for those after this jti"),
        },
        ("next",),
    ),
    "WholeSet": record(WHOLE_SET, (*SOMETIMES, "earlier_deliveries", "set")),
    "Requeued": record({"jti": ref("JTI"), "state": text(enum=["pending"])}),
    "Created": record({"notificationsID": ref("JTI")}),
    "Keys": record({"keys": {"type": "array", "items": record({"kty": text(), "kid": text()}, ("kid",))}}),
    "Error": record(ERROR_MEMBERS),
    "OBErrorResponse1v3": record(
        {
            "Code": text("The status, in words"),
            "Id": text("The interaction id", maxLength=40),
            "Message": text("For people to read", maxLength=500),
            "Errors": _obie_error("OBIE's namespaced code"),
        }
    ),
    "OBErrorResponse1v4": record({"Errors": _obie_error("OBIE's four-character code")}),
    "Wso2Error": record({"error_description": text("For people to read"), "error": text("WSO2's code")}),
}
