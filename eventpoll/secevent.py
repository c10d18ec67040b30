"""A Security Event Token (RFC 8417): minted from events, or read as the bank signed it."""

import base64
import binascii
import json
import os
import re
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import Key, KeySet
from joserfc.jws import JWSRegistry
from joserfc.registry import HeaderParameter

from eventpoll.jsontext import Malformed, read_json, read_object

OB = "http://openbanking.org.uk/"
RESOURCE_UPDATE = "urn:uk:org:openbanking:events:resource-update"
CONSENT_REVOKED = "urn:uk:org:openbanking:events:consent-authorization-revoked"
LINKED_ACCOUNT_UPDATE = "urn:uk:org:openbanking:events:account-access-consent-linked-account-update"
SUBJECT_MEMBERS = ("subject_type", f"{OB}rid", f"{OB}rty", f"{OB}rlk")

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

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+")
FORM = re.compile(r"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")
ALGORITHMS = {"RSA": ("PS256", "RS256"), "EC": ("ES256",), "OKP": ("EdDSA", "Ed25519")}
"""With which a key may sign, the first unless it names one."""

PROFILE_ALGORITHM = {"obie": "PS256", "wso2": "RS256"}


class BadSecevent(Exception):
    """What is wrong with a SET or an event; `err` is a code of RFC 8935 section 2.4."""

    def __init__(self, description: str, err: str = "invalid_request") -> None:
        super().__init__(description)
        self.err = err
        self.description = description


@dataclass(frozen=True)
class Event:
    """What the bank asks to be minted. `events` and the claims are JSON texts, kept to the letter."""

    events: str
    claims: Mapping[str, str] = field(default_factory=dict)  # of sub, sub_id, txn, toe: those given
    jti: str | None = None
    scope: str = ""  # the family of events it belongs to, if any
    wso2_generation: int | None = None  # 3 or 4 where it came in through WSO2's create-events


@dataclass(frozen=True)
class Signed:
    """A SET as the bank signed it: its compact serialisation."""

    text: str
    scope: str = ""


@dataclass(frozen=True)
class Minter:
    """Mints and signs SETs, as `profile` says: rfc8417, obie or wso2."""

    issuer: str | None
    keys: KeySet | None
    obie_iss: str | None = None
    obie_tan: str = "openbanking.org.uk"

    def key(self, profile: str) -> tuple[Key, str]:
        """The first key that can sign for the profile, and its algorithm. Raises BadSecevent (invalid_key)."""
        wanted = PROFILE_ALGORITHM.get(profile)
        for key in self.keys.keys if self.keys else ():
            able = ALGORITHMS[key.key_type] if key.get("alg") is None else (key.get("alg"),)
            if wanted is None or wanted in able:
                return key, wanted or str(able[0])
        if self.keys is None:
            raise BadSecevent(
                "minting is off: EVENTPOLL_SIGNING_KEYS is not set; signed SETs still pass", "invalid_key"
            )
        raise BadSecevent(f"no signing key can sign for the profile {profile}: it wants RSA, {wanted}", "invalid_key")

    def public(self, profile: str) -> dict[str, list[dict[str, Any]]]:
        """Return the public half of each key as a JWK Set, with the `alg` by which it signs under that profile.

        Receivers such as PyJWT's go by `alg`: for an RSA key without one they assume RS256.
        """
        members = []
        for key in self.keys.keys if self.keys else ():
            able, wanted = ALGORITHMS[key.key_type], PROFILE_ALGORITHM.get(profile)
            algorithm = wanted if wanted in able else able[0]
            members.append({"alg": algorithm, **key.as_dict(private=False)})
        return {"keys": members}

    def mint(self, profile: str, tpp: str, audience: str, event: Event) -> tuple[str, str]:
        """Sign an event as a SET: its jti and its compact serialisation. Raises BadSecevent."""
        key, algorithm = self.key(profile)
        if self.issuer is None:
            raise BadSecevent("minting is off: EVENTPOLL_ISSUER is not set; signed SETs still pass")
        now = time.time()
        jti = event.jti or (str(uuid.uuid4()) if profile == "wso2" else new_jti())
        header, claims = PROFILES[profile](Draft(self, key, algorithm, tpp, audience, event, jti, now))
        payload = "{" + ",".join(f'"{name}":{text}' for name, text in claims.items()) + "}"
        return jti, jws.serialize_compact(header, payload.encode(), key, registry=REGISTRY)


@dataclass(frozen=True)
class Draft:
    """A SET about to be signed."""

    minter: Minter
    key: Key
    algorithm: str
    tpp: str
    audience: str
    event: Event
    jti: str
    now: float


def _rfc8417(draft: Draft) -> tuple[dict[str, Any], dict[str, str]]:
    """RFC 8417: each event has a URI for its name. WSO2's clients have names of their own, which are let be."""
    if draft.event.wso2_generation is None:
        for name in json.loads(draft.event.events):
            if not URI.fullmatch(name):
                raise BadSecevent(f"events: {name!r} is no URI, as RFC 8417 section 2.2 wants it")
    header = {"alg": draft.algorithm, "typ": "secevent+jwt", "kid": draft.key.kid}
    claims = {
        "iss": _text(draft.minter.issuer),
        "iat": str(int(draft.now)),
        "jti": _text(draft.jti),
        "aud": _text(draft.audience),
    }
    return header, {**claims, **draft.event.claims, "events": draft.event.events}


def _obie(draft: Draft) -> tuple[dict[str, Any], dict[str, str]]:
    """OBEventNotification2, signed as the Read/Write profile says, but attached."""
    check_obie(draft.event)
    header = {
        "alg": draft.algorithm,
        "typ": "JOSE",
        "kid": draft.key.kid,
        f"{OB}iat": int(draft.now),
        f"{OB}iss": draft.minter.obie_iss or draft.minter.issuer,
        f"{OB}tan": draft.minter.obie_tan,
        "crit": [f"{OB}iat", f"{OB}iss", f"{OB}tan"],
    }
    return header, {
        "iss": _text(draft.minter.issuer),
        "iat": str(int(draft.now)),
        "jti": _text(draft.jti),
        "sub": draft.event.claims["sub"],
        "aud": _text(draft.audience),
        "txn": draft.event.claims.get("txn") or _text(draft.jti),
        "toe": draft.event.claims.get("toe") or str(int(draft.now)),
        "events": draft.event.events,
    }


def _wso2(draft: Draft) -> tuple[dict[str, Any], dict[str, str]]:
    """As WSO2 writes them: a bare header, and toe in milliseconds, but in seconds for the 4.x paths."""
    toe = str(int(draft.now) if draft.event.wso2_generation == 4 else int(draft.now * 1000))
    return {"alg": draft.algorithm}, {
        "sub": _text(draft.tpp),
        "aud": _text(draft.tpp),
        "iss": _text(draft.minter.issuer),
        "txn": draft.event.claims.get("txn") or _text(str(uuid.uuid4())),
        "toe": draft.event.claims.get("toe") or toe,
        "iat": str(int(draft.now)),
        "jti": _text(draft.jti),
        "events": draft.event.events,
    }


PROFILES = {"rfc8417": _rfc8417, "obie": _obie, "wso2": _wso2}


def new_jti() -> str:
    """126 random bits as 22 letters and digits, which may stand in a URL and on a command line as they are."""
    return base64.b64encode(os.urandom(16), altchars=b"09").decode()[:22]


def read(secevent: str) -> dict[str, Any]:
    """The claims of a signed SET, its form checked and its signature not. Raises BadSecevent."""
    form = FORM.fullmatch(secevent)
    if form is None:
        raise BadSecevent("a SET is three base64url parts with dots between")
    try:
        # Strictly: of two jtis we would take one, and the receiver may take the other (RFC 7519 section 4).
        claims = read_json(base64.urlsafe_b64decode(form[1] + "=" * (-len(form[1]) % 4)))
    except (binascii.Error, Malformed):
        raise BadSecevent("the payload of the SET is not JSON") from None
    if not isinstance(claims, dict):
        raise BadSecevent("the payload of the SET is not a JSON object")
    if not isinstance(claims.get("events"), dict) or not claims["events"]:
        raise BadSecevent("the SET has no events: a non-empty object is wanted (RFC 8417 section 2.2)")
    check_jti(claims.get("jti"))
    return claims


def verify(secevent: str, keys: KeySet) -> None:
    """Check the signature of a SET: with the key that its `kid` names, or with any, as WSO2's SETs name none.

    Raises BadSecevent: invalid_key, authentication_failed.
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
    """Whether a JWS header asks for nothing that is not done here.

    Unknown members pass, unless `crit` names one that is not `known` (RFC 7515 sections 4 and 4.1.11). With b64 false
    the signed payload is other bytes than the ones that are read here (RFC 7797).
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
    """A jti is 1 to 128 characters, without control characters. Raises BadSecevent."""
    if not isinstance(jti, str) or not 1 <= len(jti) <= 128 or re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", jti):
        raise BadSecevent("the jti must be a string of 1 to 128 characters, without control characters")


def check_obie(event: Event) -> None:
    """What OBEventNotification2 wants of an event. Raises BadSecevent.

    `txn` and `toe` may be left out: they become the jti and the time of minting.
    """
    sub, txn = json.loads(event.claims.get("sub", "null")), json.loads(event.claims.get("txn", '"-"'))
    if not isinstance(sub, str) or not sub:
        raise BadSecevent("sub: the profile obie wants the URL of the affected resource")
    if not isinstance(txn, str) or not 1 <= len(txn) <= 128:
        raise BadSecevent("txn: the profile obie wants 1 to 128 characters")
    if "sub_id" in event.claims:
        raise BadSecevent("sub_id: the profile obie has no such claim")
    if type(json.loads(event.claims.get("toe", "0"))) is not int:
        raise BadSecevent("toe: the profile obie wants whole seconds")
    events = json.loads(event.events)
    for name, value in events.items():
        wanted = name in (RESOURCE_UPDATE, LINKED_ACCOUNT_UPDATE) or (
            name == CONSENT_REVOKED and RESOURCE_UPDATE not in events
        )
        if not isinstance(value, dict):
            raise BadSecevent(f"events.{name}: must be an object")
        if not wanted and "subject" not in value:
            continue
        subject = value.get("subject")
        missing = [member for member in SUBJECT_MEMBERS if not isinstance(subject, dict) or not subject.get(member)]
        if wanted and missing:
            raise BadSecevent(f"events.{name}.subject: OBEventSubject1 wants {', '.join(missing)}")


def same_events(secevent: str, event: Event) -> bool:
    """Whether a SET carries the events of `event`: equal as JSON, the order of members aside."""
    try:
        kept = read(secevent)["events"]
    except BadSecevent:  # redis-cli lets in what has the form of a SET
        return False
    return _canonical(kept) == _canonical(json.loads(event.events))


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _text(value: str | None) -> str:
    return json.dumps(value)
