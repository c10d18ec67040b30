"""Held polls in one process, with plain threads as a bank's own Flask app may have them; test_long_poll has gevent."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventpoll import keys
from eventpoll.failures import Unavailable
from eventpoll.records import Rules
from eventpoll.store import Store
from eventpoll.subscription import FIRST_SECONDS, Subscription, pause
from eventpoll.transmitter import Limits, Poll, Transmitter
from eventpoll.waiting import Hold, TooManyHeld, Waiting
from harness.redis_servers import RedisServer
from harness.sets import set_of
from harness.waiting import wait_for


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[Store]:
    found = Store.open(redis_server.url.removesuffix("0") + "8", Path(), Rules())
    found.redis.flushdb()
    yield found
    found.redis.close()


@pytest.fixture
def waiting(store: Store) -> Iterator[Waiting]:
    found = Waiting(store.subscribe, 2, 3)
    yield found
    found.release()


def listeners(store: Store, tpp: str) -> int:
    return int(store.redis.pubsub_numsub(keys.wake(tpp))[0][1])


def timed(hold: Hold, seconds: float) -> float:
    started = time.monotonic()
    hold.wait(seconds)
    return time.monotonic() - started


def test_the_first_wait_ends_when_pushes_are_heard(store: Store, waiting: Waiting) -> None:
    """What was pushed before that is found by looking again (decision 12)."""
    with waiting.held("w-first", None) as hold:
        assert timed(hold, 20) < 15
        assert listeners(store, "w-first") == 1
        assert timed(hold, 0.05) >= 0.04
        store.redis.publish(keys.wake("w-first"), "push")
        assert timed(hold, 20) < 15
    wait_for(lambda: listeners(store, "w-first") == 0)
    assert len(waiting) == 0


def test_a_second_poll_of_a_stream_looks_again_at_once(store: Store, waiting: Waiting) -> None:
    """Its stream is heard already; one subscription does for both."""
    with waiting.held("w-second", None) as first:
        first.wait(20)
        with waiting.held("w-second", None) as second:
            assert timed(second, 20) < 15
            assert listeners(store, "w-second") == 1
        assert listeners(store, "w-second") == 1


def test_a_later_stream_joins_the_subscription(store: Store, waiting: Waiting) -> None:
    """One connection for each process."""
    with waiting.held("w-one", None) as one:
        one.wait(20)
        with waiting.held("w-two", None) as two:
            assert timed(two, 20) < 15
            assert [listeners(store, tpp) for tpp in ("w-one", "w-two")] == [1, 1]
            store.redis.publish(keys.wake("w-two"), "push")
            assert timed(two, 20) < 15
            assert timed(one, 0.05) >= 0.04


def test_limits_are_told_apart_and_places_are_freed(waiting: Waiting) -> None:
    """decision 25: over the stream's limit, over the worker's."""
    with waiting.held("w-a", None), waiting.held("w-a", None):
        with pytest.raises(TooManyHeld) as refused, waiting.held("w-a", None):
            pass
        assert refused.value.where == "stream"
        with waiting.held("w-b", None):
            for tpp in ("w-a", "w-b", "w-c"):
                with pytest.raises(TooManyHeld) as refused, waiting.held(tpp, None):
                    pass
                assert refused.value.where == "worker"
        assert len(waiting) == 2
    with waiting.held("w-a", None), waiting.held("w-a", None):
        assert len(waiting) == 2


def test_release_lets_all_go(waiting: Waiting) -> None:
    """SIGTERM: whoever waits looks, sees that the end is near, and answers."""
    with waiting.held("w-end", None) as hold:
        hold.wait(20)
        threading.Timer(0.05, waiting.release).start()
        assert timed(hold, 20) < 15
        assert waiting.closing


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_hold_ends_when_its_client_hangs_up(when: str) -> None:
    """It must be handed nothing then (RFC 8936 section 2.5)."""
    ours, theirs = socket.socketpair()
    hold = Hold(ours)
    if when == "before":
        theirs.close()
    else:
        threading.Timer(0.05, theirs.close).start()
    assert timed(hold, 20) < 15
    assert hold.gone
    assert timed(hold, 20) < 15
    ours.close()


def test_a_client_that_sends_more_is_still_there() -> None:
    """A next request that is there early is no hang-up."""
    ours, theirs = socket.socketpair()
    hold = Hold(ours)
    theirs.sendall(b"POST /events HTTP/1.1\r\n")
    assert timed(hold, 0.05) >= 0.04
    assert not hold.gone
    threading.Timer(0.05, hold.wake).start()
    assert timed(hold, 20) < 15
    assert not hold.gone
    ours.close()
    theirs.close()


def test_processes_that_lost_the_store_do_not_come_back_at_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 6, 2: jittered back-off, from 0.1 to 2 s."""
    slept: list[float] = []
    ours, sleep = threading.current_thread(), time.sleep

    def asleep(seconds: float) -> None:
        if threading.current_thread() is ours:
            slept.append(seconds)
        else:  # a listener of another test
            sleep(seconds)

    monkeypatch.setattr("eventpoll.subscription.time.sleep", asleep)
    for _ in range(50):
        seconds = FIRST_SECONDS
        for longest in (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0):
            seconds = pause(seconds)
            assert longest / 2 <= slept[-1] <= longest
    assert len(set(slept)) == len(slept)


class Scripted:
    """A subscription that says and raises what the test wants."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.told: list[tuple[str, Any]] = []
        self.closed = False

    def listen(self, tpps: Any) -> None:
        self.told.append(("listen", list(tpps)))

    def leave(self, tpp: str) -> None:
        self.told.append(("leave", tpp))
        raise Unavailable("gone")

    def heard(self) -> str | None:
        step = self.steps.pop(0) if self.steps else threading.Event().wait()
        if isinstance(step, Exception):
            raise step
        return step if isinstance(step, str) else None

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("fault", [Unavailable("away"), AttributeError("what no one thought of")])
def test_a_listener_that_fails_begins_anew_and_wakes_all(fault: Exception) -> None:
    """Whoever is held looks for itself: the store may be away, or a push was missed."""
    made: list[Any] = []

    def subscribe() -> Subscription:
        made.append([Scripted(None, fault), fault, Scripted()][len(made)])
        if isinstance(made[-1], Exception):
            raise made[-1]
        return made[-1]  # type: ignore[no-any-return]

    waiting = Waiting(subscribe, 5, 5)
    with waiting.held("tpp", None) as hold:
        assert timed(hold, 20) < 15
        wait_for(lambda: len(made) >= 3)
        assert made[0].closed
        wait_for(lambda: made[2].told[:1] == [("listen", ["tpp"])])
    assert len(waiting) == 0  # though it could not be told


def test_a_subscription_that_lost_its_connection_says_so(store: Store) -> None:
    """redis-py would make another connection by itself, on which nothing is heard: a listener would be deaf."""
    subscription = store.subscribe()
    subscription.listen(["tpp"])
    assert subscription.heard() == "tpp"
    subscription._connection.disconnect()
    for use in (subscription.heard, lambda: subscription.listen(["tpp"]), lambda: subscription.leave("tpp")):
        with pytest.raises(Unavailable):
            use()
    assert not subscription._connection.is_connected


def test_a_subscription_hears_its_streams_alone(store: Store) -> None:
    """What is no wake-up is None: a goodbye, and the answer to a heartbeat."""
    subscription = store.subscribe()
    subscription.listen(["w-here"])
    assert subscription.heard() == "w-here"
    store.redis.publish(keys.wake("w-there"), "push")
    store.redis.publish(keys.wake("w-here"), "push")
    assert subscription.heard() == "w-here"
    subscription.leave("w-here")
    assert subscription.heard() is None
    subscription.close()
    with pytest.raises(Unavailable):
        subscription.heard()


@pytest.mark.parametrize("listening", [True, False])
def test_a_quiet_subscription_asks_whether_the_store_is_there(
    store: Store, monkeypatch: pytest.MonkeyPatch, listening: bool
) -> None:
    """A connection that died without a word is found out."""
    monkeypatch.setattr("eventpoll.subscription.HEARTBEAT_SECONDS", 0.05)
    subscription = store.subscribe()
    if listening:
        subscription.listen(["w-quiet"])
        assert subscription.heard() == "w-quiet"
    assert subscription.heard() is None
    subscription.close()


def test_a_subscription_to_a_dead_server_is_found_out(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The heartbeat has a time limit: the listener begins anew."""
    monkeypatch.setattr("eventpoll.subscription.HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr("eventpoll.connection.TIMEOUT_SECONDS", 1.5)
    store = Store.open(own_redis.url, Path(), Rules())
    subscription = store.subscribe()
    assert own_redis.ask(b"CLIENT PAUSE 60000 ALL").startswith(b"+OK")
    with pytest.raises(Unavailable):
        subscription.heard()
    own_redis.kill()
    with pytest.raises(Unavailable):
        store.subscribe()


def test_thousands_of_streams_are_listened_to(store: Store) -> None:
    """After a reconnection each is told again, some at a time."""
    names = [f"w-{number}" for number in range(2500)]
    subscription = store.subscribe()
    subscription.listen(names)
    assert [subscription.heard() for _ in names] == names
    subscription.close()


def test_the_transmitter_holds_with_plain_threads(store: Store, waiting: Waiting) -> None:
    """A bank may mount eventpoll in an app of its own, under a server without gevent."""
    store.configure("w-threads", "hash", {})
    transmitter = Transmitter(store, waiting, None, Limits(hold=20))  # type: ignore[arg-type]
    found: list[Any] = []
    thread = threading.Thread(
        target=lambda: found.append(transmitter.poll("w-threads", Poll(), profile="r", hold=True))
    )
    thread.start()
    wait_for(lambda: listeners(store, "w-threads"))
    store.push("w-threads", "a", set_of("a"))
    thread.join(15)
    assert [jti for jti, _ in found[0].sets] == [b"a"]
    transmitter.limits = Limits(hold=0.1)
    store.poll("w-threads", max_events=0, ack=["a"], profile="r")
    assert transmitter.poll("w-threads", Poll(), profile="r", hold=True).sets == []
