"""Key sets of issuers and banks: one reader, which leaves out the odd key and says so, and takes all the others."""

import gzip
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import OKPKey, RSAKey

from eventpoll import __version__
from eventpoll.access.issuer_keys import IssuerKeys, NoKeys
from eventpoll.access.tokens import Validator
from eventpoll.sets import signed
from eventpoll.sets.event import BadSecevent
from eventpoll.settings import Config, ConfigError
from harness import issuer
from harness.issuer import KEYS, Issuer, claims, sign, token
from tests.key_shapes import BESIDES, LEFT_OUT

GOOD = KEYS["PS256"].as_dict(private=False)


@pytest.fixture
def at_url() -> Iterator[Issuer]:
    with issuer.running() as running:
        yield running


def key_set(*members: Any) -> str:
    return json.dumps({"keys": list(members)})


SOURCES: dict[str, Callable[[str, Path, Issuer], str]] = {
    "by value": lambda text, directory, at_url: text,
    "in a file": lambda text, directory, at_url: written(directory, text),
    "at a URL": lambda text, directory, at_url: published(at_url, text),
}


def written(directory: Path, text: str) -> str:
    """A file with the set, as an editor on Windows writes it."""
    file = directory / "jwks.json"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    return str(file)


def published(at_url: Issuer, text: str) -> str:
    at_url.published = text
    return at_url.url


def kids(source: str) -> list[Any]:
    """The kids of the keys that a service takes of its settings."""
    config = Config.from_environ(issuer.settings(source))
    return [key.get("kid") for key in IssuerKeys(str(config.token_jwks)).candidates(None)]


@pytest.mark.parametrize("how", SOURCES)
@pytest.mark.parametrize("what", LEFT_OUT)
def test_an_odd_key_is_left_out_and_named_and_the_others_are_taken(
    what: str, how: str, tmp_path: Path, at_url: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 13, 4: by value, in a file and at a URL alike. A short line of the log says which key."""
    member, words = LEFT_OUT[what]
    assert kids(SOURCES[how](key_set(member, GOOD), tmp_path, at_url)) == ["ps"]
    told = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert told
    assert all("key 1" in line and words in line and len(line) < 500 and "\n" not in line for line in told)


@pytest.mark.parametrize("how", SOURCES)
@pytest.mark.parametrize("what", BESIDES)
def test_what_a_key_says_besides_does_it_no_harm(what: str, how: str, tmp_path: Path, at_url: Issuer) -> None:
    """RFC 7517 section 4: members that are not understood are ignored; null counts as absent."""
    source = SOURCES[how](key_set({**GOOD, **BESIDES[what]}), tmp_path, at_url)
    assert kids(source) == ["ps"]
    keys = IssuerKeys(source)
    ours = Validator(issuer.NAME, issuer.AUDIENCE, keys, ["PS256"], lambda request: None)
    assert ours.authenticate_token(token()) is not None


@pytest.mark.parametrize("what", LEFT_OUT)
@pytest.mark.parametrize("name", ["EVENTPOLL_TOKEN_JWKS", "EVENTPOLL_PUSH_JWKS"])
def test_a_set_of_which_no_key_is_left_stops_the_start(name: str, what: str) -> None:
    """Refused only where none is left: then nothing could ever be checked."""
    with pytest.raises(ConfigError) as caught:
        Config.from_environ({**issuer.settings(), name: key_set(LEFT_OUT[what][0])})
    assert caught.value.mistakes[0].startswith(f"{name}: has no key that can check signatures")


def test_the_banks_keys_are_read_by_the_same_reader(caplog: pytest.LogCaptureFixture) -> None:
    """EVENTPOLL_PUSH_JWKS, by value or in a file."""
    members = [member for member, _ in LEFT_OUT.values()]
    keys = Config.from_environ(
        {"EVENTPOLL_PUSH_JWKS": key_set(*members, {**GOOD, **BESIDES["null members"]})}
    ).push_jwks
    assert keys is not None
    assert [key.kid for key in keys.keys] == ["ps"]
    assert len(caplog.records) == len(members)


def test_a_key_that_stays_odd_is_named_once(at_url: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    """Fetches come every hour, and with unknown kids: the log does not say the same each time."""
    keys = IssuerKeys(published(at_url, key_set("odd", GOOD)))
    for _ in range(3):
        keys._refresh(float("inf"))
    assert at_url.asked == 3
    assert len([record for record in caplog.records if "left out" in record.getMessage()]) == 1


# -- weak keys ------------------------------------------------------------------------------------------------------

WEAK = RSAKey.generate_key(1024, {"kid": "weak"})


def test_a_short_rsa_key_checks_no_token() -> None:
    """Issue 13, 5; RFC 7518 section 3.3: 2048 bits or more."""
    text = sign(claims(), "RS256", WEAK)
    source = key_set(WEAK.as_dict(private=False), GOOD)
    ours = Validator(issuer.NAME, issuer.AUDIENCE, IssuerKeys(source), ["RS256", "PS256"], lambda request: None)
    assert ours.authenticate_token(text) is None
    assert ours.authenticate_token(token()) is not None


def test_a_short_rsa_key_checks_no_pushed_set() -> None:
    """The same of EVENTPOLL_PUSH_JWKS."""
    said = {"jti": "j", "events": {"urn:a": {}}}
    keys = Config.from_environ({"EVENTPOLL_PUSH_JWKS": key_set(WEAK.as_dict(private=False), GOOD)}).push_jwks
    assert keys is not None
    with pytest.raises(BadSecevent, match="no key"):
        signed.verify(sign(said, "RS256", WEAK), keys)
    signed.verify(sign(said), keys)


# -- the fetch ------------------------------------------------------------------------------------------------------


def test_a_fetch_says_who_asks_and_for_what(at_url: Issuer) -> None:
    """Issue 13, 3: common firewalls refuse Python-urllib."""
    assert IssuerKeys(at_url.url).candidates("ps")
    assert at_url.headers["User-Agent"] == f"eventpoll/{__version__}"
    assert at_url.headers["Accept"] == "application/json"


UNREADABLE: dict[str, tuple[bytes, str]] = {
    "compressed": (gzip.compress(issuer.jwks().encode() * 100, 0), ""),
    "compressed, and said so": (gzip.compress(issuer.jwks().encode()), "gzip"),
    "a page": (b"<html>" + b"x" * 100_000, ""),
    "Latin-1": (b'{"keys": ["' + b"\xe9" * 100_000 + b'"]}', ""),
    "no set": (json.dumps({"error": "x" * 100_000}).encode(), ""),
    "a list": (b"[" + b"1," * 50_000 + b"1]", ""),
    "UTF-16": (issuer.jwks().encode("utf-16"), ""),
    "nesting": (b"[" * 100_000, ""),
    "a header without end": (b"{}", "x" * 50_000),
    "lines": (b"{\n\nforged: true\n", ""),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_cannot_be_read_of_an_answer_is_logged_in_a_short_line(
    what: str, at_url: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 13, 3: one line, whatever the issuer sends; the whole answer stood there once."""
    at_url.body, coding = UNREADABLE[what]
    at_url.more_headers = {"Content-Encoding": coding} if coding else {}
    with caplog.at_level(logging.WARNING), pytest.raises(NoKeys):
        IssuerKeys(at_url.url).candidates("ps")
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("The token issuer's keys could not be read: ")
    assert len(line) < 400
    assert "\n" not in line


# -- algorithms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [None, "EdDSA", "Ed25519"])
@pytest.mark.parametrize("alg", ["EdDSA", "Ed25519"])
def test_ed25519_is_eddsa_by_its_own_name(alg: str, named: str | None) -> None:
    """Issue 13, 5; RFC 9864 section 2.2: where EdDSA is taken, Ed25519 is, whichever the key names."""
    key = OKPKey.generate_key("Ed25519", {"kid": "ed", **({"alg": named} if named else {})})
    text = sign(claims(), alg, OKPKey.import_key({**key.as_dict(private=True), "alg": alg}))
    source = key_set(key.as_dict(private=False))
    ours = Validator(issuer.NAME, issuer.AUDIENCE, IssuerKeys(source), ["EdDSA"], lambda request: None)
    assert ours.authenticate_token(text) is not None
    keys = Config.from_environ({"EVENTPOLL_PUSH_JWKS": source}).push_jwks
    assert keys is not None
    signed.verify(
        sign({"jti": "j", "events": {"urn:a": {}}}, alg, OKPKey.import_key({**key.as_dict(private=True), "alg": alg})),
        keys,
    )
