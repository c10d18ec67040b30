"""A token issuer on loopback: its keys, its tokens, and its JWK Set, which may change or be unreachable."""

import base64
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

NAME = "https://issuer.example"
AUDIENCE = "https://events.bank.example"

KEYS: dict[str, Key] = {
    "PS256": RSAKey.generate_key(2048, {"kid": "ps"}),
    "RS256": RSAKey.generate_key(2048, {"kid": "rs"}),
    "ES256": ECKey.generate_key("P-256", {"kid": "es"}),
    "EdDSA": OKPKey.generate_key("Ed25519", {"kid": "ed"}),
}
STRANGER = RSAKey.generate_key(2048, {"kid": "ps"})
"""A key of another party, with the kid of one of the issuer's keys."""


def claims(client: str = "tpp", scope: str = "eventpolling", **others: Any) -> dict[str, Any]:
    """Return the claims of a token of the client-credentials grant (RFC 9068 section 2.2). None removes a claim."""
    now = int(time.time())
    said = {
        "iss": NAME,
        "aud": AUDIENCE,
        "sub": client,
        "client_id": client,
        "iat": now,
        "exp": now + 3600,
        "jti": f"{client}-{now}",
        "scope": scope,
        **others,
    }
    return {name: value for name, value in said.items() if value is not None}


def sign(
    said: Mapping[str, Any] | bytes, alg: str = "PS256", key: Key | None = None, header: Mapping[str, Any] | None = None
) -> str:
    """Return a signed token. None in `header` removes a member."""
    key = key or KEYS[alg]
    members = {"alg": alg, "typ": "at+jwt", "kid": key.get("kid"), **(header or {})}
    protected = {name: value for name, value in members.items() if value is not None}
    text = said if isinstance(said, bytes) else json.dumps(said).encode()
    return jws.serialize_compact(protected, text, key, algorithms=[alg])


def token(client: str = "tpp", scope: str = "eventpolling", alg: str = "PS256", **others: Any) -> str:
    """Return a valid token, except for the claims in `others`."""
    return sign(claims(client, scope, **others), alg)


def encoded(part: Any) -> str:
    """Return `part` in base64url without padding, as one part of a compact serialisation."""
    text = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def jwks(*keys: Key) -> str:
    """Return a JWK Set of the public halves of these keys, or of all of KEYS."""
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys or KEYS.values()]})


def settings(source: str | None = None) -> dict[str, str]:
    """Return the settings of a service that accepts these tokens. `source` replaces the JWK Set."""
    return {
        "EVENTPOLL_TOKEN_ISSUER": NAME,
        "EVENTPOLL_TOKEN_AUDIENCE": AUDIENCE,
        "EVENTPOLL_TOKEN_JWKS": source or jwks(),
    }


def bearer(text: str) -> dict[str, str]:
    """Return an Authorization header (RFC 6750 section 2.1)."""
    return {"Authorization": f"Bearer {text}"}


class Issuer:
    """A server that publishes the keys at `url`."""

    def __init__(self) -> None:
        self.published = jwks()
        self.body: bytes | None = None  # replaces `published` in the answer
        self.headers: Mapping[str, str] = {}  # of the last request
        self.more_headers: dict[str, str] = {}  # of the answer
        self.status = 200
        self.asked = 0
        issuer = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                issuer.headers = dict(self.headers)
                self.send_response(issuer.status)
                self.send_header("Location", "/elsewhere")
                for name, value in issuer.more_headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(issuer.published.encode() if issuer.body is None else issuer.body)

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/jwks.json"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Stop the server for good."""
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def running() -> Iterator[Issuer]:
    """Run an issuer until the block ends."""
    issuer = Issuer()
    try:
        yield issuer
    finally:
        issuer.stop()
