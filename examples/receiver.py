"""A receiver of SETs: poll, verify, work, then acknowledge or report with the next poll (RFC 8936).

    python examples/receiver.py http://127.0.0.1:8000 demo-tpp demo-secret https://bank.example

Ends when nothing more waits; without --once it goes on for ever, held by the server while there is nothing.
"""

import base64
import json
import sys
import time
import urllib.request

from joserfc import jwt
from joserfc.errors import BadSignatureError, JoseError
from joserfc.jwk import KeySet

ALGORITHMS = ["PS256", "RS256", "ES256", "EdDSA"]
once = "--once" in sys.argv
url, tpp, secret, issuer = [argument for argument in sys.argv[1:] if argument != "--once"]


def ask(path: str, body: dict | None = None) -> dict:
    """One request; the answer, read."""
    request = urllib.request.Request(url + path, json.dumps(body).encode() if body is not None else None)
    request.add_header("Content-Type", "application/json")
    request.add_header("Authorization", "Basic " + base64.b64encode(f"{tpp}:{secret}".encode()).decode())
    with urllib.request.urlopen(request, timeout=60) as answer:  # longer than a poll is held
        return json.load(answer)


def verify(secevent: str) -> dict:
    """The claims of a SET that is the bank's, and for us. Raises JoseError, ValueError."""
    claims = jwt.decode(secevent, KeySet.import_key_set(ask("/.well-known/jwks.json")), ALGORITHMS).claims
    if claims["iss"] != issuer or tpp not in (claims["aud"], *claims["aud"]):
        raise ValueError("not from this bank, or not for us")
    return claims


ack: list[str] = []
errors: dict[str, dict[str, str]] = {}
while True:
    try:
        answer = ask("/events", {"ack": ack, "setErrs": errors, "returnImmediately": once})
    except OSError as error:  # nothing is lost: what we acknowledge is said again
        print("Again in a second:", error, file=sys.stderr)
        time.sleep(1)
        continue
    ack, errors = [], {}
    for jti, secevent in answer["sets"].items():
        try:
            print(json.dumps(verify(secevent)["events"]), flush=True)  # the work; keep it before it is acknowledged
            ack.append(jti)
        except (JoseError, ValueError, KeyError) as error:
            err = "authentication_failed" if isinstance(error, BadSignatureError) else "invalid_request"
            errors[jti] = {"err": err, "description": str(error)[:256] or "it cannot be read"}
    if once and not answer["sets"]:
        break
