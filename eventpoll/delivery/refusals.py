"""Map exceptions of the service and the store to the errors that the bank receives."""

from collections.abc import Callable
from typing import Any

from eventpoll.delivery.transmitter import Conflict
from eventpoll.errors import Refused
from eventpoll.sets.event import BadSecevent
from eventpoll.store.errors import (
    Full,
    NewerLayout,
    NoSet,
    NoStream,
    NotParked,
    Outstanding,
    Unavailable,
    WrongClock,
)

RETRY_AFTER = "2"
"""Seconds after which a caller may retry when the store is unavailable. Receivers read whole seconds only."""

FULL_RETRY_AFTER = CLOCK_RETRY_AFTER = "60"
"""Seconds after which a person may have fixed the cause: a full stream, or a wrong clock."""


def _secevent(error: Any) -> Refused:
    code = {"invalid_key": "key_invalid", "authentication_failed": "signature_invalid"}.get(error.err, "field_invalid")
    return Refused(code, error.description)


REFUSALS: dict[type[Exception], Callable[[Any], Refused]] = {
    NoStream: lambda _: Refused("not_found", "there is no stream of this TPP"),
    NoSet: lambda _: Refused("not_found", "there is no such SET on this stream"),
    NotParked: lambda _: Refused("conflict", "the SET is not parked"),
    Outstanding: lambda _: Refused("conflict", "SETs are outstanding: settle them, or say force=true"),
    Full: lambda _: Refused(
        "too_many", "the stream holds as many SETs as it may", headers={"Retry-After": FULL_RETRY_AFTER}
    ),
    Conflict: lambda error: Refused("conflict", str(error), "jti"),
    BadSecevent: _secevent,
    Unavailable: lambda _: Refused(
        "unavailable", "the store is not available at the moment: try again", headers={"Retry-After": RETRY_AFTER}
    ),
    NewerLayout: lambda _: Refused(
        "unavailable",
        "a newer version of eventpoll has written the store: see the log of this one",
        headers={"Retry-After": RETRY_AFTER},
    ),
    WrongClock: lambda error: wrong_clock("the clocks of the service differ: nothing was done; try again later"),
    Refused: lambda error: error,
}


def wrong_clock(description: str) -> Refused:
    """Return the refusal for clocks that differ too much."""
    return Refused("unavailable", description, headers={"Retry-After": CLOCK_RETRY_AFTER})


def refusal(error: Exception) -> Refused:
    """Return the refusal for an exception of the service or the store. Raises KeyError for any other exception."""
    return REFUSALS[type(error)](error)
