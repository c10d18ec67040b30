"""Who is asking: HTTP Basic (RFC 7617) for TPPs and for the bank, bearer tokens (RFC 6750) where they are set up."""

import base64
import binascii
import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6750 import InsufficientScopeError
from flask import Request

from eventpoll.errors import Refused
from eventpoll.jwks import NoKeys
from eventpoll.passwords import Password
from eventpoll.rates import Guesses, Slowing
from eventpoll.records import EVERY_FAMILY, FAMILIES
from eventpoll.schemas import TPP
from eventpoll.tokens import BANK_SCOPE, Protector, Token

BASIC = 'Basic realm="eventpoll", charset="UTF-8"'
PROVEN = "eventpoll.proven"
"""In an environ: it is proven who asks."""


def loggable(environ: dict[str, Any], text: str) -> str:
    """Return what may be logged of a name or a path that a caller sent.

    Until it is proven who asks, that is what stands before the first colon: behind it may stand a secret, where a
    colon is misplaced or somebody took a URL with credentials for a path.
    """
    return text if PROVEN in environ else text.partition(":")[0]


@dataclass(frozen=True)
class Caller:
    """Who asks.

    `bank` and `polls` say what the caller may do: the bank's calls, and polling the stream of `name`. Of a stream
    it sees the SETs of its `families`. A TPP that showed a secret has its hash in `proof`: the store checks it in
    the same step in which it does what is asked. `guessed` where that secret counts as a guess of the bank's password
    as well, until it is proven.
    """

    name: str
    proof: str = ""
    bank: bool = False
    polls: bool = False
    families: str = EVERY_FAMILY
    guessed: bool = False


@dataclass(frozen=True)
class Bank:
    """The bank's own credentials."""

    username: str
    password: Password


@dataclass(frozen=True)
class Door:
    """Where callers say who they are."""

    bank: Bank | None
    tokens: Protector | None = None
    poll_scopes: Sequence[str] = ()
    slowing: Slowing = field(default_factory=Slowing)
    bank_scopes: Sequence[str] = (BANK_SCOPE,)
    guesses: Guesses = field(default_factory=Guesses)

    def caller(self, request: Request, wanted: Sequence[str] | None = None) -> Caller:
        """Name the caller. Raises Refused: 401, 403 for a token without a scope of ours, 429 for too many guesses of
        the bank's password.

        `wanted` are the scopes that open what is asked for, as the refusal names them; None: those that let a TPP poll.
        """
        header = request.headers.get("Authorization", "")
        scheme, _, rest = header.partition(" ")
        if scheme.lower() == "bearer" and rest.strip() and self.tokens is not None:
            return self._bearer(request, self.tokens, self.poll_scopes if wanted is None else wanted)
        credentials = _basic(rest) if scheme.lower() == "basic" else None
        if credentials is None:
            wanted = (
                "a bearer token" if self.tokens is not None else "HTTP Basic with the name of the TPP and its secret"
            )
            raise Refused("unauthenticated", f"credentials are wanted: {wanted}", headers=self._challenge())
        username, _, password = credentials.partition(":")
        bank = self.bank if self.bank is not None and username == self.bank.username else None
        if bank is not None and self._shows(request, bank, password):
            request.environ[PROVEN] = True
            return Caller(username, bank=True)
        name, _, secret = credentials.rpartition(":")  # no secret of ours holds a colon, but a name may
        if not TPP.fullmatch(name):
            raise self.denied(request, username)
        return Caller(name, hash_of(secret), polls=True, guessed=bank is not None)

    def _shows(self, request: Request, bank: Bank, password: str) -> bool:
        """Whether the password is the bank's. Raises Refused where it may not be compared now: 429, 503."""
        address = request.remote_addr or ""
        with bank.password.turn():
            self.guesses.count(address, bank.username)
            right = bank.password.is_it(password)
            if right:
                self.guesses.forgive(address, bank.username)
        return right

    def proven(self, request: Request, caller: Caller) -> None:
        """Note that a TPP's secret was right. The TPP may have the name of the bank's user: it guessed nothing."""
        request.environ[PROVEN] = True
        if caller.guessed and self.bank is not None:
            self.guesses.forgive(request.remote_addr or "", self.bank.username)

    def denied(self, request: Request, name: str) -> Refused:
        """The refusal of wrong credentials (RFC 9110 section 15.5.2), which comes slowly when they come often."""
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
        request.environ[PROVEN] = True
        granted = token.scopes.intersection(self.poll_scopes)
        bank = not token.scopes.isdisjoint(self.bank_scopes)
        families = EVERY_FAMILY if bank else _families(granted)
        return Caller(token.client, bank=bank, polls=bool(granted), families=families)

    def _challenge(self, *bearer: str) -> dict[str, str]:
        if self.tokens is None:
            return {"WWW-Authenticate": BASIC}
        return {"WWW-Authenticate": ", ".join(['Bearer realm="eventpoll"', *bearer, BASIC])}


def _families(scopes: Iterable[str]) -> str:
    """The families that scopes cover: each its own, and a scope that is none of them covers all."""
    if not set(scopes) <= set(FAMILIES):
        return EVERY_FAMILY
    return "0" + "".join(sorted(str(FAMILIES.index(scope)) for scope in scopes))


def new_secret() -> str:
    """A secret for a TPP: 256 random bits, so that one SHA-256 of it is safe to keep."""
    return secrets.token_urlsafe(32)


def hash_of(secret: str) -> str:
    """What is kept of a secret: its SHA-256, in hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _basic(encoded: str) -> str | None:
    try:
        credentials = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    return credentials if ":" in credentials else None
