"""The way to Redis that REDIS_URL names."""

import time
from pathlib import Path

import pytest
import redis

from eventpoll.store.errors import Unavailable
from eventpoll.store.records import Rules
from eventpoll.store.redis.connection import MAX_CONNECTIONS, connect, options
from eventpoll.store.store import Store
from harness.ports import free_port
from harness.redis_servers import RedisServer


def test_a_url_is_followed_and_nothing_is_opened_yet(tmp_path: Path) -> None:
    """libraries.md: safe at import, and before gunicorn forks."""
    client = connect(f"redis://127.0.0.1:{free_port()}/0", tmp_path)
    assert client.connection_pool.max_connections == MAX_CONNECTIONS
    with pytest.raises(redis.ConnectionError):
        client.ping()
    assert list(tmp_path.iterdir()) == []


def test_a_unix_socket_is_a_way_too(tmp_path: Path) -> None:
    """interface.md: REDIS_URL may be unix://."""
    path = tmp_path / "r.sock"
    server = RedisServer(tmp_path, "--unixsocket", str(path)).start()
    client = connect(f"unix://{path}", tmp_path)
    assert client.ping()
    client.close()
    server.kill()


def test_a_command_is_never_repeated_by_the_driver(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libraries.md: a poll whose answer was lost has leased its SETs; run again it would lease others."""
    client = connect(redis_server.url.removesuffix("0") + "7", tmp_path)
    client.delete("n")
    connection = client.connection_pool.get_connection()
    client.connection_pool.release(connection)
    read = connection.read_response
    lost: list[object] = []

    def lose(*args: object, **kwargs: object) -> object:
        if not lost:
            lost.append(read(*args, **kwargs))
            raise redis.ConnectionError("the answer is lost")
        return read(*args, **kwargs)

    monkeypatch.setattr(connection, "read_response", lose)
    with pytest.raises(redis.ConnectionError):
        client.incr("n")
    assert client.get("n") == b"1"
    client.close()


def test_a_server_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """decision 19: a store that hangs is one that is away."""
    server = RedisServer(tmp_path).start()
    monkeypatch.setattr("eventpoll.store.redis.connection.TIMEOUT_SECONDS", 1.5)
    store = Store.open(server.url, tmp_path, Rules())
    store.ping()
    assert server.ask(b"CLIENT PAUSE 60000 ALL").startswith(b"+OK")
    started = time.monotonic()
    with pytest.raises(Unavailable):
        store.ping()
    assert time.monotonic() - started < 30
    store.redis.close()
    server.kill()


def test_where_no_server_can_be_run_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 2: one clear sentence saying what to install or set."""
    monkeypatch.setattr("eventpoll.store.redis.embedded.programs", dict)
    store = Store.open(None, tmp_path / "data", Rules())
    with pytest.raises(Unavailable, match="set REDIS_URL"):
        store.ping()


def test_every_connection_has_a_time_limit_and_no_retries() -> None:
    """libraries.md: redis-py 8 repeats ten times by default."""
    found = options()
    assert found["retry"].get_retries() == 0
    assert found["socket_timeout"] > 0
    assert found["socket_connect_timeout"] > 0


def test_a_password_in_the_url_is_not_told(tmp_path: Path) -> None:
    """The log says where SETs are kept, not how to get at them."""
    store = Store.open("rediss://user:s3cret@db.example:6379/0?ssl_password=s3cret", tmp_path, Rules())
    assert store.where == "at rediss://db.example:6379/0"
