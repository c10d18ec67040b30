"""REDIS_URL, in the shapes in which the world has it: redis-urls.json, and what each gives."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from redis.connection import URL_QUERY_ARGUMENT_PARSERS

from eventpoll import redis_url
from eventpoll.redis_url import BadUrl, RedisUrl
from eventpoll.settings import Config, ConfigError
from eventpoll.store.records import Rules
from eventpoll.store.redis.cluster import Cluster
from eventpoll.store.redis.connection import MAX_CONNECTIONS, connect
from eventpoll.store.store import Store
from harness import ROOT
from harness.certificates import Certificate

SHAPES = json.loads((ROOT / "tests" / "redis-urls.json").read_text(encoding="utf-8"))
GOOD = [pytest.param(shape["url"], shape["gives"], id=shape["of"]) for shape in SHAPES if "gives" in shape]
BAD = [pytest.param(shape["url"], shape["mistake"], id=shape["of"]) for shape in SHAPES if "mistake" in shape]
SECRET = "s3cr3t"


def mistake(url: str) -> str:
    """The one line with which the start stops."""
    with pytest.raises(ConfigError) as caught:
        Config.from_environ({"REDIS_URL": url})
    (line,) = caught.value.mistakes
    return line


@pytest.mark.parametrize(("url", "gives"), GOOD)
def test_a_url_gives_what_it_says(url: str, gives: dict[str, Any]) -> None:
    """Servers, login, database and options; what it does not say is left open."""
    found = redis_url.read(url)
    expected = RedisUrl(**{**gives, "places": tuple(tuple(place) for place in gives["places"])})
    assert found == expected
    assert Config.from_environ({"REDIS_URL": url}).redis_url == url.strip()


@pytest.mark.parametrize(("url", "gives"), GOOD)
def test_a_connection_is_made_as_the_url_says(url: str, gives: dict[str, Any], tmp_path: Path) -> None:
    """Down to the driver's connection, which is made and not opened; its options win over ours."""
    client = connect(url, tmp_path)
    if isinstance(client, Cluster):
        places = [(node.host, node.port) for node in client._places]
        assert places == [tuple(place) for place in gives["places"][1:]]
        assert redis.connection.parse_url(client._url)["host"] == gives["places"][0][0]  # type: ignore[no-untyped-call]
        options = {**redis.connection.parse_url(client._url), **client._options}  # type: ignore[no-untyped-call]
    else:
        connection: Any = client.connection_pool.make_connection()
        assert isinstance(connection, redis.SSLConnection) == gives["tls"]
        options = client.connection_pool.connection_kwargs
        assert int(options["db"]) == gives.get("db", 0)
        if gives["kind"] == "unix":
            assert connection.path == gives["path"]
        elif gives["kind"] == "":
            assert [[connection.host, connection.port]] == gives["places"]
    for name in ("username", "password"):
        assert options.get(name) == gives.get(name)
    wanted = {name: value for name, value in gives.get("options", {}).items() if not name.startswith("sentinel_")}
    most = wanted.pop("max_connections", MAX_CONNECTIONS)
    assert wanted.items() <= options.items()
    if gives["kind"] == "":
        assert client.connection_pool.max_connections == most
    client.close()


@pytest.mark.parametrize(("url", "words"), BAD)
def test_what_is_not_understood_stops_the_start_in_one_line(url: str, words: str) -> None:
    """Issue 13, 20: no traceback, and no part of what may be a password."""
    line = mistake(url)
    assert line.startswith("REDIS_URL: ")
    assert re.search(words, line)
    assert "\n" not in line
    assert SECRET not in line


@pytest.mark.parametrize(("url", "gives"), GOOD)
def test_the_log_says_where_the_store_is_and_not_how_to_get_at_it(
    url: str, gives: dict[str, Any], tmp_path: Path
) -> None:
    """The first line of the log: servers and database, no login, no option."""
    store = Store.open(url, tmp_path, Rules())
    assert gives.get("password", SECRET) not in store.where
    assert "?" not in store.where.replace(f"?db={gives.get('db')}", "")
    assert redis_url.read(store.where.removeprefix("at ")).places == redis_url.read(url).places
    store.redis.close()


def test_every_option_is_one_of_redis_pys() -> None:
    """Numbers are parsed by redis-py's own table, and each name is one that a connection of its takes."""
    for name in redis_url.READERS:
        assert redis_url._unknown(name).startswith("has the option") or name.startswith("sentinel_")
    ours = {"db", "socket_timeout", "health_check_interval", "ssl_min_version", "socket_connect_timeout", "timeout"}
    assert ours < set(URL_QUERY_ARGUMENT_PARSERS)


def test_every_option_stands_in_the_operators_handbook() -> None:
    """And no other: what may stand in the URL is a setting like any."""
    section = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").partition("### REDIS_URL")[2]
    rows = [line for line in section.partition("\n**")[0].splitlines() if line.startswith("| `")]
    named = set().union(*(re.findall(r"`(\w+)`", row.split("|")[1]) for row in rows))
    assert named == set(redis_url.READERS)


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, str]:
    """An authority, a certificate of it and its key, in files."""
    authority = Certificate("Authority")
    certificate, key = Certificate("client", authority).files(tmp_path)
    return {"ssl_ca_certs": authority.files(tmp_path)[0], "ssl_certfile": certificate, "ssl_keyfile": key}


def query(options: dict[str, str]) -> str:
    return "&".join(f"{name}={quote(value)}" for name, value in options.items())


def test_tls_options_with_which_a_connection_can_be_made_are_taken(tls: dict[str, str]) -> None:
    """Loaded at the start as each connection loads them."""
    more = {"ssl_min_version": "771", "ssl_ciphers": "ECDHE+AESGCM", "ssl_check_hostname": "false"}
    found = redis_url.read(f"rediss://store?{query({**tls, **more})}")
    assert found.options == {**tls, "ssl_min_version": 771, "ssl_ciphers": "ECDHE+AESGCM", "ssl_check_hostname": False}


@pytest.mark.parametrize(
    "change", [{"ssl_keyfile": "ssl_ca_certs"}, {"ssl_certfile": "ssl_keyfile"}, {"ssl_ca_certs": "ssl_keyfile"}]
)
def test_tls_files_that_do_not_fit_stop_the_start(tls: dict[str, str], change: dict[str, str]) -> None:
    """Else every request would be answered 503, or 500, and the log would have to be read."""
    swapped = {**tls, **{name: tls[other] for name, other in change.items()}}
    assert "no connection can be made" in mistake(f"rediss://store?{query(swapped)}")


def test_a_key_whose_passphrase_is_missing_is_not_asked_for_on_the_terminal(tmp_path: Path) -> None:
    """OpenSSL would ask, and the start would hang."""
    from cryptography.hazmat.primitives import serialization

    certificate = Certificate("client")
    name, _ = certificate.files(tmp_path)
    key = tmp_path / "locked.key"
    form = serialization.PrivateFormat.PKCS8
    locked = serialization.BestAvailableEncryption(SECRET.encode())
    key.write_bytes(certificate.key.private_bytes(serialization.Encoding.PEM, form, locked))
    options = {"ssl_certfile": name, "ssl_keyfile": str(key)}
    for word in ("", "wrong"):
        given = {**options, **({"ssl_password": word} if word else {})}
        assert "no connection can be made" in mistake(f"rediss://store?{query(given)}")
    assert (
        redis_url.read(f"rediss://store?{query({**options, 'ssl_password': SECRET})}").options["ssl_password"] == SECRET
    )


@pytest.mark.parametrize("program", [["gunicorn", "--check-config", "wsgi:app"], ["flask", "eventpoll", "streams"]])
@pytest.mark.parametrize("url", ["redis://store?health_check_interval=abc", f"redis://:p@ss#{SECRET}/rd@store:6379"])
def test_no_program_ends_in_a_traceback(program: list[str], url: str) -> None:
    """One line on standard error, exit code 1; the same for the web process and for commands."""
    environ = {"PATH": os.environ["PATH"], "REDIS_URL": url}
    found = subprocess.run(
        [sys.executable, "-m", *program], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 1
    lines = [line for line in found.stderr.splitlines() if line]
    assert any(line.startswith("REDIS_URL: ") for line in lines)
    assert "Traceback" not in found.stderr
    assert SECRET not in found.stdout + found.stderr


def test_a_url_that_is_not_understood_opens_no_store(tmp_path: Path) -> None:
    """Whoever makes a store by hand is told the same."""
    with pytest.raises(BadUrl, match="database"):
        Store.open("redis://store/abc", tmp_path, Rules())
