"""The service under measurement: its settings, its streams, and who asks."""

import base64
import json
import time
from functools import cache
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from bench.resp import Wire
from bench.servers import Programs, Redis, Web
from eventpoll.access.door import hash_of

BANK = ("bank", "bank-password-of-the-bench")
SECRET = "secret-of-every-stream-of-the-bench"
PROOF = hash_of(SECRET)
ISSUER, AUDIENCE = "https://issuer.example", "https://bank.example"
ALGORITHMS = ("PS256", "ES256", "EdDSA")


@cache
def key(algorithm: str) -> Key:
    """A key that signs with it."""
    members: Any = {"kid": "bench-1", "alg": algorithm}
    if algorithm == "PS256":
        return RSAKey.generate_key(2048, members)
    return ECKey.generate_key("P-256", members) if algorithm == "ES256" else OKPKey.generate_key("Ed25519", members)


def basic(name: str, secret: str = SECRET) -> str:
    """An Authorization header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


def bearer(tpp: str) -> str:
    """An Authorization header (RFC 6750), with a token of the usual claims signed with PS256."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": tpp,
        "client_id": tpp,
        "iat": now,
        "exp": now + 7200,
        "jti": f"{tpp}-{now}",
        "scope": "eventpolling",
    }
    header = {"alg": "PS256", "typ": "at+jwt", "kid": "bench-1"}
    return "Bearer " + jwt.encode(header, claims, key("PS256"), algorithms=["PS256"])


def environ(redis: Redis, db: int = 0, algorithm: str = "PS256", **others: str) -> dict[str, str]:
    """The settings of a bank that mints and takes tokens."""
    return {
        "REDIS_URL": redis.url(db),
        "EVENTPOLL_BANK_USERNAME": BANK[0],
        "EVENTPOLL_BANK_PASSWORD": BANK[1],
        "EVENTPOLL_ISSUER": AUDIENCE,
        "EVENTPOLL_SIGNING_KEYS": json.dumps({"keys": [key(algorithm).as_dict(private=True)]}),
        "EVENTPOLL_TOKEN_ISSUER": ISSUER,
        "EVENTPOLL_TOKEN_AUDIENCE": AUDIENCE,
        "EVENTPOLL_TOKEN_JWKS": json.dumps({"keys": [key("PS256").as_dict(private=False)]}),
        "EVENTPOLL_LONG_POLL_SECONDS": "28",
        **others,
    }


class Bench:
    """What the parts share: programs, a Redis, the service on it, bare Flask beside it."""

    def __init__(self, programs: Programs, directory: Path) -> None:
        self.programs = programs
        self.directory = directory
        self.redis = Redis(programs, directory / "redis")
        self.webs = {
            algorithm: Web(programs, directory / algorithm, environ(self.redis, algorithm=algorithm))
            for algorithm in ALGORITHMS
        }
        self.bare = Web(programs, directory / "bare", environ(self.redis), "bench.bare:app")
        for web in (*self.webs.values(), self.bare):
            web.ready()

    @property
    def web(self) -> Web:
        """The service."""
        return self.webs["PS256"]

    @property
    def wire(self) -> Wire:
        """A connection to its Redis."""
        return self.redis.wire

    def end(self) -> None:
        """End all that was started."""
        self.programs.end_all()
