"""Keys of JWK Sets as authorization servers in the field publish them. Data for tests/sets/test_keys.py.

A test puts each beside a good key.
"""

from typing import Any

N = (
    "zbk0SOgEVhnxdlQlvjAl1hdi7SbgdUVqvBnuGFqGOKpKYDusxjnjQXdW2bnqz7WUGF6iztYj6HMLFPCphNZyXA"
    "tU7VmcBqkNJ-pg6YdFsWUD0IoETSczE56brmlw96Kc9rQJpBENWtuneJZaoztlsW-YIfegkCKDxcLLSn01qPc"
)
"""A modulus of 1024 bits."""

X = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"
Y = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"

#: Keys that are left out, and what is said of each: name -> member of "keys", words.
LEFT_OUT: dict[str, tuple[Any, str]] = {
    "Brainpool, of German smart cards": ({"kty": "EC", "crv": "BP-256", "kid": "bp", "x": X, "y": Y}, "BP-256"),
    "a numeric kid": ({"kty": "EC", "crv": "P-256", "kid": 7, "x": X, "y": Y}, "kid 7"),
    "a certificate alone": ({"kty": "RSA", "kid": "x5c", "x5c": ["MIIC"], "use": "sig"}, "'x5c'"),
    "use in capitals": ({"kty": "EC", "crv": "P-256", "kid": "use", "use": "SIG", "x": X, "y": Y}, "'use'"),
    "a shared secret": ({"kty": "oct", "kid": "oct", "k": "c2VjcmV0"}, "kty"),
    "of the future": ({"kty": "AKP", "kid": "ml", "alg": "ML-DSA-44", "pub": "AA"}, "kty"),
    "without a kty": ({"kid": "none"}, "kty"),
    "a null kty": ({"kty": None, "kid": "null"}, "kty"),
    "no members": ({"kty": "RSA", "kid": "broken"}, "'broken'"),
    "no base64": ({"kty": "RSA", "kid": "b64", "n": "!!", "e": "AQAB"}, "cannot be read"),
    "not on its curve": ({"kty": "EC", "crv": "P-256", "kid": "off", "x": Y, "y": X}, "'off'"),
    "RSA of few bits": ({"kty": "RSA", "kid": "weak", "n": N, "e": "AQAB"}, "1024 bits"),
    "RSA of few bits, without a kid": ({"kty": "RSA", "n": N, "e": "AQAB"}, "1024 bits"),
    "a text": ("key", "no JSON object"),
    "null": (None, "no JSON object"),
    "a list": ([], "no JSON object"),
    "a kid without end": ({"kty": "oct", "kid": "k" * 100_000}, "kkkk"),
    "a kid with a line break": ({"kty": "oct", "kid": "k\nforged"}, "k\\nforged"),
}

#: What a good key may say besides, and stay good.
BESIDES: dict[str, dict[str, Any]] = {
    "null members": {"use": None, "alg": None, "x5c": None, "x5t": None, "x5u": None, "key_ops": None, "oth": None},
    "members of its product": {"pi.atm": "1", "exp": 1_900_000_000, "status": "Active", "issuer": "https://x/v2.0"},
    "its use": {"use": "sig"},
    "its algorithm": {"alg": "PS256"},
    "its operations": {"key_ops": ["verify"]},
    "its certificate": {"x5c": ["MIIC"], "x5t": "NTAxZmMx"},
}
