"""TLS on the way to Redis, with an authority of our own and a client certificate: one server, Sentinels, a Cluster."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest

from eventpoll.settings import Config
from eventpoll.store.errors import Unavailable
from eventpoll.store.records import Rules
from eventpoll.store.store import Store
from harness import ROOT
from harness.certificates import Certificate
from harness.redis_servers import RedisServer, Tls, TlsRedisServer, client_of, redis_server
from harness.service import start_server
from harness.topologies import cluster, sentinels
from tests.store.test_acl import life, push_set, put_into_inbox, settings, work

AUTHORITY = Certificate("Authority")


def files(directory: Path, authority: Certificate, certificate: Certificate) -> Tls:
    """Their names."""
    directory.mkdir(exist_ok=True)
    name = directory / f"{authority.thumbprint}-authority.pem"
    name.write_text(authority.pem)
    return Tls(str(name), *certificate.files(directory))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """What the servers have."""
    return files(tmp_path_factory.mktemp("servers"), AUTHORITY, Certificate("redis", AUTHORITY))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """What the service has."""
    return files(tmp_path_factory.mktemp("service"), AUTHORITY, Certificate("eventpoll", AUTHORITY))


@contextmanager
def one(directory: Path, tls: Tls) -> Iterator[tuple[str, RedisServer]]:
    """A server, and its place in a URL."""
    server = redis_server(directory, tls=tls).start()
    yield f"rediss://127.0.0.1:{server.port}/0", server
    server.kill()


@contextmanager
def several(directory: Path, tls: Tls) -> Iterator[tuple[str, RedisServer]]:
    """A Cluster, and the server of it that keeps the inbox."""
    with cluster(directory, tls=tls) as nodes:
        slot = client_of(nodes[0].port, tls).cluster("KEYSLOT", "eventpoll:inbox")
        yield "rediss+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes), nodes[int(slot) * 3 // 16_384]


@contextmanager
def watched(directory: Path, tls: Tls) -> Iterator[tuple[str, RedisServer]]:
    """A primary and a replica, by their Sentinels."""
    with sentinels(directory, tls=tls) as ((primary, _), ports):
        yield "rediss+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in ports) + "/eventpoll", primary


Kind = Callable[[Path, Tls], AbstractContextManager[tuple[str, RedisServer]]]


@pytest.mark.parametrize("kind", [one, watched, several], ids=["one", "Sentinel", "Cluster"])
def test_the_whole_life_of_sets_over_tls(
    kind: Kind, tmp_path: Path, theirs: Tls, ours: Tls, environ: dict[str, str]
) -> None:
    """Issue 6, 1: rediss:// with our own authority and a client certificate: web, commands, worker and push-set."""
    with kind(tmp_path / "redis", theirs) as (url, inbox):
        with_tls = settings(environ, f"{url}?{urlencode(ours.options)}")
        server = start_server(with_tls, tmp_path / "served", workers=2)
        try:
            life(server, with_tls)
            with client_of(inbox.port, ours) as client:
                put_into_inbox(client)
            work(with_tls, with_tls["REDIS_URL"])
            push_set(with_tls["REDIS_URL"], "tpp-1")
            assert server.bank("GET", "/streams/tpp-1").json["pending"] == 2
        finally:
            server.stop()


@pytest.mark.parametrize("kind", [one, watched, several], ids=["one", "Sentinel", "Cluster"])
def test_a_store_with_a_certificate_of_its_own_is_reached(kind: Kind, tmp_path: Path, theirs: Tls, ours: Tls) -> None:
    """Issue 13, 22: Heroku's is self-signed, under other names, and its URL is the platform's to write."""
    certificate = urlencode({"ssl_certfile": ours.certificate, "ssl_keyfile": ours.key})
    with kind(tmp_path / "redis", theirs) as (url, _):
        given = {"REDIS_URL": f"{url}?{certificate}"}
        refused(given["REDIS_URL"])
        pem = Path(ours.authority).read_text(encoding="utf-8")
        for more in (
            {"EVENTPOLL_REDIS_CA": ours.authority},
            {"EVENTPOLL_REDIS_CA": pem},
            {"EVENTPOLL_REDIS_CA_FILE": ours.authority},
            {"EVENTPOLL_REDIS_TLS_VERIFY": "none"},
        ):
            store = Store.open(Config.from_environ({**given, **more}).store_url, Path(), Rules())
            store.ping()
            store.redis.close()


@pytest.mark.parametrize(
    ("more", "warned"),
    [({"EVENTPOLL_REDIS_TLS_VERIFY": "none"}, True), ({"EVENTPOLL_REDIS_CA_FILE": "CA"}, False)],
)
def test_web_worker_check_and_push_set_go_by_the_settings_for_tls(
    tmp_path: Path, theirs: Tls, ours: Tls, environ: dict[str, str], more: dict[str, str], warned: bool
) -> None:
    """Each start warns where the certificate is not checked; so does check, and no other command."""
    certificate = urlencode({"ssl_certfile": ours.certificate, "ssl_keyfile": ours.key})
    more = {name: value.replace("CA", ours.authority) for name, value in more.items()}
    with one(tmp_path / "redis", theirs) as (url, _):
        given = {**settings(environ, f"{url}?{certificate}"), **more}
        server = start_server(given, tmp_path / "served")
        try:
            server.tpp("tpp-1")
            push_set(given["REDIS_URL"], "tpp-1", **more)
            assert server.bank("GET", "/streams/tpp-1").json["pending"] == 1
        finally:
            server.stop()
        told = [server.log.read_text(), *(run(given, name).stderr for name in ("worker --once", "streams"))]
        found = run(given, "check --json")
        warnings = [each["what"] for each in json.loads(found.stdout)["findings"] if each["level"] == "warning"]
    told.append(" ".join(warnings))
    assert ["certificate of the store is not checked" in each for each in told] == [warned, warned, False, warned]


def run(environ: dict[str, str], command: str) -> subprocess.CompletedProcess[str]:
    """A command at a shell."""
    words = [sys.executable, "-m", "flask", "eventpoll", *command.split()]
    env = {"PATH": os.environ["PATH"], "FLASK_APP": str(ROOT / "wsgi.py"), **environ}
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=60)


def test_a_server_of_another_authority_is_not_believed(tmp_path: Path, theirs: Tls, ours: Tls) -> None:
    """Nor is a service without a certificate let in, nor one that does not speak TLS: each is 503, not a way in."""
    stranger = Certificate("stranger")
    with one(tmp_path / "redis", theirs) as (url, _):
        for query in (
            {**ours.options, "ssl_ca_certs": files(tmp_path / "other", stranger, stranger).authority},
            {"ssl_ca_certs": ours.authority},
            {**ours.options, **files(tmp_path / "other", AUTHORITY, stranger).options},
            {"ssl_certfile": ours.certificate, "ssl_keyfile": ours.key},
        ):
            refused(f"{url}?{urlencode(query)}")
        refused(url.replace("rediss:", "redis:"))
        store = Store.open(f"{url}?{urlencode(ours.options)}", Path(), Rules())
        store.ping()
        store.redis.close()


def test_a_server_under_another_name_is_not_believed(tmp_path: Path, ours: Tls) -> None:
    """Its certificate is of the right authority, and of another machine."""
    elsewhere = files(tmp_path / "elsewhere", AUTHORITY, Certificate("redis", AUTHORITY, host="redis.example"))
    server = TlsRedisServer(tmp_path, tls=elsewhere)
    server.name = "redis.example"
    server.start()
    refused(f"rediss://127.0.0.1:{server.port}/0?{urlencode(ours.options)}")
    server.kill()


def refused(url: str) -> None:
    store = Store.open(url, Path(), Rules())
    with pytest.raises(Unavailable):
        store.ping()
    store.redis.close()
