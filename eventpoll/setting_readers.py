"""Readers of settings. Each returns the value of a text, or raises ValueError with what the operator must change."""

import ipaddress
import json
import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, KeySet, OKPKey, RSAKey
from limits import RateLimitItem, parse

from eventpoll import redis_url as eventpoll_redis_url

log = logging.getLogger(__name__)

ED25519 = ("EdDSA", "Ed25519")
RSA_BITS = 2048
SIGNING_ALGORITHMS = {"RSA": ("PS256", "RS256"), "EC": ("ES256",), "OKP": ED25519}


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a reader of whole numbers from `least` to `most`."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,15}", text) or int(text) < least or (most is not None and int(text) > most):
            raise ValueError(f"must be a whole number from {least}" + (f" to {most}" if most is not None else " up"))
        return int(text)

    return read


def decimal(least: float, most: float, *, above: bool = False) -> Callable[[str], float]:
    """Return a reader of numbers from `least` to `most`. With `above`, the reader refuses `least` itself."""

    def read(text: str) -> float:
        number = float(text) if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", text) else -1.0
        if not least <= number <= most or (above and number == least):
            raise ValueError(f"must be a number {'above' if above else 'from'} {least:g} to {most:g}")
        return number

    return read


def one_of(*words: str) -> Callable[[str], str]:
    """Return a reader of one word out of several."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text

    return read


def words(*allowed: str) -> Callable[[str], tuple[str, ...]]:
    """Return a reader of words with blanks or commas between them. If `allowed` is given, it lists the valid words."""

    def read(text: str) -> tuple[str, ...]:
        words = tuple(text.replace(",", " ").split())
        if not words or (allowed and not set(words) <= set(allowed)):
            raise ValueError("must be words with blanks between" + (f", of {', '.join(allowed)}" if allowed else ""))
        return words

    return read


def header_name(text: str) -> str:
    """Return the name of an HTTP header."""
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", text):
        raise ValueError("must be the name of a header, of letters, digits and hyphens")
    return text


def networks(text: str) -> tuple[str, ...]:
    """Return the addresses and networks in a text. The word unix stands for a Unix socket."""
    named = words()(text)
    for word in named:
        try:
            ipaddress.ip_network(word if word != "unix" else "::1", strict=False)
        except ValueError:
            raise ValueError("must be addresses, networks (10.0.0.0/8), or unix") from None
    return named


def rate(text: str) -> RateLimitItem:
    """Return a rate, such as 10/second."""
    if not re.fullmatch(r"[1-9][0-9]{0,6} ?(/|per) ?([1-9][0-9]{0,4} )?(second|minute|hour)s?", text):
        raise ValueError("must be like 10/second, 600/minute or 5000/hour")
    return parse(text)


def jwks_source(text: str) -> str:
    """Return the place of a key set: the JWK Set itself, a file that holds one, or an https URL."""
    if text.lstrip().startswith("{"):
        public_keys(text)
        return text
    url = urlsplit(text)
    if "@" in url.netloc:
        raise ValueError("must be a URL without a user name and a password: the log would show them when a fetch fails")
    local = url.scheme == "http" and url.hostname in ("127.0.0.1", "::1", "localhost")
    if (url.scheme == "https" and url.hostname) or local:
        return url.geturl()
    if url.scheme:
        raise ValueError("must be a JWK Set, the name of a file, or an https URL")
    try:
        public_keys(Path(text).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError):
        raise ValueError("must be a JWK Set, the name of a file that can be read, or an https URL") from None
    return text


def redis_url(text: str) -> str:
    """Return the URL of the store. eventpoll.redis_url decides which URLs are valid."""
    eventpoll_redis_url.read(text)
    return text.strip()


def _jwks(text: str) -> KeySet:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joserfc warns about weak keys; signing_keys refuses them
            return KeySet.import_key_set(_json_object(text))
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        raise ValueError('must be a JWK Set: {"keys": [...]}') from None


def _json_object(text: str) -> Any:
    value = json.loads(text)
    if not isinstance(value, dict) or not isinstance(value.get("keys"), list) or not value["keys"]:
        raise ValueError
    return value


def signing_algorithms(key: Any) -> tuple[str, ...]:
    """Return the algorithms with which a key may sign SETs; () if it cannot sign.

    A key with an `alg` may sign with that algorithm only.
    """
    able = SIGNING_ALGORITHMS.get(key.key_type, ())
    if isinstance(key, ECKey) and key.get("crv") != "P-256":
        able = ()
    if isinstance(key, OKPKey) and key.get("crv") != "Ed25519":
        able = ()
    own = key.get("alg")
    if own is None:
        return able
    return (str(own),) if own in able else ()


def signing_keys(text: str) -> KeySet:
    """Return the private keys of a JWK Set, each with a `kid`."""
    keys = _jwks(text)
    for number, key in enumerate(keys.keys, 1):
        if isinstance(key, RSAKey) and key.raw_value.key_size < RSA_BITS:
            raise ValueError(f"key {number} is too weak: RSA keys need {RSA_BITS} bits or more")
        if not key.is_private:
            raise ValueError(f"key {number} has no private half: it cannot sign")
        if not signing_algorithms(key):
            raise ValueError(f"key {number} cannot sign with PS256, RS256, ES256 (P-256), EdDSA or Ed25519")
        key.ensure_kid()
    if len({key.kid for key in keys.keys}) < len(keys.keys):
        raise ValueError('each key needs a "kid" of its own')
    return keys


def read_public_keys(text: str) -> tuple[KeySet, list[str]]:
    """Return the keys of a JWK Set that can check signatures, and for each other key the reason why it is left out.

    Settings, files and URLs share this reader. Raises ValueError if the text is not a JWK Set.
    """
    value = json.loads(text)
    if not isinstance(value, dict) or not isinstance(value.get("keys"), list):
        raise ValueError('it is no JWK Set: {"keys": [...]} is expected')
    keys: list[Key] = []
    left_out = []
    for number, member in enumerate(value["keys"], 1):
        try:
            keys.append(_public_key(member))
        except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
            kid = member.get("kid") if isinstance(member, dict) else None
            why = str(error) if isinstance(error, ValueError) and str(error) else f"it cannot be read: {error!r}"
            left_out.append(f"key {number} (kid {kid!r:.100}) is left out: {why:.200}")
    return KeySet(keys), left_out


def _public_key(member: Any) -> Key:
    if not isinstance(member, dict):
        raise ValueError("it is no JSON object")
    known = {name: value for name, value in member.items() if value is not None}
    if known.get("kty") not in ("RSA", "EC", "OKP"):
        raise ValueError("its kty is not RSA, EC or OKP")
    if known.get("crv") == "Ed25519" and known.get("alg") in ED25519:
        del known["alg"]  # RFC 9864: EdDSA and Ed25519 name the same algorithm, so the key serves both
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # joserfc warns about weak keys; the check below refuses them
        (key,) = KeySet.import_key_set({"keys": [known]}).keys
    if isinstance(key, RSAKey) and key.raw_value.key_size < RSA_BITS:
        raise ValueError(f"it has {key.raw_value.key_size} bits: RSA keys need {RSA_BITS} or more")
    return key


def public_keys(text: str) -> KeySet:
    """Return the keys of a JWK Set that can check signatures, and log each key that cannot.

    Raises ValueError if the text is not a JWK Set, or has no key that can check signatures.
    """
    try:
        keys, left_out = read_public_keys(text)
    except (ValueError, RecursionError):
        raise ValueError('must be a JWK Set: {"keys": [...]}') from None
    for words in left_out:
        log.warning("Of a JWK Set in the settings %s", words)
    if not keys.keys:
        raise ValueError("has no key that can check signatures; shared secrets and short RSA keys are left out")
    return keys
