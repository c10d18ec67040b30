"""Mint and queue the raw events of the inbox.

An entry becomes exactly one SET, even if a worker crashes while it processes the entry. The jti comes from the entry:
from its field, or else from its id. So two workers that process the same entry make the same SET.
"""

import json
import logging
import re

from eventpoll.delivery.transmitter import Conflict, Transmitter
from eventpoll.errors import Refused
from eventpoll.sets.event import BadSecevent, Event, read_event
from eventpoll.sets.json import BODY_BYTES, Malformed, read_json
from eventpoll.store.errors import Full, NoStream
from eventpoll.store.inbox import Entry, Intake
from eventpoll.store.keys import check_tpp

log = logging.getLogger(__name__)

COUNT = 50
WAIT_MS = 2_000
ABANDONED_MS = 10_000
"""Milliseconds after which another worker takes over an unfinished entry.

The first worker has died by then, or will find that the other one has finished the entry.
"""

FIELDS = {"tpp", "events", "sub", "sub_id", "txn", "toe", "jti", "scope"}
SURROGATE = re.compile("[\ud800-\udfff]")
"""Matches the surrogate that stands for a byte that is not UTF-8."""


class Inbox:
    """The inbox as one worker processes it."""

    def __init__(self, transmitter: Transmitter, intake: Intake) -> None:
        self._transmitter = transmitter
        self._intake = intake

    wait_ms = WAIT_MS

    def step(self, wait_ms: int) -> int:
        """Process abandoned entries of other workers, then fresh entries, and return the number of entries.

        `wait_ms` is how long to wait for a fresh entry where none is abandoned. Raises Unavailable.
        """
        entries, more = self._intake.abandoned(COUNT, ABANDONED_MS)
        entries += self._intake.fresh(COUNT, 0 if entries or more else wait_ms)
        for entry in entries:
            self._work(entry)
        return len(entries)

    def _work(self, entry: Entry) -> None:
        try:
            tpp, event = read(entry)
            self._transmitter.push(tpp, event)
        except Full:
            log.warning("Inbox entry %s waits: its stream holds as many SETs as it may", entry.id)
        except NoStream:
            self._bury(entry, "there is no stream of this TPP")
        except (Refused, BadSecevent, Conflict) as error:
            self._bury(entry, str(error))
        else:
            self._intake.done(entry)

    def _bury(self, entry: Entry, reason: str) -> None:
        log.warning("Inbox entry %s is bad: %r", entry.id, reason)
        self._intake.bury(entry, reason)


def read(entry: Entry) -> tuple[str, Event]:
    """Return the TPP and the event of an entry.

    The fields are tpp and events, and sub, sub_id, txn, toe, jti, scope where given. events and sub_id are JSON, and
    toe is a number. The other fields are plain text. Raises Refused.
    """
    fields = entry.fields
    for name in ("tpp", "events"):
        if name not in fields:
            raise Refused("field_missing", f"{name}: the field is missing", name)
    if unknown := sorted(set(fields) - FIELDS):
        raise Refused("field_unexpected", f"{unknown[0]}: no such field", unknown[0])
    if sum(map(len, fields.values())) > BODY_BYTES:
        raise Refused("too_large", f"the entry has more than {BODY_BYTES} bytes")
    tpp = check_tpp(fields["tpp"])
    for name in ("sub", "txn", "jti"):
        if SURROGATE.search(fields.get(name, "")):
            raise Refused("malformed", f"{name}: not UTF-8", name)
    for name in ("events", "sub_id", "toe"):
        try:
            read_json(fields.get(name, "0"))
        except Malformed as error:
            raise Refused("malformed", f"{name}: {error}", name) from None
    jti = fields.get("jti", f"inbox-{entry.id}")
    members = [f'"events":{fields["events"]}', f'"jti":{json.dumps(jti)}']
    members += [f'"{name}":{fields[name]}' for name in ("sub_id", "toe") if name in fields]
    members += [f'"{name}":{json.dumps(fields[name])}' for name in ("sub", "txn", "scope") if name in fields]
    return tpp, read_event(("{" + ",".join(members) + "}").encode("utf-8", "surrogateescape"))
