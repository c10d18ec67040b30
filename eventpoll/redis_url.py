"""Read REDIS_URL: servers, login and options. No error text repeats anything that may be a password."""

import difflib
import inspect
import ipaddress
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, cast
from urllib.parse import quote, unquote, unquote_plus, urlencode

from redis import SSLConnection
from redis.cluster import REDIS_ALLOWED_KEYS
from redis.connection import URL_QUERY_ARGUMENT_PARSERS, AbstractConnection, Connection

SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel")
PARSERS = cast(Mapping[str, Callable[[str], Any]], URL_QUERY_ARGUMENT_PARSERS)
ENCODE = "a password in it wants its special characters percent-encoded"
BOOLEANS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


class BadUrl(ValueError):
    """Raised for an invalid URL. The text says what is wrong, and reads on from the name of the URL."""


@dataclass(frozen=True)
class RedisUrl:
    """A parsed URL. `kind` is "", "unix", "cluster" or "sentinel". `places` are hosts with their ports."""

    kind: str
    tls: bool
    places: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """Return the URL without credentials and options, for the log."""
        if self.kind == "unix":
            return f"unix://{quote(self.path)}" + (f"?db={self.db}" if self.db else "")
        scheme = "rediss" if self.tls else "redis"
        servers = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.places)
        rest = {"": f"/{self.db}", "cluster": "", "sentinel": f"/{self.service}"}[self.kind]
        return f"{scheme}{'+' * bool(self.kind)}{self.kind}://{servers}{rest}"

    @property
    def login(self) -> dict[str, str]:
        """Return the user name and the password, where given, as options of a connection."""
        found = {"username": self.username, "password": self.password}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def verified(self) -> bool:
        """Return whether the options let TLS check the server's certificate and host name; True without TLS."""
        return self.options.get("ssl_cert_reqs") != "none" and self.options.get("ssl_check_hostname") is not False

    def first(self) -> str:
        """Return a URL of the first server alone. The client of a Cluster starts from one server."""
        who = ":".join(quote(part or "", safe="") for part in (self.username, self.password))
        host, port = self.places[0]
        host = f"[{quote(host)}]" if ":" in host else host
        return f"{'rediss' if self.tls else 'redis'}://{who + '@' if self.login else ''}{host}:{port}"


def with_tls(url: str, ca: str | None, *, verify: bool = True) -> str:
    """Return the URL with TLS options added; a URL without TLS stays as it is.

    `ca` holds the authorities to trust: a file's name, or PEM. Without `verify`, no certificate is checked.
    """
    if not url.lower().startswith("rediss"):
        return url
    options = {} if verify else {"ssl_cert_reqs": "none"}
    if ca is not None:
        options["ssl_ca_data" if ca.startswith("-----BEGIN") else "ssl_ca_certs"] = ca
    return url + (("&" if "?" in url else "?") + urlencode(options) if options else "")


def read(text: str) -> RedisUrl:
    """Return the parsed URL. Raises BadUrl for anything that is not understood."""
    text = text.strip()
    if text[:1] in "\"'":
        raise BadUrl("is in quotes: leave them out")
    scheme, colon, rest = text.partition(":")
    scheme = scheme.lower()
    kind, tls = ("unix", False) if scheme == "unix" else (scheme.partition("+")[2], scheme.startswith("rediss"))
    if not colon or scheme not in SCHEMES or not rest.startswith("/" if kind == "unix" else "//"):
        raise BadUrl("must begin with redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://")
    if re.search(r"[\x00-\x20\x7f#]", rest):
        raise BadUrl(f"holds a blank, a control character or a #: {ENCODE}")
    rest, _, query = rest.partition("?")
    netloc, slash, path = rest[2:].partition("/") if rest.startswith("//") else ("", "/", rest[1:])
    if kind != "unix" and "@" in path + query:
        raise BadUrl(f"has an @ behind the names of its servers: {ENCODE}")
    who, _, servers = netloc.rpartition("@")
    user, colon, word = who.partition(":")
    options = dict(_options(query, kind, tls))
    if tls:
        _check_tls(options)
    named = {"username": _plain(user) or None, "password": _plain(word) or None}
    login = {name: _one("logins", value, options.pop(name, None)) for name, value in named.items()}
    found: dict[str, Any] = {**login, "options": options}
    if kind == "unix":
        if servers or not slash + path.strip("/") > "/":
            raise BadUrl("wants the path of a socket: unix:///run/redis.sock")
        return RedisUrl(kind, tls, path=_plain(slash + path), db=options.pop("db", 0), **found)
    places = tuple(_place(server, 26379 if kind == "sentinel" else 6379) for server in servers.split(","))
    if len(places) > 1 and not kind:
        raise BadUrl("names several servers: is it redis+cluster:// or redis+sentinel://?")
    service = ""
    if kind == "sentinel":
        service, _, path = path.partition("/")
        service = _plain(service)
        if not service:
            raise BadUrl("wants the name of the service: redis+sentinel://h1:26379,h2:26379/service")
    db = _one("databases", _database(path), options.pop("db", None)) or 0
    if kind == "cluster" and db:
        raise BadUrl("names a database, but a Cluster has one only")
    return RedisUrl(kind, tls, places, service=service, db=db, **found)


def _one(what: str, first: Any, second: Any) -> Any:
    if None not in (first, second) and first != second:
        raise BadUrl(f"names two {what}, one of them in its query")
    return second if first is None else first


def _plain(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise BadUrl("is percent-encoded, but not in UTF-8") from None


def _place(text: str, port: int) -> tuple[str, int]:
    """Return the host and the port of a server; `port` is the default. Raises BadUrl."""
    found = re.fullmatch(r"(\[[^\[\]]*\]|[^\[\]:]*)(?::([0-9]{0,6}))?", text)
    if found is None and text.count(":") > 1 and "[" not in text:
        raise BadUrl("has an IPv6 address without its brackets: redis://[2001:db8::1]:6379")
    if found is None:
        raise BadUrl(f"has a server that is none, or a port that is none: {ENCODE}")
    host, number = found[1], int(found[2] or port)
    if not host:
        raise BadUrl(f"names no server: {ENCODE}")
    if not 0 < number < 65536:
        raise BadUrl("has a port that is none: 1 to 65535")
    if host.startswith("["):
        host = _plain(host[1:-1])
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise BadUrl("has brackets around what is no IPv6 address") from None
    elif not re.fullmatch(r"[\w.-]+", host):
        raise BadUrl(f"has a server that is none: {ENCODE}")
    return host.lower(), number


def _database(path: str) -> int | None:
    found = re.fullmatch(r"([0-9]{1,6})?/?", path)
    if found is None:
        raise BadUrl(f"has a path that is no database's number: redis://host:6379/0. {ENCODE.capitalize()}")
    return None if found[1] is None else int(found[1])


# -- options -----------------------------------------------------------------------------------------------------


def _options(query: str, kind: str, tls: bool) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each option in a query. Raises BadUrl."""
    seen = set()
    for part in filter(None, query.split("&")):
        name, equals, text = part.partition("=")
        if name not in READERS:
            raise BadUrl(_unknown(name))
        if name in seen or not equals or not text:
            raise BadUrl(f"has the option {name} " + ("twice" if name in seen else "without a value"))
        if name.startswith("ssl_") and not tls:
            raise BadUrl(f"has the option {name}, but does not begin with rediss")
        if name.startswith("sentinel_") and kind != "sentinel":
            raise BadUrl(f"has the option {name}, but does not begin with redis+sentinel or rediss+sentinel")
        if (kind == "cluster" and name not in REDIS_ALLOWED_KEYS) or (kind == "unix" and name == "socket_keepalive"):
            raise BadUrl(f"has the option {name}, which is not for a {'Cluster' if kind == 'cluster' else 'socket'}")
        seen.add(name)
        try:
            yield name, READERS[name](unquote_plus(text, errors="strict"))
        except (ValueError, TypeError, OverflowError) as error:
            words = str(error) if isinstance(error, BadUrl) else "cannot be read"
            raise BadUrl(f"has a value of the option {name} that {words}") from None


def _unknown(name: str) -> str:
    """Return what is wrong with an option of that name. The text repeats the name only if redis-py knows it."""
    kinds = (AbstractConnection, Connection, SSLConnection)
    theirs = chain.from_iterable(inspect.signature(kind.__init__).parameters for kind in kinds)
    if name in {*PARSERS, *REDIS_ALLOWED_KEYS, *theirs}:
        return f"has the option {name}, which the service sets itself: leave it out"
    near = difflib.get_close_matches(name, READERS, 1)
    return "has an option that is not known: " + (f"is {near[0]} meant?" if near else f"known are {', '.join(READERS)}")


def _check_tls(options: Mapping[str, Any]) -> None:
    """Load the certificates, keys and ciphers as a connection would. Raises BadUrl.

    Here a mistake stops the start. In a connection, it would make each request a 500.
    """
    context = ssl.create_default_context()
    try:
        if "ssl_certfile" in options or "ssl_keyfile" in options:
            context.load_cert_chain(
                options["ssl_certfile"],
                options.get("ssl_keyfile"),
                options.get("ssl_password", ""),  # with None, OpenSSL would ask for it on the terminal
            )
        authorities = [options.get(f"ssl_{name}") for name in ("ca_certs", "ca_path", "ca_data")]
        if any(authorities):
            context.load_verify_locations(*authorities)
        context.set_ciphers(options.get("ssl_ciphers", "DEFAULT"))
    except KeyError:
        raise BadUrl("has the option ssl_keyfile without ssl_certfile") from None
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise BadUrl(f"has ssl_ options with which no connection can be made: {error.args[-1]}") from None


def _parsed(name: str, least: float, most: float = 1e9) -> Callable[[str], Any]:
    """Return a reader of numbers from `least` to `most`, which uses redis-py's own table of parsers."""

    def number(text: str) -> Any:
        value = PARSERS[name](text)
        if not least <= value <= most:
            raise BadUrl("is out of its range")
        return value

    return number


def _boolean(text: str) -> bool:
    if text.lower() not in BOOLEANS:
        raise BadUrl("is neither true nor false")
    return BOOLEANS[text.lower()]


def _verified(text: str) -> str:
    word = text.lower().removeprefix("cert_")  # Celery writes CERT_NONE
    if word not in ("none", "optional", "required"):
        raise BadUrl("is none of required, optional, none")
    return word


def _word(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):  # CLIENT SETNAME accepts no other characters
        raise BadUrl("has blanks or special characters")
    return text


READERS: dict[str, Callable[[str], Any]] = {
    "db": _parsed("db", 0),
    "username": str,
    "password": str,
    "client_name": _word,
    "socket_timeout": _parsed("socket_timeout", 0.001),
    "socket_connect_timeout": _parsed("socket_connect_timeout", 0.001),
    "socket_keepalive": _boolean,
    "socket_read_size": _parsed("socket_read_size", 1),
    "health_check_interval": _parsed("health_check_interval", 0),
    "max_connections": _parsed("max_connections", 1),
    "timeout": _parsed("timeout", 0),
    "ssl_cert_reqs": _verified,
    "ssl_check_hostname": _boolean,
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_ca_data": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_password": str,
    "ssl_ciphers": str,
    "ssl_min_version": _parsed("ssl_min_version", 769, 772),
    "ssl_include_verify_flags": PARSERS["ssl_include_verify_flags"],
    "ssl_exclude_verify_flags": PARSERS["ssl_exclude_verify_flags"],
    "sentinel_username": str,
    "sentinel_password": str,
}
"""The options that a URL may have, by redis-py's names.

The service sets the other options itself: no retries of commands, RESP2, replies as bytes.
"""
