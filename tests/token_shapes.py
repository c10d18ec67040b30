"""Tokens as authorization servers in the field write them: what differs from
RFC 9068. Data for tests/access/test_tokens.py.

Each has its header and claims as the product writes them. The tests put in what every token has alike: alg, kid, iss,
our audience, and times around now. AUDIENCE stands for the audience that the bank has set up.
"""

from typing import Any

AUDIENCE = "{audience}"
CLIENT = "s6BhdRkqt3"
HASH = "77QmUPtjPfzWtF2AnpK9RQ"

#: Access tokens of the client-credentials grant: name -> header, claims, the scopes that they have.
ACCESS_TOKENS: dict[str, tuple[dict[str, Any], dict[str, Any], set[str]]] = {
    "RFC 9068": (
        {"typ": "at+jwt"},
        {"sub": CLIENT, "client_id": CLIENT, "aud": AUDIENCE, "scope": "accounts payments", "jti": "1"},
        {"accounts", "payments"},
    ),
    "WSO2 IS 5": (
        {"x5t": "NTAxZmMxNDMyZDg3MTU1ZGM0MzEzODJhZWI4NDNlZDU1OGFkNjFiMQ"},
        {
            "sub": "admin@carbon.super",
            "aut": "APPLICATION",
            "aud": [CLIENT, AUDIENCE],
            "azp": CLIENT,
            "scope": "accounts",
            "jti": "1",
        },
        {"accounts"},
    ),
    "PingFederate": (
        {},
        {"client_id": CLIENT, "aud": AUDIENCE, "scope": ["accounts", "payments"]},
        {"accounts", "payments"},
    ),
    "Keycloak": (
        {"typ": "JWT"},
        {
            "sub": "b64fb6d0-9f6f-4a36-b4a3-4a8a5a36f1b3",
            "typ": "Bearer",
            "azp": CLIENT,
            "client_id": CLIENT,
            "aud": [AUDIENCE, "account"],
            "acr": "1",
            "scope": "eventpolling email profile",
            "clientAddress": "192.0.2.1",
        },
        {"eventpolling", "email", "profile"},
    ),
    "Entra 2.0": (
        {"typ": "JWT", "x5t": "WrVbpSMoSyd55TqBM-cDC5yfqoM"},
        {
            "aud": AUDIENCE,
            "azp": CLIENT,
            "azpacr": "1",
            "idtyp": "app",
            "oid": "00000000-0000-0000-0000-000000000001",
            "scp": "accounts payments",
            "ver": "2.0",
        },
        {"accounts", "payments"},
    ),
    "Okta": (
        {},
        {"ver": 1, "aud": AUDIENCE, "cid": CLIENT, "sub": CLIENT, "scp": ["accounts"], "jti": "AT.1"},
        {"accounts"},
    ),
    "Auth0": (
        {"typ": "JWT"},
        {"sub": f"{CLIENT}@clients", "azp": CLIENT, "aud": AUDIENCE, "scope": "accounts", "gty": "client-credentials"},
        {"accounts"},
    ),
    "Ory Hydra": (
        {"typ": "JWT"},
        {"client_id": CLIENT, "sub": CLIENT, "aud": [AUDIENCE], "ext": {}, "scp": ["accounts", "payments"], "jti": "1"},
        {"accounts", "payments"},
    ),
    "nulls for what is absent": (
        {"typ": None, "cty": None, "x5t": None, "jku": None},
        {
            "client_id": CLIENT,
            "azp": None,
            "sub": None,
            "aud": AUDIENCE,
            "scope": "accounts",
            "scp": None,
            "nbf": None,
            "nonce": None,
            "cnf": None,
            "jti": None,
        },
        {"accounts"},
    ),
    "null for client_id": ({}, {"client_id": None, "azp": CLIENT, "aud": AUDIENCE, "scp": "accounts"}, {"accounts"}),
    "PingFederate with its access token manager": (
        {"pi.atm": "1"},
        {"client_id": CLIENT, "aud": AUDIENCE, "scope": "accounts"},
        {"accounts"},
    ),
    "Entra with a nonce in its header": (
        {"typ": "JWT", "nonce": "AQABAAAAAAD", "x5t": "WrVbpSMoSyd55TqBM-cDC5yfqoM"},
        {"aud": AUDIENCE, "azp": CLIENT, "scp": "accounts", "xms_tcdt": 1_700_000_000},
        {"accounts"},
    ),
    "FusionAuth": (
        {"typ": "JWT", "gty": ["client_credentials"]},
        {"aud": AUDIENCE, "sub": CLIENT, "scope": "accounts", "permissions": {}, "use": "access_token"},
        {"accounts"},
    ),
    "a certificate in its header": (
        {"x5c": ["MIIC" + "A" * 3000], "x5t#S256": "A" * 43},
        {"client_id": CLIENT, "aud": AUDIENCE, "scope": "accounts"},
        {"accounts"},
    ),
    "odd values of what is not read": (
        {"x5u": "file:///x", "jku": 7, "jwk": "x", "x5c": {}, "cty": [], "zip": "DEF", "enc": None, "alg2": {"a": [1]}},
        {"client_id": CLIENT, "aud": AUDIENCE, "scope": "accounts"},
        {"accounts"},
    ),
    "b64 that says what is so": (
        {"b64": True, "crit": ["b64"]},
        {"client_id": CLIENT, "aud": AUDIENCE, "scope": "accounts"},
        {"accounts"},
    ),
    "both scope and scp": ({}, {"azp": CLIENT, "aud": AUDIENCE, "scope": "a b", "scp": ["b", "c"]}, {"a", "b", "c"}),
}

#: What is no access token, though its signature, issuer and audience are right and it brings a scope: name -> header,
#: claims.
OTHER_TOKENS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ID token with a nonce": ({"typ": "JWT"}, {"azp": CLIENT, "aud": AUDIENCE, "scope": "accounts", "nonce": "n"}),
    "ID token of the code flow": ({}, {"sub": CLIENT, "aud": AUDIENCE, "scope": "accounts", "at_hash": HASH}),
    "ID token of the hybrid flow": ({}, {"sub": CLIENT, "aud": AUDIENCE, "scope": "accounts", "c_hash": HASH}),
    "ID token of FAPI": ({}, {"sub": CLIENT, "aud": AUDIENCE, "scope": "accounts", "s_hash": HASH}),
    "ID token for the client, and for us": ({"typ": "JWT"}, {"sub": "u", "azp": CLIENT, "aud": [CLIENT, AUDIENCE]}),
    "ID token for a client that is named like us": ({}, {"sub": "u", "azp": AUDIENCE, "aud": AUDIENCE}),
    "Keycloak's ID token": ({"typ": "JWT"}, {"azp": CLIENT, "typ": "ID", "aud": AUDIENCE, "scope": "accounts"}),
    "Keycloak's refresh token": (
        {"typ": "JWT"},
        {"azp": CLIENT, "typ": "Refresh", "aud": AUDIENCE, "scope": "accounts"},
    ),
    "Keycloak's offline token": (
        {"typ": "JWT"},
        {"azp": CLIENT, "typ": "Offline", "aud": AUDIENCE, "scope": "accounts"},
    ),
    "Cognito's ID token": ({}, {"sub": CLIENT, "token_use": "id", "aud": AUDIENCE, "scope": "accounts"}),
    "SET without a type": ({}, {"sub": CLIENT, "aud": AUDIENCE, "scope": "accounts", "events": {"urn:test:event": {}}}),
    "logout token": (
        {"typ": "JWT"},
        {"sub": CLIENT, "aud": AUDIENCE, "scope": "accounts", "events": {"http://x/y": {}}},
    ),
}
