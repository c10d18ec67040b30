"""Mint a Security Event Token (RFC 8417) from an event, in the form of each profile."""

import base64
import json
import os
import re
import time
import uuid
from dataclasses import dataclass
from typing import Any

from joserfc import jws
from joserfc.jwk import Key, KeySet

from eventpoll.sets.event import BadSecevent, Event
from eventpoll.sets.signed import OB, REGISTRY

RESOURCE_UPDATE = "urn:uk:org:openbanking:events:resource-update"
CONSENT_REVOKED = "urn:uk:org:openbanking:events:consent-authorization-revoked"
LINKED_ACCOUNT_UPDATE = "urn:uk:org:openbanking:events:account-access-consent-linked-account-update"
SUBJECT_MEMBERS = ("subject_type", f"{OB}rid", f"{OB}rty", f"{OB}rlk")

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+")

ALGORITHMS = {"RSA": ("PS256", "RS256"), "EC": ("ES256",), "OKP": ("EdDSA", "Ed25519")}
"""Signing algorithms of each key type. A key without `alg` signs with the first one."""

PROFILE_ALGORITHM = {"obie": "PS256", "wso2": "RS256"}


@dataclass(frozen=True)
class Minter:
    """Mints and signs SETs in the form of a profile: rfc8417, obie or wso2."""

    issuer: str | None
    keys: KeySet | None
    obie_iss: str | None = None
    obie_tan: str = "openbanking.org.uk"

    def key(self, profile: str) -> tuple[Key, str]:
        """Return the first key that can sign for the profile, and its algorithm. Raises BadSecevent (invalid_key)."""
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
        """Return the public half of each key as a JWK Set, with the `alg` that it uses for that profile.

        Receivers such as PyJWT's rely on `alg`. For an RSA key without `alg` they assume RS256.
        """
        members = []
        for key in self.keys.keys if self.keys else ():
            able, wanted = ALGORITHMS[key.key_type], PROFILE_ALGORITHM.get(profile)
            algorithm = wanted if wanted in able else able[0]
            members.append({"alg": algorithm, **key.as_dict(private=False)})
        return {"keys": members}

    def mint(self, profile: str, tpp: str, audience: str, event: Event) -> tuple[str, str]:
        """Sign an event as a SET. Return its jti and its compact serialisation. Raises BadSecevent."""
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
    """Return the header and claims of a SET as RFC 8417 defines them. Raises BadSecevent.

    Each event needs a URI as its name (section 2.2), except events of WSO2's clients, which use other names.
    """
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
    """Return the header and claims of an OBEventNotification2. Raises BadSecevent.

    The signature follows the Read/Write profile, but the payload is attached.
    """
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
    """Return the header and claims in WSO2's form.

    The header has `alg` only. If the event has no `toe`, it is the time of minting in milliseconds, but in seconds for
    the 4.x paths.
    """
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
    """Return 126 random bits as 22 letters and digits, which need no escapes in a URL or on a command line."""
    return base64.b64encode(os.urandom(16), altchars=b"09").decode()[:22]


def check_obie(event: Event) -> None:
    """Check that an event meets the rules of OBEventNotification2. Raises BadSecevent.

    `txn` and `toe` are optional. Their defaults are the jti and the time of minting.
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


def _text(value: str | None) -> str:
    return json.dumps(value)
