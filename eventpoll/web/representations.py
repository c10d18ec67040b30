"""The JSON of streams and SETs, for the bank's calls and the command line."""

from datetime import UTC, datetime
from typing import Any

from eventpoll.store.records import COUNTERS, SetRecord, Status
from eventpoll.store.store import Store


def when(moment: datetime | None) -> str | None:
    """Return a time in the form of RFC 3339, in UTC with milliseconds; None for None."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else None


def _field_time(fields: dict[str, str], name: str) -> str | None:
    return when(datetime.fromtimestamp(int(fields[name]) / 1000, UTC)) if name in fields else None


def stream(status: Status, store: Store, set_profile: str) -> dict[str, Any]:
    """Return the JSON of a stream: counts, ages of the oldest SETs in seconds, times, settings in force, counters."""
    fields, rules = status.fields, store.rules
    redeliver_after = fields.get("redeliver_after")
    return {
        "tpp": status.tpp,
        "pending": status.pending,
        "in_flight": status.in_flight,
        "parked": status.parked,
        "oldest_seconds": {state: None if age is None else round(age, 3) for state, age in status.oldest.items()},
        "last_poll": _field_time(fields, "polled_at"),
        "last_push": _field_time(fields, "pushed_at"),
        "created_at": _field_time(fields, "created_at"),
        "redeliver_after": rules.redeliver_after if redeliver_after is None else int(redeliver_after) / 1000,
        "max_deliveries": int(fields.get("max_deliveries", rules.max_deliveries)),
        "on_error": fields.get("on_error", rules.on_error),
        "set_profile": fields.get("set_profile", set_profile),
        "audience": fields.get("audience", status.tpp),
        "max_pending": int(fields.get("max_pending", 0)),
        **{counter: int(fields.get(counter, 0)) for counter in COUNTERS},
    }


def secevent(record: SetRecord) -> dict[str, Any]:
    """Return the JSON for one SET in a listing. Fields without a value are omitted."""
    last = {happening.what: happening.at for happening in record.history}
    seen = {
        "jti": record.jti,
        "state": record.state,
        "deliveries": record.deliveries,
        "scope": record.scope or None,
        "pushed_at": when(record.history[0].at),
        "delivered_at": when(last.get("delivered")),
        "leased_until": when(record.leased_until),
        "parked_at": when(last.get("undelivered") or last.get("reported")) if record.state == "parked" else None,
        "settled_at": when(record.history[-1].at) if record.state in ("settled", "expired") else None,
        **record.error,
    }
    return {name: value for name, value in seen.items() if value is not None}


def whole_secevent(record: SetRecord) -> dict[str, Any]:
    """Return the JSON of a SET with its whole history, and with the SET itself while the store keeps it."""
    history = [{"at": when(each.at), "what": each.what, "by": each.by} for each in record.history]
    since = max((place for place, each in enumerate(record.history) if each.what == "requeued"), default=0)
    shown = sum(each.what == "delivered" for each in record.history[since:])
    earlier = {"earlier_deliveries": record.deliveries - shown} if record.deliveries > shown else {}
    return {**secevent(record), "history": history, **earlier, **({"set": record.secevent} if record.secevent else {})}
