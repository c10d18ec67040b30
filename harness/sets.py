"""SETs as a bank signs them."""

import base64
import json
from typing import Any


def set_of(jti: str, events: Any = None, **claims: Any) -> str:
    """Return a SET as a bank may have signed it. Its form is right, and its signature is a placeholder."""
    payload = {
        "iss": "https://bank.example",
        "iat": 1516239022,
        "jti": jti,
        "events": events or {"urn:test:event": {}},
        **claims,
    }
    parts = [json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "secevent+jwt"}, payload)] + [b"signature"]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
