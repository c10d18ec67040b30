"""A store that does not answer is not asked by everybody again and again."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis

from eventpoll import circuit
from eventpoll.circuit import FAILURES, Circuit, StillAway
from eventpoll.failures import Unavailable
from eventpoll.records import Rules
from eventpoll.store import Store
from harness.ports import free_port
from harness.redis_servers import RedisServer


class Clock:
    """A clock that is moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The circuit's clock, with pauses of their full length."""
    clock = Clock()
    monkeypatch.setattr(circuit, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(circuit, "random", SimpleNamespace(uniform=lambda low, high: high))
    return clock


def ask(circuit: Circuit, answer: Callable[[], object]) -> object:
    with circuit:
        return answer()


def fail() -> object:
    raise redis.TimeoutError("no answer")


def tried(circuit: Circuit) -> bool:
    """Whether one who fails was let in."""
    with pytest.raises((redis.TimeoutError, StillAway)) as error:
        ask(circuit, fail)
    return not isinstance(error.value, StillAway)


def test_after_some_failures_one_is_let_in_at_a_time(clock: Clock) -> None:
    """Issue 6, 2: 503 at once while Redis is away."""
    found = Circuit()
    assert [tried(found) for _ in range(FAILURES + 2)] == [True] * FAILURES + [False] * 2
    clock.now += circuit.FIRST_SECONDS
    with found, pytest.raises(StillAway):  # while one tries, the next one is told at once
        ask(found, fail)


def test_the_pause_doubles_and_has_an_end(clock: Clock) -> None:
    """A back-off; never so long that a store that is back is not noticed."""
    found, pauses = Circuit(), []
    for _ in range(FAILURES):
        tried(found)
    for _ in range(7):
        pauses.append(round(found._next_try - clock.now, 6))
        clock.now = found._next_try
        assert tried(found)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_the_first_answer_ends_it_whatever_it_says(clock: Clock) -> None:
    """A store that refuses is there."""
    found = Circuit()
    for _ in range(FAILURES):
        tried(found)
    clock.now += circuit.LONGEST_SECONDS
    with pytest.raises(redis.ResponseError), found:
        raise redis.ResponseError("OOM")
    assert [tried(found) for _ in range(FAILURES)] == [True] * FAILURES


def test_processes_do_not_come_back_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jitter: a store that starts again is not run over."""
    pauses = set()
    for _ in range(20):
        found = Circuit()
        for _ in range(FAILURES):
            tried(found)
        pauses.add(round(found._pause(), 6))
    assert len(pauses) > 10
    assert all(circuit.FIRST_SECONDS / 2 <= pause <= circuit.FIRST_SECONDS for pause in pauses)


def accepted(server: socket.socket) -> Iterator[None]:
    """Each connection that was made to a server."""
    while True:
        try:
            server.accept()[0].close()
        except TimeoutError:
            return
        yield


def test_a_server_that_swallows_everything_is_asked_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each caller would wait for as long as a command may take: here it is counted who did."""
    monkeypatch.setattr("eventpoll.connection.TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(circuit, "FIRST_SECONDS", 60.0)
    monkeypatch.setattr(circuit, "LONGEST_SECONDS", 60.0)
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        store = Store.open(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", Path(), Rules())
        for _ in range(50):
            with pytest.raises(Unavailable):
                store.status("tpp")
        silent.settimeout(0.2)
        assert len(list(accepted(silent))) == FAILURES
    store.redis.close()


def test_a_server_that_refuses_is_asked_each_time(tmp_path: Path) -> None:
    """Decision 19: recovery needs no restart, and where nobody waits no pause either."""
    server = RedisServer(tmp_path)
    server.port = free_port()
    server.url = f"redis://127.0.0.1:{server.port}/0"
    store = Store.open(server.url, Path(), Rules())
    for _ in range(FAILURES + 2):
        with pytest.raises(Unavailable):
            store.configure("tpp", "hash", {})
    server.start()
    assert store.configure("tpp", "hash", {})
    store.redis.close()
    server.kill()
