"""bank/push-set: what a bank runs with redis-cli and no Python."""

import json
import os
import shutil
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis

from eventpoll.store.records import Rules
from eventpoll.store.redis.embedded import Embedded
from eventpoll.store.store import Store
from harness import ROOT
from harness.redis_servers import RedisServer
from harness.sets import set_of
from harness.waiting import wait_for

PROGRAM = ROOT / "bank" / "push-set"
TOOLS = (
    "redis-cli",
    "awk",
    "base64",
    "tr",
    "cat",
    "cut",
    "wc",
    "id",
    "ls",
    "dirname",
    "readlink",
    "sha256sum",
    "shasum",
    "paste",
)

Push = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def bare_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with a plain Unix' tools and redis-cli, and no Python."""
    directory = tmp_path_factory.mktemp("bin")
    for tool in TOOLS:
        if found := shutil.which(tool):
            (directory / tool).symlink_to(found)
    assert shutil.which("python3", path=str(directory)) is None
    return str(directory)


@pytest.fixture
def push(store: Store, redis_server: RedisServer, bare_path: str) -> Push:
    """Run push-set on the real server, where tpp-1 has a stream: push(text, tpp="tpp-1")."""
    store.configure("tpp-1", "5e88", {})

    def run(
        text: str, tpp: str = "tpp-1", url: str = redis_server.url, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        names = {name: options.pop(name) for name in list(options) if name.isupper()}
        environ = {"PATH": bare_path, "REDIS_URL": url, **names}
        return subprocess.run(
            [options.pop("program", str(PROGRAM)), tpp],
            input=text,
            capture_output=True,
            text=True,
            env=environ,
            timeout=60,
            **options,
        )

    return run


def signed(payload: object) -> str:
    """A SET with any payload at all."""
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return f"e30.{urlsafe_b64encode(text.encode()).decode().rstrip('=')}.c2ln"


def waiting(store: Store, tpp: str = "tpp-1") -> dict[str, str]:
    """What a poll hands out: jti -> SET."""
    answer = store.poll(tpp, max_events=100, profile="r")
    return {jti.decode(): secevent.decode() for jti, secevent in answer.sets}


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_set_is_queued_byte_for_byte(push: Push, store: Store, end: str) -> None:
    """Decision 23: a SET is opaque bytes ever after; the newline at the end of its file is no part of it."""
    text = set_of("jti-1")
    done = push(text + end)
    assert (done.returncode, done.stdout, done.stderr) == (0, "jti-1: queued\n", "")
    assert waiting(store) == {"jti-1": text}


def test_pushed_again_it_is_a_repeat(push: Push, store: Store) -> None:
    """Decision 18: no second SET, and the answer says that it was there already."""
    push(set_of("jti-1"))
    again = push(set_of("jti-1"))
    assert (again.returncode, again.stdout) == (0, "jti-1: repeated\n")
    assert len(waiting(store)) == 1


def test_pushed_again_after_its_ack_it_is_a_repeat(push: Push, store: Store) -> None:
    """Decision 18: pushed again after its ack, within the dedupe window: no effect."""
    push(set_of("jti-1"))
    store.poll("tpp-1", max_events=0, ack=["jti-1"], profile="r")
    assert push(set_of("jti-1")).stdout == "jti-1: repeated\n"
    assert waiting(store) == {}


def test_other_bytes_under_the_same_jti_are_refused(push: Push, store: Store) -> None:
    """Decision 18: the same jti with other bytes: the first one is kept."""
    push(set_of("jti-1"))
    other = push(set_of("jti-1", {"urn:test:other": {}}))
    assert other.returncode == 1
    assert other.stderr == "push-set: another SET has the jti jti-1; the first one is kept\n"
    assert waiting(store) == {"jti-1": set_of("jti-1")}


def test_a_tpp_without_a_stream_is_refused_with_the_way_out(push: Push) -> None:
    """NOSTREAM of push.lua, and what to do about it."""
    done = push(set_of("jti-1"), "stranger")
    assert done.returncode == 1
    assert "flask eventpoll add-tpp stranger" in done.stderr


@pytest.mark.parametrize("tpp", ["", "a/b", "a b", "a{b}", "ü", "x" * 129])
def test_a_bad_name_is_refused_before_anything_is_sent(push: Push, tpp: str) -> None:
    """TPP names are [A-Za-z0-9._~@:+-]{1,128}: a brace would move the hash tag."""
    done = push(set_of("jti-1"), tpp, url="redis://127.0.0.1:1/0")
    assert done.returncode == 1
    assert "the name of a TPP" in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "",
        "junk",
        "a.b.c",
        set_of("jti-1").rpartition(".")[0],
        set_of("jti-1") + ".more",
        set_of("jti-1").replace(".", "!", 1),
        signed([]),
        signed({"events": {"urn:test:event": {}}}),
        signed({"jti": 7, "events": {"urn:test:event": {}}}),
        signed({"jti": "jti-1"}),
        signed({"jti": "jti-1", "events": {}}),
        signed({"jti": "jti-1", "events": ["urn:test:event"]}),
        signed({"jti": "jti-1", "events": {}, "other": {"urn:test:event": {}}}),
        signed('{"jti": "a", "jti": "b", "events": {"urn:test:event": {}}}'),
        signed('{"jti": "jti-1", "events": {"urn:test:event": {}}'),
        set_of(""),
        set_of("line\nbreak"),
        set_of("x" * 129),
        set_of("\ud800"),
    ],
    ids=range(19),
)
def test_what_is_no_set_is_refused(push: Push, store: Store, text: str) -> None:
    """Three base64url parts, a JSON payload with a string jti (1..128) and a non-empty events object."""
    done = push(text)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("push-set: ")
    assert waiting(store) == {}


@pytest.mark.parametrize(
    "jti",
    [
        "-n",
        "--eval",
        ",",
        "a b",
        'say "hi"',
        "back\\slash\\c",
        "a/b",
        "é€😀",
        "é" * 128,
        "$(id)",
        "*",
        "'",
        "jti",
        "%s",
    ],
)
def test_any_jti_arrives_as_it_is(push: Push, store: Store, jti: str) -> None:
    """A jti is any string of 1 to 128 characters: neither the shell, awk nor redis-cli reads anything into it."""
    done = push(set_of(jti))
    assert (done.returncode, done.stdout) == (0, f"{jti}: queued\n")
    assert waiting(store) == {jti: set_of(jti)}


def test_a_jti_may_be_written_in_raw_utf8(push: Push, store: Store) -> None:
    """JSON writers differ: some escape what is not ASCII, others do not."""
    text = signed(json.dumps({"jti": "é€😀", "events": {"urn:test:event": {}}}, ensure_ascii=False, indent=2))
    assert push(text).returncode == 0
    assert waiting(store) == {"é€😀": text}


@pytest.mark.parametrize(
    "events",
    [
        {"urn:test:event": {"jti": "inner"}},
        {"jti": {"jti": "inner"}},
        {"urn:test:event": {"text": '"jti":"inner"}}'}},
        {"urn:test:event": {"text": "\\", "list": [{"jti": "inner"}]}},
    ],
)
def test_only_the_jti_at_the_top_is_the_jti(push: Push, store: Store, events: object) -> None:
    """RFC 8417 section 2.2: jti is a claim of the SET; an event may have members of any name."""
    before, after = set_of("outer", events), set_of("outer-2", events, txn='"jti":"inner"')
    assert push(before).stdout == "outer: queued\n"
    assert push(after).stdout == "outer-2: queued\n"
    assert set(waiting(store)) == {"outer", "outer-2"}


@pytest.mark.parametrize("size", [100_000, 700_000])
def test_a_big_set_passes(push: Push, store: Store, size: int) -> None:
    """HTTP takes 1 MiB; so does this, although the system limits an argument to 128 KiB."""
    text = set_of("big", {"urn:test:event": {"text": "x" * size}})
    assert push(text).stdout == "big: queued\n"
    assert waiting(store) == {"big": text}


def test_it_runs_from_anywhere(push: Push, store: Store, tmp_path: Path) -> None:
    """The Lua file is found beside the program, not beside the caller."""
    assert push(set_of("jti-1"), cwd=tmp_path).returncode == 0
    assert push(set_of("jti-2"), cwd=ROOT / "bank", program="./push-set").returncode == 0
    assert set(waiting(store)) == {"jti-1", "jti-2"}


def test_it_wants_one_name_and_says_so() -> None:
    """A usage line, and exit code 1."""
    done = subprocess.run([PROGRAM], input="", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "push-set: usage: push-set TPP < set.jwt\n")


def test_a_store_that_is_away_is_an_error(push: Push) -> None:
    """Never a silent success: a bank's script goes by the exit code."""
    done = push(set_of("jti-1"), url="redis://127.0.0.1:1/0")
    assert done.returncode == 1
    assert "Could not connect" in done.stderr


@pytest.mark.parametrize(("user", "password"), [("", "plain-word"), ("", "p@ss/w:rd%"), ("ann", "plain-word")])
def test_a_store_with_a_password_is_reached(own_redis: RedisServer, bare_path: str, user: str, password: str) -> None:
    """REDIS_URL is the service's own, credentials and all."""
    url = f"redis://{user}:{quote(password, safe='')}@127.0.0.1:{own_redis.port}/0"
    own_redis.ask(f"ACL SETUSER ann on >{password} ~* &* +@all".encode())
    own_redis.ask(f"CONFIG SET requirepass {password}".encode())
    store = Store.open(url, Path(), Rules())
    store.configure("tpp-1", "5e88", {})
    done = subprocess.run(
        [PROGRAM, "tpp-1"],
        input=set_of("jti-1"),
        capture_output=True,
        text=True,
        env={"PATH": bare_path, "REDIS_URL": url},
        timeout=10,
    )
    assert (done.stdout, done.stderr) == ("jti-1: queued\n", "")
    assert set(waiting(store)) == {"jti-1"}
    store.redis.close()


@pytest.mark.parametrize(
    "url",
    [
        "redis://{here}/3",
        "redis://{here}/3/",
        "redis://{here}?db=3",
        "redis://{here}/3?db=3&socket_timeout=2",
        "redis://[::1]:{port}/3",
        "redis://[::1]:{port}?db=3&password=p%26w+d&username=ann",
        "redis://ann:p&w%20d@{here}/3",
        "REDIS://{here}/3",
        " redis://{here}/3\n",
        "unix://{socket}?db=3",
        "unix:{socket}?db=3",
        "unix://ann:p&w%20d@{socket}?db=3",
        "redis://nopass@{here}/3",
    ],
)
def test_the_services_own_url_leads_to_the_services_own_store(tmp_path: Path, bare_path: str, url: str) -> None:
    """Issue 13, 20: push-set gets what the service gets: the same server, the same database, the same login."""
    socket = tmp_path / "my redis.sock"
    server = RedisServer(tmp_path, "--unixsocket", str(socket)).start()
    for rule in (["ann", "on", ">p&w d"], ["nopass", "on", "nopass"]):
        with redis.Redis(port=server.port) as admin:
            admin.execute_command("ACL", "SETUSER", *rule, "~*", "&*", "+@all")
    if "nopass@" in url or "ann" in url:
        server.ask(b"ACL SETUSER default off")
    given = url.format(here=f"127.0.0.1:{server.port}", port=server.port, socket=quote(str(socket)))
    store = Store.open(given, Path(), Rules())
    try:
        store.configure("tpp-1", "5e88", {})
        environ = {"PATH": bare_path, "REDIS_URL": given}
        done = subprocess.run(
            [PROGRAM, "tpp-1"], input=set_of("jti-1"), capture_output=True, text=True, env=environ, timeout=60
        )
        assert (done.stdout, done.stderr) == ("jti-1: queued\n", "")
        assert set(waiting(store)) == {"jti-1"}
        assert redis.Redis(port=server.port, username="ann", password="p&w d", db=3).exists("eventpoll:{tpp-1}:stream")
    finally:
        store.redis.close()
        server.kill()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://:p@ss#w/rd@store:6379", "percent-encoded"),
        ("redis://user:12/w@store:6379", "percent-encoded"),
        ("redis://127.0.0.1:1/abc", "database"),
        ("valkey://store", "begins with none"),
        ("rediss://store?ssl_password=p%40ss", "redis-cli has nothing like the option ssl_password"),
    ],
)
def test_a_url_that_the_service_does_not_take_is_refused(push: Push, url: str, words: str) -> None:
    """Rather than tried with a host that is a part of the password."""
    done = push(set_of("jti-1"), url=url)
    assert done.returncode == 1
    assert words in done.stderr
    assert not [part for part in ("p@ss", "ss#w", "12/w", "p%40ss") if part in done.stderr]


def test_the_url_may_come_from_a_file(push: Push, store: Store, redis_server: RedisServer, tmp_path: Path) -> None:
    """As the service's may. It was taken for no URL, and the embedded store was meant."""
    file = tmp_path / "url"
    file.write_text(redis_server.url + "\n")
    done = push(set_of("jti-1"), url="", REDIS_URL_FILE=str(file))
    assert (done.returncode, done.stdout) == (0, "jti-1: queued\n")
    file.write_text(redis_server.url + "\n", encoding="utf-8-sig")
    assert push(set_of("jti-3"), url="", REDIS_URL_FILE=str(file)).stdout == "jti-3: queued\n"
    assert "cannot read the file" in push(set_of("jti-2"), url="", REDIS_URL_FILE=str(tmp_path / "none")).stderr


def test_it_runs_through_symlinks(push: Push, store: Store, tmp_path: Path) -> None:
    """Issue 13, 20: a link in a directory on PATH, a link to that, or to its folder; push.lua is found."""
    (tmp_path / "bin").mkdir()
    links = [tmp_path / "bin" / "push-set", tmp_path / "bin" / "again", tmp_path / "bank"]
    links[0].symlink_to(PROGRAM)
    links[1].symlink_to("push-set")
    links[2].symlink_to(PROGRAM.parent)
    programs = [links[0], links[1], links[2] / "push-set"]
    for number, program in enumerate(programs):
        assert push(set_of(f"jti-{number}"), program=str(program), cwd=tmp_path).returncode == 0
    assert push(set_of("jti-3"), program="bin/again", cwd=tmp_path, CDPATH=str(ROOT)).returncode == 0
    assert len(waiting(store)) == 4


@pytest.fixture(params=["short", "long"])
def embedded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A checkout whose embedded store runs, and its socket; one under a path so long that the socket lies elsewhere."""
    root = tmp_path / ("x" * (1 if request.param == "short" else 120))
    for part in ("bank/push-set", "eventpoll/store/lua/push.lua"):
        (root / part).parent.mkdir(parents=True)
        shutil.copy2(ROOT / part, root / part)
    server = Embedded(root / ".data")
    server.ensure()
    yield root, server.path
    server.leave()
    wait_for(lambda: not Path(server.path).exists())


def test_without_redis_url_the_embedded_store_is_meant(
    embedded: tuple[Path, str], bare_path: str, tmp_path: Path
) -> None:
    """The service without REDIS_URL keeps its SETs under .data: push-set finds its socket."""
    root, socket = embedded
    store = Store.open(f"unix://{socket}", Path(), Rules())
    store.configure("tpp-1", "5e88", {})
    environ = {"PATH": bare_path, **{name: os.environ[name] for name in ("TMPDIR",) if name in os.environ}}
    for outcome in ("queued", "repeated"):
        done = subprocess.run(
            [root / "bank" / "push-set", "tpp-1"],
            input=set_of("jti-1"),
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environ,
            timeout=10,
        )
        assert (done.stdout, done.stderr) == (f"jti-1: {outcome}\n", "")
    assert set(waiting(store)) == {"jti-1"}
    store.redis.close()


def test_an_embedded_store_that_does_not_run_is_an_error(bare_path: str, tmp_path: Path) -> None:
    """It says what to do, rather than what redis-cli says of a socket."""
    for part in ("bank/push-set", "eventpoll/store/lua/push.lua"):
        (tmp_path / part).parent.mkdir(parents=True)
        shutil.copy2(ROOT / part, tmp_path / part)
    done = subprocess.run(
        [tmp_path / "bank" / "push-set", "tpp-1"],
        input=set_of("jti-1"),
        capture_output=True,
        text=True,
        env={"PATH": bare_path},
        timeout=10,
    )
    assert done.returncode == 1
    assert done.stderr == "push-set: the embedded store does not run: start the service, or set REDIS_URL\n"
