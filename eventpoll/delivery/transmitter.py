"""The rules of the service for push, poll and requeue, for every protocol. The store keeps the state."""

import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from joserfc.jwk import KeySet

from eventpoll.delivery.held_polls import Waiting
from eventpoll.sets import signed
from eventpoll.sets.event import Event, Signed
from eventpoll.sets.minting import Minter
from eventpoll.store.errors import Full, NoStream, StoreError
from eventpoll.store.records import EVERY_FAMILY, Answer, Pushed, SetRecord, Status
from eventpoll.store.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Poll:
    """A poll request (RFC 8936 section 2.2). `max_events` and `return_immediately` are None if absent from it."""

    max_events: int | None = None
    return_immediately: bool | None = None
    ack: list[str] = field(default_factory=list)
    set_errs: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """Limits of one poll. `hold` is in seconds."""

    default_events: int = 100
    max_events: int = 1000
    max_acks: int = 10_000
    hold: float = 25.0


NOTHING = Answer([], more=False, wait=None, stale=False, acked=0, reported=0)
"""The answer for a TPP without a stream."""


class TooManyJtis(Exception):
    """One request has more jtis than Limits.max_acks."""


class Conflict(Exception):
    """The stream already has this jti with other events or bytes, and keeps those."""


class Transmitter:
    """The transmitter (RFC 8936) for all streams of one store."""

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
        families: str = EVERY_FAMILY,
        unknown_is_empty: bool = False,
        client: socket.socket | None = None,
    ) -> Answer:
        """Settle the acks and errors of the poll, then return the next SETs. With `hold`, wait until there are some.

        `profile` is the letter for the history. `proof` is the SHA-256 of the secret in the request.
        `client` is the connection, so that SETs are never delivered to a client that has closed it.
        `families` are the digits of the families that the caller may see.
        With `unknown_is_empty`, a TPP without a stream gets an empty answer.
        Acks and errors stay applied whatever happens afterwards, also with TooManyHeld.
        Raises TooManyJtis (with no effect), NoStream, Denied, TooManyHeld, Unavailable.
        """
        if len(poll.ack) + len(poll.set_errs) > self.limits.max_acks:
            raise TooManyJtis(f"more than {self.limits.max_acks} jtis in one request")
        wanted = self.limits.default_events if poll.max_events is None else poll.max_events
        max_events = min(wanted, self.limits.max_events)

        def look(ack: Sequence[str] = (), set_errs: Mapping[str, Mapping[str, str]] = {}) -> Answer:
            try:
                return self.store.poll(
                    tpp,
                    proof=proof,
                    max_events=max_events,
                    ack=ack,
                    set_errs=set_errs,
                    profile=profile,
                    families=families,
                )
            except NoStream:
                if not unknown_is_empty:
                    raise
                return NOTHING

        answer = look(poll.ack, poll.set_errs)
        if answer.stale:
            self.sweep(tpp)
        if not hold or _ready(answer, max_events) or self.limits.hold == 0 or self.waiting.closing:
            return answer
        return self._hold(tpp, max_events, answer, look, client)

    def _hold(
        self, tpp: str, max_events: int, answer: Answer, look: Callable[[], Answer], client: socket.socket | None
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
                answer = look()
        return replace(answer, acked=settled.acked, reported=settled.reported)

    # -- for the bank -------------------------------------------------------------------------------------------

    def push(self, tpp: str, item: Event | Signed) -> tuple[str, bool]:
        """Queue a SET that the bank signed, or mint one from an event. Return its jti, and True if it is new.

        Raises BadSecevent, Conflict, NoStream, Full, Unavailable.
        """
        fields = self.store.minting(tpp) if isinstance(item, Event) else {}
        jti, text = self._secevent(tpp, item, fields)
        try:
            pushed = self.store.push(tpp, jti, text, item.scope)
        except Full:
            if not self.sweep(tpp):
                raise
            pushed = self.store.push(tpp, jti, text, item.scope)
        if pushed.stale:
            self.sweep(tpp)
        return self._outcome(jti, item, pushed)

    def push_many(self, tpp: str, items: Sequence[Event | Signed | Exception]) -> list[tuple[str, bool] | Exception]:
        """Push events and signed SETs together. Return one outcome for each item: the result or exception of `push`.

        An exception among the items is its own outcome.
        Raises NoStream or Unavailable if the error concerns all items.
        """
        fields = self.store.minting(tpp) if any(isinstance(item, Event) for item in items) else {}
        results: list[tuple[str, bool] | Exception] = []
        ready: list[tuple[int, Event | Signed, str, str]] = []
        for place, item in enumerate(items):
            try:
                if isinstance(item, Exception):
                    raise item
                ready.append((place, item, *self._secevent(tpp, item, fields)))
                results.append(("", False))
            except Exception as error:
                results.append(error)
        pushes = self.store.push_many(tpp, [(jti, text, item.scope) for _, item, jti, text in ready])
        if any(isinstance(pushed, Full) or (isinstance(pushed, Pushed) and pushed.stale) for pushed in pushes):
            self.sweep(tpp)
        for (place, item, jti, text), pushed in zip(ready, pushes, strict=True):
            try:
                # The sweep above may have removed expired SETs and so made room.
                results[place] = self._outcome(
                    jti, item, self.store.push(tpp, jti, text, item.scope) if isinstance(pushed, Full) else pushed
                )
            except (Conflict, StoreError) as error:
                results[place] = error
        return results

    def _secevent(self, tpp: str, item: Event | Signed, fields: Mapping[str, str]) -> tuple[str, str]:
        """Return the jti and the SET to queue: minted by the stream's fields, or as the bank signed it."""
        if isinstance(item, Signed):
            claims = signed.read(item.text)
            if self.push_keys is not None:
                signed.verify(item.text, self.push_keys)
            return str(claims["jti"]), item.text
        if item.jti is not None:
            signed.check_jti(item.jti)
        return self.minter.mint(fields.get("set_profile", self.set_profile), tpp, fields.get("audience", tpp), item)

    @staticmethod
    def _outcome(jti: str, item: Event | Signed, pushed: Pushed | StoreError) -> tuple[str, bool]:
        if isinstance(pushed, StoreError):
            raise pushed
        if pushed.kept is not None and (isinstance(item, Signed) or not signed.same_events(pushed.kept, item)):
            raise Conflict("this jti has other events or bytes already; the first ones are kept")
        return jti, pushed.outcome == "queued"

    def configure(self, tpp: str, secret_hash: str, settings: dict[str, str]) -> bool:
        """Create a stream or change its settings. Return True if it is new. Raises BadSecevent, Unavailable."""
        if settings.get("set_profile") and self.minter.keys is not None:
            self.minter.key(settings["set_profile"])
        return self.store.configure(tpp, secret_hash, settings)

    def status(self, tpp: str) -> Status:
        """Remove expired SETs, then return the status of a stream. Raises NoStream, Unavailable."""
        self.sweep(tpp)
        return self.store.status(tpp)

    def streams(self, after: str = "", limit: int = 1000) -> Sequence[Status]:
        """Return the status of up to `limit` streams after the name `after`, in order of name. Raises Unavailable."""
        return self.store.streams(after, limit)

    def all_streams(self) -> Iterator[Status]:
        """Yield the status of every stream in order of name, and read them page by page. Raises Unavailable."""
        after = ""
        while found := self.streams(after):
            yield from found
            after = found[-1].tpp

    def peek(self, tpp: str, state: str, limit: int, after: str = "") -> list[SetRecord]:
        """Return the SETs in one state, oldest first. Raises NoStream, NoSet, Unavailable."""
        self.sweep(tpp)
        return self.store.peek(tpp, state, limit, after)

    def parked(self, tpp: str) -> Iterator[SetRecord]:
        """Yield every parked SET, oldest first, and read them page by page. Raises NoStream, Unavailable."""
        after = ""
        while found := self.peek(tpp, "parked", 500, after):
            yield from found
            after = found[-1].jti

    def sweep(self, tpp: str) -> int:
        """Remove expired SETs, and jtis past their dedupe time, in bounded steps. Return the number of expired SETs.

        Never raises a store error, because sweeping is a side task of the caller's request.
        """
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

    def sweep_all(self) -> int:
        """Sweep every stream completely. Return the number of SETs that expired. Raises Unavailable."""
        total = 0
        for tpp in chain.from_iterable(self.store.names()):
            while expired := self.sweep(tpp):
                total += expired
        return total


def _ready(answer: Answer, max_events: int) -> bool:
    return bool(answer.sets) or (max_events == 0 and answer.more)
