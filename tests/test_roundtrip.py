"""The short way to a server: no reply is read for another's, and none is asked for twice."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fakeredis
import pytest
import redis

from eventpoll.connection import connect
from eventpoll.roundtrip import KEPT, RoundTrips
from tests.conftest import RedisServer


@pytest.fixture
def trips(own_redis: RedisServer) -> Iterator[RoundTrips]:
    """The short way to a server of its own."""
    client = connect(own_redis.url, Path())
    found = RoundTrips(client)
    yield found
    found.close()
    client.close()


def kept(trips: RoundTrips) -> int:
    return sum(connection is not None for connection in trips._idle)


def test_one_connection_serves_one_after_the_other(trips: RoundTrips) -> None:
    """performance.md: no pool, no retries, no measurements on a poll's way."""
    assert trips.ask("SET", "a", 1) == b"OK"
    assert [trips.ask("INCR", "a") for _ in range(3)] == [2, 3, 4]
    assert kept(trips) == 1


def test_what_the_server_refuses_is_raised_and_the_connection_kept(trips: RoundTrips) -> None:
    """A reply like any other: NOSCRIPT is one."""
    with pytest.raises(redis.exceptions.NoScriptError):
        trips.ask("EVALSHA", "0" * 40, 0)
    assert kept(trips) == 1


def test_a_connection_that_the_server_closed_is_made_anew(trips: RoundTrips, own_redis: RedisServer) -> None:
    """Nothing is sent into a closed connection: it would be in doubt whether it was done."""
    trips.ask("SET", "a", 1)
    own_redis.kill()
    own_redis.start()
    assert trips.ask("INCR", "a") == 2
    own_redis.ask(b"CLIENT KILL TYPE normal")
    assert trips.ask("INCR", "a") == 3


def test_a_reply_that_was_not_waited_for_is_nobody_elses(
    trips: RoundTrips, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libraries.md: a command whose reply is lost was perhaps done; its connection serves nobody again."""
    trips.ask("SET", "a", 1)
    connection = next(each for each in trips._idle if each is not None)

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(connection, "read_response", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trips.ask("INCR", "a")
    monkeypatch.undo()
    assert kept(trips) == 0
    assert trips.ask("GET", "a") == b"2"  # done once


def test_a_server_that_says_nothing_is_given_up(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decision 19: a store that hangs is one that is away; its late reply is nobody's."""
    monkeypatch.setattr("eventpoll.connection.TIMEOUT_SECONDS", 0.3)
    client = connect(own_redis.url, Path())
    trips = RoundTrips(client)
    trips.ask("SET", "a", 1)
    assert own_redis.ask(b"CLIENT PAUSE 900 ALL").startswith(b"+OK")
    with pytest.raises(redis.TimeoutError):
        trips.ask("INCR", "a")
    time.sleep(0.8)
    assert trips.ask("SET", "b", 1) == b"OK"
    trips.close()
    client.close()


def test_who_finds_none_free_goes_the_ordinary_way(trips: RoundTrips) -> None:
    """As many at once as one likes: each gets its own reply."""
    replies: list[tuple[int, bytes]] = []

    def ask(number: int) -> None:
        trips.ask("BLPOP", "nothing", 1)
        replies.append((number, trips.ask("ECHO", str(number))))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(KEPT + 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(replies) == [(number, str(number).encode()) for number in range(KEPT + 8)]
    assert kept(trips) == KEPT


def test_it_is_not_for_every_client(own_redis: RedisServer) -> None:
    """A Cluster asks more than one server; on TLS a quiet connection may have something to read."""
    plain = connect(own_redis.url, Path())
    tls = connect("rediss://127.0.0.1:1", Path())
    several = connect("redis+cluster://127.0.0.1:1", Path())
    clients = {plain: True, tls: False, several: False, fakeredis.FakeRedis(): False}
    assert {client: RoundTrips.serve(client) for client in clients} == clients
