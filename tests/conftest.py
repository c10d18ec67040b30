"""Fixtures: a Redis of our own, gunicorn on a real socket; their parts are in harness/."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from flask import Flask
from flask.testing import FlaskClient
from joserfc.jwk import RSAKey

from app import create_app
from eventpoll.settings import Config
from eventpoll.store.records import Rules
from eventpoll.store.store import Store
from harness import schedule
from harness.redis_servers import RedisServer
from harness.service import BANK_SETTINGS, Server, start_server


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where shared_server keeps its SETs, if not in a server of the suite's own: a Cluster, say."""
    parser.addoption("--store", metavar="REDIS_URL", help="the store of the server that most tests share")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long first."""
    schedule.longest_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Take the long files apart, where there are several processes."""
    return schedule.scheduler(config, log)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all tests that leave it as it is. Nobody kills it, so no command need wait for the disk."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), "--appendfsync", "everysec").start()
    yield server
    server.kill()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server for one test, to be killed, filled or made read-only."""
    server = RedisServer(tmp_path).start()
    yield server
    server.kill()


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[Store]:
    """A store on the real server, empty before and after."""
    store = Store.open(redis_server.url, Path(), Rules())
    store.redis.flushall()
    yield store
    store.redis.flushall()
    store.redis.close()


@pytest.fixture(scope="session")
def signing_keys() -> str:
    """A JWK Set with one RSA key, private."""
    return json.dumps({"keys": [RSAKey.generate_key(2048, {"kid": "test-1"}).as_dict(private=True)]})


@pytest.fixture
def environ(signing_keys: str) -> dict[str, str]:
    """The settings of a bank that mints."""
    return {
        **BANK_SETTINGS,
        "EVENTPOLL_SIGNING_KEYS": signing_keys,
        "EVENTPOLL_LONG_POLL_SECONDS": "1",
        "EVENTPOLL_FAILED_LOGIN_SECONDS": "0",
    }


@pytest.fixture
def app(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Flask:
    """The application on fakeredis: for the wire's unit tests, which need no server."""
    client = fakeredis.FakeRedis(version=(7,))
    monkeypatch.setattr("eventpoll.store.store.connect", lambda url, data_dir: client)
    app = create_app(Config.from_environ(environ))
    app.testing = True
    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """Flask's test client. It lets header names with _ through: what depends on that belongs over a real socket."""
    return app.test_client()


@pytest.fixture(scope="session")
def shared_server(
    redis_server: RedisServer,
    signing_keys: str,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Iterator[Server]:
    """One gunicorn with two workers for all tests that leave it as it is; each test makes streams of its own."""
    environ = {
        "REDIS_URL": pytestconfig.getoption("--store") or redis_server.url.removesuffix("0") + "1",
        **BANK_SETTINGS,
        "EVENTPOLL_SIGNING_KEYS": signing_keys,
        "EVENTPOLL_LONG_POLL_SECONDS": "2",
        "EVENTPOLL_FAILED_LOGIN_SECONDS": "0",
    }
    server = start_server(environ, tmp_path_factory.mktemp("shared"), workers=2)
    yield server
    server.stop()


@pytest.fixture
def serve(environ: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers with settings of the test's own: serve(EVENTPOLL_MAX_EVENTS="2", workers=2)."""
    servers: list[Server] = []

    def start(workers: int = 1, directory: Path | None = None, **settings: str) -> Server:
        server = start_server({**environ, **settings}, directory or tmp_path / "served", workers)
        servers.append(server)
        return server

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.stop(signal.SIGTERM)
