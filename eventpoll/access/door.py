"""Who is asking: HTTP Basic (RFC 7617) for TPPs and for the bank, bearer tokens (RFC 6750) where they are set up."""

import base64
import binascii
import hashlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6750 import InsufficientScopeError
from flask import Request

from eventpoll.access.failed_logins import Guesses, Slowing
from eventpoll.access.issuer_keys import NoKeys
from eventpoll.access.passwords import Password
from eventpoll.access.proofs import Proofs
from eventpoll.access.tokens import BANK_SCOPE, Protector, Token
from eventpoll.errors import Refused
from eventpoll.store.errors import Denied, NoStream
from eventpoll.store.keys import TPP
from eventpoll.store.records import EVERY_FAMILY, FAMILIES

BASIC = 'Basic realm="eventpoll", charset="UTF-8"'
PROVEN, CLAIMED = "eventpoll.proven", "eventpoll.claimed"
"""In an environ: who asks is proven; the name that the credentials give, proven or not."""


def loggable(environ: dict[str, Any], text: str) -> str:
    """Return what may be logged of a name or a path that a caller sent.

    Until the caller is proven, that is the part before the first colon. A secret may follow the colon: a colon may be
    misplaced, or a URL with credentials may stand in for a path.
    """
    return text if PROVEN in environ else text.partition(":")[0]


@dataclass(frozen=True)
class Claim:
    """The name of a TPP and the SHA-256 of a secret, as HTTP Basic brings them. A claim grants nothing: Door proves it.

    `guessed`: the secret counts as a guess of the bank's password too, until it is proven.
    """

    name: str
    proof: str
    guessed: bool = False


@dataclass(frozen=True)
class Caller:
    """A proven caller. Only Door makes one.

    `bank`: may make the bank's calls. `polls`: may poll the stream of `name`, and sees the SETs of its `families`.
    `proof`: the SHA-256 of the secret of a TPP that showed one, for poll.lua, which checks it again in its own step.
    """

    name: str
    proof: str = ""
    bank: bool = False
    polls: bool = False
    families: str = EVERY_FAMILY


@dataclass(frozen=True)
class Bank:
    """The bank's own credentials."""

    username: str
    password: Password


@dataclass(frozen=True)
class Door:
    """Proves callers by their credentials. `prove` asks the store: it raises NoStream or Denied for a wrong secret."""

    bank: Bank | None
    prove: Callable[[str, str], None]
    tokens: Protector | None = None
    poll_scopes: Sequence[str] = ()
    slowing: Slowing = field(default_factory=Slowing)
    bank_scopes: Sequence[str] = (BANK_SCOPE,)
    guesses: Guesses = field(default_factory=Guesses)
    proofs: Proofs = field(default_factory=Proofs)

    def caller(self, request: Request, wanted: Sequence[str]) -> Caller:
        """Return the caller of anything but a poll, proven by the store each time.

        `wanted`: the scopes that open the call, for the refusal of a token without them. Raises Refused: 401; 403 for
        a token without a scope of ours; 429 for too many guesses of the bank's password. Raises Unavailable.
        """
        found = self._identify(request, wanted)
        return found if isinstance(found, Caller) else self._proven(request, found)

    def poller(self, request: Request, *, is_tpps: bool) -> Caller:
        """Return the caller of a poll, proven by the store or, some seconds later, by this process's memory.

        poll.lua checks the secret once more, in the step that fetches and settles. On a path that `is_tpps` alone, the
        bank's user name is a name like any other: its right password is answered like a wrong one, in every header and
        delay. Raises as `caller` does.
        """
        found = self._identify(request, self.poll_scopes, is_tpps=is_tpps)
        if isinstance(found, Caller):
            return found
        if self.proofs.has(found.name, found.proof):
            return self._accept(request, found)
        caller = self._proven(request, found)
        self.proofs.add(found.name, found.proof)
        return caller

    def revoked(self, request: Request, caller: Caller) -> Refused:
        """Return the refusal of a caller whose secret was rotated or deleted since it was proven: poll.lua says so."""
        self.proofs.drop(caller.name, caller.proof)
        return self.denied(request, caller.name)

    def _proven(self, request: Request, claim: Claim) -> Caller:
        try:
            self.prove(claim.name, claim.proof)
        except (NoStream, Denied):
            raise self.denied(request, claim.name) from None
        return self._accept(request, claim)

    def _accept(self, request: Request, claim: Claim) -> Caller:
        request.environ[PROVEN] = True
        if claim.guessed and self.bank is not None:  # a TPP may have the name of the bank's user: it guessed nothing
            self.guesses.forgive(request.remote_addr or "", self.bank.username)
        return Caller(claim.name, claim.proof, polls=True)

    def _identify(self, request: Request, wanted: Sequence[str], *, is_tpps: bool = False) -> Caller | Claim:
        """Read the credentials: the bank and tokens are proven here, a TPP's secret is a claim."""
        header = request.headers.get("Authorization", "")
        scheme, _, rest = header.partition(" ")
        if scheme.lower() == "bearer" and rest.strip() and self.tokens is not None:
            return self._bearer(request, self.tokens, wanted)
        credentials = _basic(rest) if scheme.lower() == "basic" else None
        if credentials is None:
            kind = "a bearer token" if self.tokens is not None else "HTTP Basic with the name of the TPP and its secret"
            raise Refused("unauthenticated", f"credentials are wanted: {kind}", headers=self._challenge())
        username, _, password = credentials.partition(":")
        bank = self.bank if self.bank is not None and not is_tpps and username == self.bank.username else None
        request.environ[CLAIMED] = username
        if bank is not None and self._shows(request, bank, password):
            request.environ[PROVEN] = True
            return Caller(username, bank=True)
        name, _, secret = credentials.rpartition(":")  # no secret of ours holds a colon, but a name may
        if not TPP.fullmatch(name):
            raise self.denied(request, username)
        request.environ[CLAIMED] = name
        return Claim(name, hash_of(secret), guessed=bank is not None)

    def _shows(self, request: Request, bank: Bank, password: str) -> bool:
        """Return whether the password is the bank's. Raises Refused where it may not be compared now: 429, 503."""
        address = request.remote_addr or ""
        with bank.password.turn():
            self.guesses.count(address, bank.username)
            right = bank.password.is_it(password)
            if right:
                self.guesses.forgive(address, bank.username)
        return right

    def denied(self, request: Request, name: str) -> Refused:
        """Return the 401 for wrong credentials (RFC 9110 section 15.5.2), after a delay if they come often."""
        # Counted under what stands before the first colon: behind it each guess of a password may be another name.
        self.slowing.failed(request.remote_addr or "", name.partition(":")[0])
        return Refused("unauthenticated", "the credentials are not right", headers=self._challenge())

    def forbidden(self, request: Request, words: str, wanted: Sequence[str]) -> Refused:
        """Return the refusal of a caller who may not do this; a token is told by which scopes it could (RFC 6750)."""
        refused = Refused("forbidden", words)
        scope = [f'scope="{" ".join(wanted)}"'] if wanted else []
        self.challenge_token(request, refused, 'error="insufficient_scope"', *scope)
        return refused

    def challenge_token(self, request: Request, refused: Refused, *bearer: str) -> None:
        """Add the challenge to a refusal of a request that has a token, unless it has one (RFC 6750 section 3)."""
        scheme = request.headers.get("Authorization", "").partition(" ")[0]
        if self.tokens is not None and scheme.lower() == "bearer":
            refused.headers.setdefault("WWW-Authenticate", self._challenge(*bearer)["WWW-Authenticate"])

    def _bearer(self, request: Request, tokens: Protector, wanted: Sequence[str]) -> Caller:
        try:
            scopes = [*self.poll_scopes, *self.bank_scopes]
            token: Token = tokens.validate_request(scopes, request)  # type: ignore[no-untyped-call]
        except NoKeys:
            raise Refused(
                "unavailable", "tokens cannot be checked at the moment: try again", headers={"Retry-After": "5"}
            ) from None
        except InsufficientScopeError:
            words = f"the token has none of the scopes {' '.join(wanted)}" if wanted else "no token may do this"
            raise self.forbidden(request, words, wanted) from None
        except OAuth2Error:
            challenge = self._challenge('error="invalid_token"')
            raise Refused("unauthenticated", "the token is not valid here, or no longer", headers=challenge) from None
        request.environ[PROVEN], request.environ[CLAIMED] = True, token.client
        granted = token.scopes.intersection(self.poll_scopes)
        bank = not token.scopes.isdisjoint(self.bank_scopes)
        families = EVERY_FAMILY if bank else _families(granted)
        return Caller(token.client, bank=bank, polls=bool(granted), families=families)

    def _challenge(self, *bearer: str) -> dict[str, str]:
        if self.tokens is None:
            return {"WWW-Authenticate": BASIC}
        return {"WWW-Authenticate": ", ".join(['Bearer realm="eventpoll"', *bearer, BASIC])}


def _families(scopes: Iterable[str]) -> str:
    """Return the digits of the families that scopes cover: each scope its own; a scope without a family covers all."""
    if not set(scopes) <= set(FAMILIES):
        return EVERY_FAMILY
    return "0" + "".join(sorted(str(FAMILIES.index(scope)) for scope in scopes))


def new_secret() -> str:
    """Return a new secret for a TPP: 256 random bits, so that one SHA-256 of it is safe to keep."""
    return secrets.token_urlsafe(32)


def hash_of(secret: str) -> str:
    """Return the SHA-256 of a secret, in hex: all that is kept of it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _basic(encoded: str) -> str | None:
    try:
        credentials = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    return credentials if ":" in credentials else None
