"""`flask eventpoll check`: each thing that would hurt in production is found on a server that has it."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import Result
from werkzeug.security import generate_password_hash

from app import create_app
from eventpoll.cli import check
from eventpoll.settings import Config
from eventpoll.store.records import Facts, Rules
from eventpoll.store.store import Store
from harness.ports import free_port
from harness.redis_servers import RedisServer

LONG = "a password that is long enough"
Check = Callable[..., Result]


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that waits for its disk, as a bank's does."""
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()


@pytest.fixture
def run(environ: dict[str, str]) -> Check:
    """Run the check against a URL, with settings of the test's own; an empty one takes a setting away."""

    def check(url: str, *arguments: str, **settings: str) -> Result:
        config = Config.from_environ({**environ, "EVENTPOLL_BANK_PASSWORD": LONG, "REDIS_URL": url, **settings})
        return create_app(config).test_cli_runner().invoke(args=["eventpoll", "check", *arguments])

    return check


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Start real servers with settings of the test's own."""
    servers: list[RedisServer] = []

    def start(*arguments: str) -> RedisServer:
        directory = tmp_path / str(len(servers))
        directory.mkdir()
        server = RedisServer(directory, *arguments)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.kill()


def found(result: Result) -> dict[str, list[str]]:
    """The findings of --json, by level; standard output must hold nothing else."""
    assert len(result.stdout.splitlines()) == 1, result.stdout
    levels: dict[str, list[str]] = {"error": [], "warning": [], "ok": []}
    for finding in json.loads(result.stdout)["findings"]:
        assert set(finding) == {"level", "what"}
        levels[finding["level"]].append(finding["what"])
    assert result.exit_code == (1 if levels["error"] else 0)
    return levels


def one(findings: list[str], what: str) -> str:
    (finding,) = [each for each in findings if what in each]
    return finding


def test_a_sound_setup_has_nothing_to_say(run: Check, store: Store, redis_server: RedisServer) -> None:
    """Exit code 0, no warning, and a line for each thing that was looked at."""
    result = run(redis_server.url, "--json")
    levels = found(result)
    assert levels["error"] == []
    assert levels["warning"] == []
    assert one(levels["ok"], "signing keys; the first, test-1, signs")
    assert one(levels["ok"], "append-only file, appendfsync always")
    text = run(redis_server.url)
    assert text.exit_code == 0
    assert all(line.startswith("ok      ") for line in text.stdout.splitlines())


@pytest.mark.parametrize(
    ("arguments", "level", "what"),
    [
        (("--appendonly", "no"), "error", "appendonly is not yes"),
        (("--appendfsync", "no"), "error", "appendfsync is no, weaker than everysec"),
        (("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), "error", "maxmemory-policy is allkeys-lru"),
        (("--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl"), "error", "maxmemory-policy is volatile-ttl"),
        (("--maxmemory-policy", "allkeys-random"), "warning", "maxmemory-policy is allkeys-random"),
        (("--rename-command", "CONFIG", ""), "warning", "CONFIG is not allowed"),
    ],
)
def test_a_store_that_may_lose_sets_is_found(
    run: Check, configured: Callable[..., RedisServer], arguments: tuple[str, ...], level: str, what: str
) -> None:
    """Issue 3, point 8: no persistence, weaker than asked, a policy that evicts; and what cannot be looked at."""
    server = configured(*arguments)
    levels = found(run(server.url, "--json"))
    assert one(levels[level], what)
    assert len(levels["error"]) == (level == "error")
    text = run(server.url)
    assert text.exit_code == (1 if level == "error" else 0)
    assert any(line.startswith(f"{level:<8}") and what in line for line in text.stdout.splitlines())


@pytest.mark.parametrize(
    ("has", "wanted", "enough"),
    [
        ("everysec", None, True),
        ("everysec", "no", True),
        ("everysec", "everysec", True),
        ("everysec", "always", False),
        ("no", "no", True),
        ("always", "always", True),
    ],
)
def test_how_durable_the_store_must_be_is_the_banks_to_say(
    run: Check, store: Store, redis_server: RedisServer, has: str, wanted: str | None, enough: bool
) -> None:
    """--appendfsync: the least that the store must do, everysec unless said."""
    store.redis.config_set("appendfsync", has)
    try:
        levels = found(run(redis_server.url, "--json", *(["--appendfsync", wanted] if wanted else [])))
    finally:
        store.redis.config_set("appendfsync", "always")
    assert (levels["error"] == []) is enough
    if not enough:
        assert one(levels["error"], f"appendfsync is {has}, weaker than {wanted}")


def test_an_appendfsync_that_is_none_is_a_mistake_of_use(run: Check, redis_server: RedisServer) -> None:
    """Exit code 2, as for every unknown choice."""
    result = run(redis_server.url, "--appendfsync", "sometimes")
    assert result.exit_code == 2
    assert result.stdout == ""


def test_a_user_who_may_not_ask_config_is_told_so(run: Check, configured: Callable[..., RedisServer]) -> None:
    """Managed services and careful ACLs forbid CONFIG: a warning, as nothing is known to be wrong."""
    server = configured()
    with redis.Redis.from_url(server.url) as admin:
        admin.execute_command(
            "ACL", "SETUSER", "app", "on", ">secret", "~eventpoll:*", "&eventpoll:*", "+@all", "-config"
        )
    levels = found(run(server.url.replace("//", "//app:secret@"), "--json"))
    assert levels["error"] == []
    assert one(levels["warning"], "CONFIG is not allowed")


@pytest.mark.parametrize("rule", ["-@write", "-info", "-xlen", "-evalsha", "resetkeys"])
def test_a_user_who_may_not_do_our_work_is_an_error(
    run: Check, configured: Callable[..., RedisServer], rule: str
) -> None:
    """An ACL that forbids what the service needs is found here, in one line and not as a traceback."""
    server = configured()
    with redis.Redis.from_url(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "app", "on", ">secret", "allkeys", "allchannels", "+@all", rule)
    levels = found(run(server.url.replace("//", "//app:secret@"), "--json"))
    assert len(levels["error"]) >= 1
    assert any("ermission" in finding for finding in levels["error"])


def test_a_replica_that_takes_no_writes_is_an_error(run: Check, configured: Callable[..., RedisServer]) -> None:
    """REDIS_URL names a read-only replica: every push and every poll would be answered 503 (decision 19)."""
    master, replica = configured(), configured()
    with redis.Redis.from_url(replica.url) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", master.port)
    assert one(found(run(replica.url, "--json"))["error"], "takes no writes")


def test_a_store_that_is_away_is_an_error(run: Check) -> None:
    """The settings are still looked at; exit code 1, in both forms."""
    url = f"redis://127.0.0.1:{free_port()}/0"
    levels = found(run(url, "--json"))
    assert one(levels["error"], "the store is not available")
    assert one(levels["ok"], "signs")
    assert run(url).exit_code == 1


@pytest.mark.parametrize(
    ("settings", "level", "what"),
    [
        ({"EVENTPOLL_SIGNING_KEYS": ""}, "warning", "EVENTPOLL_SIGNING_KEYS is not set"),
        ({"EVENTPOLL_ISSUER": ""}, "error", "EVENTPOLL_ISSUER is not set"),
        ({"EVENTPOLL_ISSUER": "http://bank.example"}, "warning", "is no https URL"),
        ({"EVENTPOLL_BANK_USERNAME": "", "EVENTPOLL_BANK_PASSWORD": ""}, "warning", "EVENTPOLL_BANK_USERNAME"),
        ({"EVENTPOLL_MAX_EVENT": "5"}, "warning", "is EVENTPOLL_MAX_EVENTS meant?"),
        ({"EVENTPOLL_BANK_PASSWORD": "short"}, "warning", "EVENTPOLL_BANK_PASSWORD is short"),
        ({"EVENTPOLL_BANK_PASSWORD": "23 characters are short"}, "warning", "EVENTPOLL_BANK_PASSWORD is short"),
    ],
)
def test_settings_that_would_hurt_are_found(
    run: Check, store: Store, redis_server: RedisServer, settings: dict[str, str], level: str, what: str
) -> None:
    """Issue 3, point 8: no signing key, an issuer that is not https. Secrets are never printed."""
    result = run(redis_server.url, "--json", **settings)
    levels = found(result)
    assert one(levels[level], what)
    assert [len(levels["error"]), len(levels["warning"])] == [level == "error", level == "warning"]
    assert '"d"' not in result.stdout
    assert (settings.get("EVENTPOLL_BANK_PASSWORD") or LONG) not in result.stdout.replace("is short", "")


@pytest.mark.parametrize("password", ["x" * 24, generate_password_hash("short", "scrypt:16384:8:1")])
def test_a_password_of_24_characters_or_a_hash_is_not_found_fault_with(
    run: Check, store: Store, redis_server: RedisServer, password: str
) -> None:
    """Issue 11, 8. How long the password is cannot be seen of a hash: hash-password says it."""
    result = run(redis_server.url, "--json", EVENTPOLL_BANK_PASSWORD=password)
    assert found(result)["warning"] == []
    assert password not in result.stdout


def test_a_password_in_the_url_is_not_printed(run: Check) -> None:
    """What the check prints goes to deployment logs."""
    result = run(f"redis://user:hunter2@127.0.0.1:{free_port()}/0")
    assert result.exit_code == 1
    assert "hunter2" not in result.stdout + result.stderr


@pytest.mark.parametrize("neighbour", [None, "demo-tpo", "demo-tpoo", "demo-tpp-2"])
def test_the_demo_stream_is_found(run: Check, store: Store, redis_server: RedisServer, neighbour: str | None) -> None:
    """Issue 3, point 8: everyone knows the demo TPP's secret. No other name is taken for it, or hides it."""
    if neighbour:
        store.configure(neighbour, "", {})
        assert found(run(redis_server.url, "--json"))["warning"] == []
    store.configure("demo-tpp", "", {})
    assert one(found(run(redis_server.url, "--json"))["warning"], "demo-tpp")


def test_bad_entries_of_the_inbox_are_counted(run: Check, store: Store, redis_server: RedisServer) -> None:
    """Issue 3, point 6: parked with a reason, and counted."""
    for _ in range(3):
        store.redis.xadd("eventpoll:inbox:dead", {"reason": "x"})
    assert one(found(run(redis_server.url, "--json"))["warning"], "3 bad entries")


@pytest.mark.parametrize(
    ("version", "old"), [("6.0.16", True), ("5.0", True), ("6.2.0", False), ("7.2-rc1", False), ("10.0.1", False)]
)
def test_a_server_that_is_too_old_is_an_error(
    run: Check, store: Store, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, version: str, old: bool
) -> None:
    """ADR and README: 6.2 or later. Such a server is hard to come by, so that its word is put in its mouth."""
    told(monkeypatch, version=version)
    assert ("is too old" in "".join(found(run(redis_server.url, "--json"))["error"])) is old


@pytest.mark.parametrize(("seconds", "warned"), [(-60.0, True), (60.0, True), (0.5, False)])
def test_a_clock_that_is_off_is_a_warning(
    run: Check,
    store: Store,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    warned: bool,
) -> None:
    """Issue 3, point 8: clock skew against Redis; iat comes from one clock and pushed_at from the other."""
    told(monkeypatch, ahead=seconds)
    warnings = found(run(redis_server.url, "--json"))["warning"]
    skews = [float(each.split(" is ")[1].split(" s ")[0]) for each in warnings if "clock" in each]
    assert [abs(skew - seconds) < 30 for skew in skews] == ([True] if warned else [])


def test_an_answer_that_takes_long_is_no_clock_that_is_off(
    run: Check, store: Store, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock was read at some moment between the question and the answer: which, is not known."""
    facts = Store.facts

    def slow(self: Store) -> list[Facts]:
        time.sleep(0.1)
        try:
            return facts(self)
        finally:
            time.sleep(0.1)

    monkeypatch.setattr(Store, "facts", slow)
    monkeypatch.setattr(check, "SKEW_SECONDS", 0.05)
    assert not [each for each in found(run(redis_server.url, "--json"))["warning"] if "clock" in each]


def told(monkeypatch: pytest.MonkeyPatch, version: str = "7.0.0", ahead: float = 0.0) -> None:
    facts = Store.facts

    def changed(self: Store) -> list[Facts]:
        return [Facts(real.name, version, real.clock + ahead, real.settings) for real in facts(self)]

    monkeypatch.setattr(Store, "facts", changed)


def test_settings_that_a_server_does_not_tell_are_no_traceback(
    run: Check, store: Store, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A managed service may answer CONFIG GET with a part of what was asked."""
    facts = Store.facts
    some: Any = {"maxmemory": "0"}
    monkeypatch.setattr(Store, "facts", lambda self: [Facts("Redis", "7.0.0", facts(self)[0].clock, some)])
    assert one(found(run(redis_server.url, "--json"))["error"], "appendonly is not yes")


def test_the_three_strengths_are_in_order() -> None:
    """redis.conf, "appendfsync": no is the weakest, always the strongest."""
    assert sorted(check.STRENGTH, key=lambda name: check.STRENGTH[name]) == ["no", "everysec", "always"]


def test_what_the_service_says_at_its_start_agrees(configured: Callable[..., RedisServer]) -> None:
    """issue 2, point 7: one line on which store is used and whether it is durable."""
    server = configured("--appendonly", "no")
    store = Store.open(server.url, Path(), Rules())
    assert "NOT DURABLE" in store.describe()
    store.redis.close()
