"""SETs: minted ones judged by PyJWT, which shares no code with the minting, and signed ones read and verified."""

import base64
import hmac
import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from flask import Flask
from flask.testing import FlaskClient
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey

from app import create_app
from eventpoll.sets import minting, signed
from eventpoll.sets.event import BadSecevent, Event
from eventpoll.sets.minting import Minter
from eventpoll.setting_readers import read_public_keys
from eventpoll.settings import Config
from harness.service import BANK, ISSUER, basic
from harness.sets import set_of

OB = "http://openbanking.org.uk/"
UPDATE = "urn:uk:org:openbanking:events:resource-update"
REVOKED = "urn:uk:org:openbanking:events:consent-authorization-revoked"
LINKED = "urn:uk:org:openbanking:events:account-access-consent-linked-account-update"
SUBJECT = {
    "subject_type": f"{OB}rid_{OB}rty",
    f"{OB}rid": "aac-1234-007",
    f"{OB}rty": "account-access-consent",
    f"{OB}rlk": [{"version": "v4.0", "link": "https://bank.example/open-banking/v4.0/aisp/consents/aac-1234-007"}],
}
SUB = "https://bank.example/open-banking/v4.0/aisp/consents/aac-1234-007"
PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})


def event(events: Any = None, generation: int | None = None, jti: str | None = None, **claims: Any) -> Event:
    """What the bank asks to be minted."""
    texts = {name: json.dumps(value) for name, value in claims.items()}
    return Event(json.dumps(events or {"urn:test:event": {}}), texts, jti, wso2_generation=generation)


def minter(*keys: RSAKey | ECKey | OKPKey) -> Minter:
    return Minter(ISSUER, KeySet(list(keys)))


def parts(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the claims, as they stand on the wire."""
    header, claims, _ = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in text.split("."))
    return json.loads(header), json.loads(claims)


def signed_with(text: str, key: Mapping[str, Any]) -> bool:
    """Whether the signature is the key's, as PyJWT's algorithms judge it: OBIE's crit headers are not its affair."""
    message, _, signature = text.rpartition(".")
    algorithm = jwt.get_algorithm_by_name(parts(text)[0]["alg"])
    public = algorithm.from_jwk(json.dumps(key))
    return algorithm.verify(message.encode(), public, base64.urlsafe_b64decode(signature + "=="))


# -- minting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "PS256"), (EC, "ES256"), (ED, "EdDSA")])
def test_a_set_of_rfc_8417_is_signed_by_each_kind_of_key(key: RSAKey | ECKey | OKPKey, algorithm: str) -> None:
    """RFC 8417 section 2.3: typ secevent+jwt; PyJWT verifies the signature, the issuer and the audience."""
    jti, text = minter(key).mint("rfc8417", "tpp", "client-7", event())
    claims = jwt.decode(
        text, jwt.PyJWK(key.as_dict(private=False), algorithm), [algorithm], audience="client-7", issuer=ISSUER
    )
    assert parts(text)[0] == {"alg": algorithm, "typ": "secevent+jwt", "kid": key.kid}
    assert claims["jti"] == jti
    assert list(claims) == ["iss", "iat", "jti", "aud", "events"]
    assert type(claims["iat"]) is int
    assert abs(claims["iat"] - time.time()) < 60


def test_the_keys_own_alg_decides(app: Flask) -> None:
    """decisions.md, which key signs: rfc8417, the key's own alg."""
    key = RSAKey.import_key({**RSA.as_dict(private=True), "alg": "RS256"})
    _, text = minter(key).mint("rfc8417", "tpp", "tpp", event())
    assert jwt.decode(text, jwt.PyJWK(RSA.as_dict(private=False), "RS256"), ["RS256"], audience="tpp")


def test_claims_of_rfc_8417_are_those_that_were_given() -> None:
    """interface.md: sub, txn, toe, and sub_id as the SSF asks; nothing else is made up."""
    sub_id = {"format": "opaque", "id": "7"}
    _, text = minter(RSA).mint("rfc8417", "tpp", "tpp", event(sub="s", txn="t", toe=1516239022, sub_id=sub_id))
    claims = parts(text)[1]
    assert (claims["sub"], claims["txn"], claims["toe"], claims["sub_id"]) == ("s", "t", 1516239022, sub_id)
    assert "exp" not in claims
    assert not {"sub", "sub_id", "txn", "toe"} & set(parts(minter(RSA).mint("rfc8417", "tpp", "tpp", event())[1])[1])


def test_the_header_of_obies_set_is_exactly_obies() -> None:
    """standards.md 3.10: PS256, kid, typ JOSE, iat, iss and tan, and crit names these three and no other; no b64."""
    before = int(time.time())
    made = Minter(ISSUER, KeySet([RSA]), "0015800001041RHAAY", "openbanking.org.uk")
    _, text = made.mint("obie", "tpp", "7umx5nTR33811QyQfi", event({UPDATE: {"subject": SUBJECT}}, sub=SUB))
    header = parts(text)[0]
    signed_at = header.pop(f"{OB}iat")
    assert type(signed_at) is int
    assert before <= signed_at <= time.time()
    assert header == {
        "alg": "PS256",
        "typ": "JOSE",
        "kid": "rsa",
        f"{OB}iss": "0015800001041RHAAY",
        f"{OB}tan": "openbanking.org.uk",
        "crit": [f"{OB}iat", f"{OB}iss", f"{OB}tan"],
    }
    assert signed_with(text, RSA.as_dict(private=False))
    assert not signed_with(text, RSAKey.generate_key(2048).as_dict(private=False))


def test_obies_iss_is_the_issuer_unless_it_is_set() -> None:
    """decisions.md: EVENTPOLL_OBIE_ISS defaults to the issuer, EVENTPOLL_OBIE_TAN to openbanking.org.uk."""
    header = parts(minter(RSA).mint("obie", "tpp", "tpp", event({"urn:x": {}}, sub=SUB))[1])[0]
    assert (header[f"{OB}iss"], header[f"{OB}tan"]) == (ISSUER, "openbanking.org.uk")


def test_the_claims_of_obies_set_are_all_there() -> None:
    """standards.md 2: iss, iat, jti, sub, aud, txn, toe, events, each once; txn and toe have a default."""
    events = {UPDATE: {"subject": SUBJECT}, REVOKED: {}}
    jti, text = minter(RSA).mint("obie", "tpp", "client", event(events, sub=SUB))
    claims = parts(text)[1]
    assert set(claims) == {"iss", "iat", "jti", "sub", "aud", "txn", "toe", "events"}
    assert (claims["sub"], claims["aud"], claims["txn"], claims["events"]) == (SUB, "client", jti, events)
    assert claims["toe"] == claims["iat"]
    given = parts(minter(RSA).mint("obie", "t", "t", event(events, sub=SUB, txn="t1", toe=1516239022))[1])[1]
    assert (given["txn"], given["toe"]) == ("t1", 1516239022)


@pytest.mark.parametrize(("generation", "unit"), [(3, 1000), (4, 1), (None, 1000)])
def test_wso2s_set_has_a_bare_header_and_its_order_of_claims(generation: int | None, unit: int) -> None:
    """wso2.md 1.6; toe in milliseconds, but in seconds for the 4.x paths."""
    jti, text = minter(RSA).mint("wso2", "tpp", "ignored", event({"any name": {"a": 1}}, generation))
    header, claims = parts(text)
    assert header == {"alg": "RS256"}
    assert jwt.decode(text, jwt.PyJWK(RSA.as_dict(private=False), "RS256"), ["RS256"], audience="tpp", issuer=ISSUER)
    assert list(claims) == ["sub", "aud", "iss", "txn", "toe", "iat", "jti", "events"]
    assert (claims["sub"], claims["aud"]) == ("tpp", "tpp")
    assert str(uuid.UUID(jti)) == jti == claims["jti"]
    assert 0 <= claims["toe"] - claims["iat"] * unit < unit


def test_two_sets_share_neither_jti_nor_txn() -> None:
    """RFC 8417 section 2.2: a jti is unique."""
    for profile in ("rfc8417", "obie", "wso2"):
        made = [minter(RSA).mint(profile, "tpp", "tpp", event({"urn:x": {}}, sub=SUB)) for _ in range(20)]
        assert len({jti for jti, _ in made}) == 20


@pytest.mark.parametrize("profile", ["rfc8417", "obie", "wso2"])
def test_events_are_signed_to_the_letter(profile: str) -> None:
    """Issue 2: same members, same values, order kept."""
    events = '{"urn:b": {"z":1.10,"a" :1E5,"n":123456789012345678901234567890,"e":"\\u00e9","é":"\\/"},"urn:a":{}}'
    _, text = minter(RSA).mint(profile, "tpp", "tpp", Event(events, {"sub": json.dumps(SUB)}))
    claims = base64.urlsafe_b64decode(text.split(".")[1] + "==").decode()
    assert claims.endswith(f'"events":{events}}}')


@pytest.mark.parametrize(
    ("profile", "kid", "algorithm"), [("rfc8417", "ec", "ES256"), ("obie", "rsa", "PS256"), ("wso2", "rsa-2", "RS256")]
)
def test_the_first_key_that_can_sign_for_the_profile_signs(profile: str, kid: str, algorithm: str) -> None:
    """decisions.md, which key signs: obie PS256, wso2 RS256, rfc8417 the first whatever it is."""
    first = RSAKey.import_key({**RSA.as_dict(private=True), "alg": "PS256"})
    second = RSAKey.import_key({**RSAKey.generate_key(2048).as_dict(private=True), "alg": "RS256", "kid": "rsa-2"})
    key, chosen = minter(EC, first, ED, second).key(profile)
    assert (key.kid, chosen) == (kid, algorithm)


@pytest.mark.parametrize("profile", ["obie", "wso2"])
def test_no_key_that_can_sign_is_told_with_the_profile(profile: str) -> None:
    """decisions.md: none that can is refused."""
    with pytest.raises(BadSecevent, match=profile) as raised:
        minter(EC, ED).key(profile)
    assert raised.value.err == "invalid_key"


def test_minting_that_is_off_says_which_setting_is_missing() -> None:
    """interface.md: refused with a clear error."""
    with pytest.raises(BadSecevent, match="EVENTPOLL_SIGNING_KEYS"):
        Minter(ISSUER, None).mint("rfc8417", "tpp", "tpp", event())
    with pytest.raises(BadSecevent, match="EVENTPOLL_ISSUER"):
        Minter(None, KeySet([RSA])).mint("rfc8417", "tpp", "tpp", event())


@pytest.mark.parametrize("name", ["resource-update", "a b:c", "urn:a b", ":x", "1a:x", "urn:", "é:x"])
def test_rfc_8417_asks_for_a_uri(name: str) -> None:
    """RFC 8417 section 2.2; events that come through WSO2's create-events keep the names that WSO2 has."""
    with pytest.raises(BadSecevent, match="URI"):
        minter(RSA).mint("rfc8417", "tpp", "tpp", event({"urn:good": {}, name: {}}))
    assert minter(RSA).mint("rfc8417", "tpp", "tpp", event({name: {}}, 4))


# -- the published keys -----------------------------------------------------------------------------------------


def test_minted_sets_verify_with_the_published_keys(environ: dict[str, str], app: Flask) -> None:
    """interface.md: the public half of each key is published, EC and Ed25519 too, and no private member of any."""
    orders: list[list[RSAKey | ECKey | OKPKey]] = [[RSA, EC, ED], [EC, ED, RSA], [ED, RSA, EC]]
    for keys in orders:
        private = {"keys": [key.as_dict(private=True) for key in keys]}
        settings = {**environ, "EVENTPOLL_SIGNING_KEYS": json.dumps(private)}
        client = create_app(Config.from_environ(settings)).test_client()
        published = client.get("/.well-known/jwks.json")
        assert published.status_code == 200
        jwks = published.get_json()
        assert [key["kid"] for key in jwks["keys"]] == [key.kid for key in keys]
        assert not any(PRIVATE & set(key) for key in jwks["keys"])
        for profile in ("rfc8417", "obie", "wso2"):
            secret = minted(client, f"{profile}-{keys[0].kid}", profile)
            header = parts(secret)[0]
            kid = header.get("kid", "rsa")
            key = next(key for key in jwks["keys"] if key["kid"] == kid)
            assert signed_with(secret, key)
            if profile == "rfc8417":
                assert kid == keys[0].kid


def minted(client: FlaskClient, tpp: str, profile: str) -> str:
    """One SET, pushed as JSON and polled."""
    bank = {"Authorization": basic(*BANK)}
    secret = client.put(f"/streams/{tpp}", json={"set_profile": profile}, headers=bank).get_json()["secret"]
    value = {"sub": SUB, "events": {UPDATE: {"subject": SUBJECT}}}
    jti = client.post(f"/streams/{tpp}/sets", json=value, headers=bank).get_json()["jti"]
    polled = client.post("/events", json={}, headers={"Authorization": basic(tpp, secret)})
    return str(polled.get_json()["sets"][jti])


@pytest.mark.parametrize(
    ("key", "profile"), [(RSA, "rfc8417"), (RSA, "obie"), (RSA, "wso2"), (EC, "rfc8417"), (ED, "rfc8417")]
)
def test_a_published_key_says_by_which_algorithm_it_signs(
    environ: dict[str, str], app: Flask, key: RSAKey | ECKey | OKPKey, profile: str
) -> None:
    """Issue 13, 5: PyJWT goes by alg of the JWK, and takes an RSA key without one for RS256: PS256 never verified."""
    private = {name: value for name, value in key.as_dict(private=True).items() if name != "alg"}
    settings = {**environ, "EVENTPOLL_SIGNING_KEYS": json.dumps({"keys": [private]}), "EVENTPOLL_SET_PROFILE": profile}
    client = create_app(Config.from_environ(settings)).test_client()
    text = minted(client, f"says-{profile}-{key.key_type}", profile)
    [published] = client.get("/.well-known/jwks.json").get_json()["keys"]
    assert published["alg"] == parts(text)[0]["alg"]
    message, _, signature = text.rpartition(".")
    theirs = jwt.PyJWK.from_dict(published)
    assert theirs.Algorithm.verify(message.encode(), theirs.key, base64.urlsafe_b64decode(signature + "=="))


@pytest.mark.parametrize(
    ("key", "alg"), [(RSA, "PS256"), (RSA, "RS256"), (EC, "ES256"), (ED, "EdDSA"), (ED, "Ed25519")]
)
def test_the_algorithm_that_a_key_names_is_the_one_that_is_published_and_signs(
    environ: dict[str, str], app: Flask, key: RSAKey | ECKey | OKPKey, alg: str
) -> None:
    """RFC 7517 section 4.4; Ed25519 by its own name (RFC 9864) too."""
    settings = {**environ, "EVENTPOLL_SIGNING_KEYS": json.dumps({"keys": [{**key.as_dict(private=True), "alg": alg}]})}
    client = create_app(Config.from_environ(settings)).test_client()
    text = minted(client, f"named-{alg}", "rfc8417")
    [published] = client.get("/.well-known/jwks.json").get_json()["keys"]
    assert (published["alg"], parts(text)[0]["alg"]) == (alg, alg)
    signed.verify(text, read_public_keys(json.dumps({"keys": [published]}))[0])


def test_a_key_without_a_kid_gets_one_that_is_published(environ: dict[str, str], app: Flask) -> None:
    """A receiver finds the key by the kid of the header (RFC 7515 section 4.1.4)."""
    private = {name: value for name, value in EC.as_dict(private=True).items() if name != "kid"}
    settings = {**environ, "EVENTPOLL_SIGNING_KEYS": json.dumps({"keys": [private]})}
    client = create_app(Config.from_environ(settings)).test_client()
    text = minted(client, "kidless", "rfc8417")
    [key] = client.get("/.well-known/jwks.json").get_json()["keys"]
    assert parts(text)[0]["kid"] == key["kid"] != ""
    assert signed_with(text, key)


# -- reading ----------------------------------------------------------------------------------------------------


def test_a_signed_set_is_read_and_its_signature_is_not_asked_for() -> None:
    """decisions.md: signature, iss and aud are the bank's affair."""
    claims = signed.read(set_of("j", {"any name": {"a": 1}}, aud=["x"]))
    assert (claims["jti"], claims["events"], claims["aud"]) == ("j", {"any name": {"a": 1}}, ["x"])


@pytest.mark.parametrize(
    "text", ["", "a", "a.b", "..", "a..c", "a.b.", ".b.c", "a.b.c.d", "a.b.c ", "a b.c.d", "é.b.c"]
)
def test_what_has_not_three_parts_is_no_set(text: str) -> None:
    """RFC 7515 section 7.1: base64url, dot, base64url, dot, base64url; a SET is signed (RFC 8417 section 5.1)."""
    with pytest.raises(BadSecevent, match="three base64url parts") as raised:
        signed.read(text)
    assert raised.value.err == "invalid_request"


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"x", "not JSON"),
        (b"", "three base64url parts"),
        (b"\xff", "not JSON"),
        (b'{"jti":"j","events":{"urn:a":{}}', "not JSON"),
        ('{"jti":"j","events":{"urn:a":{}}}'.encode("utf-16"), "not JSON"),
        (b'{"jti":"j","events":{"urn:a":{}},"iat":NaN}', "not JSON"),
        (b'{"jti":"i","jti":"j","events":{"urn:a":{}}}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"jti":"j"}', "no events"),
        (b'{"jti":"j","events":{}}', "no events"),
        (b'{"jti":"j","events":"urn:a"}', "no events"),
        (b'{"events":{"urn:a":{}}}', "jti"),
        (b'{"jti":1,"events":{"urn:a":{}}}', "jti"),
        (b'{"jti":"","events":{"urn:a":{}}}', "jti"),
        (b'{"jti":"\\u0000","events":{"urn:a":{}}}', "jti"),
        (b'{"jti":"\\udfff","events":{"urn:a":{}}}', "jti"),
        (b'{"jti":"j","events":{"urn:a":{"x":"\\udfff"}}}', "lone surrogate"),
        (b'{"jti":"j","events":{"urn:a":{}},"a":[{"\\ud800":0}]}', "lone surrogate"),
    ],
)
def test_claims_that_are_none_are_told_what_they_lack(payload: bytes, words: str) -> None:
    """decisions.md, signed SETs: a JSON payload, a string jti of 1 to 128, a non-empty events object."""
    text = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (b"{}", payload, b"s"))
    with pytest.raises(BadSecevent, match=words):
        signed.read(text)


@pytest.mark.parametrize("jti", ["x", "x" * 128, "é" * 128, "a/b", " ", "日本", "\N{MUSICAL SYMBOL G CLEF}"])
def test_a_jti_is_any_string_up_to_128_characters(jti: str) -> None:
    """decisions.md: 1 to 128; OBIE's Max128Text."""
    assert signed.read(set_of(jti))["jti"] == jti


# -- verifying --------------------------------------------------------------------------------------------------

SIGNERS: dict[str, Any] = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "ec": ec.generate_private_key(ec.SECP256R1()),
    "ed": ed25519.Ed25519PrivateKey.generate(),
}
CLAIMS = {"jti": "j", "events": {"urn:a": {}}}


def public(name: str, **members: str) -> dict[str, Any]:
    """The public half of a signer's key, as PyJWT writes it."""
    algorithm = {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA"}[name]
    jwk = jwt.get_algorithm_by_name(algorithm).to_jwk(SIGNERS[name].public_key())
    return {**(json.loads(jwk) if isinstance(jwk, str) else jwk), "kid": name, **members}


def key_set(*keys: dict[str, Any]) -> KeySet:
    # PyJWT writes key_ops, which for a public key is verify alone.
    return KeySet.import_key_set({"keys": [{k: v for k, v in key.items() if k != "key_ops"} for key in keys]})


@pytest.mark.parametrize(
    ("name", "algorithm"), [("rsa", "PS256"), ("rsa", "RS256"), ("rsa", "PS512"), ("ec", "ES256"), ("ed", "EdDSA")]
)
def test_what_pyjwt_signed_verifies(name: str, algorithm: str) -> None:
    """RFC 7515, by two implementations."""
    text = jwt.encode(CLAIMS, SIGNERS[name], algorithm, {"kid": name, "typ": "secevent+jwt"})
    signed.verify(text, key_set(public("rsa"), public("ec"), public("ed")))


def test_obies_critical_headers_are_understood() -> None:
    """RFC 7515 section 4.1.11: crit names what must be understood, and OBIE's three are."""
    obie = {f"{OB}iat": 1, f"{OB}iss": "x", f"{OB}tan": "y", "crit": [f"{OB}iat", f"{OB}iss", f"{OB}tan"]}
    text = jwt.encode(CLAIMS, SIGNERS["rsa"], "PS256", {"kid": "rsa", **obie})
    signed.verify(text, key_set(public("rsa")))


def test_a_stranger_to_the_key_set_is_invalid_key() -> None:
    """RFC 8935 section 2.4: invalid_key."""
    text = jwt.encode(CLAIMS, SIGNERS["rsa"], "PS256", {"kid": "unknown"})
    with pytest.raises(BadSecevent) as raised:
        signed.verify(text, key_set(public("rsa"), public("ec")))
    assert raised.value.err == "invalid_key"


def forgeries() -> dict[str, str]:
    """SETs that nobody may take for the bank's."""
    stranger = rsa.generate_private_key(65537, 2048)
    own = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(stranger.public_key()))
    good = jwt.encode(CLAIMS, SIGNERS["rsa"], "PS256", {"kid": "rsa"})
    header, claims, signature = good.split(".")
    other = jwt.encode({**CLAIMS, "jti": "k"}, SIGNERS["rsa"], "PS256", {"kid": "rsa"}).split(".")[1]
    none = base64.urlsafe_b64encode(b'{"alg":"none","kid":"rsa"}').decode().rstrip("=")
    pem = json.dumps(public("rsa")).encode()
    shared = jwt_with_header({"alg": "HS256", "kid": "rsa"}, claims, "").rstrip(".")
    broken = base64.urlsafe_b64encode(b"no header").decode().rstrip("=")
    return {
        "claims changed": f"{header}.{other}.{signature}",
        "signature cut": good[:-4],
        "signature of zeros": f"{header}.{claims}.{'A' * 342}",
        "alg none": f"{none}.{claims}.{signature}",
        "the public key as a shared secret": f"{shared}.{hmac_of(shared, pem)}",
        "another's key under the kid": jwt.encode(CLAIMS, stranger, "PS256", {"kid": "rsa"}),
        "a key in the header": jwt.encode(CLAIMS, stranger, "PS256", {"kid": "rsa", "jwk": own}),
        "a key of the wrong kind": jwt.encode(CLAIMS, SIGNERS["ec"], "ES256", {"kid": "rsa"}),
        "an unknown crit": jwt.encode(CLAIMS, SIGNERS["rsa"], "PS256", {"kid": "rsa", "x": 1, "crit": ["x"]}),
        "a header that is no JSON": f"{broken}.{claims}.{signature}",
        "a header that is an array": f"W10.{claims}.{signature}",
        "a kid that is a number": jwt_with_header({"alg": "PS256", "kid": 7}, claims, signature),
        "an alg that is a list": jwt_with_header({"alg": ["PS256"], "kid": "rsa"}, claims, signature),
        "an alg that is unknown": jwt_with_header({"alg": "XS256", "kid": "rsa"}, claims, signature),
        "no alg": jwt_with_header({"kid": "rsa"}, claims, signature),
        "b64 false": jwt_with_header({"alg": "PS256", "kid": "rsa", "b64": False, "crit": ["b64"]}, claims, signature),
    }


def by_hand(**members: Any) -> str:
    """A SET with a header that no library would write, under a signature that is right (PS256)."""
    parts = [json.dumps(part).encode() for part in ({"alg": "PS256", "kid": "rsa", **members}, CLAIMS)]
    text = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
    salted = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    signature = SIGNERS["rsa"].sign(text.encode(), salted, hashes.SHA256())
    return f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


@pytest.mark.parametrize(
    "members",
    [
        {"pi.atm": "1"},
        {"nonce": "x", "gty": ["x"]},
        {"x5c": ["A" * 4000]},
        {"b64": True},
        {"b64": True, "crit": ["b64"]},
        {f"{OB}iat": 1, "crit": [f"{OB}iat"]},
    ],
)
def test_what_a_header_says_besides_is_let_pass(members: dict[str, Any]) -> None:
    """RFC 7515 section 4: what is not understood is ignored, unless crit names it."""
    signed.verify(by_hand(**members), key_set(public("rsa")))


@pytest.mark.parametrize(
    "members",
    [
        {"b64": False},
        {"b64": False, "crit": ["b64"]},
        {"b64": None},
        {"b64": "true"},
        {"crit": []},
        {"crit": None},
        {"crit": "alg"},
        {"crit": {"alg": True}},
        {"crit": ["alg"]},
        {"crit": ["b64"]},
        {"crit": [1]},
        {"crit": ["x"], "x": 1},
        {"crit": [f"{OB}iat", "x"], f"{OB}iat": 1, "x": 1},
        {"crit": [f"{OB}iat"]},
    ],
)
def test_a_header_that_asks_for_what_is_not_done_is_refused(members: dict[str, Any]) -> None:
    """RFC 7515 section 4.1.11, RFC 7797 section 6: the signature is right, and says something else than we read."""
    with pytest.raises(BadSecevent) as raised:
        signed.verify(by_hand(**members), key_set(public("rsa")))
    assert raised.value.err == "authentication_failed"


def hmac_of(message: str, key: bytes) -> str:
    """What HS256 makes of it."""
    return base64.urlsafe_b64encode(hmac.digest(key, message.encode(), "sha256")).decode().rstrip("=")


def jwt_with_header(header: dict[str, Any], claims: str, signature: str) -> str:
    return f"{base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip('=')}.{claims}.{signature}"


FORGED = forgeries()


@pytest.mark.parametrize("case", FORGED)
def test_a_forgery_is_refused(case: str) -> None:
    """RFC 8725, section 3: algorithms are checked, and the header's word for a key is not taken."""
    with pytest.raises(BadSecevent) as raised:
        signed.verify(FORGED[case], key_set(public("rsa"), public("ec")))
    assert raised.value.err in ("authentication_failed", "invalid_key")


# -- what OBIE asks of an event ---------------------------------------------------------------------------------

GOOD_OBIE: list[dict[str, Any]] = [
    {UPDATE: {"subject": SUBJECT}},
    {UPDATE: {"subject": SUBJECT}, REVOKED: {}},
    {REVOKED: {"subject": SUBJECT}},
    {REVOKED: {"subject": SUBJECT, "reason": "UK.OBIE.Revoked"}},
    {LINKED: {"subject": SUBJECT, "reason": "UK.OBIE.CASS"}},
    {"urn:bank:custom": {}},
]
BAD_OBIE: list[dict[str, Any]] = [
    {UPDATE: {}},
    {UPDATE: {"subject": None}},
    {UPDATE: {"subject": "x"}},
    {UPDATE: "x"},
    {REVOKED: {}},
    {LINKED: {"reason": "UK.OBIE.CASS"}},
    {LINKED: {}, UPDATE: {"subject": SUBJECT}},
    *({UPDATE: {"subject": {k: v for k, v in SUBJECT.items() if k != member}}} for member in SUBJECT),
    {UPDATE: {"subject": {**SUBJECT, f"{OB}rlk": []}}},
    {UPDATE: {"subject": {**SUBJECT, f"{OB}rid": ""}}},
]


@pytest.mark.parametrize("events", GOOD_OBIE, ids=lambda events: " ".join(name.rpartition(":")[2] for name in events))
def test_events_that_obie_knows_are_taken(events: dict[str, Any]) -> None:
    """standards.md 3.9; a custom name asks for nothing (decision 24)."""
    minting.check_obie(event(events, sub=SUB))
    assert minter(RSA).mint("obie", "tpp", "tpp", event(events, sub=SUB))


@pytest.mark.parametrize("events", BAD_OBIE, ids=json.dumps)
def test_events_that_lack_their_subject_are_refused(events: dict[str, Any]) -> None:
    """standards.md 3.9: OBEventSubject1 and its four members; consent-authorization-revoked alone wants one too."""
    with pytest.raises(BadSecevent, match="events"):
        minting.check_obie(event(events, sub=SUB))


@pytest.mark.parametrize(
    ("claims", "word"),
    [
        ({}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": 7}, "sub"),
        ({"sub": SUB, "sub_id": {"format": "opaque", "id": "7"}}, "sub_id"),
        ({"sub": SUB, "txn": ""}, "txn"),
        ({"sub": SUB, "txn": "x" * 129}, "txn"),
        ({"sub": SUB, "toe": 1.5}, "toe"),
        ({"sub": SUB, "toe": True}, "toe"),
    ],
)
def test_claims_that_obie_has_otherwise_are_refused(claims: dict[str, Any], word: str) -> None:
    """standards.md 2, OBEventNotification2: sub 1..1, txn Max128Text, toe xs:int, no sub_id."""
    with pytest.raises(BadSecevent, match=f"^{word}:"):
        minting.check_obie(event({"urn:x": {}}, **claims))


def test_equal_events_are_equal_whatever_their_order() -> None:
    """Decision 18: equal as JSON."""
    _, text = minter(RSA).mint("rfc8417", "tpp", "tpp", Event('{"urn:a":{"x":1,"y":[1,2]},"urn:b":{}}'))
    assert signed.same_events(text, Event('{"urn:b": {}, "urn:a": {"y": [1,2], "x": 1}}'))
    for other in ('{"urn:a":{"x":1,"y":[2,1]},"urn:b":{}}', '{"urn:a":{"x":"1","y":[1,2]},"urn:b":{}}', '{"urn:b":{}}'):
        assert not signed.same_events(text, Event(other))
