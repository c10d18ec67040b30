"""What /metrics counts is what happened: exactly, over all workers, whoever dies."""

import http.client
import json
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from eventpoll.api import metrics
from eventpoll.store import keys
from eventpoll.store.records import Rules
from eventpoll.store.store import Store
from harness import ROOT
from harness.ports import free_port
from harness.programs import children
from harness.redis_servers import RedisServer
from harness.service import BANK, BANK_SETTINGS, Server, start_server
from harness.waiting import wait_for

Key = tuple[str, tuple[tuple[str, str], ...]]
PAUSED = {"returnImmediately": True}


def read(server: Server) -> dict[Key, float]:
    """Every sample: name and labels -> value."""
    reply = server.request("GET", "/metrics", auth=BANK)
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return samples(reply.body.decode())


def samples(text: str) -> dict[Key, float]:
    """The same, of a text."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: dict[Key, float], name: str, **labels: str) -> float:
    """One sample; 0 where there is none yet."""
    return found.get((name, tuple(sorted(labels.items()))), 0.0)


def polls(found: dict[Key, float], **labels: str) -> int:
    """How many polls with those labels."""
    counts = [(dict(has), count) for (name, has), count in found.items() if name == "eventpoll_poll_seconds_count"]
    return int(sum(count for has, count in counts if labels.items() <= has.items()))


def settings(redis: RedisServer, signing_keys: str, hold: str = "1") -> dict[str, str]:
    """A service on that store, which holds polls for so many seconds."""
    return {
        "REDIS_URL": redis.url,
        **BANK_SETTINGS,
        "EVENTPOLL_SIGNING_KEYS": signing_keys,
        "EVENTPOLL_LONG_POLL_SECONDS": hold,
        "EVENTPOLL_FAILED_LOGIN_SECONDS": "0",
    }


@pytest.fixture
def server(
    own_redis: RedisServer, signing_keys: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Server]:
    """A service with three workers and a store of its own, which has counted nothing yet."""
    environ = settings(own_redis, signing_keys, getattr(request, "param", "1"))
    found = start_server(environ, tmp_path_factory.mktemp("metrics"), workers=3)
    yield found
    found.stop()


@pytest.fixture(scope="module")
def common_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The store of `common`."""
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def running(common_redis: RedisServer, signing_keys: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service of `common`."""
    server = start_server(settings(common_redis, signing_keys), tmp_path_factory.mktemp("metrics"), workers=3)
    yield server
    server.stop()


@pytest.fixture
def common(running: Server, common_redis: RedisServer) -> Server:
    """A service that has counted polls before, with an empty store: for who asks what is there, or what is stored."""
    assert common_redis.ask(b"FLUSHALL").startswith(b"+OK")
    return running


def together(count: int, what: Callable[[int], Any]) -> None:
    """Do it in so many threads at once."""
    mistakes: list[BaseException] = []

    def one(number: int) -> None:
        try:
            what(number)
        except BaseException as error:
            mistakes.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mistakes == []


def test_counts_are_exact_under_concurrency(server: Server) -> None:
    """Issue 7: "the counts match a scripted scenario exactly under concurrency". Six TPPs at once, three workers."""

    def story(number: int) -> None:
        tpp = f"tpp-{number}"
        server.tpp(tpp)
        jtis = [server.push(tpp) for _ in range(10)]
        assert len(server.poll(tpp, {**PAUSED, "maxEvents": 6}).json["sets"]) == 6
        errors = {jti: {"err": "invalid_key", "description": "x"} for jti in jtis[4:6]}
        server.poll(tpp, {**PAUSED, "maxEvents": 0, "ack": jtis[:4], "setErrs": errors})
        assert server.bank("DELETE", f"/streams/{tpp}/sets/{jtis[4]}").status == 204
        for _ in range(5):
            server.poll(tpp, {"maxEvents": -1})

    together(6, story)
    found = read(server)
    counted = {name: value(found, f"eventpoll_sets_{name}_total") for name in ("pushed", "delivered", "acked")}
    assert counted == {"pushed": 60, "delivered": 36, "acked": 24}
    assert [value(found, f"eventpoll_sets_{name}_total") for name in ("reported", "discarded", "expired")] == [12, 6, 0]
    assert [value(found, "eventpoll_sets", state=state) for state in metrics.STATES] == [24, 0, 6]
    assert value(found, "eventpoll_streams") == 6
    assert polls(found, profile="rfc8936", status="200") == 12
    assert polls(found, profile="rfc8936", status="400") == 30
    assert polls(found) == 42


def test_refused_polls_count_under_their_status_and_profile(server: Server) -> None:
    """Each refusal is a poll too; what is no poll is not counted as one."""
    server.tpp("a")
    form = {"Content-Type": "application/x-www-form-urlencoded", "x-wso2-client-id": "a"}
    server.request("POST", "/events", "{}", auth=("a", "wrong"))
    server.request("POST", "/events", "{}", auth=BANK)
    server.poll("a", PAUSED, headers={"Accept": "text/html"})
    server.poll("a", PAUSED, "/open-banking/v3.1/events", headers={"Content-Type": "text/plain"})
    server.poll("a", {"unknown": 1}, "/open-banking/v4.0/events")
    server.request("POST", "/api/fs/event-notifications/events", "request=e30=", form, BANK)
    own, json_type = ("a", server.secrets["a"]), {"Content-Type": "application/json"}
    server.request("POST", "/events", b" " * 1_048_577, json_type, own)
    server.request("GET", "/events")
    server.bank("GET", "/streams")
    found = read(server)
    counted = {
        (has["profile"], has["status"]): count
        for (name, labels), count in found.items()
        if name == "eventpoll_poll_seconds_count" and (has := dict(labels))
    }
    assert counted == {
        ("rfc8936", "401"): 2,
        ("rfc8936", "406"): 1,
        ("rfc8936", "413"): 1,
        ("obie_v3", "415"): 1,
        ("obie_v4", "400"): 1,
        ("wso2_4", "200"): 1,
    }


@pytest.mark.parametrize("server", ["25"], indirect=True)  # or it may be answered before it is seen, and before all die
def test_a_workers_death_loses_no_counts_and_no_held_polls_stay(server: Server) -> None:
    """What the processes count outlives them; a poll that was held by one that died is held no more."""
    server.tpp("a")
    for _ in range(30):
        server.poll("a", PAUSED)
    before = read(server)
    assert polls(before, status="200") == 30

    def hold() -> None:
        with pytest.raises((OSError, http.client.HTTPException)):
            server.poll("a", {})

    holder = threading.Thread(target=hold)
    holder.start()
    wait_for(lambda: value(read(server), "eventpoll_held_polls") == 1, pause=0)
    old = workers(server)
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    holder.join()

    def replaced() -> bool:
        return not set(old) & set(workers(server))

    wait_for(replaced)
    wait_for(lambda: answers(server), 20)
    wait_for(lambda: value(read(server), "eventpoll_held_polls") == 0)
    assert polls(read(server), status="200") == 30
    server.poll("a", PAUSED)
    assert polls(read(server), status="200") == 31


def answers(server: Server) -> bool:
    """Whether somebody is there."""
    try:
        return server.request("GET", "/healthz", timeout=5).status == 200
    except OSError:
        return False


def test_the_time_for_which_a_poll_is_held_is_told_apart(server: Server) -> None:
    """Of a poll that waits a second, that second is a hold, and no slow poll."""
    server.tpp("a")
    begun = time.monotonic()
    server.poll("a", {})
    took = time.monotonic() - begun
    found = read(server)
    assert value(found, "eventpoll_hold_seconds_count", profile="rfc8936") == 1
    held = value(found, "eventpoll_hold_seconds_sum", profile="rfc8936")
    assert held >= 0.9
    assert value(found, "eventpoll_poll_seconds_sum", profile="rfc8936", status="200") <= took - held + 0.001
    assert value(found, "eventpoll_held_polls") == 0


def test_a_stream_that_is_forgotten_takes_none_of_its_counts_away(common: Server) -> None:
    """A counter that goes back looks like a restart to Prometheus, which then counts all of it once more."""
    for tpp in ("a", "b"):
        common.tpp(tpp)
        common.push(tpp)
        common.poll(tpp, PAUSED)
    assert common.bank("DELETE", "/streams/a?force=true").status == 204
    found = read(common)
    assert [value(found, f"eventpoll_sets_{name}_total") for name in ("pushed", "delivered")] == [2, 2]
    assert value(found, "eventpoll_streams") == 1
    common.tpp("a")
    common.push("a")
    assert value(read(common), "eventpoll_sets_pushed_total") == 3


def test_counts_never_go_back_while_streams_come_and_go(store: Store, redis_server: RedisServer) -> None:
    """Each look sees what was counted before, or is left without totals; never less."""
    collector, url = metrics.Streams(store), redis_server.url
    done = threading.Event()

    def come_and_go() -> None:
        other = Store.open(url, ROOT, Rules())
        for number in range(150):
            other.configure(f"t-{number % 3}", "hash", {})
            other.push(f"t-{number % 3}", f"j-{number}", "eyJ0.eyJ9.c2ln")
            other.forget(f"t-{number % 3}", force=True)
        done.set()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    seen = [0.0]
    while not done.is_set():
        for metric in collector.collect():
            if metric.name == "eventpoll_sets_pushed":
                seen.append(metric.samples[0].value)
    thread.join()
    assert seen == sorted(seen)
    (last,) = [m.samples[0].value for m in collector.collect() if m.name == "eventpoll_sets_pushed"]
    assert last == 150


def test_a_name_left_behind_by_a_crash_does_not_stop_the_counting(store: Store) -> None:
    """Listed, and no stream: as after a crash between the two. It is waited for a moment, and then passed over."""
    store.redis.zadd("eventpoll:streams", {"ghost": 0})
    store.configure("a", "hash", {})
    store.push("a", "j", "eyJ0.eyJ9.c2ln")
    found = {metric.name: metric.samples for metric in metrics.Streams(store).collect()}
    assert found["eventpoll_sets_pushed"][0].value == 1


def test_only_the_worst_streams_have_series_of_their_own(store: Store) -> None:
    """However many there are: 20 by age, 20 by what is parked; the worst ones, and no others."""
    for number in range(50):
        store.configure(f"t-{number:02}", "hash", {})
        if number % 2:
            store.push(f"t-{number:02}", "j", "eyJ0.eyJ9.c2ln")
        if number % 2 and number < 40:  # an hour older: ages are taken one after the other, and near ones change places
            store.redis.zincrby(keys.of(f"t-{number:02}")[1], -3_600_000_000, "j")
    found = {metric.name: metric.samples for metric in metrics.Streams(store).collect()}
    named = [sample.labels["tpp"] for sample in found["eventpoll_stream_oldest_seconds"]]
    assert sorted(named) == [f"t-{number:02}" for number in range(1, 41, 2)]
    assert found["eventpoll_stream_parked"] == []


def test_round_trips_grow_by_the_hundreds_of_streams(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 000 streams must not take 10 000 round trips: two for each page of 200, and some for all."""
    for number in range(450):
        store.configure(f"t-{number}", "hash", {})
    list(metrics.Streams(store).collect())
    sent: list[int] = []
    send = redis.Connection.send_packed_command

    def one(connection: Any, command: Any, *arguments: Any, **options: Any) -> Any:
        sent.append(len(command))
        return send(connection, command, *arguments, **options)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(redis.Connection, "send_packed_command", one)
    found = {metric.name: metric.samples for metric in metrics.Streams(store).collect()}
    assert found["eventpoll_streams"][0].value == 450
    assert len(sent) <= 12


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "<script>", 'x"} 1\neventpoll_streams 99', "é…"])
def test_no_name_of_a_tpp_breaks_the_format(store: Store, name: str) -> None:
    """HTTP lets no such name in; redis-cli might."""
    store.configure(name, "hash", {})
    store.push(name, "j", "eyJ0.eyJ9.c2ln")
    registry = CollectorRegistry()
    registry.register(metrics.Streams(store))
    found = samples(generate_latest(registry).decode())
    assert value(found, "eventpoll_streams") == 1
    assert [dict(labels)["tpp"] for (metric, labels) in found if metric == "eventpoll_stream_oldest_seconds"] == [name]


def test_tpps_and_strangers_get_nothing(common: Server) -> None:
    """interface.md: "Bank only"."""
    common.tpp("a")
    assert common.request("GET", "/metrics").status == 401
    assert common.request("GET", "/metrics", auth=("a", "wrong")).status == 401
    assert common.request("GET", "/metrics", auth=("a", common.secrets["a"])).status == 403


def test_while_the_store_is_away_that_is_what_is_told(serve: Callable[..., Server]) -> None:
    """An alert wants a sample, not a failed scrape: and what the processes know is told as ever."""
    server = serve(REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    server.request("POST", "/events", "{}", auth=("a", "b"))
    found = read(server)
    assert value(found, "eventpoll_store_up") == 0
    assert polls(found, status="503") == 1
    assert ("eventpoll_streams", ()) not in found


def test_the_inbox_and_the_dead_are_counted(common: Server, common_redis: RedisServer) -> None:
    """What waits to be minted, and what could not be."""
    common_redis.ask(b"XADD eventpoll:inbox * tpp a")
    for _ in range(2):
        common_redis.ask(b"XADD eventpoll:inbox:dead * id 1-0 reason x")
    found = read(common)
    assert (value(found, "eventpoll_inbox_entries"), value(found, "eventpoll_inbox_dead_entries")) == (1, 2)


def test_the_directory_of_the_counts_is_our_own_and_goes_with_the_service(serve: Callable[..., Server]) -> None:
    """Nobody else may read or write it; nothing is left when the service ends."""
    server = serve()
    directory = counts_of(server)
    assert directory.stat().st_mode & 0o777 == 0o700
    server.stop()
    assert not directory.exists()


def test_a_process_that_only_just_made_its_file_is_no_error(server: Server) -> None:
    """prometheus_client makes a file and then gives it a size; whoever reads in between finds nothing in it."""
    server.tpp("a")
    server.poll("a", PAUSED)
    (counts_of(server) / "gauge_livesum_99999.db").touch()
    assert polls(read(server), status="200") == 1


def counts_of(server: Server) -> Path:
    """The directory in which its processes count."""
    return Path(tempfile.gettempdir()) / f"eventpoll-{os.getuid()}-{server.process.pid}"


def workers(server: Server) -> list[int]:
    """The numbers of its processes."""
    return children(server.process.pid)


# -- what is made of it ------------------------------------------------------------------------------------------


def expressions() -> list[str]:
    """The queries of the dashboard and of the alerts."""
    board = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text(encoding="utf-8"))
    shown = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    rules = (ROOT / "docs" / "alerts.yml").read_text(encoding="utf-8")
    alerts = re.findall(r"^ +expr: (.+)$", rules, re.M)
    assert len(shown) >= 8
    assert len(alerts) == rules.count("- alert:") >= 5
    return shown + alerts


def test_every_metric_of_the_dashboard_and_the_alerts_is_a_real_one(common: Server) -> None:
    """Issue 7: "The dashboard's queries all exist in /metrics"; their labels too."""
    common.tpp("a")
    common.push("a")
    common.push("a", "parked")
    common.poll("a", {"setErrs": {"parked": {"err": "e"}}, "maxEvents": 0, **PAUSED})
    common.tpp("b")
    common.poll("b", {})
    found = read(common)
    names = {name for name, _ in found}
    labels = {name: {label for other, has in found if other == name for label, _ in has} for name in names}
    for expression in expressions():
        wanted = re.findall(r"(eventpoll_\w+)(?:\{([^}]*)\})?", expression)
        assert wanted, expression
        for name, matchers in wanted:
            assert name in names, expression
            assert set(re.findall(r'(\w+)(?:=|!=|=~|!~)"', matchers)) <= labels[name], expression
        grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", expression))))
        assert grouped <= set().union(*(labels[name] for name, _ in wanted)), expression


def test_every_metric_stands_in_the_operators_handbook(common: Server) -> None:
    """docs/operations.md, "Metrics": a row for each, and none that is not there."""
    common.tpp("a")
    common.poll("a", {})
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `(eventpoll_\w+)", text, re.M))
    reply = common.request("GET", "/metrics", auth=BANK).body.decode()
    assert told == set(re.findall(r"^# TYPE (\S+) ", reply, re.M))
