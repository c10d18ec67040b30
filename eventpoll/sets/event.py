"""Events that the bank sends as JSON to be minted, and SETs that the bank has signed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from marshmallow import RAISE, Schema, fields, validate

from eventpoll.errors import Refused
from eventpoll.sets.json import BODY_BYTES, Marked, member_texts, refuse_mark
from eventpoll.sets.schema import JSONNumber, load, told, well_formed
from eventpoll.store.records import FAMILIES


class BadSecevent(Exception):
    """A SET or an event is invalid. `description` says why; `err` is a code of RFC 8935 section 2.4."""

    def __init__(self, description: str, err: str = "invalid_request") -> None:
        super().__init__(description)
        self.err = err
        self.description = description


@dataclass(frozen=True)
class Event:
    """An event to be minted. `events` and the claims are JSON texts, character for character as the bank sent them."""

    events: str
    claims: Mapping[str, str] = field(default_factory=dict)  # those of sub, sub_id, txn, toe that the bank gave
    jti: str | None = None
    scope: str = ""  # the family of the event, "" for none
    wso2_generation: int | None = None  # 3 or 4 if it came through WSO2's create-events


@dataclass(frozen=True)
class Signed:
    """A SET signed by the bank. `text` is its compact serialisation."""

    text: str
    scope: str = ""


class EventSchema(Schema):
    """Body of POST /streams/{tpp}/sets: the events and claims of one SET."""

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
    """Return the event in a JSON body. Its texts stay exactly as the bank sent them. Raises Refused."""
    members = load(EVENT, text)
    texts = member_texts(text.decode())
    claims: dict[str, str] = {name: texts[name] for name in ("sub", "sub_id", "txn", "toe") if name in texts}
    return Event(texts["events"], claims, members.get("jti"), members.get("scope", ""))


def read_line(line: bytes, scope: str = "") -> Event | Signed:
    """Return the event to mint, or the SET signed by the bank, that a line holds. Raises Refused.

    A line that begins with "{" is an event. Any other line is a SET of the family `scope`, bare or as a JSON string.
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
