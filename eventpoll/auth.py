"""Who is asking: HTTP Basic (RFC 7617) for TPPs and for the bank, bearer tokens (RFC 6750) where they are set up."""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6750 import InsufficientScopeError
from flask import Request

from eventpoll.errors import Refused
from eventpoll.jwks import NoKeys
from eventpoll.rates import Slowing
from eventpoll.records import EVERY_FAMILY, FAMILIES
from eventpoll.schemas import TPP
from eventpoll.tokens import BANK_SCOPE, Protector, Token

BASIC = 'Basic realm="eventpoll", charset="UTF-8"'


@dataclass(frozen=True)
class Caller:
    """Who asks.

    `bank` and `polls` say what the caller may do: the bank's calls, and polling the stream of `name`. Of a stream
    it sees the SETs of its `families`. A TPP that showed a secret has its hash in `proof`: the store checks it in
    the same step in which it does what is asked.
    """

    name: str
    proof: str = ""
    bank: bool = False
    polls: bool = False
    families: str = EVERY_FAMILY


@dataclass(frozen=True)
class Bank:
    """The bank's own credentials, of which there may be none."""

    username: str | None
    password: str | None

    def is_it(self, username: str, password: str) -> bool:
        """Whether these are the bank's, in a time that tells nothing of how near they come."""
        if self.username is None or self.password is None:
            return False
        same_name = hmac.compare_digest(username.encode(), self.username.encode())
        return hmac.compare_digest(password.encode(), self.password.encode()) and same_name


@dataclass(frozen=True)
class Door:
    """Where callers say who they are."""

    bank: Bank
    tokens: Protector | None = None
    poll_scopes: Sequence[str] = ()
    slowing: Slowing = field(default_factory=Slowing)

    def caller(self, request: Request, *, is_tpps: bool = False) -> Caller:
        """Who the request says is asking. Raises Refused: 401, 403 for a token without a scope of ours.

        On a path that `is_tpps` alone the bank's user name is one like any other: its right password takes the way of
        a wrong one, so that no answer, header or delay tells them apart.
        """
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
        if not is_tpps and self.bank.is_it(username, password):
            return Caller(username, bank=True)
        name, colon, secret = credentials.rpartition(":")  # no secret of ours holds a colon, but a name may
        if not colon or not TPP.fullmatch(name):
            raise self.denied(request, username)
        return Caller(name, hash_of(secret), polls=True)

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
