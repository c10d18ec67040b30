"""Every setting, read once from the environment; the only reader of it."""

import ipaddress
import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, KeySet, OKPKey, RSAKey
from limits import RateLimitItem, parse

import redisurl

log = logging.getLogger(__name__)

SET_PROFILES = ("rfc8417", "obie", "wso2")
ON_ERROR = ("park", "redeliver")
TOKEN_SCOPES = ("accounts", "payments", "fundsconfirmations", "eventpolling")
TOKEN_TYPES = ("at+jwt", "application/at+jwt", "JWT", "none")
TOKEN_ALGORITHMS = ("PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519", "RS256", "RS384", "RS512")
ED25519 = ("EdDSA", "Ed25519")
RSA_BITS = 2048
SIGNING_ALGORITHMS = {"RSA": ("PS256", "RS256"), "EC": ("ES256",), "OKP": ED25519}


ROUTERS = {"DYNO": ("Heroku's router", 30), "WEBSITE_SITE_NAME": ("Azure's load balancer", 230)}
"""Variables by which a platform is known: what ends a request that has no answer yet, and after how many seconds."""

PREFIX = "EVENTPOLL_"
KUBERNETES = re.compile(
    r"EVENTPOLL(_\w+)?_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""What Kubernetes sets in every pod for a Service named eventpoll, as deploy/kubernetes.yaml has it."""


class ConfigError(Exception):
    """One or more mistakes in the environment, a line for each."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


def setting(name: str, default: Any, read: Callable[[str], Any], *, secret: bool = False) -> Any:
    """A dataclass field that is read from the environment variable `name`, or from the file that NAME_FILE names."""
    return field(default=default, repr=not secret, metadata={"name": name, "read": read})


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,15}", text) or int(text) < least or (most is not None and int(text) > most):
            raise ValueError(f"must be a whole number from {least}" + (f" to {most}" if most is not None else " up"))
        return int(text)

    return read


def _decimal(least: float, most: float, *, above: bool = False) -> Callable[[str], float]:
    def read(text: str) -> float:
        number = float(text) if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", text) else -1.0
        if not least <= number <= most or (above and number == least):
            raise ValueError(f"must be a number {'above' if above else 'from'} {least:g} to {most:g}")
        return number

    return read


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text

    return read


def _words(*allowed: str) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        words = tuple(text.replace(",", " ").split())
        if not words or (allowed and not set(words) <= set(allowed)):
            raise ValueError("must be words with blanks between" + (f", of {', '.join(allowed)}" if allowed else ""))
        return words

    return read


def _password(text: str) -> str:
    """A password, or its scrypt hash in Werkzeug's form. What only begins like one is a mistake: a shell may have taken
    the rest for variables, and the beginning would be a password that everyone knows."""
    if text.startswith(("scrypt:", "pbkdf2:")):
        found = re.fullmatch(r"scrypt:([0-9]{1,9}):([0-9]{1,4}):([0-9]{1,4})\$[^$\s]+\$[0-9a-f]{128}", text)
        n, r, p = (int(number) for number in found.groups()) if found else (0, 0, 0)
        if n & (n - 1) or not 2**24 <= 128 * n * r * p <= 2**29:
            raise ValueError(
                "begins like a hash and is none that is taken: make one with flask eventpoll hash-password, and keep "
                "the $ in it from the shell ('…', or a file and EVENTPOLL_BANK_PASSWORD_FILE)"
            )
    return text


def _header_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", text):
        raise ValueError("must be the name of a header, of letters, digits and hyphens")
    return text


def _networks(text: str) -> tuple[str, ...]:
    words = _words()(text)
    for word in words:
        try:
            ipaddress.ip_network(word if word != "unix" else "::1", strict=False)
        except ValueError:
            raise ValueError("must be addresses, networks (10.0.0.0/8), or unix") from None
    return words


def _rate(text: str) -> RateLimitItem:
    if not re.fullmatch(r"[1-9][0-9]{0,6} ?(/|per) ?([1-9][0-9]{0,4} )?(second|minute|hour)s?", text):
        raise ValueError("must be like 10/second, 600/minute or 5000/hour")
    return parse(text)


def _jwks_source(text: str) -> str:
    if text.lstrip().startswith("{"):
        _public_keys(text)
        return text
    url = urlsplit(text)
    if "@" in url.netloc:
        raise ValueError("must be a URL without a user name and a password: what fails is logged with them")
    local = url.scheme == "http" and url.hostname in ("127.0.0.1", "::1", "localhost")
    if (url.scheme == "https" and url.hostname) or local:
        return url.geturl()
    if url.scheme:
        raise ValueError("must be a JWK Set, the name of a file, or an https URL")
    try:
        _public_keys(Path(text).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError):
        raise ValueError("must be a JWK Set, the name of a file that can be read, or an https URL") from None
    return text


def _redis_url(text: str) -> str:
    redisurl.read(text)
    return text.strip()


def _authorities(text: str) -> str:
    try:
        redisurl.read(redisurl.with_tls("rediss://store", text))
    except redisurl.BadUrl:
        raise ValueError("must be the name of a file with certificates (PEM), or the certificates") from None
    return text


def _jwks(text: str) -> KeySet:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weak keys: they are a mistake here, and told as one
            return KeySet.import_key_set(_json_object(text))
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        raise ValueError('must be a JWK Set: {"keys": [...]}') from None


def _json_object(text: str) -> Any:
    value = json.loads(text)
    if not isinstance(value, dict) or not isinstance(value.get("keys"), list) or not value["keys"]:
        raise ValueError
    return value


def signing_algorithms(key: Any) -> tuple[str, ...]:
    """The algorithms with which a key may sign SETs, its own `alg` alone if it names one; empty if none."""
    able = SIGNING_ALGORITHMS.get(key.key_type, ())
    if isinstance(key, ECKey) and key.get("crv") != "P-256":
        able = ()
    if isinstance(key, OKPKey) and key.get("crv") != "Ed25519":
        able = ()
    own = key.get("alg")
    if own is None:
        return able
    return (str(own),) if own in able else ()


def _signing_keys(text: str) -> KeySet:
    keys = _jwks(text)
    for number, key in enumerate(keys.keys, 1):
        if isinstance(key, RSAKey) and key.raw_value.key_size < RSA_BITS:
            raise ValueError(f"key {number} is too weak: RSA keys want {RSA_BITS} bits or more")
        if not key.is_private:
            raise ValueError(f"key {number} has no private half: it cannot sign")
        if not signing_algorithms(key):
            raise ValueError(f"key {number} cannot sign with PS256, RS256, ES256 (P-256), EdDSA or Ed25519")
        key.ensure_kid()
    if len({key.kid for key in keys.keys}) < len(keys.keys):
        raise ValueError('each key wants a "kid" of its own')
    return keys


def read_public_keys(text: str) -> tuple[KeySet, list[str]]:
    """Read the keys of a JWK Set that can check signatures, and say of each other one why it is left out.

    The one reader, whether the set stands in a setting, in a file or at a URL. Raises ValueError where the text is no
    JWK Set.
    """
    value = json.loads(text)
    if not isinstance(value, dict) or not isinstance(value.get("keys"), list):
        raise ValueError('it is no JWK Set: {"keys": [...]} is wanted')
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
        del known["alg"]  # two names of one algorithm (RFC 9864): the key is for both
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weak keys, which are refused here
        (key,) = KeySet.import_key_set({"keys": [known]}).keys
    if isinstance(key, RSAKey) and key.raw_value.key_size < RSA_BITS:
        raise ValueError(f"it has {key.raw_value.key_size} bits: RSA keys want {RSA_BITS} or more")
    return key


def _public_keys(text: str) -> KeySet:
    try:
        keys, left_out = read_public_keys(text)
    except (ValueError, RecursionError):
        raise ValueError('must be a JWK Set: {"keys": [...]}') from None
    for words in left_out:
        log.warning("Of a JWK Set in the settings %s", words)
    if not keys.keys:
        raise ValueError("has no key that can check signatures; shared secrets and short RSA keys are left out")
    return keys


@dataclass(frozen=True)
class Config:
    """What the service is told from outside. Times are in the unit of the variable's name; see docs/operations.md."""

    redis_url: str | None = setting("REDIS_URL", None, _redis_url, secret=True)
    redis_ca: str | None = setting("EVENTPOLL_REDIS_CA", None, _authorities)
    redis_tls_verify: str = setting("EVENTPOLL_REDIS_TLS_VERIFY", "full", _one_of("full", "none"))
    port: int = setting("PORT", 8000, _whole(1, 65535))
    web_concurrency: int = setting("WEB_CONCURRENCY", os.cpu_count() or 1, _whole(1, 1024))
    bank_username: str | None = setting("EVENTPOLL_BANK_USERNAME", None, str)
    bank_password: str | None = setting("EVENTPOLL_BANK_PASSWORD", None, _password, secret=True)
    issuer: str | None = setting("EVENTPOLL_ISSUER", None, str)
    signing_keys: KeySet | None = setting("EVENTPOLL_SIGNING_KEYS", None, _signing_keys, secret=True)
    set_profile: str = setting("EVENTPOLL_SET_PROFILE", "rfc8417", _one_of(*SET_PROFILES))
    number_of_sets_to_return: int = setting("EVENTPOLL_NUMBER_OF_SETS_TO_RETURN", 100, _whole(1, 100_000))
    max_events: int = setting("EVENTPOLL_MAX_EVENTS", 1000, _whole(1, 100_000))
    max_acks: int = setting("EVENTPOLL_MAX_ACKS", 10_000, _whole(1, 100_000))
    long_poll_seconds: float = setting("EVENTPOLL_LONG_POLL_SECONDS", 25.0, _decimal(0, 600))
    max_held_polls: int = setting("EVENTPOLL_MAX_HELD_POLLS", 20, _whole(1, 100_000))
    max_held_polls_per_worker: int = setting("EVENTPOLL_MAX_HELD_POLLS_PER_WORKER", 10_000, _whole(1, 100_000))
    redeliver_after: float = setting("EVENTPOLL_REDELIVER_AFTER", 0.0, _decimal(0, 31_536_000))
    max_deliveries: int = setting("EVENTPOLL_MAX_DELIVERIES", 0, _whole(0, 1_000_000))
    on_error: str = setting("EVENTPOLL_ON_ERROR", "park", _one_of(*ON_ERROR))
    retention_days: float = setting("EVENTPOLL_RETENTION_DAYS", 30.0, _decimal(0, 36_500, above=True))
    dedupe_seconds: float = setting("EVENTPOLL_DEDUPE_SECONDS", 86_400.0, _decimal(0, 31_536_000))
    wait_replicas: int = setting("EVENTPOLL_WAIT_REPLICAS", 0, _whole(0, 100))
    wait_replicas_ms: int = setting("EVENTPOLL_WAIT_REPLICAS_MS", 1000, _whole(1, 4000))
    max_clock_skew_seconds: float = setting("EVENTPOLL_MAX_CLOCK_SKEW_SECONDS", 3600.0, _decimal(10, 31_536_000))
    wso2_empty_status: int = setting("EVENTPOLL_WSO2_EMPTY_STATUS", 200, lambda text: int(_one_of("200", "404")(text)))
    push_jwks: KeySet | None = setting("EVENTPOLL_PUSH_JWKS", None, _public_keys)
    obie_iss: str | None = setting("EVENTPOLL_OBIE_ISS", None, str)
    obie_tan: str = setting("EVENTPOLL_OBIE_TAN", "openbanking.org.uk", str)
    token_issuer: str | None = setting("EVENTPOLL_TOKEN_ISSUER", None, str)
    token_audience: str | None = setting("EVENTPOLL_TOKEN_AUDIENCE", None, str)
    token_jwks: str | None = setting("EVENTPOLL_TOKEN_JWKS", None, _jwks_source)
    token_scopes: tuple[str, ...] = setting("EVENTPOLL_TOKEN_SCOPES", TOKEN_SCOPES, _words())
    token_algorithms: tuple[str, ...] = setting(
        "EVENTPOLL_TOKEN_ALGORITHMS", ("PS256", "ES256", "EdDSA", "RS256"), _words(*TOKEN_ALGORITHMS)
    )
    token_types: tuple[str, ...] = setting("EVENTPOLL_TOKEN_TYPES", TOKEN_TYPES, _words())
    token_binding: str = setting("EVENTPOLL_TOKEN_BINDING", "optional", _one_of("optional", "required"))
    token_bank_scope: str = setting("EVENTPOLL_TOKEN_BANK_SCOPE", "on", _one_of("on", "off"))
    client_cert_header: str | None = setting("EVENTPOLL_CLIENT_CERT_HEADER", None, _header_name)
    trusted_proxies: tuple[str, ...] = setting("EVENTPOLL_TRUSTED_PROXIES", ("127.0.0.0/8", "::1", "unix"), _networks)
    proxy_hops: int = setting("EVENTPOLL_PROXY_HOPS", 0, _whole(0, 10))
    trusted_hosts: tuple[str, ...] = setting("EVENTPOLL_TRUSTED_HOSTS", (), _words())
    poll_rate: RateLimitItem | None = setting("EVENTPOLL_POLL_RATE", None, _rate)
    request_seconds: float = setting("EVENTPOLL_REQUEST_SECONDS", 30.0, _decimal(0, 600, above=True))
    max_connections_per_address: int = setting("EVENTPOLL_MAX_CONNECTIONS_PER_ADDRESS", 500, _whole(0, 100_000))
    failed_login_seconds: float = setting("EVENTPOLL_FAILED_LOGIN_SECONDS", 1.0, _decimal(0, 10))
    log: str = setting("EVENTPOLL_LOG", "none", _one_of("none", "json"))
    data_dir: Path = Path(".data")
    """Where the embedded store keeps its files, when there is no REDIS_URL."""
    noticed: tuple[str, ...] = ()
    """What may hurt in the environment beside the settings."""

    @property
    def store_url(self) -> str | None:
        """REDIS_URL, with what the other settings say of its TLS."""
        verify = self.redis_tls_verify == "full"
        return None if self.redis_url is None else redisurl.with_tls(self.redis_url, self.redis_ca, verify=verify)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed and may hurt, a line for each, to be told at each start."""
        return tuple(_warnings(self))

    @classmethod
    def names(cls) -> dict[str, Any]:
        """Each variable's name, with its field."""
        return {each.metadata["name"]: each for each in fields(cls) if each.metadata}

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None, over: Mapping[str, Any] | None = None) -> "Config":
        """Read every setting; an empty variable counts as none. What `over` holds under a variable's name wins.

        Raises ConfigError with a line for each mistake.
        """
        source = dict(os.environ if environ is None else environ)
        for name in cls.names():
            if (over or {}).get(name) is not None:
                source.pop(f"{name}_FILE", None)
                source[name] = str((over or {})[name])
        mistakes: list[str] = []
        values: dict[str, Any] = {}
        for name, each in cls.names().items():
            try:
                text = _text(name, source)
                if text is not None:
                    values[each.name] = each.metadata["read"](text)
            except ValueError as error:
                mistakes.append(f"{name}: {error}")
        mistakes += _contradictions(cls(**values))
        mistakes += _unusable(source)
        if mistakes:
            raise ConfigError(mistakes)
        config = cls(**values)
        return replace(config, noticed=(*_misspelt([*source, *(over or {})]), *_cut_short(config, source)))


def _text(name: str, source: Mapping[str, str]) -> str | None:
    text, file = source.get(name) or None, source.get(f"{name}_FILE") or None
    if text is not None and file is not None:
        raise ValueError(f"is set, and so is {name}_FILE: one of them, please")
    if file is None:
        return text
    try:
        return Path(file).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"cannot read the file that {name}_FILE names") from None


def counts_folder() -> Path:
    """The folder in which the workers of this master of gunicorn count their polls. gunicorn.conf.py makes it."""
    return Path(tempfile.gettempdir()) / f"eventpoll-{os.getuid()}-{os.getpid()}"


def _unusable(source: Mapping[str, str]) -> Iterator[str]:
    """A setting of a library's with which each poll would be a 500."""
    folder = source.get("PROMETHEUS_MULTIPROC_DIR") or source.get("prometheus_multiproc_dir")
    if not folder or folder == str(counts_folder()):  # with --preload we are here before it is made
        return
    if not (Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        yield "PROMETHEUS_MULTIPROC_DIR: must name a folder that can be written to"


def _misspelt(names: Iterable[str]) -> Iterator[str]:
    ours = [name + end for name in Config.names() for end in ("", "_FILE")]
    tails = [name.removeprefix(PREFIX) for name in ours if name.startswith(PREFIX)]
    for name in sorted(set(names) - set(ours)):
        near: list[str] = []
        if looks_ours := name.startswith(PREFIX) and not KUBERNETES.fullmatch(name):
            near = get_close_matches(name.removeprefix(PREFIX).upper(), tails, 1, 0.7)
        elif name.upper().startswith("EV"):  # the prefix itself may be misspelt
            near = get_close_matches(name.upper(), [PREFIX + tail for tail in tails], 1, 0.9)
        if near or looks_ours:
            meant = f": is {PREFIX}{near[0].removeprefix(PREFIX)} meant?" if near else ""
            yield f"{name!a} is no setting, and nothing reads it{meant}"


def _cut_short(config: Config, source: Mapping[str, str]) -> Iterator[str]:
    for name, (router, seconds) in ROUTERS.items():
        if source.get(name) and config.long_poll_seconds > seconds - 2:
            yield (
                f"EVENTPOLL_LONG_POLL_SECONDS is {config.long_poll_seconds:g}, and {router} ends a request after "
                f"{seconds} s: TPPs get its error instead of an answer. Take {seconds - 2} or less"
            )


def _warnings(config: Config) -> Iterator[str]:
    yield from config.noticed
    if config.store_url is not None and not redisurl.read(config.store_url).verified:
        yield (
            "The certificate of the store is not checked: whoever is on the way to it can read and change everything. "
            "Set EVENTPOLL_REDIS_CA instead, where the store's authority is known"
        )


def _contradictions(config: Config) -> Iterator[str]:
    wanted = {"obie": "PS256", "wso2": "RS256"}.get(config.set_profile)
    keys = config.signing_keys.keys if config.signing_keys else []
    if keys and wanted and not any(wanted in signing_algorithms(key) for key in keys):
        yield f"EVENTPOLL_SET_PROFILE: {config.set_profile} wants an RSA key that may sign with {wanted}"
    if config.wait_replicas and config.redis_url is None:
        yield "EVENTPOLL_WAIT_REPLICAS: the embedded store has no replicas; set REDIS_URL"
    if config.redis_url is not None and config.redis_ca is not None:
        if config.redis_tls_verify == "none":
            yield "EVENTPOLL_REDIS_CA and EVENTPOLL_REDIS_TLS_VERIFY=none: set one of them"
        elif not redisurl.read(config.redis_url).tls:
            yield "EVENTPOLL_REDIS_CA: REDIS_URL does not begin with rediss, so there is no certificate to check"
    try:
        redisurl.read(config.store_url or "redis://embedded")
    except redisurl.BadUrl as error:
        yield f"REDIS_URL, with EVENTPOLL_REDIS_CA and EVENTPOLL_REDIS_TLS_VERIFY: {error}"
    token = (config.token_issuer, config.token_audience, config.token_jwks)
    if any(token) and not all(token):
        yield "EVENTPOLL_TOKEN_ISSUER, EVENTPOLL_TOKEN_AUDIENCE and EVENTPOLL_TOKEN_JWKS: set all three or none"
    if (config.bank_username is None) != (config.bank_password is None):
        yield "EVENTPOLL_BANK_USERNAME and EVENTPOLL_BANK_PASSWORD: set both or neither"
    if config.bank_username is not None and ":" in config.bank_username:
        yield "EVENTPOLL_BANK_USERNAME: must have no colon (RFC 7617)"
