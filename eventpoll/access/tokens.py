"""Validate OAuth 2 bearer tokens: JWTs of the client-credentials grant (RFC 6750, RFC 9068).

A token may be bound to a certificate (RFC 8705).
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from authlib.oauth2.rfc6749 import ResourceProtector
from authlib.oauth2.rfc6750 import BearerTokenValidator, InsufficientScopeError, InvalidTokenError
from flask import Request
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry

from eventpoll.access.issuer_keys import IssuerKeys
from eventpoll.sets.signed import is_understood
from eventpoll.store.keys import TPP

BANK_SCOPE = "eventpoll:bank"
LEEWAY_SECONDS = 30
CACHED = 10_000
LONGEST = 8_192
ACCESS_TOKEN = ("at+jwt", "application/at+jwt")
"""The `typ` of RFC 9068. Only access tokens have it."""

UNTYPED = "none"
"""Stands for a header without `typ`, in a list of accepted types."""

NOT_OURS = ("nonce", "at_hash", "c_hash", "s_hash", "events")
"""Claims that no access token of the client-credentials grant has. ID tokens have the first four (OpenID Connect Core
sections 2 and 3.3.2.11, FAPI 1.0 part 2). SETs and logout tokens have `events` (RFC 8417 section 4.5)."""

OTHER_KINDS = ("id", "refresh", "offline", "logout")
"""Values of Keycloak's claim `typ` and of Cognito's `token_use` for tokens that are not access tokens."""

FAR = 2**53
"""Upper bound for `exp`, in seconds, so that huge values fit a float."""


@dataclass(frozen=True)
class Token:
    """A valid token.

    `expires`: seconds since 1970. `thumbprint`: the SHA-256 of the certificate to which the token is bound, or None.
    """

    client: str
    scopes: frozenset[str]
    expires: float
    thumbprint: str | None


class Validator(BearerTokenValidator):
    """Validates tokens. It caches valid ones, up to CACHED, and does not check their signatures again."""

    def __init__(
        self,
        issuer: str,
        audience: str,
        keys: IssuerKeys,
        algorithms: Sequence[str],
        thumbprint: Callable[[Request], str | None],
        types: Sequence[str] = (*ACCESS_TOKEN, "JWT", UNTYPED),
        binding: str = "optional",
    ) -> None:
        super().__init__(realm="eventpoll")
        self._claims = jwt.JWTClaimsRegistry(
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
        )
        self._keys = keys
        # As lenient as for SETs: we read alg, typ, kid, crit and b64 in a header, and ignore every other member.
        ed25519 = ["Ed25519"] if "EdDSA" in algorithms else []  # the name of this curve in RFC 9864
        self._registry = JWSRegistry(algorithms=[*algorithms, *ed25519], strict_check_header=False)
        known = JWSRegistry.default_header_registry
        self._registry.header_registry = {name: known[name] for name in ("alg", "b64")}
        self._registry.max_header_length = self._registry.max_signature_length = LONGEST
        self._thumbprint = thumbprint
        self._types = {typ.lower() for typ in types}
        self._must_be_bound = binding == "required"
        self._cache: OrderedDict[bytes, Token] = OrderedDict()

    def authenticate_token(self, token_string: str) -> Token | None:
        """Return the token if its signature and its claims are right, else None. Raises issuer_keys.NoKeys."""
        if len(token_string) > LONGEST:
            return None
        digest = hashlib.sha256(token_string.encode("utf-8", "replace")).digest()
        token = self._cache.get(digest)
        if token is None:
            token = self._read(token_string)
            if token is not None:
                self._cache[digest] = token
                while len(self._cache) > CACHED:
                    self._cache.popitem(last=False)
        elif token.expires + LEEWAY_SECONDS < time.time():
            self._cache.pop(digest, None)
            return None
        return token

    def validate_token(self, token: Token | None, scopes: Sequence[str], request: Request) -> None:
        """Check the certificate to which a token is bound, and its scopes.

        Raises InvalidTokenError if `token` is None, or if the request lacks the token's certificate. Raises
        InsufficientScopeError if the token has none of `scopes`.
        """
        if token is None:
            raise InvalidTokenError()
        if token.thumbprint is not None:
            shown = self._thumbprint(request)
            if shown is None or not hmac.compare_digest(shown.encode(), token.thumbprint.encode()):
                raise InvalidTokenError()
        if token.scopes.isdisjoint(scopes):
            raise InsufficientScopeError()

    def _read(self, text: str) -> Token | None:
        header = _header(text)
        typ = self._typ(header) if header is not None and is_understood(header) else None
        if header is None or typ is None:
            return None
        kid = header.get("kid")
        if kid is not None and not isinstance(kid, str):
            return None
        for key in self._keys.candidates(kid):
            try:
                claims = jwt.decode(text, key, registry=self._registry).claims
                claims = {name: value for name, value in claims.items() if value is not None}
                self._claims.validate(claims)
            except (JoseError, ValueError, TypeError, AttributeError):
                continue
            token = _token(claims, typ)
            return None if token is not None and token.thumbprint is None and self._must_be_bound else token
        return None

    def _typ(self, header: dict[str, Any]) -> str | None:
        """Return the `typ` of a header in lower case, UNTYPED for a header without it, None for a type not accepted."""
        typ = header.get("typ")
        if typ is None:
            return UNTYPED if UNTYPED in self._types else None
        known = isinstance(typ, str) and typ.lower() in self._types - {UNTYPED}
        return typ.lower() if known else None


def _header(text: str) -> dict[str, Any] | None:
    part = text.split(".", 1)[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) else None


def _token(claims: dict[str, Any], typ: str) -> Token | None:
    """Return the token with these claims and this `typ`; None if the claims do not make a valid token."""
    # RFC 9068 section 2.2 requires client_id. Issuers from before that RFC write azp, or the client only as sub.
    names = ("client_id",) if typ in ACCESS_TOKEN else ("client_id", "azp", "sub")
    client = next((claims[name] for name in names if name in claims), None)
    scopes = _scopes(claims)
    if not isinstance(client, str) or not TPP.fullmatch(client) or scopes is None:
        return None
    if typ not in ACCESS_TOKEN and not _is_access_token(claims, client, scopes):
        return None
    bound = claims.get("cnf")
    thumbprint = None
    if bound is not None:
        # The presenter must prove the key in each member (RFC 7800 section 3.1). We check only the certificate's. A
        # token with another member, or with none, is bound to a key that nobody has checked.
        if not isinstance(bound, dict) or {name for name in bound if bound[name] is not None} != {"x5t#S256"}:
            return None
        thumbprint = bound["x5t#S256"]
        if not isinstance(thumbprint, str):
            return None
    return Token(client, frozenset(scopes), float(min(claims["exp"], FAR)), thumbprint)


def _scopes(claims: dict[str, Any]) -> set[str] | None:
    """Return the scopes of a token from `scope` and from Entra's and Okta's `scp`.

    Each claim is a text or an array of texts. Return None if either is anything else.
    """
    scopes: set[str] = set()
    for name in ("scope", "scp"):
        said = claims.get(name, "")
        words = said.split() if isinstance(said, str) else said
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            return None
        scopes.update(words)
    return scopes


def _is_access_token(claims: dict[str, Any], client: str, scopes: set[str]) -> bool:
    """Return whether these are the claims of an access token, for a token whose `typ` does not say so.

    An ID token is for the client itself, and its `aud` names the client. Some issuers also name the client in the
    `aud` of access tokens, but those tokens have scopes.
    """
    audience = claims.get("aud")
    for_client = client in ([audience] if isinstance(audience, str) else audience or [])
    if for_client and not scopes:
        return False
    kinds = (str(claims.get(name, "")).lower() for name in ("typ", "token_use"))
    return not claims.keys() & set(NOT_OURS) and not set(kinds) & set(OTHER_KINDS)


class Protector(ResourceProtector):
    """Authlib's protector. access/door.py turns its errors into our refusals."""

    def __init__(self, validator: Validator) -> None:
        super().__init__()
        self.register_token_validator(validator)
