"""Read and verify a signed Security Event Token (RFC 8417)."""

import base64
import binascii
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry
from joserfc.registry import HeaderParameter

from eventpoll.sets.event import BadSecevent, Event
from eventpoll.sets.json import Malformed, Marked, encodes, read_json, read_object

OB = "http://openbanking.org.uk/"

OB_HEADERS = {
    f"{OB}iat": HeaderParameter("Open Banking: when it was signed", "int"),
    f"{OB}iss": HeaderParameter("Open Banking: who signed it", "str"),
    f"{OB}tan": HeaderParameter("Open Banking: trust anchor", "str"),
}
REGISTRY = JWSRegistry(
    header_registry=OB_HEADERS,
    algorithms=["PS256", "RS256", "ES256", "EdDSA", "Ed25519", "PS384", "PS512", "RS384", "RS512", "ES384", "ES512"],
    strict_check_header=False,
)
REGISTRY.max_header_length = 8_192
REGISTRY.max_payload_length = 2_000_000
REGISTRY.max_signature_length = 4_096

FORM = re.compile(r"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")


def read(secevent: str) -> dict[str, Any]:
    """Return the claims of a signed SET. Check its form, but not its signature. Raises BadSecevent."""
    form = FORM.fullmatch(secevent)
    if form is None:
        raise BadSecevent("a SET is three base64url parts with dots between")
    try:
        # Refuse duplicate members: with two jtis, we and the receiver might use different ones (RFC 7519 section 4).
        claims = read_json(base64.urlsafe_b64decode(form[1] + "=" * (-len(form[1]) % 4)))
    except Marked as error:
        raise BadSecevent(f"the payload of the SET is not JSON: {error}") from None
    except (binascii.Error, Malformed):
        raise BadSecevent("the payload of the SET is not JSON") from None
    if not isinstance(claims, dict):
        raise BadSecevent("the payload of the SET is not a JSON object")
    if not isinstance(claims.get("events"), dict) or not claims["events"]:
        raise BadSecevent("the SET has no events: a non-empty object is wanted (RFC 8417 section 2.2)")
    check_jti(claims.get("jti"))
    if not encodes(claims):
        raise BadSecevent("the payload of the SET has a lone surrogate, which is no well-formed Unicode")
    return claims


def verify(secevent: str, keys: KeySet) -> None:
    """Check the signature of a SET with the key that its `kid` names.

    Without a `kid`, as in WSO2's SETs, any of the keys may fit. Raises BadSecevent: invalid_key, authentication_failed.
    """
    header = _header(secevent)
    if not is_understood(header, OB_HEADERS):
        raise BadSecevent(
            "the header of the SET asks for what is not known here, in crit or b64", "authentication_failed"
        )
    kid = header.get("kid")
    fitting = [key for key in keys.keys if kid is None or key.kid == kid]
    if not fitting:
        raise BadSecevent("the SET names no key of the bank's", "invalid_key")
    for key in fitting:
        try:
            jws.deserialize_compact(secevent, key, registry=REGISTRY)
            return
        except (JoseError, ValueError, TypeError):
            continue
    raise BadSecevent("the signature of the SET does not fit the bank's keys", "authentication_failed")


def is_understood(header: Mapping[str, Any], known: Collection[str] = ()) -> bool:
    """Return True if a JWS header requires no feature that this module lacks.

    Unknown members are allowed, unless `crit` names one that is not `known` (RFC 7515 sections 4 and 4.1.11).
    With `b64` false, the signed bytes differ from the payload bytes that this module reads (RFC 7797).
    """
    if header.get("b64", True) is not True:
        return False
    if "crit" not in header:
        return True
    crit = header["crit"]
    named = isinstance(crit, list) and all(isinstance(name, str) and name in header for name in crit)
    return named and bool(crit) and set(crit) <= {"b64", *known}


def _header(secevent: str) -> dict[str, Any]:
    part = secevent.partition(".")[0]
    try:
        return read_object(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, Malformed):
        raise BadSecevent("the header of the SET is not a JSON object", "authentication_failed") from None


def check_jti(jti: object) -> None:
    """Check that a jti has 1 to 128 characters and no control characters. Raises BadSecevent."""
    if not isinstance(jti, str) or not 1 <= len(jti) <= 128 or re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", jti):
        raise BadSecevent("the jti must be a string of 1 to 128 characters, without control characters")


def same_events(secevent: str, event: Event) -> bool:
    """Return True if a SET has the same events as `event`, compared as JSON without regard to the order of members."""
    try:
        kept = read(secevent)["events"]
    except BadSecevent:  # a push by redis-cli checks only the form of a SET
        return False
    return _canonical(kept) == _canonical(json.loads(event.events))


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)
