"""The short way to a server: no reply is read for another's, and none is asked for twice."""

from collections.abc import Iterator
from pathlib import Path

import fakeredis
import gevent
import pytest
import redis

from eventpoll.connection import connect
from eventpoll.roundtrip import RoundTrips
from harness.redis_servers import RedisServer


@pytest.fixture
def client(own_redis: RedisServer) -> Iterator[redis.Redis]:
    """A client of a server of its own."""
    with connect(own_redis.url, Path()) as found:
        yield found


@pytest.fixture
def trips(client: redis.Redis) -> RoundTrips:
    """The short way to that server."""
    return RoundTrips(client)


def connections(server: RedisServer) -> int:
    """How many there are to the server, the one that asks aside."""
    return server.ask(b"CLIENT LIST TYPE normal").count(b"id=") - 1


def test_all_share_one_connection_and_each_gets_its_own_reply(trips: RoundTrips, own_redis: RedisServer) -> None:
    """performance.md: no pool, no retries, no measurements on a poll's way; and no more sends than there need be."""
    before = int(own_redis.ask(b"INFO stats").split(b"total_reads_processed:")[1].split()[0])
    asked = [gevent.spawn(trips.ask, "ECHO", str(number)) for number in range(500)]
    assert [each.get(timeout=10) for each in asked] == [str(number).encode() for number in range(500)]
    after = int(own_redis.ask(b"INFO stats").split(b"total_reads_processed:")[1].split()[0])
    assert connections(own_redis) == 1
    assert after - before < 50


def test_what_is_larger_than_a_socket_takes_at_once_passes(trips: RoundTrips, own_redis: RedisServer) -> None:
    """Megabytes both ways, with small commands before and behind them."""
    assert own_redis.ask(b"CONFIG SET appendonly no").startswith(b"+OK")  # a slow disk has no say in it
    large = b"x" * 20_000_000
    first, stored, read, last = (
        gevent.spawn(trips.ask, *command)
        for command in (("ECHO", "first"), ("SET", "large", large), ("GET", "large"), ("ECHO", "last"))
    )
    assert (first.get(timeout=10), stored.get(timeout=10), read.get(timeout=10) == large, last.get(timeout=10)) == (
        b"first",
        b"OK",
        True,
        b"last",
    )


def test_replies_to_many_come_in_order_and_errors_in_their_places(trips: RoundTrips) -> None:
    """What one command gets says nothing of the next."""
    replies = trips.ask_many(
        [("SET", "a", 1), ("LPUSH", "a", 1), ("INCR", "a"), ("EVALSHA", "0" * 40, 0), ("GET", "a")]
    )
    assert [replies[0], replies[2], replies[4]] == [b"OK", 2, b"2"]
    assert isinstance(replies[1], redis.ResponseError)
    assert isinstance(replies[3], redis.exceptions.NoScriptError)


def test_what_the_server_refuses_is_raised_and_the_connection_kept(trips: RoundTrips, own_redis: RedisServer) -> None:
    """A reply like any other: NOSCRIPT is one."""
    trips.ask("SET", "a", 1)
    with pytest.raises(redis.exceptions.NoScriptError):
        trips.ask("EVALSHA", "0" * 40, 0)
    assert trips.ask("GET", "a") == b"1"
    assert connections(own_redis) == 1


def test_a_connection_that_the_server_closed_is_made_anew(trips: RoundTrips, own_redis: RedisServer) -> None:
    """Nothing is sent into a closed connection: it would be in doubt whether it was done."""
    trips.ask("SET", "a", 1)
    own_redis.kill()
    own_redis.start()
    gevent.sleep(0.01)
    assert trips.ask("INCR", "a") == 2
    own_redis.ask(b"CLIENT KILL TYPE normal")
    gevent.sleep(0.01)
    assert trips.ask("INCR", "a") == 3


def test_all_that_is_under_way_fails_with_its_connection_and_nothing_is_repeated(
    trips: RoundTrips, own_redis: RedisServer
) -> None:
    """libraries.md: a command whose reply is lost was perhaps done."""
    trips.ask("SET", "a", 0)
    waits = gevent.spawn(trips.ask, "BLPOP", "nothing", 5)
    gevent.sleep(0.05)
    behind = [gevent.spawn(trips.ask, "INCR", "a") for _ in range(3)]
    gevent.sleep(0.05)
    own_redis.ask(b"CLIENT KILL TYPE normal")
    for each in (waits, *behind):
        with pytest.raises(redis.ConnectionError):
            each.get(timeout=10)
    assert trips.ask("GET", "a") == b"0"


def test_a_reply_that_was_not_waited_for_is_nobody_elses(trips: RoundTrips) -> None:
    """A request that is broken off leaves its reply to nobody; those behind it get theirs."""
    trips.ask("SET", "a", 1)
    broken_off = gevent.spawn(trips.ask, "INCR", "a")
    behind = gevent.spawn(trips.ask, "ECHO", "mine")
    gevent.sleep(0)
    broken_off.kill()
    assert behind.get(timeout=10) == b"mine"
    assert trips.ask("GET", "a") == b"2"  # done once


def test_a_server_that_says_nothing_is_given_up(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decision 19: a store that hangs is one that is away; its late reply is nobody's."""
    monkeypatch.setattr("eventpoll.connection.TIMEOUT_SECONDS", 1.5)
    with connect(own_redis.url, Path()) as client:
        trips = RoundTrips(client)
        trips.ask("SET", "a", 1)
        assert own_redis.ask(b"CLIENT PAUSE 60000 WRITE").startswith(b"+OK")
        asked = [gevent.spawn(trips.ask, "INCR", "a") for _ in range(3)]
        for each in asked:
            with pytest.raises(redis.TimeoutError):
                each.get(timeout=10)
        assert own_redis.ask(b"CLIENT UNPAUSE").startswith(b"+OK")
        assert trips.ask("SET", "b", 1) == b"OK"


def test_who_comes_while_a_connection_is_made_waits_for_the_same(own_redis: RedisServer, client: redis.Redis) -> None:
    """Where none can be made all are told at once: nobody stands in a line of time-outs."""
    trips = RoundTrips(client)
    own_redis.kill()
    for each in [gevent.spawn(trips.ask, "PING") for _ in range(5)]:
        with pytest.raises(redis.ConnectionError):
            each.get(timeout=10)
    own_redis.start()
    assert [each.get(timeout=10) for each in [gevent.spawn(trips.ask, "PING") for _ in range(5)]] == [b"PONG"] * 5
    assert connections(own_redis) == 1


def test_a_primary_that_became_a_replica_is_left(trips: RoundTrips, own_redis: RedisServer) -> None:
    """After a failover the next connection goes to the new primary, as the Sentinels say."""
    trips.ask("SET", "a", 1)
    own_redis.ask(b"REPLICAOF 127.0.0.1 1")
    with pytest.raises(redis.exceptions.ReadOnlyError):
        trips.ask("INCR", "a")
    own_redis.ask(b"REPLICAOF NO ONE")
    assert connections(own_redis) == 0
    assert trips.ask("INCR", "a") == 2


def test_it_is_not_for_every_client(client: redis.Redis) -> None:
    """A Cluster asks more than one server; with TLS what was read is not yet what was said."""
    tls = connect("rediss://127.0.0.1:1", Path())
    several = connect("redis+cluster://127.0.0.1:1", Path())
    clients = {client: True, tls: False, several: False, fakeredis.FakeRedis(): False}
    assert {each: RoundTrips.serve(each) for each in clients} == clients
