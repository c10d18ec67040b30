"""SETs to measure with: of 1 KB each, all of one length, with jtis of one length, so that a client need not parse."""

import base64
import json

JTI_CHARACTERS = 26
SET_CHARACTERS = 1024


def _base64url(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


HEADER = _base64url(b'{"alg":"PS256","typ":"secevent+jwt","kid":"bench-1"}')
SIGNATURE = 342  # characters of one made with an RSA key of 2048 bits
PAYLOAD_BYTES = (SET_CHARACTERS - len(HEADER) - 2 - SIGNATURE) * 3 // 4
EVENT = "urn:uk:org:openbanking:events:resource-update"


def jti(number: int) -> str:
    """The jti of a SET: as long as those that the service makes."""
    return f"j{number:025x}"


def payload(name: str) -> bytes:
    """The claims of a SET of 1 KB."""
    claims = {"iss": "https://bank.example", "iat": 1516239022, "jti": name, "aud": "tpp", "events": {EVENT: {"a": ""}}}
    text = json.dumps(claims, separators=(",", ":"))
    return text.replace('"a":""', '"a":"' + "x" * (PAYLOAD_BYTES - len(text)) + '"').encode()


BEFORE, AFTER = payload("@" * JTI_CHARACTERS).split(b"@" * JTI_CHARACTERS)


def secevent(number: int, prefix: str = "j") -> tuple[str, str]:
    """A jti, and the SET of that name. Its signature is the bank's affair, and here it is none."""
    name = prefix + jti(number)[1:]
    body = _base64url(BEFORE + name.encode() + AFTER)
    return name, f"{HEADER}.{body}.".ljust(SET_CHARACTERS, "s")


def event() -> bytes:
    """An event to mint, which becomes a SET of about the same length."""
    return json.dumps({"events": {EVENT: {"a": "x" * (PAYLOAD_BYTES - 180)}}}).encode()
