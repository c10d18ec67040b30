"""Bearer tokens: what makes one good, every way in which one is not, and the issuer's keys in good times and bad."""

import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from eventpoll.access import issuer_keys as module
from eventpoll.access import tokens
from eventpoll.access.issuer_keys import IssuerKeys, NoKeys
from eventpoll.access.tokens import Token, Validator
from eventpoll.setting_readers import read_public_keys
from eventpoll.settings import Config, ConfigError
from harness import issuer
from harness.certificates import Certificate
from harness.issuer import KEYS, STRANGER, Issuer, bearer, claims, encoded, sign, token
from harness.redis_servers import RedisServer
from harness.service import BANK, BANK_SETTINGS, Reply, Server, basic, start_server
from harness.sets import set_of
from harness.waiting import wait_for
from tests.token_shapes import ACCESS_TOKENS, AUDIENCE, CLIENT, OTHER_TOKENS

POLL_NOW = '{"returnImmediately":true}'
JSON = {"Content-Type": "application/json"}
ALGORITHMS = ("PS256", "ES256", "EdDSA", "RS256")


def validator(source: str | None = None, algorithms: tuple[str, ...] = ALGORITHMS) -> Validator:
    """As service.py builds it, on keys given inline; no certificate is ever shown."""
    return Validator(
        issuer.NAME, issuer.AUDIENCE, IssuerKeys(source or issuer.jwks()), algorithms, lambda request: None
    )


def read(text: str, **options: Any) -> Token | None:
    """What our validator makes of a token."""
    return validator(**options).authenticate_token(text)


# -- what makes one good ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_a_token_signed_with_a_listed_algorithm_is_good(alg: str) -> None:
    """decisions.md, signature algorithms of tokens: PS256, ES256, EdDSA and RS256 by default."""
    found = read(token("tpp-1", "accounts payments", alg))
    assert found is not None
    assert (found.client, sorted(found.scopes), found.thumbprint) == ("tpp-1", ["accounts", "payments"], None)


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_an_algorithm_that_is_not_listed_is_refused(alg: str) -> None:
    """EVENTPOLL_TOKEN_ALGORITHMS is an explicit list: FAPI wants PS256 and ES256 alone (RFC 8725 section 3.1)."""
    others = tuple(each for each in ALGORITHMS if each != alg)
    assert read(token(alg=alg), algorithms=others) is None


def with_public_key_as_secret() -> str:
    """HS256, keyed with the text of the RSA public key: what a verifier that trusts `alg` would take."""
    signed = f"{encoded({'alg': 'HS256', 'typ': 'at+jwt', 'kid': 'rs'})}.{encoded(claims())}"
    public: Any = KEYS["RS256"]
    pem = public.as_pem(private=False)
    return f"{signed}.{encoded(hmac.digest(pem, signed.encode(), 'sha256'))}"


def by_hand(header: Any, said: Any = None) -> str:
    """A token with a header that no library would write, under a signature that is right (PS256)."""
    signed = f"{encoded(header)}.{encoded(claims() if said is None else said)}"
    key: Any = KEYS["PS256"].get_op_key("sign")
    salted = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    return f"{signed}.{encoded(key.sign(signed.encode(), salted, hashes.SHA256()))}"


CRITS: list[Any] = [
    ["x"], ["alg"], ["kid", "typ"], ["b64"], ["exp"], ["x", "x"], [], None, "x", 1, {}, {"x": 1}, [1], [None], [["x"]],
    ["http://openbanking.org.uk/iat"],
]  # fmt: skip


def critical(crit: Any) -> str:
    """A token whose header says that these members must be understood."""
    return by_hand(
        {"alg": "PS256", "typ": "at+jwt", "kid": "ps", "x": 1, "http://openbanking.org.uk/iat": 1, "crit": crit}
    )


def unencoded(header: Any) -> str:
    """A token whose payload is signed as it is (RFC 7797), where it is base64url by luck."""
    signed = f"{encoded(header)}.{encoded(claims())}"
    key: Any = KEYS["PS256"].get_op_key("sign")
    text = signed.rpartition(".")[0].encode() + b"." + json.dumps(claims()).encode()
    salted = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    return f"{signed}.{encoded(key.sign(text, salted, hashes.SHA256()))}"


def tampered(text: str, place: int) -> str:
    """The token with one part changed."""
    parts = text.split(".")
    parts[place] = parts[place][:-5] + ("AAAAA" if parts[place][-5:] != "AAAAA" else "BBBBB")
    return ".".join(parts)


NOW = int(time.time())
BEFORE = {"typ": "JWT"}
"""The header of an access token from before RFC 9068."""

BAD: dict[str, Callable[[], str]] = {
    # algorithms (RFC 8725 sections 2.1 and 3.1)
    "none": lambda: f"{encoded({'alg': 'none', 'typ': 'at+jwt'})}.{encoded(claims())}.",
    "none with a kid": lambda: f"{encoded({'alg': 'none', 'typ': 'at+jwt', 'kid': 'ps'})}.{encoded(claims())}.",
    "None in other case": lambda: f"{encoded({'alg': 'nOnE', 'typ': 'at+jwt'})}.{encoded(claims())}.AA",
    "no alg": lambda: f"{encoded({'typ': 'at+jwt', 'kid': 'ps'})}.{encoded(claims())}.AA",
    "alg a list": lambda: by_hand({"alg": ["PS256"], "typ": "at+jwt", "kid": "ps"}),
    "HS256 with the public key": with_public_key_as_secret,
    "another algorithm's key": lambda: by_hand({"alg": "ES256", "typ": "at+jwt", "kid": "ps"}),
    # signatures
    "a stranger's key": lambda: sign(claims(), "PS256", STRANGER),
    "a stranger's key in the header": lambda: sign(
        claims(), "PS256", STRANGER, {"jwk": STRANGER.as_dict(private=False), "kid": None}
    ),
    "a stranger's address in the header": lambda: sign(
        claims(), "PS256", STRANGER, {"jku": "http://127.0.0.1:1/jwks.json"}
    ),
    "other claims": lambda: tampered(token(), 1),
    "another signature": lambda: tampered(token(), 2),
    "no signature": lambda: token().rpartition(".")[0] + ".",
    # claims (RFC 9068 section 4)
    "another issuer": lambda: token(iss="https://other.example"),
    "no issuer": lambda: token(iss=None),
    "an issuer that begins like ours": lambda: token(iss=issuer.NAME + ".evil.example"),
    "another audience": lambda: token(aud="https://other.example"),
    "other audiences": lambda: token(aud=["https://a.example", "https://b.example"]),
    "no audience": lambda: token(aud=None),
    "expired": lambda: token(exp=NOW - 120),
    "no expiry": lambda: token(exp=None),
    "an expiry in words": lambda: token(exp="tomorrow"),
    "not yet": lambda: token(nbf=NOW + 3600),
    "issued in the future": lambda: token(iat=NOW + 3600),
    "nobody's": lambda: token(client_id=None, sub=None),
    "a client that is no text": lambda: token(client_id=7),
    "a client that no TPP may be named": lambda: token("a}:stream"),
    "a client with a line break": lambda: token("tpp\n"),
    "a client too long": lambda: token("x" * 129),
    "scopes of no form": lambda: sign({**claims(), "scope": {"eventpolling": True}}),
    "a binding of no form": lambda: token(cnf="x"),
    "a binding that is no certificate": lambda: token(cnf={"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}),
    "a thumbprint of no form": lambda: token(cnf={"x5t#S256": 7}),
    "an empty binding": lambda: token(cnf={}),
    "a binding that is a list": lambda: token(cnf=[]),
    "a binding that is false": lambda: token(cnf=False),
    "a client named by azp alone": lambda: token(client_id=None, azp="tpp"),
    "a client named by sub alone": lambda: token(client_id=None),
    "an empty client_id": lambda: token(client_id="", azp="tpp"),
    "an empty client_id, before RFC 9068": lambda: sign({**claims(), "client_id": "", "azp": "tpp"}, header=BEFORE),
    # types (RFC 9068 section 2.1, RFC 8725 section 3.11)
    "a type that is none in words": lambda: sign(claims(), header={"typ": "none"}),
    "an empty type": lambda: sign(claims(), header={"typ": ""}),
    "a SET replayed as a token": lambda: sign(claims(events={"urn:test:event": {}}), header={"typ": "secevent+jwt"}),
    "an ID token of another type": lambda: sign(claims(), header={"typ": "logout+jwt"}),
    "a type that is no text": lambda: by_hand({"alg": "PS256", "typ": 7, "kid": "ps"}),
    # kid
    "an unknown kid": lambda: sign(claims(), header={"kid": "unknown"}),
    "a kid like a path": lambda: sign(claims(), header={"kid": "../../../../dev/null"}),
    "a kid like a query": lambda: sign(claims(), header={"kid": "ps' OR '1'='1"}),
    "a kid like an address": lambda: sign(claims(), header={"kid": "http://127.0.0.1:1/jwks.json"}),
    "a kid without end": lambda: sign(claims(), header={"kid": "k" * 4000}),
    "a kid of any name": lambda: sign(claims(), header={"kid": "*"}),
    "an empty kid": lambda: sign(claims(), header={"kid": ""}),
    "a kid that is a number": lambda: by_hand({"alg": "PS256", "typ": "at+jwt", "kid": 7}),
    "a kid that is a list": lambda: by_hand({"alg": "PS256", "typ": "at+jwt", "kid": ["ps"]}),
    "a kid that is an object": lambda: by_hand({"alg": "PS256", "typ": "at+jwt", "kid": {}}),
    "two kids": lambda: by_hand(b'{"alg":"PS256","typ":"at+jwt","kid":"ps","kid":"unknown"}'),
    "another key's kid": lambda: sign(claims(), header={"kid": "rs"}),
    **{f"crit {json.dumps(crit)}": partial(critical, crit) for crit in CRITS},
    "b64 false": lambda: by_hand({"alg": "PS256", "typ": "at+jwt", "kid": "ps", "b64": False}),
    "b64 false, and critical": lambda: by_hand({"alg": "PS256", "kid": "ps", "b64": False, "crit": ["b64"]}),
    "b64 false, and the payload as it is": lambda: unencoded(
        {"alg": "PS256", "kid": "ps", "b64": False, "crit": ["b64"]}
    ),
    "b64 that is no boolean": lambda: by_hand({"alg": "PS256", "typ": "at+jwt", "kid": "ps", "b64": "false"}),
    "b64 null": lambda: by_hand({"alg": "PS256", "typ": "at+jwt", "kid": "ps", "b64": None}),
    # garbage
    "nothing": lambda: "",
    "a word": lambda: "token",
    "dots": lambda: "..",
    "four parts": lambda: token() + ".x",
    "five parts": lambda: token() + ".x.y",
    "no JSON": lambda: f"{encoded(b'header')}.{encoded(b'claims')}.AA",
    "no object": lambda: f"{encoded([])}.{encoded([])}.AA",
    "claims that are no object": lambda: sign(b"[]"),
    "claims that are no JSON": lambda: sign(b"{"),
    "a nesting bomb": lambda: f"{encoded(b'[' * 5000)}.{encoded(claims())}.AA",
    "a number bomb": lambda: f"{encoded(b'9' * 5000)}.{encoded(claims())}.AA",
    "not base64": lambda: "é.ü.ß",
    "too long": lambda: token(filler="x" * 8192),
}


@pytest.mark.parametrize("what", BAD)
def test_a_token_that_is_not_right_is_nobody(what: str) -> None:
    """RFC 8725 sections 3.1 to 3.11, RFC 9068 section 4: each check, and nothing raised whatever comes."""
    assert read(BAD[what]()) is None


@pytest.mark.parametrize("member", ["jku", "x5u"])
def test_no_address_in_a_token_is_asked_for_keys(member: str, away: Issuer) -> None:
    """RFC 8725 section 3.10: whoever writes a token would say where it is checked, and whom we call."""
    away.published = issuer.jwks(STRANGER)
    for kid in ("ps", "unknown", None):
        assert read(sign(claims(), "PS256", STRANGER, {member: away.url, "kid": kid})) is None
    assert read(sign(claims(), header={member: away.url})) is not None  # the issuer's own may say where its keys are
    assert away.asked == 0


@pytest.mark.parametrize("kid", ["ps", None])
def test_no_key_in_a_token_is_used(kid: str | None) -> None:
    """RFC 7515 sections 4.1.3 and 4.1.6: jwk and x5c are a stranger's word for himself."""
    for member in ({"jwk": STRANGER.as_dict(private=False)}, {"x5c": ["AAAA"]}, {"x5t": "AAAA"}):
        assert read(sign(claims(), "PS256", STRANGER, {**member, "kid": kid})) is None


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "JWT", "jwt"])
def test_the_types_of_access_tokens_are_taken_in_any_case(typ: str) -> None:
    """RFC 9068 section 2.1; RFC 7515 section 4.1.9: a media type, so without case. JWT is what older issuers put."""
    assert read(sign(claims(), header={"typ": typ})) is not None


def test_what_is_made_by_hand_is_good_where_its_header_is() -> None:
    """So that the headers above are refused for what they say."""
    assert read(by_hand({"alg": "PS256", "typ": "at+jwt", "kid": "ps"})) is not None


def test_a_token_without_a_kid_is_tried_with_every_key() -> None:
    """RFC 7515 section 4.1.4: kid is a hint, and optional."""
    for alg in ALGORITHMS:
        assert read(sign(claims(), alg, header={"kid": None})) is not None


def test_a_key_is_used_for_its_own_algorithm_alone() -> None:
    """RFC 7517 section 4.4: a key that says alg is for that; RFC 8725 section 3.1."""
    key = RSAKey.generate_key(2048, {"kid": "ps", "alg": "PS256", "use": "sig"})
    assert read(sign(claims(), "PS256", key), source=issuer.jwks(key)) is not None
    unmarked = RSAKey.import_key({**key.as_dict(private=True), "alg": "RS256"})
    assert read(sign(claims(), "RS256", unmarked), source=issuer.jwks(key)) is None


def test_the_clocks_may_differ_by_half_a_minute() -> None:
    """RFC 7519 section 4.1.4: "some small leeway"."""
    now = int(time.time())
    assert read(token(exp=now - 15, iat=now + 15, nbf=now + 15)) is not None
    assert read(token(exp=now - 45)) is None
    assert read(token(nbf=now + 45)) is None


@pytest.mark.parametrize("aud", [issuer.AUDIENCE, [issuer.AUDIENCE], ["https://other.example", issuer.AUDIENCE]])
def test_the_audience_may_be_one_of_several(aud: Any) -> None:
    """RFC 7519 section 4.1.3."""
    assert read(token(aud=aud)) is not None


@pytest.mark.parametrize(
    ("said", "client"),
    [
        ({"client_id": "a", "azp": "b", "sub": "c"}, "a"),
        ({"client_id": None, "azp": "b", "sub": "c"}, "b"),
        ({"client_id": None, "sub": "c"}, "c"),
    ],
)
def test_client_id_names_the_tpp_then_azp_then_sub(said: dict[str, Any], client: str) -> None:
    """decisions.md, smaller ones: of issuers from before RFC 9068."""
    found = read(sign(claims(**said), header=BEFORE))
    assert found is not None
    assert found.client == client


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt"])
def test_an_access_token_of_rfc_9068_names_its_client_by_client_id_alone(typ: str) -> None:
    """RFC 9068 section 2.2: client_id is REQUIRED. sub may be a person there, whose name may be a TPP's."""
    header = {"typ": typ}
    found = read(sign(claims("tpp", azp="other", sub="another"), header=header))
    assert found is not None
    assert found.client == "tpp"
    for said in (
        {"client_id": None},
        {"client_id": None, "azp": "tpp"},
        {"client_id": None, "azp": "tpp", "sub": None},
    ):
        assert read(sign(claims(**said), header=header)) is None


def shaped(header: dict[str, Any], said: dict[str, Any]) -> str:
    """A token of that shape, signed and addressed as a good one."""
    text = json.dumps(said).replace(AUDIENCE, issuer.AUDIENCE)
    now = int(time.time())
    common = {"iss": issuer.NAME, "iat": now, "exp": now + 300}
    return by_hand({"alg": "PS256", "kid": "ps", **header}, {**common, **json.loads(text)})


@pytest.mark.parametrize("product", ACCESS_TOKENS)
def test_access_tokens_of_the_field_are_read(product: str) -> None:
    """Issue 13, 2: no typ, or JWT; scp, as text or array; null for absent; the client by each of its names."""
    header, said, scopes = ACCESS_TOKENS[product]
    found = read(shaped(header, said))
    assert found is not None
    assert (found.client, set(found.scopes)) == (CLIENT, scopes)


@pytest.mark.parametrize("what", OTHER_TOKENS)
def test_no_other_token_passes_for_an_access_token(what: str) -> None:
    """RFC 8725 section 3.12: where typ does not tell them apart, the claims must."""
    header, said = OTHER_TOKENS[what]
    assert read(shaped(header, said)) is None


@pytest.mark.parametrize(
    ("types", "taken"),
    [
        (("at+jwt",), {"at+jwt"}),
        (("at+jwt", "application/at+jwt"), {"at+jwt", "application/at+jwt"}),
        (("JWT",), {"JWT", "jwt"}),
        (("none",), {None}),
        (("x+jwt", "none"), {"x+jwt", None}),
    ],
)
def test_the_types_that_are_taken_can_be_set(types: tuple[str, ...], taken: set[str | None]) -> None:
    """EVENTPOLL_TOKEN_TYPES; at+jwt alone is what RFC 9068 section 4 asks of a resource server."""
    ours = Validator(
        issuer.NAME, issuer.AUDIENCE, IssuerKeys(issuer.jwks()), ALGORITHMS, lambda request: None, types=types
    )
    for typ in ("at+jwt", "application/at+jwt", "JWT", "jwt", "x+jwt", "none", None):
        text = by_hand({"alg": "PS256", "kid": "ps", **({} if typ is None else {"typ": typ})})
        assert (ours.authenticate_token(text) is not None) == (typ in taken)


def test_scopes_may_be_a_list() -> None:
    """RFC 8693 section 4.2 has one text with blanks; some issuers write a list."""
    found = read(sign({**claims(), "scope": ["accounts", "payments"]}))
    assert found is not None
    assert found.scopes == {"accounts", "payments"}


def test_a_time_beyond_all_reckoning_does_no_harm() -> None:
    """An expiry of a thousand digits is a number in JSON."""
    assert read(token(exp=10**1000)) is not None


# -- once in a token's life -------------------------------------------------------------------------------------


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tokens whose signature was checked, in order."""
    seen: list[str] = []
    decode = jwt.decode

    def counted(text: str, *args: Any, **options: Any) -> Any:
        seen.append(text)
        return decode(text, *args, **options)

    monkeypatch.setattr(jwt, "decode", counted)
    return seen


def test_a_signature_is_checked_once_in_a_tokens_life(checks: list[str]) -> None:
    """Issue 4: a poll does not pay for a signature check each time."""
    ours, text = validator(), token()
    assert [ours.authenticate_token(text) for _ in range(5)] == [ours.authenticate_token(text)] * 5
    assert checks == [text]


def test_a_token_that_is_known_still_expires(checks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 7519 section 4.1.4: what is remembered is no longer good than the token is."""
    now = int(time.time())
    ours, text = validator(), token(exp=now + 600)
    assert ours.authenticate_token(text) is not None
    monkeypatch.setattr(tokens, "time", SimpleNamespace(time=lambda: now + 600 + 31))
    assert ours.authenticate_token(text) is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 4: bounded memory; what falls out is checked anew."""
    monkeypatch.setattr(tokens, "CACHED", 3)
    ours = validator()
    texts = [token(jti=str(number)) for number in range(5)]
    for text in [*texts, *texts]:
        assert ours.authenticate_token(text) is not None
    assert len(ours._cache) == 3


def test_a_bad_token_is_not_remembered() -> None:
    """Whoever sends garbage fills nothing."""
    ours = validator()
    for number in range(10):
        assert ours.authenticate_token(f"garbage-{number}") is None
    assert not ours._cache


def test_no_token_passes_for_another_that_begins_or_ends_alike(checks: list[str]) -> None:
    """A remembered token is known by all of its text."""
    ours, text = validator(), token()
    assert ours.authenticate_token(text) is not None
    for other in (text + ".", text[:-1], " " + text, text.swapcase()):
        assert ours.authenticate_token(other) is None


# -- the issuer's keys ------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the keys go by, in seconds, to be moved."""
    now = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture
def away() -> Iterator[Issuer]:
    """An issuer with an address, that may be away."""
    with issuer.running() as running:
        yield running


def kids(keys: IssuerKeys, kid: str | None = None) -> list[Any]:
    """The kids of the keys that come into question."""
    return [key.get("kid") for key in keys.candidates(kid)]


def test_keys_are_fetched_once_and_kept(away: Issuer, clock: list[float]) -> None:
    """Issue 4: cached."""
    keys = IssuerKeys(away.url)
    for _ in range(5):
        assert kids(keys, "ps") == ["ps"]
    assert away.asked == 1


def test_an_unknown_kid_fetches_the_keys_anew(away: Issuer, clock: list[float]) -> None:
    """Issue 4: refreshed on an unknown kid, so that the issuer's rotation needs no restart."""
    keys = IssuerKeys(away.url)
    assert kids(keys, "new") == []
    away.published = issuer.jwks(RSAKey.generate_key(2048, {"kid": "new"}))
    assert kids(keys, "new") == ["new"]
    assert kids(keys, "ps") == []


def test_unknown_kids_that_anyone_can_make_up_cause_few_fetches(away: Issuer, clock: list[float]) -> None:
    """Issue 4: a floor between fetches; after it a new key is found."""
    keys = IssuerKeys(away.url)
    for number in range(50):
        assert kids(keys, f"made-up-{number}") == []
    assert away.asked == 2
    clock[0] += module.FLOOR_SECONDS + 1
    for number in range(50):
        assert kids(keys, f"made-up-{number}") == []
    assert away.asked == 3


@pytest.mark.parametrize(
    ("status", "published"),
    [(500, ""), (404, "{}"), (302, ""), (200, "no JSON"), (200, '{"keys": 1}'), (200, "[" * 20_000), (200, "\xff{}")],
)
def test_an_outage_of_the_issuer_leaves_the_keys_that_we_have(
    away: Issuer, clock: list[float], status: int, published: str
) -> None:
    """Issue 4: kept through an outage of the issuer, whatever it answers meanwhile; a redirect is not followed."""
    keys = IssuerKeys(away.url)
    assert kids(keys, "ps") == ["ps"]
    away.status, away.published = status, published
    clock[0] += module.FLOOR_SECONDS + 1
    assert kids(keys, "unknown") == []
    clock[0] += 10 * module.FRESH_SECONDS
    assert kids(keys, "ps") == ["ps"]
    wait_for(lambda: away.asked >= 3)
    assert kids(keys, "ps") == ["ps"]


def test_an_issuer_that_is_gone_leaves_the_keys_that_we_have(away: Issuer, clock: list[float]) -> None:
    """The same where nothing answers."""
    keys = IssuerKeys(away.url)
    assert kids(keys, "ps") == ["ps"]
    away.stop()
    clock[0] += module.FLOOR_SECONDS + 1
    assert kids(keys, "unknown") == []
    assert kids(keys, "ps") == ["ps"]


def test_an_issuer_that_breaks_off_in_the_middle_leaves_the_keys_that_we_have(clock: list[float]) -> None:
    """What HTTP's reader raises is an outage like any other."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/jwks.json"

        def answer() -> None:
            for text in (
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(issuer.jwks()), issuer.jwks().encode()),
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                b"what?\r\n\r\n",
            ):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(text)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        keys = IssuerKeys(url)
        assert kids(keys, "ps") == ["ps"]
        for _ in range(2):
            assert kids(keys, "unknown") == []
            clock[0] += module.FLOOR_SECONDS + 1
        thread.join(10)
        assert kids(keys, "ps") == ["ps"]


def test_without_any_keys_ever_nobody_can_say_whether_a_token_is_good(away: Issuer, clock: list[float]) -> None:
    """NoKeys, not "bad token": and tried again soon, though not for every request."""
    away.status = 500
    keys = IssuerKeys(away.url)
    for _ in range(20):
        with pytest.raises(NoKeys):
            keys.candidates("ps")
    assert away.asked == 1
    away.status = 200
    clock[0] += module.FIRST_FLOOR_SECONDS + 0.1
    assert kids(keys, "ps") == ["ps"]


def test_requests_that_come_together_fetch_once(away: Issuer) -> None:
    """Whoever waited for a fetch makes no second one."""
    keys = IssuerKeys(away.url)
    threads = [threading.Thread(target=kids, args=(keys, "ps")) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert away.asked == 1


def test_a_withdrawn_key_is_forgotten_in_time(away: Issuer, clock: list[float]) -> None:
    """A set is fetched again after an hour although nothing is missing, and no request waits for it."""
    keys = IssuerKeys(away.url)
    assert kids(keys, "rs") == ["rs"]
    away.published = issuer.jwks(KEYS["PS256"])
    clock[0] += module.FRESH_SECONDS + 1
    keys.candidates("rs")
    wait_for(lambda: away.asked == 2)
    wait_for(lambda: kids(keys, "rs") == [])


def test_keys_in_a_file_are_read_again(tmp_path: Path, clock: list[float]) -> None:
    """A file is a source like a URL: who turns its keys need not restart the service."""
    file = tmp_path / "jwks.json"
    file.write_text(issuer.jwks(KEYS["PS256"]))
    keys = IssuerKeys(str(file))
    assert kids(keys) == ["ps"]
    file.write_text(issuer.jwks(KEYS["ES256"]))
    assert kids(keys, "es") == ["es"]


def test_shared_secrets_and_unreadable_keys_are_left_out_of_a_set() -> None:
    """A secret in a JWK Set is no public key; a key of a kind we do not know is not a reason to refuse the others."""
    members = [
        OctKey.generate_key(256, {"kid": "oct"}).as_dict(private=True),
        {"kty": "RSA", "kid": "broken"},
        {"kty": "LMS", "kid": "of the future"},
        "no object",
        KEYS["ES256"].as_dict(private=False),
    ]
    assert [key.get("kid") for key in read_public_keys(json.dumps({"keys": members}))[0].keys] == ["es"]


def test_a_set_too_large_is_not_taken(away: Issuer, clock: list[float]) -> None:
    """Memory is bounded, whatever the issuer sends."""
    away.published = issuer.jwks() + " " * module.LARGEST
    with pytest.raises(NoKeys):
        IssuerKeys(away.url).candidates("ps")


# -- over a real socket -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bank_issuer() -> Iterator[Issuer]:
    with issuer.running() as running:
        yield running


@pytest.fixture(scope="module")
def server(
    redis_server: RedisServer, signing_keys: str, bank_issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Two workers that take tokens, whose keys are at the issuer's address."""
    environ = {
        "REDIS_URL": redis_server.url.removesuffix("0") + "6",
        **BANK_SETTINGS,
        "EVENTPOLL_SIGNING_KEYS": signing_keys,
        "EVENTPOLL_LONG_POLL_SECONDS": "20",
        "EVENTPOLL_FAILED_LOGIN_SECONDS": "0",
        **issuer.settings(bank_issuer.url),
    }
    server = start_server(environ, tmp_path_factory.mktemp("tokens"), workers=2)
    server.tpp("tpp")
    yield server
    server.stop()


def ask(
    server: Server,
    text: str,
    path: str = "/events",
    body: str = POLL_NOW,
    method: str = "POST",
    headers: dict[str, str] | None = None,
) -> Reply:
    """A request with a token."""
    return server.request(method, path, body, {**JSON, **bearer(text), **(headers or {})})


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_a_tpp_polls_and_settles_with_a_token(server: Server, alg: str) -> None:
    """UK Open Banking: a bearer token of the client-credentials grant; RFC 6750 section 2.1."""
    jti = server.push("tpp")
    assert jti in ask(server, token(alg=alg)).json["sets"]
    assert ask(server, token(alg=alg), body=f'{{"ack":["{jti}"],"maxEvents":0,"returnImmediately":true}}').status == 200
    assert server.bank("GET", f"/streams/tpp/sets/{jti}").json["state"] == "settled"


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "bEaReR"])
def test_the_scheme_is_read_in_any_case(server: Server, scheme: str) -> None:
    """RFC 9110 section 11.1."""
    headers = {**JSON, "Authorization": f"{scheme} {token()}"}
    assert server.request("POST", "/events", POLL_NOW, headers).status == 200


@pytest.mark.parametrize("scope", ["accounts", "payments", "fundsconfirmations", "eventpolling", "openid accounts x"])
def test_any_one_of_the_scopes_lets_a_tpp_poll(server: Server, scope: str) -> None:
    """EVENTPOLL_TOKEN_SCOPES; standards.md section 3.1: OBIE's own table and clarifications name these."""
    assert ask(server, token(scope=scope)).status == 200


@pytest.mark.parametrize("scope", ["", "openid", "Accounts", "account", "accounts,payments", "eventpoll"])
@pytest.mark.parametrize("path", ["/events", "/open-banking/v3.1/events", "/open-banking/v4.0/events"])
def test_a_token_without_a_scope_of_ours_is_403_and_told_which(server: Server, path: str, scope: str) -> None:
    """RFC 6750 section 3.1: insufficient_scope, with the scopes that would do."""
    reply = ask(server, token(scope=scope), path)
    assert reply.status == 403
    challenge = reply.headers["www-authenticate"]
    assert 'error="insufficient_scope"' in challenge
    assert 'scope="accounts payments fundsconfirmations eventpolling"' in challenge
    assert challenge.startswith("Bearer ")


BANKS_CALLS = [
    ("GET", "/streams"),
    ("PUT", "/streams/tpp"),
    ("POST", "/streams/tpp/sets:batch"),
    ("DELETE", "/streams/tpp/sets/x"),
    ("POST", "/api/fs/event-notifications/create-events"),
    ("GET", "/metrics"),
    ("GET", "/console"),
    ("POST", "/console/streams/tpp/requeue"),
]
WSO2 = "/api/openbanking/event-notifications/events"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
POLL_SCOPES = "accounts payments fundsconfirmations eventpolling"


@pytest.mark.parametrize("scope", ["", "openid", "accounts", POLL_SCOPES])
@pytest.mark.parametrize(("method", "path"), BANKS_CALLS)
def test_a_token_that_may_not_make_a_call_of_the_banks_is_told_by_which_scope_it_could(
    server: Server, method: str, path: str, scope: str
) -> None:
    """Issue 11, 10; RFC 6750 section 3: every 403 to a token carries its challenge, with the scope that would do."""
    for accept in ("application/json", "text/html"):  # a page of the console, too
        reply = ask(server, token(scope=scope), path, method=method, headers={"Accept": accept})
        assert reply.status == 403
        challenge = reply.headers["www-authenticate"]
        assert challenge.startswith('Bearer realm="eventpoll", error="insufficient_scope", scope="eventpoll:bank", ')


@pytest.mark.parametrize("path", ["/events", "/open-banking/v3.1/events", "/open-banking/v4.0/events"])
def test_the_banks_token_that_polls_for_nobody_is_told_by_which_scopes_it_could(server: Server, path: str) -> None:
    """The same, the other way round."""
    reply = ask(server, token("the-bank", "eventpoll:bank"), path)
    assert reply.status == 403
    assert f'error="insufficient_scope", scope="{POLL_SCOPES}"' in reply.headers["www-authenticate"]


@pytest.mark.parametrize("path", [WSO2, "/api/fs/event-notifications/events"])
def test_a_token_that_names_another_tpp_is_told_who_may(server: Server, path: str) -> None:
    """On WSO2's paths the bank's scope polls for any TPP."""
    headers = {**FORM, **bearer(token()), "x-wso2-client-id": "another"}
    reply = server.request("POST", path, "request=e30=", headers)
    assert reply.status == 403
    assert 'error="insufficient_scope", scope="eventpoll:bank"' in reply.headers["www-authenticate"]


def test_a_403_for_another_reason_than_its_scopes_challenges_a_token_too(server: Server) -> None:
    """A page of another site, a form that is not ours: no scope opens that, and the challenge names none."""
    bank = token("the-bank", "eventpoll:bank")
    for path, kind, more in (
        ("/events", JSON, {"Sec-Fetch-Site": "cross-site"}),
        ("/streams/tpp/sets", JSON, {"Origin": "https://evil.example"}),
        ("/console/streams/tpp/discard-all", FORM, {}),
    ):
        reply = server.request("POST", path, "{}", {**kind, **bearer(bank), **more})
        assert reply.status == 403
        assert reply.headers["www-authenticate"].startswith('Bearer realm="eventpoll", Basic ')
        refused = server.request("POST", path, "{}", {**kind, "Authorization": basic(*BANK), **more})
        assert (refused.status, "www-authenticate" in refused.headers) == (403, False)


def test_the_401_of_a_bad_token_says_so_and_no_more(server: Server) -> None:
    """RFC 6750 section 3.1: invalid_token. Nothing tells an expired token from a forged one."""
    told = {
        (reply.status, reply.headers["www-authenticate"], reply.body)
        for reply in (
            ask(server, text)
            for text in ("garbage", token(exp=NOW - 120), sign(claims(), key=STRANGER), token(aud="x"), "x" * 7000)
        )
    }
    ((status, challenge, _),) = told
    assert status == 401
    assert challenge.startswith('Bearer realm="eventpoll", error="invalid_token"')


def test_no_credentials_are_asked_for_in_both_schemes_and_without_an_error(server: Server) -> None:
    """RFC 6750 section 3: a request without any credentials gets no error code; RFC 8936 section 3."""
    challenge = server.request("POST", "/events", POLL_NOW, JSON).headers["www-authenticate"]
    assert challenge.startswith('Bearer realm="eventpoll"')
    assert "Basic realm=" in challenge
    assert "error=" not in challenge


@pytest.mark.parametrize("sent", ["Bearer", "Bearer ", "bearer", "Bearer   ", "Bearer\t", "", "Basic", "DPoP x", "x"])
def test_a_scheme_without_a_token_gets_no_error_code(server: Server, sent: str) -> None:
    """RFC 6750 section 3.1: no error code where the request has no authentication information, or of a kind that is not
    known here. What was not sent cannot be invalid."""
    for method, path in (("POST", "/events"), ("POST", "/open-banking/v4.0/events"), ("GET", "/streams")):
        reply = server.request(method, path, POLL_NOW, {**JSON, "Authorization": sent})
        assert reply.status == 401
        assert reply.headers["www-authenticate"].startswith('Bearer realm="eventpoll", Basic')
        assert "error=" not in reply.headers["www-authenticate"]


@pytest.mark.parametrize("what", ["none", "HS256 with the public key", "a SET replayed as a token", "two kids"])
def test_a_forged_token_is_401_and_nothing_of_its_request_takes_effect(server: Server, what: str) -> None:
    """RFC 8725 section 2.1, over the wire."""
    jti = server.push("tpp")
    body = f'{{"ack":["{jti}"],"maxEvents":0,"returnImmediately":true}}'
    assert ask(server, BAD[what](), body=body).status == 401
    assert server.bank("GET", f"/streams/tpp/sets/{jti}").json["state"] in ("pending", "in_flight")


def test_a_set_from_the_own_stream_is_no_token(server: Server, signing_keys: str) -> None:
    """RFC 8417 section 4.5: a SET is not an access token, even where one issuer signs both with one key."""
    assert (
        ask(server, set_of("x", client_id="tpp", scope="accounts", aud=issuer.AUDIENCE, iss=issuer.NAME)).status == 401
    )


@pytest.mark.parametrize("name", ["access_token", "token", "authorization"])
def test_a_token_is_never_read_from_a_query_string_or_a_form(server: Server, name: str) -> None:
    """RFC 6750 sections 2.2 and 2.3, and 5.3: addresses land in logs."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for path in ("/events", "/api/openbanking/event-notifications/events", "/streams"):
        method = "GET" if path == "/streams" else "POST"
        text = token(scope="eventpolling eventpoll:bank")
        assert server.request(method, f"{path}?{name}={text}", POLL_NOW, JSON).status == 401
        assert server.request(method, path, f"{name}={text}&request=e30=", form).status == 401
        assert server.request(method, path, POLL_NOW, {**JSON, "Cookie": f"{name}={text}"}).status == 401


@pytest.mark.parametrize("path", ["/events", "/open-banking/v4.0/events"])
def test_a_good_token_of_a_tpp_without_a_stream_gets_an_empty_answer(server: Server, path: str) -> None:
    """decisions.md, smaller ones: an ordinary empty answer, and no stream is made."""
    reply = ask(server, token("nobody-yet"), path)
    assert (reply.status, reply.json) == (200, {"sets": {}, "moreAvailable": False})
    assert server.bank("GET", "/streams/nobody-yet").status == 404


def test_a_tokens_poll_is_held_and_woken(server: Server) -> None:
    """RFC 8936 section 2.4: who asks makes no difference to how long a poll waits."""
    server.tpp("waiter")
    replies: list[Reply] = []
    thread = threading.Thread(target=lambda: replies.append(ask(server, token("waiter"), body="{}")), daemon=True)
    thread.start()
    jti = server.push("waiter")
    thread.join(10)
    assert list(replies[0].json["sets"]) == [jti]


def test_the_banks_scope_opens_the_banks_calls(server: Server) -> None:
    """Issue 4: eventpoll:bank."""
    bank = token("the-bank", "eventpoll:bank")
    assert ask(server, bank, "/streams/by-token", "{}", "PUT").status == 201
    event = '{"events":{"urn:test:event":{}},"jti":"by-token-1"}'
    assert ask(server, bank, "/streams/by-token/sets", event).status == 201
    assert ask(server, bank, "/streams/by-token", method="GET").json["pending"] == 1
    assert ask(server, bank).status == 403  # it is no TPP


def test_the_banks_scope_polls_for_a_tpp_on_wso2s_paths_and_sees_all(server: Server) -> None:
    """decisions.md, profile table: the bank's credentials poll for the TPP that the header names; every family."""
    server.tpp("gateway")
    for scope in ("", "payments"):
        event: dict[str, Any] = {
            "events": {"urn:test:event": {}},
            "jti": f"g{scope}",
            **({"scope": scope} if scope else {}),
        }
        assert server.bank("POST", "/streams/gateway/sets", event).status == 201
    headers = {
        **bearer(token("the-bank", "eventpoll:bank")),
        "Content-Type": "application/x-www-form-urlencoded",
        "x-wso2-client-id": "gateway",
    }
    reply = server.request("POST", "/api/fs/event-notifications/events", "request=e30=", headers)
    assert set(reply.json["sets"]) == {"g", "gpayments"}


@pytest.mark.parametrize("scope", ["eventpoll:bank accounts", "accounts eventpoll:bank eventpolling"])
def test_a_token_with_both_scopes_is_the_bank_and_a_tpp(server: Server, scope: str) -> None:
    """Each scope opens what it opens; a TPP that has no stream gets an empty answer, as ever."""
    both = token(f"both-{len(scope)}", scope)
    reply = ask(server, both)
    assert (reply.status, reply.json["sets"]) == (200, {})
    assert ask(server, both, "/streams", method="GET").status == 200


def test_a_tpps_token_does_nothing_of_the_banks(server: Server) -> None:
    """Issue 4: the bank's scope alone opens the bank's calls, whatever the token's client is named."""
    for client in ("tpp", BANK[0]):
        reply = ask(server, token(client), "/streams/tpp", method="GET")
        assert reply.status == 403


def test_basic_works_beside_tokens(server: Server) -> None:
    """decisions.md, profile table: Bearer or Basic."""
    assert server.poll("tpp", {"returnImmediately": True}).status == 200
    wrong = {**JSON, "Authorization": basic("tpp", "wrong")}
    assert "Basic realm=" in server.request("POST", "/events", POLL_NOW, wrong).headers["www-authenticate"]


def test_a_tokens_life_is_in_no_answer_and_no_log(server: Server) -> None:
    """Issue 4: no token in logs."""
    text = token()
    ask(server, text)
    ask(server, text + "x")
    assert text.rpartition(".")[2] not in server.log.read_text()


def test_the_issuers_rotation_needs_no_restart(serve: Callable[..., Server], tmp_path: Path) -> None:
    """Issue 4: a new kid is found, and the old key's new tokens are refused; then the issuer may be away."""
    new = ECKey.generate_key("P-256", {"kid": "new"})
    with issuer.running() as running:
        server = serve(**issuer.settings(running.url))
        assert ask(server, token()).status == 200
        running.published = issuer.jwks(new)
        assert ask(server, sign(claims(), "ES256", new)).status == 200
        assert ask(server, token(jti="another")).status == 401
        running.stop()
        assert ask(server, sign(claims(jti="in the outage"), "ES256", new)).status == 200


def test_an_issuer_that_was_never_there_is_503_until_it_is(serve: Callable[..., Server]) -> None:
    """Never a 401 that tells a TPP to throw away a good token; Retry-After in whole seconds. Basic goes on."""
    with issuer.running() as running:
        running.status = 500
        server = serve(**issuer.settings(running.url))
        server.tpp("tpp")
        for path in ("/events", "/open-banking/v3.1/events", "/api/fs/event-notifications/events"):
            reply = ask(server, token(), path)
            assert reply.status == 503
            assert int(reply.headers["retry-after"]) >= 1
        assert server.poll("tpp", {"returnImmediately": True}).status == 200
        running.status = 200
        wait_for(lambda: ask(server, token()).status == 200)


@pytest.mark.parametrize("how", ["inline", "file", "the file of a setting"])
def test_the_keys_may_be_inline_or_in_a_file(serve: Callable[..., Server], tmp_path: Path, how: str) -> None:
    """interface.md: a JWK Set, a file or an https URL."""
    file = tmp_path / "jwks.json"
    file.write_text(issuer.jwks())
    settings = issuer.settings({"file": str(file)}.get(how))
    if how == "the file of a setting":
        del settings["EVENTPOLL_TOKEN_JWKS"]
        settings["EVENTPOLL_TOKEN_JWKS_FILE"] = str(file)
    server = serve(EVENTPOLL_TOKEN_ALGORITHMS="PS256 ES256", EVENTPOLL_TOKEN_SCOPES="read:events", **settings)
    assert ask(server, token(scope="read:events")).status == 200
    assert ask(server, token(scope="accounts")).status == 403
    assert ask(server, token(scope="read:events", alg="RS256")).status == 401


def test_the_strictest_settings_take_what_they_ask_for_alone(serve: Callable[..., Server]) -> None:
    """Issue 11, 10: settings that demand at+jwt, demand a certificate, and turn the scope eventpoll:bank off."""
    certificate = Certificate("tpp")
    server = serve(
        EVENTPOLL_TOKEN_TYPES="at+jwt",
        EVENTPOLL_TOKEN_BINDING="required",
        EVENTPOLL_TOKEN_BANK_SCOPE="off",
        EVENTPOLL_CLIENT_CERT_HEADER="Client-Cert",
        **issuer.settings(),
    )
    shown = {"Client-Cert": certificate.rfc9440()}
    assert ask(server, token(**certificate.bound), headers=shown).status == 200
    for text in (
        token(),
        token(cnf=None),
        sign(claims(**certificate.bound), header={"typ": "JWT"}),
        sign(claims(**certificate.bound), header={"typ": None}),
    ):
        reply = ask(server, text, headers=shown)
        assert reply.status == 401
        assert 'error="invalid_token"' in reply.headers["www-authenticate"]
    for scope in ("eventpoll:bank", "accounts eventpoll:bank"):
        reply = ask(server, token(scope=scope, **certificate.bound), "/streams", method="GET", headers=shown)
        assert reply.status == 403
        assert reply.headers["www-authenticate"].startswith(
            'Bearer realm="eventpoll", error="insufficient_scope", Basic'
        )
    assert ask(server, token(scope="eventpoll:bank", **certificate.bound), headers=shown).status == 403
    assert server.bank("GET", "/streams").status == 200


# -- mistakes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "http://issuer.example/jwks.json",
        "http://localhost.evil.example/jwks.json",
        "http://127.0.0.1@evil.example/jwks.json",
        "ftp://issuer.example/jwks.json",
        "file:///etc/passwd",
        "https://",
        "https:///jwks.json",
        "https://user:SECRET@issuer.example/jwks.json",
        "/no/such/file",
        '{"keys": []}',
        '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}',
        '{"keys": 1}',
        "{",
    ],
)
def test_a_source_of_keys_that_cannot_be_right_stops_the_start(source: str) -> None:
    """interface.md: a mistake stops the start, with one line. Over plain http anyone on the way could sign."""
    with pytest.raises(ConfigError) as caught:
        Config.from_environ({**issuer.settings(), "EVENTPOLL_TOKEN_JWKS": source})
    assert caught.value.mistakes[0].startswith("EVENTPOLL_TOKEN_JWKS: ")
    assert all("\n" not in mistake and "SECRET" not in mistake for mistake in caught.value.mistakes)


@pytest.mark.parametrize("missing", ["EVENTPOLL_TOKEN_ISSUER", "EVENTPOLL_TOKEN_AUDIENCE", "EVENTPOLL_TOKEN_JWKS"])
def test_issuer_audience_and_keys_come_together(missing: str) -> None:
    """Half of them would leave Bearer off, or a check out, without a word."""
    settings = {name: text for name, text in issuer.settings().items() if name != missing}
    with pytest.raises(ConfigError, match="set all three or none"):
        Config.from_environ(settings)


@pytest.mark.parametrize("words", ["none", "HS256", "PS256 none", "PS256,HS512", "ps256", "RSA-OAEP", " "])
def test_no_algorithm_that_proves_nothing_can_be_set(words: str) -> None:
    """decisions.md: never none, never a shared-secret one."""
    with pytest.raises(ConfigError, match="EVENTPOLL_TOKEN_ALGORITHMS"):
        Config.from_environ({"EVENTPOLL_TOKEN_ALGORITHMS": words})
