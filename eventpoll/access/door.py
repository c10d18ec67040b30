"""Authenticate callers by HTTP Basic (RFC 7617), and by bearer tokens (RFC 6750) if they are configured."""

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
"""Keys in a WSGI environ. PROVEN: the caller is authenticated. CLAIMED: the name in the credentials, proven or not."""


def loggable(environ: dict[str, Any], text: str) -> str:
    """Return the part of a caller's name or path that may be logged.

    Until the caller is proven, only the part before the first colon may be logged. A secret may follow that colon: the
    caller may misplace a colon, or send a URL with credentials in place of a path.
    """
    return text if PROVEN in environ else text.partition(":")[0]


@dataclass(frozen=True)
class Claim:
    """The name of a TPP and the SHA-256 of a secret, from HTTP Basic. A claim grants nothing until Door proves it.

    `guessed`: until the claim is proven, its secret also counts as a guess of the bank's password.
    """

    name: str
    proof: str
    guessed: bool = False


@dataclass(frozen=True)
class Caller:
    """A proven caller. Only Door makes one.

    `bank`: may make the bank's calls. `polls`: may poll the stream of `name`, and sees the SETs of its `families`.
    `proof`: the SHA-256 of the TPP's secret, if the TPP sent one. poll.lua checks it again in its own step.
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
    """Authenticates callers by their credentials.

    `prove` checks a TPP's name and the SHA-256 of its secret in the store. It raises NoStream or Denied for a wrong
    secret.
    """

    bank: Bank | None
    prove: Callable[[str, str], None]
    tokens: Protector | None = None
    poll_scopes: Sequence[str] = ()
    slowing: Slowing = field(default_factory=Slowing)
    bank_scopes: Sequence[str] = (BANK_SCOPE,)
    guesses: Guesses = field(default_factory=Guesses)
    proofs: Proofs = field(default_factory=Proofs)

    def caller(self, request: Request, wanted: Sequence[str]) -> Caller:
        """Return the authenticated caller of any request except a poll. The store checks a TPP's secret each time.

        `wanted`: the scopes that open the call. The refusal of a token without them names them.

        Raises Refused: 401; 403 for a token without a scope of ours; 429 for too many guesses of the bank's password.
        Raises Refused (503) if too many logins wait, or if the issuer's keys cannot be read. Raises Unavailable.
        """
        found = self._identify(request, wanted)
        return found if isinstance(found, Caller) else self._proven(request, found)

    def poller(self, request: Request, *, is_tpps: bool) -> Caller:
        """Return the authenticated caller of a poll.

        The store checks a TPP's secret first. For proofs.SECONDS after that, this process remembers a right one.
        poll.lua checks the secret once more, in the step that fetches and settles.

        `is_tpps`: only TPPs may use this path. The bank's user name is then a name like any other: its right password
        gets the same answer as a wrong one, in every header and delay. Raises the same exceptions as `caller`.
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
        """Return the refusal of a caller whose secret was rotated or deleted after it was proven.

        Call this when poll.lua rejects the secret.
        """
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
        if claim.guessed and self.bank is not None:  # a TPP with the name of the bank's user guessed nothing
            self.guesses.forgive(request.remote_addr or "", self.bank.username)
        return Caller(claim.name, claim.proof, polls=True)

    def _identify(self, request: Request, wanted: Sequence[str], *, is_tpps: bool = False) -> Caller | Claim:
        """Read the credentials. Return a Caller for the bank or a token, and a Claim for a TPP's secret.

        The bank's password and a token are checked here. A claim is not yet checked.
        """
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
        name, _, secret = credentials.rpartition(":")  # a name may hold a colon, a secret of ours never does
        if not TPP.fullmatch(name):
            raise self.denied(request, username)
        request.environ[CLAIMED] = name
        return Claim(name, hash_of(secret), guessed=bank is not None)

    def _shows(self, request: Request, bank: Bank, password: str) -> bool:
        """Return whether the password is the bank's. Raises Refused (429, 503) if it may not be compared now."""
        address = request.remote_addr or ""
        with bank.password.turn():
            self.guesses.count(address, bank.username)
            right = bank.password.is_it(password)
            if right:
                self.guesses.forgive(address, bank.username)
        return right

    def denied(self, request: Request, name: str) -> Refused:
        """Return the 401 for wrong credentials, after a delay if this address and name failed often.

        The 401 has a challenge (RFC 9110 section 15.5.2).
        """
        # Count under the text before the first colon. With the rest, each guess of a password could be a new name,
        # and no delay would follow.
        self.slowing.failed(request.remote_addr or "", name.partition(":")[0])
        return Refused("unauthenticated", "the credentials are not right", headers=self._challenge())

    def forbidden(self, request: Request, words: str, wanted: Sequence[str]) -> Refused:
        """Return the 403 for a caller who may not do this. For a token, name the scopes in `wanted` (RFC 6750)."""
        refused = Refused("forbidden", words)
        scope = [f'scope="{" ".join(wanted)}"'] if wanted else []
        self.challenge_token(request, refused, 'error="insufficient_scope"', *scope)
        return refused

    def challenge_token(self, request: Request, refused: Refused, *bearer: str) -> None:
        """Add a challenge to the refusal of a request with a token, unless the refusal has one (RFC 6750 section 3)."""
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
    """Return the digits of the families that `scopes` cover.

    Each scope covers its own family. A scope without a family covers all. Digit 0, SETs without a family, is always in.
    """
    if not set(scopes) <= set(FAMILIES):
        return EVERY_FAMILY
    return "0" + "".join(sorted(str(FAMILIES.index(scope)) for scope in scopes))


def new_secret() -> str:
    """Return a new secret for a TPP. It has 256 random bits, so that one SHA-256 of it is safe to store."""
    return secrets.token_urlsafe(32)


def hash_of(secret: str) -> str:
    """Return the SHA-256 of a secret, in hex. Nothing else of a secret is stored."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _basic(encoded: str) -> str | None:
    try:
        credentials = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    return credentials if ":" in credentials else None
