"""The settings of the service. Only this module reads the environment."""

import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from joserfc.jwk import KeySet
from limits import RateLimitItem

from eventpoll import redis_url, setting_readers
from eventpoll.setting_readers import signing_algorithms

log = logging.getLogger(__name__)

SET_PROFILES = ("rfc8417", "obie", "wso2")
ON_ERROR = ("park", "redeliver")
TOKEN_SCOPES = ("accounts", "payments", "fundsconfirmations", "eventpolling")
TOKEN_TYPES = ("at+jwt", "application/at+jwt", "JWT", "none")
TOKEN_ALGORITHMS = ("PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519", "RS256", "RS384", "RS512")

ROUTERS = {"DYNO": ("Heroku's router", 30), "WEBSITE_SITE_NAME": ("Azure's load balancer", 230)}
"""Environment variables that identify a platform, with its router and the seconds that it waits for an answer.

After these seconds the router ends the request.
"""

PREFIX = "EVENTPOLL_"
KUBERNETES = re.compile(
    r"EVENTPOLL(_\w+)?_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""Variables that Kubernetes sets in every pod for a Service named eventpoll, as in deploy/kubernetes.yaml."""


class ConfigError(Exception):
    """Raised for settings with mistakes. `mistakes` has one line for each."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


def setting(name: str, default: Any, read: Callable[[str], Any], *, secret: bool = False) -> Any:
    """Return a dataclass field that is read from the environment variable `name`, or from the file in NAME_FILE."""
    return field(default=default, repr=not secret, metadata={"name": name, "read": read})


def _password(text: str) -> str:
    """Return a password, or its scrypt hash in Werkzeug's form.

    Raises ValueError for a text that begins like a hash and is not a valid one. A shell may have replaced the parts
    with a $ as variables. The rest would then be a password that everyone knows.
    """
    if text.startswith(("scrypt:", "pbkdf2:")):
        found = re.fullmatch(r"scrypt:([0-9]{1,9}):([0-9]{1,4}):([0-9]{1,4})\$[^$\s]+\$[0-9a-f]{128}", text)
        n, r, p = (int(number) for number in found.groups()) if found else (0, 0, 0)
        if n & (n - 1) or not 2**24 <= 128 * n * r * p <= 2**29:
            raise ValueError(
                "begins like a hash, and is not a valid one: make one with flask eventpoll hash-password, and protect "
                "the $ in it from the shell ('…', or a file and EVENTPOLL_BANK_PASSWORD_FILE)"
            )
    return text


def _authorities(text: str) -> str:
    try:
        redis_url.read(redis_url.with_tls("rediss://store", text))
    except redis_url.BadUrl:
        raise ValueError("must be the name of a file with certificates (PEM), or the certificates") from None
    return text


@dataclass(frozen=True)
class Config:
    """The settings of one service. Times are in the unit that the variable's name says; see docs/operations.md."""

    redis_url: str | None = setting("REDIS_URL", None, setting_readers.redis_url, secret=True)
    redis_ca: str | None = setting("EVENTPOLL_REDIS_CA", None, _authorities)
    redis_tls_verify: str = setting("EVENTPOLL_REDIS_TLS_VERIFY", "full", setting_readers.one_of("full", "none"))
    port: int = setting("PORT", 8000, setting_readers.whole(1, 65535))
    web_concurrency: int = setting("WEB_CONCURRENCY", os.cpu_count() or 1, setting_readers.whole(1, 1024))
    bank_username: str | None = setting("EVENTPOLL_BANK_USERNAME", None, str)
    bank_password: str | None = setting("EVENTPOLL_BANK_PASSWORD", None, _password, secret=True)
    issuer: str | None = setting("EVENTPOLL_ISSUER", None, str)
    signing_keys: KeySet | None = setting("EVENTPOLL_SIGNING_KEYS", None, setting_readers.signing_keys, secret=True)
    set_profile: str = setting("EVENTPOLL_SET_PROFILE", "rfc8417", setting_readers.one_of(*SET_PROFILES))
    number_of_sets_to_return: int = setting(
        "EVENTPOLL_NUMBER_OF_SETS_TO_RETURN", 100, setting_readers.whole(1, 100_000)
    )
    max_events: int = setting("EVENTPOLL_MAX_EVENTS", 1000, setting_readers.whole(1, 100_000))
    max_acks: int = setting("EVENTPOLL_MAX_ACKS", 10_000, setting_readers.whole(1, 100_000))
    long_poll_seconds: float = setting("EVENTPOLL_LONG_POLL_SECONDS", 25.0, setting_readers.decimal(0, 600))
    max_held_polls: int = setting("EVENTPOLL_MAX_HELD_POLLS", 20, setting_readers.whole(1, 100_000))
    max_held_polls_per_worker: int = setting(
        "EVENTPOLL_MAX_HELD_POLLS_PER_WORKER", 10_000, setting_readers.whole(1, 100_000)
    )
    redeliver_after: float = setting("EVENTPOLL_REDELIVER_AFTER", 0.0, setting_readers.decimal(0, 31_536_000))
    max_deliveries: int = setting("EVENTPOLL_MAX_DELIVERIES", 0, setting_readers.whole(0, 1_000_000))
    on_error: str = setting("EVENTPOLL_ON_ERROR", "park", setting_readers.one_of(*ON_ERROR))
    retention_days: float = setting("EVENTPOLL_RETENTION_DAYS", 30.0, setting_readers.decimal(0, 36_500, above=True))
    dedupe_seconds: float = setting("EVENTPOLL_DEDUPE_SECONDS", 86_400.0, setting_readers.decimal(0, 31_536_000))
    wait_replicas: int = setting("EVENTPOLL_WAIT_REPLICAS", 0, setting_readers.whole(0, 100))
    wait_replicas_ms: int = setting("EVENTPOLL_WAIT_REPLICAS_MS", 1000, setting_readers.whole(1, 4000))
    max_clock_skew_seconds: float = setting(
        "EVENTPOLL_MAX_CLOCK_SKEW_SECONDS", 3600.0, setting_readers.decimal(10, 31_536_000)
    )
    wso2_empty_status: int = setting(
        "EVENTPOLL_WSO2_EMPTY_STATUS", 200, lambda text: int(setting_readers.one_of("200", "404")(text))
    )
    push_jwks: KeySet | None = setting("EVENTPOLL_PUSH_JWKS", None, setting_readers.public_keys)
    obie_iss: str | None = setting("EVENTPOLL_OBIE_ISS", None, str)
    obie_tan: str = setting("EVENTPOLL_OBIE_TAN", "openbanking.org.uk", str)
    token_issuer: str | None = setting("EVENTPOLL_TOKEN_ISSUER", None, str)
    token_audience: str | None = setting("EVENTPOLL_TOKEN_AUDIENCE", None, str)
    token_jwks: str | None = setting("EVENTPOLL_TOKEN_JWKS", None, setting_readers.jwks_source)
    token_scopes: tuple[str, ...] = setting("EVENTPOLL_TOKEN_SCOPES", TOKEN_SCOPES, setting_readers.words())
    token_algorithms: tuple[str, ...] = setting(
        "EVENTPOLL_TOKEN_ALGORITHMS", ("PS256", "ES256", "EdDSA", "RS256"), setting_readers.words(*TOKEN_ALGORITHMS)
    )
    token_types: tuple[str, ...] = setting("EVENTPOLL_TOKEN_TYPES", TOKEN_TYPES, setting_readers.words())
    token_binding: str = setting("EVENTPOLL_TOKEN_BINDING", "optional", setting_readers.one_of("optional", "required"))
    token_bank_scope: str = setting("EVENTPOLL_TOKEN_BANK_SCOPE", "on", setting_readers.one_of("on", "off"))
    client_cert_header: str | None = setting("EVENTPOLL_CLIENT_CERT_HEADER", None, setting_readers.header_name)
    trusted_proxies: tuple[str, ...] = setting(
        "EVENTPOLL_TRUSTED_PROXIES", ("127.0.0.0/8", "::1", "unix"), setting_readers.networks
    )
    proxy_hops: int = setting("EVENTPOLL_PROXY_HOPS", 0, setting_readers.whole(0, 10))
    trusted_hosts: tuple[str, ...] = setting("EVENTPOLL_TRUSTED_HOSTS", (), setting_readers.words())
    poll_rate: RateLimitItem | None = setting("EVENTPOLL_POLL_RATE", None, setting_readers.rate)
    request_seconds: float = setting("EVENTPOLL_REQUEST_SECONDS", 30.0, setting_readers.decimal(0, 600, above=True))
    max_connections_per_address: int = setting(
        "EVENTPOLL_MAX_CONNECTIONS_PER_ADDRESS", 500, setting_readers.whole(0, 100_000)
    )
    failed_login_seconds: float = setting("EVENTPOLL_FAILED_LOGIN_SECONDS", 1.0, setting_readers.decimal(0, 10))
    log: str = setting("EVENTPOLL_LOG", "none", setting_readers.one_of("none", "json"))
    fast_paths: int = setting("EVENTPOLL_FAST_PATHS", 1, lambda text: int(setting_readers.one_of("0", "1")(text)))
    data_dir: Path = Path(".data")
    """The folder in which the embedded store keeps its files where REDIS_URL is not set."""
    noticed: tuple[str, ...] = ()
    """Warnings about what may do harm in the environment, beside the settings."""

    @property
    def store_url(self) -> str | None:
        """Return REDIS_URL with the TLS options of the other settings; None where REDIS_URL is not set."""
        verify = self.redis_tls_verify == "full"
        return None if self.redis_url is None else redis_url.with_tls(self.redis_url, self.redis_ca, verify=verify)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return a line for each thing that is allowed but may do harm. Each start logs these lines."""
        return tuple(_warnings(self))

    @classmethod
    def names(cls) -> dict[str, Any]:
        """Return the dataclass field of each environment variable, by the variable's name."""
        return {each.metadata["name"]: each for each in fields(cls) if each.metadata}

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None, over: Mapping[str, Any] | None = None) -> "Config":
        """Return the settings of the environment. A value in `over` wins over the variable of the same name.

        An empty variable counts as not set. Raises ConfigError with a line for each mistake.
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
        raise ValueError(f"is set, and so is {name}_FILE: remove one of them")
    if file is None:
        return text
    try:
        return Path(file).read_text(encoding="utf-8-sig").strip() or None
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"cannot read the file that {name}_FILE names") from None


def counts_folder() -> Path:
    """Return the folder in which the workers of this gunicorn master count their polls. gunicorn_conf makes it."""
    return Path(tempfile.gettempdir()) / f"eventpoll-{os.getuid()}-{os.getpid()}"


def _unusable(source: Mapping[str, str]) -> Iterator[str]:
    """Yield a mistake if PROMETHEUS_MULTIPROC_DIR names an unusable folder. Each poll would be a 500 with it."""
    folder = source.get("PROMETHEUS_MULTIPROC_DIR") or source.get("prometheus_multiproc_dir")
    if not folder or folder == str(counts_folder()):  # with --preload, this runs before the folder is made
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
    if config.store_url is not None and not redis_url.read(config.store_url).verified:
        yield (
            "The certificate of the store is not checked: whoever is on the way to it can read and change everything. "
            "Set EVENTPOLL_REDIS_CA instead, where the store's authority is known"
        )


def _contradictions(config: Config) -> Iterator[str]:
    wanted = {"obie": "PS256", "wso2": "RS256"}.get(config.set_profile)
    keys = config.signing_keys.keys if config.signing_keys else []
    if keys and wanted and not any(wanted in signing_algorithms(key) for key in keys):
        yield f"EVENTPOLL_SET_PROFILE: {config.set_profile} needs an RSA key for {wanted} in EVENTPOLL_SIGNING_KEYS"
    if config.wait_replicas and config.redis_url is None:
        yield "EVENTPOLL_WAIT_REPLICAS: the embedded store has no replicas; set REDIS_URL"
    if config.redis_url is not None and config.redis_ca is not None:
        if config.redis_tls_verify == "none":
            yield "EVENTPOLL_REDIS_CA and EVENTPOLL_REDIS_TLS_VERIFY=none: set one of them"
        elif not redis_url.read(config.redis_url).tls:
            yield "EVENTPOLL_REDIS_CA: REDIS_URL does not begin with rediss, so there is no certificate to check"
    try:
        redis_url.read(config.store_url or "redis://embedded")
    except redis_url.BadUrl as error:
        yield f"REDIS_URL, with EVENTPOLL_REDIS_CA and EVENTPOLL_REDIS_TLS_VERIFY: {error}"
    token = (config.token_issuer, config.token_audience, config.token_jwks)
    if any(token) and not all(token):
        yield "EVENTPOLL_TOKEN_ISSUER, EVENTPOLL_TOKEN_AUDIENCE and EVENTPOLL_TOKEN_JWKS: set all three or none"
    if (config.bank_username is None) != (config.bank_password is None):
        yield "EVENTPOLL_BANK_USERNAME and EVENTPOLL_BANK_PASSWORD: set both or neither"
    if config.bank_username is not None and ":" in config.bank_username:
        yield "EVENTPOLL_BANK_USERNAME: must have no colon (RFC 7617)"
