"""Keys: what is published, which one signs, and that every SET verifies before and after a rotation.

Minted SETs are verified by PyJWT, which shares no code with the minting.
"""

import base64
import hashlib
import hmac
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from config import Config, ConfigError
from harness.redis_servers import RedisServer
from harness.service import BANK, BANK_SETTINGS, ISSUER, Reply, Server, start_server

OB = "http://openbanking.org.uk/"
UPDATE = "urn:uk:org:openbanking:events:resource-update"
SUBJECT = {
    "subject_type": f"{OB}rid_{OB}rty",
    f"{OB}rid": "123",
    f"{OB}rty": "domestic-payment",
    f"{OB}rlk": [{"version": "v3.1", "link": "https://bank.example/domestic-payments/123"}],
}
EVENT = {"events": {UPDATE: {"subject": SUBJECT}}, "sub": "https://bank.example/domestic-payments/123", "txn": "txn-1"}
ALGORITHMS = {"RSA": ("PS256", "RS256"), "EC": ("ES256",), "OKP": ("EdDSA",)}
PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "k", "oth"}

RSA_1, RSA_2, RSA_3 = (RSAKey.generate_key(2048, {"kid": f"rsa-{number}"}) for number in (1, 2, 3))
EC = ECKey.generate_key("P-256", {"kid": "ec"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})


def key_set(*keys: Key, private: bool = True) -> str:
    return json.dumps({"keys": [dict(key.as_dict(private=private)) for key in keys]})


def part(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def header_of(secevent: str) -> dict[str, Any]:
    first = secevent.split(".")[0]
    return dict(json.loads(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4))))


class Receiver(jwt.PyJWS):
    """A verifier that knows what OBIE marks as critical (RFC 7515 section 4.1.11)."""

    _supported_crit = {f"{OB}iat", f"{OB}iss", f"{OB}tan"}  # noqa: RUF012


def verified(secevent: str, published: dict[str, Any]) -> dict[str, Any]:
    """The claims of a SET that a published key signed: the one that its kid names, or any if it names none."""
    header = header_of(secevent)
    for key in published["keys"]:
        if header.get("kid") not in (None, key["kid"]) or header["alg"] not in ALGORITHMS[key["kty"]]:
            continue
        try:
            public = jwt.PyJWK(key, header["alg"])
            return dict(json.loads(Receiver().decode(secevent, public, [header["alg"]])))
        except jwt.InvalidSignatureError:
            continue
    raise AssertionError("no published key verifies this SET")


def published(server: Server) -> dict[str, Any]:
    reply = server.request("GET", "/.well-known/jwks.json")
    assert reply.status == 200
    return dict(reply.json)


def push(server: Server, tpp: str) -> str:
    reply = server.bank("POST", f"/streams/{tpp}/sets", EVENT)
    assert reply.status == 201, reply.body
    return str(reply.json["jti"])


def sets(server: Server, tpp: str) -> dict[str, str]:
    found: dict[str, str] = server.poll(tpp, {"returnImmediately": True}).json["sets"]
    return found


def signed(key: Key, header: dict[str, Any], jti: str) -> str:
    """A SET that PyJWT, or for what PyJWT refuses to write our own hands, signed."""
    text = key.as_pem(private=True) if not isinstance(key, OctKey) else key.get_op_key("sign")
    claims = {"iss": ISSUER, "iat": 1, "jti": jti, "events": {"urn:a": {}}}
    return jwt.PyJWS().encode(json.dumps(claims).encode(), text, header["alg"], header)


# -- minting and rotation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("newer", [[RSA_2], [RSA_2, EC], [ED, RSA_2], [EC, ED, RSA_2]])
def test_a_rotation_leaves_every_set_verifiable(
    serve: Callable[..., Server], store: Any, redis_server: RedisServer, newer: list[Key]
) -> None:
    """Issue 3, "Keys": put the new key first; SETs of the old one verify with what is published, in each profile."""
    before = serve(REDIS_URL=redis_server.url, EVENTPOLL_SIGNING_KEYS=key_set(RSA_1))
    profiles = ("rfc8417", "obie", "wso2")
    for profile in profiles:
        before.tpp(profile, set_profile=profile)
    old = {profile: push(before, profile) for profile in profiles}
    for profile in profiles:
        assert verified(sets(before, profile)[old[profile]], published(before))["jti"] == old[profile]
    before.stop()
    after = serve(REDIS_URL=redis_server.url, EVENTPOLL_SIGNING_KEYS=key_set(*newer, RSA_1))
    after.secrets = before.secrets
    signers = {"rfc8417": newer[0].kid, "obie": RSA_2.kid}
    only_new = {"keys": [key for key in published(after)["keys"] if key["kid"] != RSA_1.kid]}
    for profile in profiles:
        new = push(after, profile)
        delivered = sets(after, profile)
        assert set(delivered) == {old[profile], new}
        for jti, secevent in delivered.items():
            claims = verified(secevent, published(after))
            assert (claims["jti"], claims["events"]) == (jti, EVENT["events"])
        assert verified(delivered[new], only_new)["jti"] == new
        with pytest.raises(AssertionError):
            verified(delivered[old[profile]], only_new)
        assert header_of(delivered[new]).get("kid") == signers.get(profile)


def test_each_profile_writes_its_own_header(
    serve: Callable[..., Server], store: Any, redis_server: RedisServer
) -> None:
    """decisions.md, "Which key signs" and "OBIE headers of a minted SET"; wso2.md 1.6: no other header than alg."""
    server = serve(REDIS_URL=redis_server.url, EVENTPOLL_SIGNING_KEYS=key_set(EC, RSA_1))
    headers = {}
    for profile in ("rfc8417", "obie", "wso2"):
        server.tpp(profile, set_profile=profile)
        jti = push(server, profile)
        headers[profile] = header_of(sets(server, profile)[jti])
    assert headers["rfc8417"] == {"alg": "ES256", "typ": "secevent+jwt", "kid": "ec"}
    assert headers["wso2"] == {"alg": "RS256"}
    obie = headers["obie"]
    assert (obie["alg"], obie["kid"]) == ("PS256", "rsa-1")
    assert sorted(obie["crit"]) == [f"{OB}iat", f"{OB}iss", f"{OB}tan"]
    assert (obie[f"{OB}iss"], obie[f"{OB}tan"]) == (ISSUER, "openbanking.org.uk")
    assert isinstance(obie[f"{OB}iat"], int)
    assert "b64" not in obie


def test_only_public_halves_are_published_and_may_be_cached(
    serve: Callable[..., Server], redis_server: RedisServer
) -> None:
    """RFC 7517: no private member of any key; kid and alg told; a receiver may keep the answer a while."""
    server = serve(REDIS_URL=redis_server.url, EVENTPOLL_SIGNING_KEYS=key_set(RSA_1, EC, ED))
    reply = server.request("GET", "/.well-known/jwks.json")
    assert [key["kid"] for key in reply.json["keys"]] == ["rsa-1", "ec", "ed"]
    for key in reply.json["keys"]:
        assert not PRIVATE & set(key)
        assert jwt.PyJWK(key, ALGORITHMS[key["kty"]][0]).key_id == key["kid"]
    assert "max-age=" in reply.headers["cache-control"]
    assert "no-store" not in reply.headers["cache-control"]


def test_without_keys_the_set_is_empty(serve: Callable[..., Server], redis_server: RedisServer) -> None:
    """A bank that signs its SETs itself publishes its keys itself."""
    server = serve(REDIS_URL=redis_server.url, EVENTPOLL_SIGNING_KEYS="")
    assert published(server) == {"keys": []}


def test_a_profile_that_no_key_can_sign_is_refused_where_a_stream_asks_for_it(
    serve: Callable[..., Server], store: Any, redis_server: RedisServer
) -> None:
    """decisions.md, "Which key signs": with 400; the stream is neither made nor changed."""
    server = serve(REDIS_URL=redis_server.url, EVENTPOLL_SIGNING_KEYS=key_set(EC, ED))
    for profile in ("obie", "wso2"):
        reply = server.bank("PUT", "/streams/t", {"set_profile": profile})
        assert (reply.status, reply.json["err"]) == (400, "invalid_key")
        assert server.bank("GET", "/streams/t").status == 404
    server.tpp("t")
    assert server.bank("PUT", "/streams/t", {"set_profile": "obie", "max_pending": 5}).status == 400
    told = server.bank("GET", "/streams/t").json
    assert (told["set_profile"], told["max_pending"]) == ("rfc8417", 0)


# -- keys that are refused at the start ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        key_set(RSAKey.generate_key(1024, {"kid": "weak"})),
        key_set(RSA_1, RSAKey.generate_key(1024, {"kid": "weak"})),
        key_set(RSA_1, RSA_1),
        key_set(RSA_1, RSAKey.import_key({**RSA_2.as_dict(private=True), "kid": "rsa-1"})),
        key_set(RSA_1, private=False),
        key_set(OctKey.generate_key(256, {"kid": "shared"})),
        key_set(ECKey.generate_key("P-384", {"kid": "p-384"})),
        key_set(RSAKey.import_key({**RSA_1.as_dict(private=True), "alg": "HS256"})),
        key_set(RSAKey.import_key({**RSA_1.as_dict(private=True), "alg": "RSA-OAEP"})),
        '{"keys": []}',
        '{"keys": [{"kty": "NEW", "kid": "x"}]}',
        '{"keys": [5]}',
        '{"keys": 5}',
        "[]",
        "no JSON",
        json.dumps(RSA_1.as_dict(private=True)),
    ],
    ids=itertools.count(),
)
def test_keys_that_cannot_be_trusted_are_refused_at_the_start(environ: dict[str, str], text: str) -> None:
    """Issue 3, "Keys": weak, twice the same name, without a private half, unknown; and no key in the message."""
    with pytest.raises(ConfigError) as refused:
        Config.from_environ({**environ, "EVENTPOLL_SIGNING_KEYS": text})
    (mistake,) = refused.value.mistakes
    assert mistake.startswith("EVENTPOLL_SIGNING_KEYS: ")
    assert str(RSA_1.as_dict(private=True)["d"])[:20] not in mistake


@pytest.mark.parametrize("profile", ["obie", "wso2"])
def test_a_service_whose_profile_no_key_can_sign_does_not_start(environ: dict[str, str], profile: str) -> None:
    """decisions.md, "Which key signs": None that can: refused at the start."""
    settings = {**environ, "EVENTPOLL_SET_PROFILE": profile}
    with pytest.raises(ConfigError, match=r"EVENTPOLL_(SET_PROFILE|SIGNING_KEYS)"):
        Config.from_environ({**settings, "EVENTPOLL_SIGNING_KEYS": key_set(EC, ED)})
    assert Config.from_environ({**settings, "EVENTPOLL_SIGNING_KEYS": key_set(EC, RSA_1)}).set_profile == profile


# -- EVENTPOLL_PUSH_JWKS -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checking(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that checks what the bank signed against three keys of the bank's."""
    server = start_server(
        {
            "REDIS_URL": redis_server.url.removesuffix("0") + "4",
            **BANK_SETTINGS,
            "EVENTPOLL_LONG_POLL_SECONDS": "0",
            "EVENTPOLL_PUSH_JWKS": key_set(RSA_1, RSA_2, EC, private=False),
        },
        tmp_path_factory.mktemp("checking"),
    )
    server.tpp("t")
    yield server
    server.stop()


def push_signed(server: Server, text: str) -> Reply:
    return server.request("POST", "/streams/t/sets", text, {"Content-Type": "application/secevent+jwt"}, BANK)


def obie_header(**members: Any) -> dict[str, Any]:
    return {
        "alg": "PS256",
        "kid": "rsa-2",
        f"{OB}iat": 1,
        f"{OB}iss": "bank",
        f"{OB}tan": "openbanking.org.uk",
        "crit": [f"{OB}iat", f"{OB}iss", f"{OB}tan"],
        **members,
    }


@pytest.mark.parametrize(
    ("jti", "key", "header"),
    [
        ("good-rs", RSA_1, {"alg": "RS256", "kid": "rsa-1", "typ": "secevent+jwt"}),
        ("good-ps", RSA_2, {"alg": "PS256", "kid": "rsa-2"}),
        ("good-es", EC, {"alg": "ES256", "kid": "ec"}),
        ("good-obie", RSA_2, obie_header()),
        ("good-nameless-1", RSA_1, {"alg": "RS256"}),
        ("good-nameless-2", RSA_2, {"alg": "RS256"}),
    ],
)
def test_a_set_that_the_bank_signed_is_let_in_as_it_is(
    checking: Server, jti: str, key: Key, header: dict[str, Any]
) -> None:
    """interface.md, EVENTPOLL_PUSH_JWKS. WSO2's SETs name no key (wso2.md 1.6), OBIE's have critical headers."""
    text = signed(key, header, jti)
    assert push_signed(checking, text).status == 202
    assert sets(checking, "t")[jti] == text


def hmac_with_the_public_key() -> str:
    pem = RSA_1.as_pem(private=False)
    text = part({"alg": "HS256", "kid": "rsa-1"}) + "." + part({"jti": "hs", "events": {"urn:a": {}}})
    return text + "." + part(hmac.new(pem, text.encode(), hashlib.sha256).digest())


BODY = part({"jti": "forged", "events": {"urn:a": {}}})


@pytest.mark.parametrize(
    ("text", "err"),
    [
        (signed(RSA_3, {"alg": "RS256", "kid": "rsa-1"}, "wrong-key"), "authentication_failed"),
        (signed(RSA_1, {"alg": "RS256", "kid": "rsa-2"}, "wrong-name"), "authentication_failed"),
        (signed(RSA_3, {"alg": "RS256", "kid": "rsa-3"}, "unknown-key"), "invalid_key"),
        (signed(RSA_3, {"alg": "RS256"}, "nameless"), None),
        (hmac_with_the_public_key(), None),
        (f"{part({'alg': 'none'})}.{BODY}.{part(b'x')}", None),
        (f"{part({'alg': 'none', 'kid': 'rsa-1'})}.{BODY}.{part(b'x')}", None),
        (f"{part({'kid': 'rsa-1'})}.{BODY}.{part(b'x')}", None),
        (f"{part({'alg': 5, 'kid': 'rsa-1'})}.{BODY}.{part(b'x')}", None),
        (f"{part({'alg': 'RS256', 'kid': 5})}.{BODY}.{part(b'x')}", None),
        (f"{part({'alg': 'RS256', 'kid': 'rsa-1', 'crit': 5})}.{BODY}.{part(b'x')}", None),
        (f"{part({'alg': 'RS256', 'kid': 'rsa-1', 'crit': []})}.{BODY}.{part(b'x')}", None),
        (f"{part([])}.{BODY}.{part(b'x')}", None),
        (f"{part(b'[' * 3000)}.{BODY}.{part(b'x')}", None),
        (f"{part(b'no JSON')}.{BODY}.{part(b'x')}", None),
        (signed(RSA_1, {"alg": "RS256", "kid": "rsa-1", "x": 1, "crit": ["x"]}, "unknown-crit"), None),
        (signed(RSA_2, obie_header(crit=[f"{OB}iat", "exp"], exp=1), "odd-crit"), None),
        (signed(RSA_2, obie_header(crit=["http://openbanking.org.uk/new"]), "absent-crit"), None),
    ],
)
def test_a_set_that_the_bank_did_not_sign_is_refused(checking: Server, text: str, err: str | None) -> None:
    """RFC 8935 section 2.4: invalid_key or authentication_failed, never a 500, and nothing is queued."""
    before = checking.bank("GET", "/streams/t").json["pushed"]
    reply = push_signed(checking, text)
    assert reply.status == 400, reply.body
    assert set(reply.json) == {"err", "description"}
    assert reply.json["err"] in ({err} if err else {"invalid_key", "authentication_failed", "invalid_request"})
    assert checking.bank("GET", "/streams/t").json["pushed"] == before


def test_a_set_that_was_changed_on_its_way_is_refused(checking: Server) -> None:
    """One claim more, the same signature."""
    head, _, tail = signed(RSA_1, {"alg": "RS256", "kid": "rsa-1"}, "changed").split(".")
    changed = part({"jti": "changed", "events": {"urn:a": {}}, "sub": "mallory"})
    reply = push_signed(checking, f"{head}.{changed}.{tail}")
    assert (reply.status, reply.json["err"]) == (400, "authentication_failed")


def test_a_batch_is_checked_too(checking: Server) -> None:
    """Each way in asks the same: the good line passes, the forged one does not."""
    good = signed(EC, {"alg": "ES256", "kid": "ec"}, "batch-good")
    forged = signed(RSA_3, {"alg": "RS256", "kid": "rsa-1"}, "batch-forged")
    headers = {"Content-Type": "application/x-ndjson"}
    reply = checking.request("POST", "/streams/t/sets:batch", f"{forged}\n{good}\n", headers, BANK)
    first, second = (json.loads(line) for line in reply.body.splitlines())
    assert (first["status"], first["err"]) == (400, "authentication_failed")
    assert second == {"jti": "batch-good", "status": 202}


def test_a_shared_secret_is_no_key_to_check_with(environ: dict[str, str]) -> None:
    """EVENTPOLL_PUSH_JWKS holds public keys."""
    with pytest.raises(ConfigError, match="EVENTPOLL_PUSH_JWKS: "):
        Config.from_environ({**environ, "EVENTPOLL_PUSH_JWKS": key_set(OctKey.generate_key(256, {"kid": "s"}))})
