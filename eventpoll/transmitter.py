"""What the service does, whoever asks and however: push, poll, requeue. The rules are here, the state in the store."""

import logging
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from joserfc.jwk import KeySet

from eventpoll import secevent
from eventpoll.secevent import Event, Minter
from eventpoll.store import Answer, NoStream, SetRecord, Status, Store, StoreError
from eventpoll.waiting import Waiting

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Poll:
    """What a receiver asks (RFC 8936 section 2.2): `max_events` and `return_immediately` None where it says nothing."""

    max_events: int | None = None
    return_immediately: bool | None = None
    ack: list[str] = field(default_factory=list)
    set_errs: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """What one poll may ask for. `hold` is in seconds."""

    default_events: int = 100
    max_events: int = 1000
    max_acks: int = 10_000
    hold: float = 25.0


class TooManyJtis(Exception):
    """More jtis in one request than may be."""


class Conflict(Exception):
    """The jti has other events or bytes already; those are kept."""


class Transmitter:
    """The service for all streams, over one store."""

    def __init__(
        self,
        store: Store,
        waiting: Waiting,
        minter: Minter,
        limits: Limits,
        set_profile: str = "rfc8417",
        push_keys: KeySet | None = None,
    ) -> None:
        self.store = store
        self.waiting = waiting
        self.minter = minter
        self.limits = limits
        self.set_profile = set_profile
        self.push_keys = push_keys

    # -- for the TPP --------------------------------------------------------------------------------------------

    def poll(
        self,
        tpp: str,
        poll: Poll,
        *,
        profile: str,
        hold: bool = False,
        proof: str = "",
        client: socket.socket | None = None,
    ) -> Answer:
        """Settle what the poll acknowledges and reports; hand out the next SETs; wait for some where `hold` says so.

        `profile` is the letter for the history, `proof` the SHA-256 of the secret shown, `client` the connection,
        so that nothing is handed to one that hung up. The acks hold whatever comes after: TooManyHeld too.
        Raises TooManyJtis (nothing has happened then), NoStream, Denied, TooManyHeld, Unavailable.
        """
        if len(poll.ack) + len(poll.set_errs) > self.limits.max_acks:
            raise TooManyJtis(f"more than {self.limits.max_acks} jtis in one request")
        wanted = self.limits.default_events if poll.max_events is None else poll.max_events
        max_events = min(wanted, self.limits.max_events)
        answer = self.store.poll(
            tpp, proof=proof, max_events=max_events, ack=poll.ack, set_errs=poll.set_errs, profile=profile
        )
        if answer.stale:
            self.sweep(tpp)
        if not hold or _ready(answer, max_events) or self.limits.hold == 0 or self.waiting.closing:
            return answer
        return self._hold(tpp, max_events, answer, profile, proof, client)

    def _hold(
        self, tpp: str, max_events: int, answer: Answer, profile: str, proof: str, client: socket.socket | None
    ) -> Answer:
        deadline = time.monotonic() + self.limits.hold
        settled = answer
        with self.waiting.held(tpp, client) as hold:
            while not _ready(answer, max_events) and not self.waiting.closing:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                hold.wait(left if answer.wait is None else min(left, answer.wait + 0.001))
                if hold.gone:
                    break
                answer = self.store.poll(tpp, proof=proof, max_events=max_events, profile=profile)
        return replace(answer, acked=settled.acked, reported=settled.reported)

    def prove(self, tpp: str, proof: str) -> None:
        """Raises NoStream or Denied unless the secret is the stream's."""
        self.store.poll(tpp, proof=proof, max_events=0, profile="r")

    # -- for the bank -------------------------------------------------------------------------------------------

    def push_signed(self, tpp: str, text: str) -> tuple[str, bool]:
        """Queue a SET as the bank signed it: its jti, and whether it is new.

        Raises BadSecevent, Conflict, NoStream, Full, Unavailable.
        """
        claims = secevent.read(text)
        if self.push_keys is not None:
            secevent.verify(text, self.push_keys)
        jti = str(claims["jti"])
        pushed = self.store.push(tpp, jti, text)
        if pushed.kept is not None:
            raise Conflict("another SET has this jti; the first one is kept")
        return jti, pushed.outcome == "queued"

    def push_event(self, tpp: str, event: Event) -> tuple[str, bool]:
        """Mint a SET from an event and queue it: its jti, and whether it is new.

        Raises BadSecevent, Conflict, NoStream, Full, Unavailable.
        """
        fields = self.store.status(tpp).fields
        if event.jti is not None:
            secevent.check_jti(event.jti)
        profile = fields.get("set_profile", self.set_profile)
        jti, text = self.minter.mint(profile, tpp, fields.get("audience", tpp), event)
        pushed = self.store.push(tpp, jti, text)
        if pushed.kept is not None and not secevent.same_events(pushed.kept, event):
            raise Conflict("other events have this jti; the first ones are kept")
        return jti, pushed.outcome == "queued"

    def configure(self, tpp: str, secret_hash: str, settings: dict[str, str]) -> bool:
        """Make a stream or change its settings; tells whether it is new. Raises BadSecevent, Unavailable."""
        if settings.get("set_profile") and self.minter.keys is not None:
            self.minter.key(settings["set_profile"])
        return self.store.configure(tpp, secret_hash, settings)

    def status(self, tpp: str) -> Status:
        """How a stream stands, expired SETs taken out. Raises NoStream, Unavailable."""
        self.sweep(tpp)
        return self.store.status(tpp)

    def streams(self, after: str = "", limit: int = 1000) -> Sequence[Status]:
        """How each stream stands, by name. Raises Unavailable."""
        return self.store.streams(after, limit)

    def peek(self, tpp: str, state: str, limit: int, after: str = "") -> list[SetRecord]:
        """The SETs in one state, oldest first. Raises NoStream, NoSet, Unavailable."""
        self.sweep(tpp)
        return self.store.peek(tpp, state, limit, after)

    def requeue(self, tpp: str, jtis: Iterable[str]) -> None:
        """Put parked SETs back. Raises NoStream, NoSet, NotParked, Unavailable."""
        for jti in jtis:
            self.store.requeue(tpp, jti)

    def sweep(self, tpp: str) -> int:
        """Take out, in bounded steps, what is past its time; tells how many SETs expired. Never raises: it is a
        by-product of what the caller came for."""
        expired = 0
        try:
            for _ in range(10):
                jtis, left = self.store.sweep(tpp)
                if jtis:
                    log.warning("Expired on the stream of %s, never acknowledged: %s", tpp, ", ".join(map(repr, jtis)))
                expired += len(jtis)
                if not left:
                    break
        except NoStream:
            pass
        except StoreError as error:
            log.warning("Sweeping the stream of %s failed: %s", tpp, error)
        return expired


def _ready(answer: Answer, max_events: int) -> bool:
    return bool(answer.sets) or (max_events == 0 and answer.more)
