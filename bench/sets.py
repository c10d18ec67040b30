"""SETs to measure with: of 1 KB each, all of one length, with jtis of one length, so that a client need not parse."""

import base64
import json
import random
import string

JTI_CHARACTERS = 26
SET_CHARACTERS = 1024
EVENT = "urn:uk:org:openbanking:events:resource-update"


def _base64url(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def _noise(length: int) -> str:
    """Text that no store packs, as a signature is, and as base64url of what people write nearly is."""
    return "".join(random.Random(8417).choices(string.ascii_letters + string.digits, k=length))


HEADER = _base64url(b'{"alg":"PS256","typ":"secevent+jwt","kid":"bench-1"}')
SIGNATURE = 342  # characters of one made with an RSA key of 2048 bits
PAYLOAD_BYTES = (SET_CHARACTERS - len(HEADER) - 2 - SIGNATURE) * 3 // 4


def jti(number: int, letter: str = "s") -> str:
    """A jti of 26 characters: the service makes 22, a UUID has 36. Those of another letter are others."""
    return f"j{letter}{number:024x}"


def payload(name: str) -> bytes:
    """The claims of a SET of 1 KB."""
    claims = {"iss": "https://bank.example", "iat": 1516239022, "jti": name, "aud": "tpp", "events": {EVENT: {"a": ""}}}
    text = json.dumps(claims, separators=(",", ":"))
    return text.replace('"a":""', f'"a":"{_noise(PAYLOAD_BYTES - len(text))}"').encode()


BEFORE, AFTER = payload("@" * JTI_CHARACTERS).split(b"@" * JTI_CHARACTERS)
SIGNED = _noise(SIGNATURE + 4)


def secevent(number: int, letter: str = "s") -> tuple[str, str]:
    """A jti, and the SET of that name. Its signature is the bank's affair, and here it is none."""
    name = jti(number, letter)
    text = f"{HEADER}.{_base64url(BEFORE + name.encode() + AFTER)}."
    return name, text + SIGNED[: SET_CHARACTERS - len(text)]


def event() -> bytes:
    """An event to mint, which becomes a SET of about the same length."""
    return json.dumps({"events": {EVENT: {"a": _noise(PAYLOAD_BYTES - 180)}}}).encode()
