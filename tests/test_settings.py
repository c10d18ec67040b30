"""Every setting: its default, what it takes, what it refuses, and how the start says so."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from limits import RateLimitItemPerMinute

from eventpoll.settings import Config, ConfigError
from harness import ROOT
from harness.certificates import Certificate
from harness.ports import free_port

AUTHORITY = Certificate("Authority")
RSA_KEY = RSAKey.generate_key(2048, {"kid": "rsa"})
PRIVATE = json.dumps({"keys": [RSA_KEY.as_dict(private=True)]})
PUBLIC = json.dumps({"keys": [RSA_KEY.as_dict(private=False)]})


def jwks(*keys: Any, private: bool = True) -> str:
    """A JWK Set, as text."""
    return json.dumps({"keys": [key.as_dict(private=private) for key in keys]})


def mistakes(**environ: str) -> list[str]:
    """What Config says of these settings."""
    with pytest.raises(ConfigError) as caught:
        Config.from_environ(environ)
    return caught.value.mistakes


HASH = f"scrypt:32768:8:1$5CclvvBAMbeRBYG0${'0123abcd' * 16}"

GOOD = [
    ("REDIS_URL", "redis://127.0.0.1:6379/0", "redis_url", "redis://127.0.0.1:6379/0"),
    ("REDIS_URL", "rediss://user:p%2Fw@redis.example:6380/1", "redis_url", "rediss://user:p%2Fw@redis.example:6380/1"),
    ("REDIS_URL", "unix:///run/redis.sock?db=1", "redis_url", "unix:///run/redis.sock?db=1"),
    ("EVENTPOLL_REDIS_CA", AUTHORITY.pem.strip(), "redis_ca", AUTHORITY.pem.strip()),
    ("EVENTPOLL_REDIS_TLS_VERIFY", "none", "redis_tls_verify", "none"),
    ("PORT", "65535", "port", 65535),
    ("WEB_CONCURRENCY", "3", "web_concurrency", 3),
    ("EVENTPOLL_ISSUER", "https://bank.example", "issuer", "https://bank.example"),
    ("EVENTPOLL_SET_PROFILE", "obie", "set_profile", "obie"),
    ("EVENTPOLL_SET_PROFILE", "wso2", "set_profile", "wso2"),
    ("EVENTPOLL_NUMBER_OF_SETS_TO_RETURN", "5", "number_of_sets_to_return", 5),
    ("EVENTPOLL_MAX_EVENTS", "2", "max_events", 2),
    ("EVENTPOLL_MAX_ACKS", "7", "max_acks", 7),
    ("EVENTPOLL_LONG_POLL_SECONDS", "0", "long_poll_seconds", 0.0),
    ("EVENTPOLL_LONG_POLL_SECONDS", "600", "long_poll_seconds", 600.0),
    ("EVENTPOLL_LONG_POLL_SECONDS", "0.25", "long_poll_seconds", 0.25),
    ("EVENTPOLL_MAX_HELD_POLLS", "1", "max_held_polls", 1),
    ("EVENTPOLL_MAX_HELD_POLLS_PER_WORKER", "50", "max_held_polls_per_worker", 50),
    ("EVENTPOLL_REDELIVER_AFTER", "1.5", "redeliver_after", 1.5),
    ("EVENTPOLL_MAX_DELIVERIES", "1", "max_deliveries", 1),
    ("EVENTPOLL_ON_ERROR", "redeliver", "on_error", "redeliver"),
    ("EVENTPOLL_RETENTION_DAYS", "0.5", "retention_days", 0.5),
    ("EVENTPOLL_DEDUPE_SECONDS", "60", "dedupe_seconds", 60.0),
    ("EVENTPOLL_WAIT_REPLICAS_MS", "500", "wait_replicas_ms", 500),
    ("EVENTPOLL_WSO2_EMPTY_STATUS", "404", "wso2_empty_status", 404),
    ("EVENTPOLL_OBIE_ISS", "0015800001HQQrZAAX", "obie_iss", "0015800001HQQrZAAX"),
    ("EVENTPOLL_OBIE_TAN", "bank.example", "obie_tan", "bank.example"),
    ("EVENTPOLL_TOKEN_SCOPES", "accounts", "token_scopes", ("accounts",)),
    ("EVENTPOLL_TOKEN_SCOPES", "accounts, our:own", "token_scopes", ("accounts", "our:own")),
    ("EVENTPOLL_TOKEN_ALGORITHMS", "PS256 ES256", "token_algorithms", ("PS256", "ES256")),
    ("EVENTPOLL_TOKEN_TYPES", "at+jwt", "token_types", ("at+jwt",)),
    ("EVENTPOLL_TOKEN_TYPES", "at+jwt, none", "token_types", ("at+jwt", "none")),
    ("EVENTPOLL_TOKEN_BINDING", "required", "token_binding", "required"),
    ("EVENTPOLL_TOKEN_BANK_SCOPE", "off", "token_bank_scope", "off"),
    ("EVENTPOLL_CLIENT_CERT_HEADER", "Client-Cert", "client_cert_header", "Client-Cert"),
    (
        "EVENTPOLL_TRUSTED_PROXIES",
        "10.0.0.0/8 2001:db8::1 unix",
        "trusted_proxies",
        ("10.0.0.0/8", "2001:db8::1", "unix"),
    ),
    ("EVENTPOLL_PROXY_HOPS", "2", "proxy_hops", 2),
    ("EVENTPOLL_TRUSTED_HOSTS", "bank.example .tpp.example", "trusted_hosts", ("bank.example", ".tpp.example")),
    ("EVENTPOLL_POLL_RATE", "600/minute", "poll_rate", RateLimitItemPerMinute(600)),
    ("EVENTPOLL_REQUEST_SECONDS", "0.5", "request_seconds", 0.5),
    ("EVENTPOLL_MAX_CONNECTIONS_PER_ADDRESS", "0", "max_connections_per_address", 0),
    ("EVENTPOLL_FAILED_LOGIN_SECONDS", "0", "failed_login_seconds", 0.0),
    ("EVENTPOLL_LOG", "json", "log", "json"),
    ("EVENTPOLL_FAST_PATHS", "0", "fast_paths", 0),
    ("EVENTPOLL_MAX_CLOCK_SKEW_SECONDS", "90", "max_clock_skew_seconds", 90.0),
]

BAD = [
    ("REDIS_URL", "http://redis.example"),
    ("REDIS_URL", "redis.example:6379"),
    ("REDIS_URL", "redis://host:no-port"),
    ("REDIS_URL", "redis://"),
    ("REDIS_URL", "redis://[::1"),
    ("EVENTPOLL_REDIS_CA", "/nowhere/ca.pem"),
    ("EVENTPOLL_REDIS_CA", __file__),
    ("EVENTPOLL_REDIS_CA", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"),
    ("EVENTPOLL_REDIS_TLS_VERIFY", "no"),
    ("PORT", "0"),
    ("PORT", "65536"),
    ("PORT", "http"),
    ("PORT", "-1"),
    ("PORT", "8000.5"),
    ("PORT", "\u0661\u0662"),  # digits, but not ours
    ("WEB_CONCURRENCY", "0"),
    ("EVENTPOLL_BANK_PASSWORD", "scrypt:32768:8:1"),  # what a shell leaves of a hash in double quotes
    ("EVENTPOLL_BANK_PASSWORD", HASH[:-1]),
    ("EVENTPOLL_BANK_PASSWORD", HASH.replace("32768", "1024")),  # soon computed
    ("EVENTPOLL_BANK_PASSWORD", HASH.replace("32768", "32767")),
    ("EVENTPOLL_BANK_PASSWORD", HASH.replace("32768", "8388608")),  # 8 GB of memory
    ("EVENTPOLL_BANK_PASSWORD", HASH.replace("scrypt:32768:8:1", "pbkdf2:sha256:1000000")[:-64]),
    ("EVENTPOLL_SIGNING_KEYS", "key"),
    ("EVENTPOLL_SIGNING_KEYS", '{"keys": []}'),
    ("EVENTPOLL_SIGNING_KEYS", '{"keys": [{"kty": "RSA"}]}'),
    ("EVENTPOLL_SIGNING_KEYS", '[{"kty": "RSA"}]'),
    ("EVENTPOLL_SET_PROFILE", "ssf"),
    ("EVENTPOLL_SET_PROFILE", "OBIE"),
    ("EVENTPOLL_NUMBER_OF_SETS_TO_RETURN", "0"),
    ("EVENTPOLL_MAX_EVENTS", "many"),
    ("EVENTPOLL_MAX_ACKS", "1e3"),
    ("EVENTPOLL_LONG_POLL_SECONDS", "601"),
    ("EVENTPOLL_LONG_POLL_SECONDS", "nan"),
    ("EVENTPOLL_LONG_POLL_SECONDS", "-1"),
    ("EVENTPOLL_MAX_HELD_POLLS", "0"),
    ("EVENTPOLL_MAX_HELD_POLLS_PER_WORKER", "0"),
    ("EVENTPOLL_REDELIVER_AFTER", "1 h"),
    ("EVENTPOLL_REDELIVER_AFTER", "inf"),
    ("EVENTPOLL_MAX_DELIVERIES", "-1"),
    ("EVENTPOLL_ON_ERROR", "drop"),
    ("EVENTPOLL_RETENTION_DAYS", "forever"),
    ("EVENTPOLL_DEDUPE_SECONDS", "-5"),
    ("EVENTPOLL_WAIT_REPLICAS", "-1"),
    ("EVENTPOLL_WAIT_REPLICAS", "1"),  # the embedded store has none
    ("EVENTPOLL_WAIT_REPLICAS_MS", "5000"),
    ("EVENTPOLL_WSO2_EMPTY_STATUS", "204"),
    ("EVENTPOLL_PUSH_JWKS", "https://bank.example/jwks"),
    ("EVENTPOLL_TOKEN_JWKS", "http://issuer.example/jwks"),
    ("EVENTPOLL_TOKEN_JWKS", "/nowhere/jwks.json"),
    ("EVENTPOLL_TOKEN_SCOPES", " , "),
    ("EVENTPOLL_TOKEN_ALGORITHMS", "HS256"),
    ("EVENTPOLL_TOKEN_ALGORITHMS", "none PS256"),
    ("EVENTPOLL_TOKEN_TYPES", " , "),
    ("EVENTPOLL_TOKEN_BINDING", "yes"),
    ("EVENTPOLL_TOKEN_BANK_SCOPE", "eventpoll:bank"),
    ("EVENTPOLL_CLIENT_CERT_HEADER", "Client Cert"),
    ("EVENTPOLL_CLIENT_CERT_HEADER", "client_cert"),  # gunicorn drops names with an underscore
    ("EVENTPOLL_TRUSTED_PROXIES", "proxy.bank.example"),
    ("EVENTPOLL_TRUSTED_PROXIES", "10.0.0.0/33"),
    ("EVENTPOLL_PROXY_HOPS", "-1"),
    ("EVENTPOLL_PROXY_HOPS", "all"),
    ("EVENTPOLL_TRUSTED_HOSTS", ", ,"),
    ("EVENTPOLL_POLL_RATE", "10"),
    ("EVENTPOLL_POLL_RATE", "0/second"),
    ("EVENTPOLL_REQUEST_SECONDS", "0"),
    ("EVENTPOLL_REQUEST_SECONDS", "601"),
    ("EVENTPOLL_MAX_CONNECTIONS_PER_ADDRESS", "-1"),
    ("EVENTPOLL_FAILED_LOGIN_SECONDS", "11"),
    ("EVENTPOLL_LOG", "xml"),
    ("EVENTPOLL_FAST_PATHS", "yes"),
    ("EVENTPOLL_MAX_CLOCK_SKEW_SECONDS", "never"),
]

DEFAULTS = {
    "redis_url": None,
    "redis_ca": None,
    "redis_tls_verify": "full",
    "port": 8000,
    "web_concurrency": os.cpu_count() or 1,
    "bank_username": None,
    "bank_password": None,
    "issuer": None,
    "signing_keys": None,
    "set_profile": "rfc8417",
    "number_of_sets_to_return": 100,
    "max_events": 1000,
    "max_acks": 10_000,
    "long_poll_seconds": 25.0,
    "max_held_polls": 20,
    "max_held_polls_per_worker": 10_000,
    "redeliver_after": 0.0,
    "max_deliveries": 0,
    "on_error": "park",
    "retention_days": 30.0,
    "dedupe_seconds": 86_400.0,
    "wait_replicas": 0,
    "wait_replicas_ms": 1000,
    "wso2_empty_status": 200,
    "push_jwks": None,
    "obie_iss": None,
    "obie_tan": "openbanking.org.uk",
    "token_issuer": None,
    "token_audience": None,
    "token_jwks": None,
    "token_scopes": ("accounts", "payments", "fundsconfirmations", "eventpolling"),
    "token_algorithms": ("PS256", "ES256", "EdDSA", "RS256"),
    "token_types": ("at+jwt", "application/at+jwt", "JWT", "none"),
    "token_binding": "optional",
    "token_bank_scope": "on",
    "client_cert_header": None,
    "trusted_proxies": ("127.0.0.0/8", "::1", "unix"),
    "proxy_hops": 0,
    "trusted_hosts": (),
    "poll_rate": None,
    "request_seconds": 30.0,
    "max_connections_per_address": 500,
    "failed_login_seconds": 1.0,
    "log": "none",
    "fast_paths": 1,
    "max_clock_skew_seconds": 3600.0,
}


@pytest.mark.parametrize(("field", "value"), DEFAULTS.items())
def test_a_setting_that_is_not_given_has_its_default(field: str, value: object) -> None:
    """The defaults are those of the interface's table, "Environment"."""
    assert getattr(Config.from_environ({}), field) == value


@pytest.mark.parametrize(("name", "text", "field", "value"), GOOD)
def test_a_good_setting_is_taken(name: str, text: str, field: str, value: object) -> None:
    """Each variable sets its own field, in the type that the service uses."""
    assert getattr(Config.from_environ({name: text}), field) == value


@pytest.mark.parametrize(("name", "text", "field", "value"), GOOD)
def test_a_good_setting_is_taken_from_a_file(name: str, text: str, field: str, value: object, tmp_path: Path) -> None:
    """Any of them with _FILE is read from that file; the newline at its end is no part of it."""
    file = tmp_path / "setting"
    file.write_text(text + "\n", encoding="utf-8")
    assert getattr(Config.from_environ({f"{name}_FILE": str(file)}), field) == value
    file.write_text(text + "\r\n", encoding="utf-8-sig")  # as Windows' editors save it
    assert getattr(Config.from_environ({f"{name}_FILE": str(file)}), field) == value


@pytest.mark.parametrize(("name", "text"), BAD)
def test_a_bad_setting_is_one_line_with_its_name(name: str, text: str) -> None:
    """A mistake stops the start with one line, which says whose mistake it is."""
    (mistake,) = mistakes(**{name: text})
    assert mistake.startswith(f"{name}: ")
    assert "\n" not in mistake


def test_replicas_are_waited_for_where_there_may_be_some() -> None:
    """The embedded store has none: every push would be refused."""
    given = {"EVENTPOLL_WAIT_REPLICAS": "2", "REDIS_URL": "redis://127.0.0.1:6379/0"}
    assert Config.from_environ(given).wait_replicas == 2
    (mistake,) = mistakes(EVENTPOLL_WAIT_REPLICAS="2")
    assert "no replicas" in mistake


def test_what_is_said_of_the_stores_tls_is_said_once() -> None:
    """In REDIS_URL or in settings; and not where there is no TLS, as someone would believe that there is."""
    url, pem = "rediss://store", AUTHORITY.pem
    assert Config.from_environ({"REDIS_URL": url}).store_url == url
    assert mistakes(REDIS_URL=f"{url}?ssl_ca_data=x", EVENTPOLL_REDIS_CA=pem)
    (mistake,) = mistakes(REDIS_URL=f"{url}?ssl_cert_reqs=required", EVENTPOLL_REDIS_TLS_VERIFY="none")
    assert "ssl_cert_reqs twice" in mistake
    assert mistakes(REDIS_URL=url, EVENTPOLL_REDIS_CA=pem, EVENTPOLL_REDIS_TLS_VERIFY="none") == [
        "EVENTPOLL_REDIS_CA and EVENTPOLL_REDIS_TLS_VERIFY=none: set one of them"
    ]
    (mistake,) = mistakes(REDIS_URL="redis://store", EVENTPOLL_REDIS_CA=pem)
    assert mistake.startswith("EVENTPOLL_REDIS_CA: REDIS_URL does not begin with rediss")
    plain = {"REDIS_URL": "redis://store", "EVENTPOLL_REDIS_TLS_VERIFY": "none"}
    assert Config.from_environ(plain).store_url == "redis://store"
    assert Config.from_environ({"EVENTPOLL_REDIS_CA": pem}).store_url is None


@pytest.mark.parametrize(
    ("url", "verify", "warned"),
    [
        ("rediss://store", "none", True),
        ("rediss+cluster://store", "none", True),
        ("rediss://store?ssl_cert_reqs=none", "", True),
        ("rediss://store?ssl_check_hostname=false", "", True),
        ("rediss://store", "full", False),
        ("redis://store", "none", False),
        ("", "none", False),
    ],
)
def test_a_certificate_that_is_not_checked_is_warned_of(url: str, verify: str, warned: bool) -> None:
    """However it came to be so."""
    config = Config.from_environ({"REDIS_URL": url, "EVENTPOLL_REDIS_TLS_VERIFY": verify})
    assert bool(config.warnings) == warned
    assert all("certificate of the store is not checked" in warning for warning in config.warnings)


MISSPELT = [
    ("EVENTPOLL_ISUER", "EVENTPOLL_ISSUER"),
    ("EVENTPOLL_BANK_PASWORD_FILE", "EVENTPOLL_BANK_PASSWORD_FILE"),
    ("EVENTPOLL_LONG_POLL_SECS", "EVENTPOLL_LONG_POLL_SECONDS"),
    ("EVENTPOLL_MAX_EVENT", "EVENTPOLL_MAX_EVENTS"),
    ("EVENTPOLL_max_events", "EVENTPOLL_MAX_EVENTS"),
    ("eventpoll_issuer", "EVENTPOLL_ISSUER"),
    ("EVENTPOL_ISSUER", "EVENTPOLL_ISSUER"),
    ("EVENT_POLL_BANK_USERNAME", "EVENTPOLL_BANK_USERNAME"),
    ("EVENTPOLL_COLOUR_OF_THE_SKY", ""),
    ("EVENTPOLL_", ""),
    ("EVENTPOLL_\x1b[31m", ""),
]


@pytest.mark.parametrize(("name", "meant"), MISSPELT)
def test_a_misspelt_name_is_warned_of_with_the_nearest(name: str, meant: str) -> None:
    """Issue 13, 23. A warning, not a mistake: the next version may know it, or the last one did."""
    for config in (Config.from_environ({name: "x"}), Config.from_environ({}, {name: "x"})):
        (warning,) = config.warnings
        assert ascii(name) in warning
        assert warning.isprintable()
        assert warning.endswith(f": is {meant} meant?" if meant else "nothing reads it")


@pytest.mark.parametrize(
    "name",
    [
        *Config.names(),
        *(f"{name}_FILE" for name in Config.names()),
        "EVENTPOLL_SERVICE_HOST",
        "EVENTPOLL_SERVICE_PORT_HTTP",
        "EVENTPOLL_PORT",
        "EVENTPOLL_PORT_80_TCP",
        "EVENTPOLL_PORT_80_TCP_ADDR",
        "EVENTPOLL_WEB_SERVICE_PORT",
        "PATH",
        "PORTS",
        "REDIS_TLS_URL",
        "EVENTS",
    ],
)
def test_what_is_a_setting_or_somebody_elses_is_not_warned_of(name: str) -> None:
    """Kubernetes sets EVENTPOLL_PORT and its like in every pod, for the Service that deploy/kubernetes.yaml makes."""
    assert Config.from_environ({name: ""}).warnings == ()


@pytest.mark.parametrize(
    ("platform", "seconds", "warned"),
    [
        ({"DYNO": "web.1"}, "28", False),
        ({"DYNO": "web.1"}, "28.5", True),
        ({"DYNO": "web.1"}, "600", True),
        ({"DYNO": "web.1"}, "", False),
        ({"DYNO": ""}, "600", False),
        ({"WEBSITE_SITE_NAME": "bank"}, "228", False),
        ({"WEBSITE_SITE_NAME": "bank"}, "229", True),
        ({}, "600", False),
    ],
)
def test_a_hold_that_the_platforms_router_cuts_is_warned_of(
    platform: dict[str, str], seconds: str, warned: bool
) -> None:
    """Issue 13, 24: 28 s were the most for everyone, for the sake of one platform."""
    warnings = Config.from_environ({**platform, "EVENTPOLL_LONG_POLL_SECONDS": seconds}).warnings
    assert [warning.partition(" is ")[0] for warning in warnings] == ["EVENTPOLL_LONG_POLL_SECONDS"] * warned
    assert Config.from_environ(platform, {"EVENTPOLL_LONG_POLL_SECONDS": seconds or None}).warnings == warnings


def test_what_the_table_says_of_values_is_enforced() -> None:
    """Issue 13, 23: "at most" in docs/operations.md is a mistake beyond; "https" and a length are for check to say."""
    table = (
        (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").partition("## Settings")[2].partition("\n## ")[0]
    )
    rows = dict(re.findall(r"^\| `([A-Z0-9_]+)` \|[^|]*\|(.*)\|$", table, re.M))
    assert set(rows) == set(Config.names())
    bounded = {name: int(found[1]) for name, row in rows.items() if (found := re.search(r"at most ([0-9]+)", row))}
    assert bounded
    for name, most in bounded.items():
        values = {"REDIS_URL": "redis://store", name: str(most)}
        assert getattr(Config.from_environ(values), Config.names()[name].name) == most
        assert mistakes(**{**values, name: str(most + 1)})
    for name in ("EVENTPOLL_BANK_PASSWORD", "EVENTPOLL_ISSUER"):
        assert "`check` warns" in rows[name]


def test_every_variable_has_its_rows_here() -> None:
    """This file keeps up with config.py: a new setting wants its default, and a value that is refused unless any
    text will do."""
    any_text = {"EVENTPOLL_BANK_USERNAME", "EVENTPOLL_ISSUER"}
    any_text |= {"EVENTPOLL_OBIE_ISS", "EVENTPOLL_OBIE_TAN", "EVENTPOLL_TOKEN_ISSUER", "EVENTPOLL_TOKEN_AUDIENCE"}
    assert set(DEFAULTS) == {each.name for each in Config.names().values()}
    assert {name for name, _ in BAD} | any_text == set(Config.names())


@pytest.mark.parametrize("name", list(Config.names()))
def test_an_empty_setting_counts_as_none(name: str) -> None:
    """Deployments write NAME= for what they leave open."""
    assert Config.from_environ({name: ""}) == Config.from_environ({})


def test_all_mistakes_are_told_at_once() -> None:
    """The operator mends them in one go, not one a restart."""
    found = mistakes(PORT="none", EVENTPOLL_MAX_EVENTS="0", EVENTPOLL_ON_ERROR="drop", EVENTPOLL_BANK_USERNAME="bank")
    assert [line.partition(":")[0] for line in found[:3]] == ["PORT", "EVENTPOLL_MAX_EVENTS", "EVENTPOLL_ON_ERROR"]
    assert found[3].startswith("EVENTPOLL_BANK_USERNAME and EVENTPOLL_BANK_PASSWORD")


@pytest.mark.parametrize("one", ["EVENTPOLL_BANK_USERNAME", "EVENTPOLL_BANK_PASSWORD"])
def test_the_banks_credentials_come_as_a_pair(one: str) -> None:
    """Half of them would lock the bank out without a word."""
    assert mistakes(**{one: "half"}) == ["EVENTPOLL_BANK_USERNAME and EVENTPOLL_BANK_PASSWORD: set both or neither"]


@pytest.mark.parametrize("one", ["EVENTPOLL_TOKEN_ISSUER", "EVENTPOLL_TOKEN_AUDIENCE", "EVENTPOLL_TOKEN_JWKS"])
def test_what_is_said_of_tokens_is_said_whole(one: str) -> None:
    """One or two of the three would leave Bearer off, or a check out, without a word."""
    three = {"EVENTPOLL_TOKEN_ISSUER": "i", "EVENTPOLL_TOKEN_AUDIENCE": "a", "EVENTPOLL_TOKEN_JWKS": PUBLIC}
    names = "EVENTPOLL_TOKEN_ISSUER, EVENTPOLL_TOKEN_AUDIENCE and EVENTPOLL_TOKEN_JWKS: set all three or none"
    assert mistakes(**{one: three[one]}) == [names]
    assert mistakes(**{name: value for name, value in three.items() if name != one}) == [names]
    assert Config.from_environ(three).token_jwks == PUBLIC


@pytest.mark.parametrize("text", [HASH, HASH.replace("32768:8:1", "16384:16:2"), "scrypt is no hash", "p:w$x"])
def test_the_banks_password_may_be_its_hash(text: str) -> None:
    """Issue 11, 8: scrypt, as Werkzeug's generate_password_hash makes it."""
    given = {"EVENTPOLL_BANK_USERNAME": "bank", "EVENTPOLL_BANK_PASSWORD": text}
    assert Config.from_environ(given).bank_password == text


def test_the_banks_user_name_has_no_colon() -> None:
    """In HTTP Basic a colon ends the user name (RFC 7617 section 2)."""
    (mistake,) = mistakes(EVENTPOLL_BANK_USERNAME="a:b", EVENTPOLL_BANK_PASSWORD="c")
    assert mistake.startswith("EVENTPOLL_BANK_USERNAME: ")


def test_a_setting_and_its_file_at_once_are_a_mistake(tmp_path: Path) -> None:
    """Which of them was meant is not ours to guess."""
    (mistake,) = mistakes(PORT="8000", PORT_FILE=str(tmp_path / "port"))
    assert mistake.startswith("PORT: is set, and so is PORT_FILE")


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_a_mistake(content: bytes | None, tmp_path: Path) -> None:
    """Missing, or not UTF-8: one line, and no stack trace."""
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    assert mistakes(EVENTPOLL_ISSUER_FILE=str(file)) == [
        "EVENTPOLL_ISSUER: cannot read the file that EVENTPOLL_ISSUER_FILE names"
    ]


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        (jwks(RSAKey.generate_key(1024, {"kid": "weak"})), "too weak"),
        (PUBLIC, "no private half"),
        (jwks(OctKey.generate_key(256, {"kid": "oct"})), "cannot sign"),
        (jwks(ECKey.generate_key("P-384", {"kid": "p384"})), "cannot sign"),
        (jwks(RSAKey.generate_key(2048, {"kid": "enc", "alg": "RSA-OAEP"})), "cannot sign"),
        (jwks(RSA_KEY, RSA_KEY), "kid"),
    ],
    ids=["weak", "public", "secret", "curve", "alg", "twice"],
)
def test_a_signing_key_that_could_not_sign_is_refused_at_the_start(keys: str, word: str) -> None:
    """Weak keys, keys without their private half, algorithms that are not ours: told at the start, not at a push."""
    (mistake,) = mistakes(EVENTPOLL_SIGNING_KEYS=keys)
    assert mistake.startswith("EVENTPOLL_SIGNING_KEYS: ")
    assert word in mistake


@pytest.mark.parametrize(
    "key",
    [
        RSA_KEY,
        ECKey.generate_key("P-256", {"kid": "ec"}),
        OKPKey.generate_key("Ed25519", {"kid": "ed"}),
        RSAKey.generate_key(2048, {"alg": "RS256"}),
    ],
    ids=["RSA", "EC", "OKP", "without a kid"],
)
def test_keys_that_can_sign_are_taken_and_have_a_kid(key: Any) -> None:
    """PS256, RS256, ES256 and EdDSA; a key without a kid gets its thumbprint for one (RFC 7638)."""
    config = Config.from_environ({"EVENTPOLL_SIGNING_KEYS": jwks(key)})
    assert config.signing_keys is not None
    assert all(each.kid for each in config.signing_keys.keys)


def test_the_banks_push_keys_are_public_ones() -> None:
    """EVENTPOLL_PUSH_JWKS verifies: a shared secret there would let every holder of it sign."""
    config = Config.from_environ({"EVENTPOLL_PUSH_JWKS": PUBLIC})
    assert config.push_jwks is not None
    (mistake,) = mistakes(EVENTPOLL_PUSH_JWKS=jwks(OctKey.generate_key(256, {"kid": "oct"})))
    assert "shared secrets" in mistake


def test_no_secret_stands_in_the_representation() -> None:
    """What a log or a stack trace prints of the settings tells no password and no key."""
    config = Config.from_environ(
        {
            "REDIS_URL": "redis://:redis-password@127.0.0.1/0",
            "EVENTPOLL_BANK_USERNAME": "bank",
            "EVENTPOLL_BANK_PASSWORD": "bank-password",
            "EVENTPOLL_SIGNING_KEYS": PRIVATE,
        }
    )
    told = repr(config)
    assert "redis-password" not in told
    assert "bank-password" not in told
    assert json.loads(PRIVATE)["keys"][0]["d"] not in told


@pytest.mark.parametrize(
    "environ",
    [
        {"REDIS_URL": "redis://:pass/word@redis.example/0"},
        {"EVENTPOLL_SIGNING_KEYS": '{"keys": [{"kty": "RSA", "d": "password"}]}'},
        {"EVENTPOLL_BANK_PASSWORD": "password"},
    ],
)
def test_no_secret_stands_in_a_mistake(environ: dict[str, str]) -> None:
    """What is printed at the start lands in logs that many read."""
    assert "pass" not in " ".join(mistakes(**environ)).replace("PASSWORD", "").replace("a password in it", "")


def test_what_the_mounting_application_says_wins() -> None:
    """eventpoll.init_app(app) takes app.config above the environment, a _FILE beside it included."""
    environ = {"EVENTPOLL_MAX_EVENTS": "5", "EVENTPOLL_ISSUER_FILE": "/nowhere"}
    config = Config.from_environ(environ, over={"EVENTPOLL_MAX_EVENTS": 7, "EVENTPOLL_ISSUER": "https://own.example"})
    assert (config.max_events, config.issuer) == (7, "https://own.example")


def gunicorn(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """gunicorn as the Procfile starts it, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "gunicorn", *arguments, "wsgi:app"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_check_config_prints_every_mistake_and_fails() -> None:
    """`gunicorn --check-config wsgi:app`, which the Procfile's release runs: a line for each, and exit code 1."""
    found = gunicorn("--check-config", PORT="http", EVENTPOLL_ON_ERROR="drop")
    assert found.returncode == 1
    assert found.stderr.splitlines() == [
        "PORT: must be a whole number from 1 to 65535",
        "EVENTPOLL_ON_ERROR: must be one of park, redeliver",
    ]


def test_check_config_is_silent_where_all_is_well() -> None:
    """No mistake, no word, exit code 0; and nothing is started."""
    found = gunicorn("--check-config", REDIS_URL="redis://127.0.0.1:1/0")
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_a_mistake_stops_the_start_before_any_worker() -> None:
    """The master ends with the same lines: it does not start workers that die one after the other."""
    found = gunicorn(PORT=str(free_port()), WEB_CONCURRENCY="1", EVENTPOLL_RETENTION_DAYS="forever")
    assert found.returncode == 1
    assert found.stderr.splitlines() == ["EVENTPOLL_RETENTION_DAYS: must be a number above 0 to 36500"]


def test_flask_says_the_same() -> None:
    """The command line reads the same settings, and ends with the same lines."""
    found = subprocess.run(
        [sys.executable, "-m", "flask", "eventpoll", "streams"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "EVENTPOLL_MAX_ACKS": "all"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode != 0
    assert "EVENTPOLL_MAX_ACKS: must be a whole number from 1 to 100000" in found.stderr.splitlines()
