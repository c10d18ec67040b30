"""An event as the bank writes it in JSON, to be minted; or a SET as the bank signed it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from marshmallow import RAISE, Schema, fields, validate

from eventpoll.errors import Refused
from eventpoll.sets.json import BODY_BYTES, Marked, member_texts, refuse_mark
from eventpoll.sets.schema import JSONNumber, load, told, well_formed
from eventpoll.store.records import FAMILIES


class BadSecevent(Exception):
    """What is wrong with a SET or an event; `err` is a code of RFC 8935 section 2.4."""

    def __init__(self, description: str, err: str = "invalid_request") -> None:
        super().__init__(description)
        self.err = err
        self.description = description


@dataclass(frozen=True)
class Event:
    """What the bank asks to be minted. `events` and the claims are JSON texts, kept to the letter."""

    events: str
    claims: Mapping[str, str] = field(default_factory=dict)  # of sub, sub_id, txn, toe: those given
    jti: str | None = None
    scope: str = ""  # the family of events it belongs to, if any
    wso2_generation: int | None = None  # 3 or 4 where it came in through WSO2's create-events


@dataclass(frozen=True)
class Signed:
    """A SET as the bank signed it: its compact serialisation."""

    text: str
    scope: str = ""


class EventSchema(Schema):
    """The body of POST /streams/{tpp}/sets: the events of one SET, and its claims."""

    class Meta:
        unknown = RAISE

    events = fields.Dict(
        keys=fields.String(validate=validate.Length(min=1)),
        values=fields.Dict(),
        required=True,
        validate=[validate.Length(min=1, error="Must hold at least one event."), well_formed],
        metadata=told("Event type, a URI unless the stream's profile is wso2 -> the event's members"),
    )
    jti = fields.String(
        validate=validate.Length(min=1, max=128), metadata=told("Makes a repeated push safe; absent: a random one")
    )
    sub = fields.String(
        validate=well_formed, metadata=told("The subject; the profile obie wants the URL of the affected resource")
    )
    sub_id = fields.Dict(
        validate=well_formed, metadata=told("The subject as RFC 9493 has it; not for the profile obie")
    )
    txn = fields.String(
        validate=well_formed, metadata=told("The transaction; the profile obie wants 1 to 128 characters")
    )
    toe = JSONNumber(metadata=told("Time of the event, in seconds since 1970"))
    scope = fields.String(
        validate=validate.OneOf(FAMILIES[1:]),
        metadata=told("The family: tokens of other families do not see the SET"),
    )


EVENT = EventSchema()


def read_event(text: bytes) -> Event:
    """The event that a JSON body asks to be minted, its texts kept to the letter. Raises Refused."""
    members = load(EVENT, text)
    texts = member_texts(text.decode())
    claims: dict[str, str] = {name: texts[name] for name in ("sub", "sub_id", "txn", "toe") if name in texts}
    return Event(texts["events"], claims, members.get("jti"), members.get("scope", ""))


def read_line(line: bytes, scope: str = "") -> Event | Signed:
    """An event to mint, or a SET as the bank signed it, bare or as a JSON string, of the family `scope`.

    Raises Refused.
    """
    line = line.strip()
    if len(line) > BODY_BYTES:
        raise Refused("too_large", f"a line has at most {BODY_BYTES} bytes")
    try:
        refuse_mark(line)
    except Marked as error:
        raise Refused("malformed", str(error)) from None
    if line.startswith(b"{"):
        return read_event(line)
    return Signed(line.strip(b'"').decode("ascii", "replace"), scope)
