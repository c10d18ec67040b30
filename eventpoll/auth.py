"""Who is asking: HTTP Basic (RFC 7617) for TPPs and for the bank, bearer tokens (RFC 6750) where they are set up."""

import base64
import binascii
import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

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
    guesses: Guesses = field(default_factory=Guesses)

    def caller(self, request: Request) -> Caller:
        """Who the request says is asking. Raises Refused: 401, 403 for a token without a scope of ours, 429 for too
        many guesses of the bank's password."""
        header = request.headers.get("Authorization", "")
        scheme, _, rest = header.partition(" ")
        if scheme.lower() == "bearer" and self.tokens is not None:
            return self._bearer(request, self.tokens)
        credentials = _basic(rest) if scheme.lower() == "basic" else None
        if credentials is None:
            wanted = (
                "a bearer token" if self.tokens is not None else "HTTP Basic with the name of the TPP and its secret"
            )
            raise Refused("unauthenticated", f"credentials are wanted: {wanted}", headers=self._challenge())
        username, colon, password = credentials.partition(":")
        bank = self.bank if self.bank is not None and username == self.bank.username else None
        if bank is not None and self._shows(request, bank, password):
            return Caller(username, bank=True)
        name, colon, secret = credentials.rpartition(":")  # no secret of ours holds a colon, but a name may
        if not colon or not TPP.fullmatch(name):
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
        if caller.guessed and self.bank is not None:
            self.guesses.forgive(request.remote_addr or "", self.bank.username)

    def denied(self, request: Request, name: str) -> Refused:
        """The refusal of wrong credentials (RFC 9110 section 15.5.2), which comes slowly when they come often."""
        self.slowing.failed(request.remote_addr or "", name)
        return Refused("unauthenticated", "the credentials are not right", headers=self._challenge())

    def _bearer(self, request: Request, tokens: Protector) -> Caller:
        try:
            scopes = [*self.poll_scopes, BANK_SCOPE]
            token: Token = tokens.validate_request(scopes, request)  # type: ignore[no-untyped-call]
        except NoKeys:
            raise Refused(
                "unavailable", "tokens cannot be checked at the moment: try again", headers={"Retry-After": "5"}
            ) from None
        except InsufficientScopeError:
            wanted = " ".join(self.poll_scopes)
            challenge = self._challenge(f'error="insufficient_scope", scope="{wanted}"')
            raise Refused("forbidden", f"the token has none of the scopes {wanted}", headers=challenge) from None
        except OAuth2Error:
            challenge = self._challenge('error="invalid_token"')
            raise Refused("unauthenticated", "the token is not valid here, or no longer", headers=challenge) from None
        granted, bank = token.scopes.intersection(self.poll_scopes), BANK_SCOPE in token.scopes
        families = EVERY_FAMILY if bank else _families(granted)
        return Caller(token.client, bank=bank, polls=bool(granted), families=families)

    def _challenge(self, bearer: str = "") -> dict[str, str]:
        if self.tokens is None:
            return {"WWW-Authenticate": BASIC}
        return {"WWW-Authenticate": ", ".join(filter(None, ['Bearer realm="eventpoll"', bearer, BASIC]))}


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
