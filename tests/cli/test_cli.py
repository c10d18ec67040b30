"""The command line: what it prints for people and for scripts, how it fails, and that it does what it says."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from click.testing import Result
from flask import Flask

from app import create_app
from eventpoll.access.passwords import Password
from eventpoll.sets.minting import Minter
from eventpoll.settings import Config
from eventpoll.store.errors import Unavailable
from eventpoll.store.records import Rules
from eventpoll.store.store import Store
from harness import ROOT, programs
from harness.ports import free_port
from harness.redis_servers import RedisServer
from harness.service import Server, basic
from harness.sets import set_of
from harness.waiting import wait_for

EVENT = '{"events": {"urn:test:event": {"n": 1}}}'
KEYS = ("keygen", "hash-password")
COMMANDS = ("add-tpp", "push", "streams", "peek", "errors", "requeue", "purge", "worker", "check", *KEYS)

Operator = Callable[..., Result]


@dataclass
class Shell:
    """`flask eventpoll …` as a process of its own, in a directory that is not the repository's, on a real Redis."""

    settings: dict[str, str]
    directory: Path

    def __call__(self, *arguments: str, text: str | None = None, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            cwd=self.directory,
            env={**self.settings, **settings},
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def operator(app: Flask) -> Operator:
    """`flask eventpoll …` inside this process, on fakeredis."""
    runner = app.test_cli_runner()

    def run(*arguments: str, text: str | bytes = "") -> Result:
        return runner.invoke(args=["eventpoll", *arguments], input=text)

    return run


@pytest.fixture
def shell(redis_server: RedisServer, environ: dict[str, str], tmp_path: Path) -> Iterator[Shell]:
    """A shell whose store is empty before and after."""
    url = redis_server.url.removesuffix("0") + "2"
    store = Store.open(url, Path(), Rules())
    store.redis.flushdb()
    yield Shell({**environment(environ), "REDIS_URL": url}, tmp_path)
    store.redis.flushdb()
    store.redis.close()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flask", "eventpoll", *arguments]


def environment(settings: dict[str, str]) -> dict[str, str]:
    return {**programs.environment(), "FLASK_APP": str(ROOT / "wsgi.py"), **settings}


def the_json(result: Result | subprocess.CompletedProcess[str]) -> Any:
    """Standard output, which must be one JSON value and nothing else."""
    assert len(result.stdout.splitlines()) == 1, result.stdout
    return json.loads(result.stdout)


def refused(result: Result | subprocess.CompletedProcess[str], what: str, code: int = 1) -> None:
    """It failed in one line that says what, and printed nothing else."""
    exit_code = result.exit_code if isinstance(result, Result) else result.returncode
    assert exit_code == code, result.stderr
    assert "Traceback" not in result.stderr
    told = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(told) == 1, result.stderr
    assert what in told[0]
    if code == 1:
        assert result.stderr.splitlines() == told
    assert result.stdout == ""


def report(app: Flask, tpp: str, jti: str, err: str = "jwtIss", description: str = "bad issuer") -> None:
    """The TPP takes the SET and reports an error."""
    store: Store = app.extensions["eventpoll"].transmitter.store
    store.poll(tpp, max_events=100, profile="r")
    store.poll(tpp, max_events=0, set_errs={jti: {"err": err, "description": description}}, profile="r")


def pushed(operator: Operator, tpp: str, jti: str) -> None:
    result = operator("push", tpp, text=json.dumps({"events": {"urn:test:event": {}}, "jti": jti}))
    assert result.exit_code == 0, result.stderr


# -- the whole -----------------------------------------------------------------------------------------------------


def test_no_command_shows_them_all(operator: Operator) -> None:
    """interface.md, "Command line": each command, with a line on what it does."""
    result = operator()
    told = result.stdout + result.stderr
    assert "Traceback" not in told
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[A-Z]", told, re.M), name


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(operator: Operator, name: str) -> None:
    """--help ends well, and whatever prints can print JSON (interface.md, "--json on every one that prints")."""
    result = operator(name, "--help")
    assert result.exit_code == 0
    assert ("--json" in result.stdout) == (name != "worker")


@pytest.mark.parametrize("name", ["add-tpp", "push", "peek", "errors", "requeue", "purge"])
@pytest.mark.parametrize("tpp", ["a b", "ä", "a/b", "{a}", "", "x" * 129, "a\nb"])
def test_a_bad_name_is_refused_before_anything_is_done(operator: Operator, name: str, tpp: str) -> None:
    """decisions.md, "TPP names"."""
    refused(operator(name, tpp), "the name of a TPP is 1 to 128 of", 2)


@pytest.mark.parametrize(
    "arguments",
    [
        ("push", "nobody", "--json"),
        ("push", "nobody", "--batch"),
        ("peek", "nobody"),
        ("peek", "nobody", "jti-1"),
        ("errors", "nobody", "--json"),
        ("requeue", "nobody", "--all"),
        ("purge", "nobody", "--all"),
    ],
)
def test_an_unknown_tpp_is_one_line_and_exit_code_1(operator: Operator, arguments: tuple[str, ...]) -> None:
    """A script sees the exit code, a person the line."""
    refused(operator(*arguments, text=EVENT), "no stream of this TPP")


@pytest.mark.parametrize(
    "arguments",
    [
        ("add-tpp", "t"),
        ("push", "t"),
        ("push", "t", "--batch"),
        ("streams",),
        ("peek", "t"),
        ("peek", "t", "j"),
        ("errors", "t"),
        ("requeue", "t", "j"),
        ("purge", "t", "j"),
        ("purge",),
        ("worker", "--once"),
    ],
)
@pytest.mark.parametrize("json_too", [False, True])
def test_a_store_that_is_away_is_one_line(environ: dict[str, str], arguments: tuple[str, ...], json_too: bool) -> None:
    """decision 19, for the command line: said, with exit code 1, and no traceback."""
    app = create_app(Config.from_environ({**environ, "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}))
    if json_too and arguments[0] != "worker":
        arguments = (*arguments, "--json")
    result = app.test_cli_runner().invoke(args=["eventpoll", *arguments], input=EVENT)
    refused(result, "the store is not available")


def test_a_mistake_in_the_environment_is_a_line_and_not_a_traceback(shell: Shell) -> None:
    """interface.md: a mistake in any of them stops the start with one line for each mistake."""
    result = shell("streams", EVENTPOLL_MAX_EVENTS="many", EVENTPOLL_ON_ERROR="drop")
    assert result.returncode != 0
    assert result.stdout == ""
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == [
        "EVENTPOLL_MAX_EVENTS",
        "EVENTPOLL_ON_ERROR",
    ]


# -- add-tpp, streams ----------------------------------------------------------------------------------------------


def test_add_tpp_prints_a_secret_that_works(operator: Operator, app: Flask) -> None:
    """The secret is shown this once; a TPP polls with it."""
    added = the_json(operator("add-tpp", "t", "--json"))
    assert added["tpp"] == "t"
    reply = app.test_client().post("/events", json={"returnImmediately": True}, auth=("t", added["secret"]))
    assert reply.status_code == 200
    refused(operator("add-tpp", "t"), "t has a stream already")


def test_the_streams_are_a_table_for_people_and_counts_for_scripts(operator: Operator, app: Flask) -> None:
    """interface.md: `streams` tells counts, ages of the oldest, times."""
    assert "There are no streams" in operator("streams").stdout
    assert the_json(operator("streams", "--json")) == {"streams": []}
    for tpp in ("b", "a"):
        operator("add-tpp", tpp)
    pushed(operator, "a", "one")
    pushed(operator, "a", "two")
    report(app, "a", "one")
    head, first, second = operator("streams").stdout.splitlines()
    assert head.split()[:2] == ["tpp", "pending"]
    assert first.split()[:4] == ["a", "0", "1", "1"]
    assert second.split()[:4] == ["b", "0", "0", "0"]
    a, b = the_json(operator("streams", "--json"))["streams"]
    assert (a["tpp"], a["in_flight"], a["parked"], a["pushed"]) == ("a", 1, 1, 2)
    assert (b["tpp"], b["last_poll"]) == ("b", None)


# -- push ----------------------------------------------------------------------------------------------------------


def test_push_takes_an_event_or_a_signed_set(operator: Operator, tmp_path: Path) -> None:
    """From a file or from standard input; a repeat says so and is no error (decision 18)."""
    operator("add-tpp", "t")
    file = tmp_path / "set.jwt"
    file.write_text(set_of("signed-1") + "\n")
    assert operator("push", "t", str(file)).stdout == "signed-1: queued\n"
    assert operator("push", "t", str(file)).stdout == "signed-1: repeated, it was there already\n"
    event = '\n{"jti": "minted-1",\n "events": {"urn:a": {}}}\n'
    assert the_json(operator("push", "t", "--json", text=event)) == {"jti": "minted-1", "status": "queued"}
    assert the_json(operator("push", "t", "--json", text=event)) == {"jti": "minted-1", "status": "repeated"}


def test_the_same_jti_with_other_events_is_refused(operator: Operator) -> None:
    """decision 18: the first one is kept."""
    operator("add-tpp", "t")
    pushed(operator, "t", "j")
    refused(operator("push", "t", "--json", text='{"jti": "j", "events": {"urn:other": {}}}'), "other events")
    refused(operator("push", "t", text=set_of("j")), "other events or bytes")
    assert the_json(operator("peek", "t", "j", "--json"))["state"] == "pending"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"events": {}}',
        b'{"events": {"no-uri": {}}}',
        b'{"events": {"urn:a": {}}, "extra": 1}',
        b'{"events": {"urn:a": {}}, "events": {"urn:b": {}}}',
        b'{"events": {"urn:a": NaN}}',
        b'{"events": {"urn:a": {}}, "jti": "a\\u0000b"}',
        b'{"events": {"urn:a": {}}, "jti": "\\ud800"}',
        b'{"events": {"urn:a": {"x": "\\ud800"}}}',
        set_of("j", {"urn:a": {"x": "\ud800"}}).encode(),
        b'{"events": {"urn:\xff": {}}}',
        b'{"events": {"\\u001b[31mred\\nError: two": 1}}',
        b'{"events": ' + b"[" * 5000,
        b"\xff\xfe\x00",
        b"a.b",
        b"eyJ9.bm90IGpzb24.c2ln",
    ],
)
def test_what_is_no_event_and_no_set_is_one_line(operator: Operator, text: bytes) -> None:
    """Whatever the file holds, however it is told: one line, in printable characters."""
    operator("add-tpp", "t")
    result = operator("push", "t", text=text)
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert line.isprintable()


@pytest.mark.parametrize("arguments", [("push", "t"), ("keygen", "--before")])
def test_a_file_that_cannot_be_read_is_said(operator: Operator, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A missing file and a directory are mistakes of use: exit code 2."""
    operator("add-tpp", "t")
    for path in (tmp_path / "none", tmp_path):
        refused(operator(*arguments, str(path)), str(path), 2)


def test_a_byte_order_mark_in_a_file_is_dropped(operator: Operator, tmp_path: Path) -> None:
    """Windows' editors save one: an event, a SET, a batch and a key set are read without it."""
    operator("add-tpp", "t")
    file = tmp_path / "file"
    for text, jti in (('{"jti": "a", "events": {"urn:a": {}}}', "a"), (set_of("b"), "b")):
        file.write_text(text, encoding="utf-8-sig")
        assert operator("push", "t", str(file)).stdout == f"{jti}: queued\n"
    file.write_text(f"{EVENT}\n{EVENT}\n", encoding="utf-8-sig")
    assert operator("push", "t", "--batch", str(file)).stdout.startswith("t: 2 pushed, 0 refused")
    old = the_json(operator("keygen", "--alg", "EdDSA"))
    file.write_text(json.dumps(old), encoding="utf-8-sig")
    assert the_json(operator("keygen", "--alg", "EdDSA", "--before", str(file)))["keys"][1:] == old["keys"]


# -- push --batch --------------------------------------------------------------------------------------------------


def test_a_batch_tells_of_refused_lines_by_their_number_in_the_file(operator: Operator, tmp_path: Path) -> None:
    """Good lines are kept when others fail; blank lines count as lines; exit code 1 if one was refused."""
    operator("add-tpp", "t")
    file = tmp_path / "events"
    file.write_text(f'{EVENT}\n\n  \n{{"bad": 1}}\n"{set_of("s")}"\n\nnonsense\n{set_of("s")}')
    result = operator("push", "t", str(file), "--batch")
    assert result.exit_code == 1
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == ["line 4", "line 7"]
    assert re.fullmatch(r"t: 3 pushed, 2 refused, in [0-9.]+ s\n", result.stdout)
    assert len(the_json(operator("peek", "t", "--json"))["sets"]) == 2


def test_a_batch_in_json_is_a_line_for_each_line(operator: Operator) -> None:
    """One result for each line that holds something, with its number; the same words as over HTTP."""
    operator("add-tpp", "t")
    lines = ['{"jti": "a", "events": {"urn:a": {}}}', "", '{"jti": "a", "events": {"urn:a": {}}}', set_of("b"), "x"]
    result = operator("push", "t", "--batch", "--json", text="\n".join(lines))
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert told[:3] == [
        {"line": 1, "jti": "a", "status": 201},
        {"line": 3, "jti": "a", "status": 200},
        {"line": 4, "jti": "b", "status": 202},
    ]
    assert (told[3]["line"], told[3]["status"], told[3]["err"]) == (5, 400, "invalid_request")
    assert result.stderr == ""
    assert result.exit_code == 1


def test_an_empty_batch_is_no_error(operator: Operator, tmp_path: Path) -> None:
    """Nothing to push is nothing refused."""
    operator("add-tpp", "t")
    (tmp_path / "empty").touch()
    for result in (operator("push", "t", str(tmp_path / "empty"), "--batch"), operator("push", "t", "--batch")):
        assert result.exit_code == 0, result.stderr
        assert result.stdout.startswith("t: 0 pushed, 0 refused")


def test_a_batch_comes_through_a_pipe(shell: Shell) -> None:
    """`… | flask eventpoll push TPP --batch`: a pipe has no size to measure progress by."""
    shell("add-tpp", "t")
    result = shell("push", "t", "--batch", text=f"{EVENT}\n" * 120)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("t: 120 pushed, 0 refused")


def test_a_batch_shows_its_progress_on_a_terminal(shell: Shell, tmp_path: Path) -> None:
    """Issue 3, "Bulk": a progress bar on a terminal, which reaches its end; the count goes to standard output."""
    shell("add-tpp", "t")
    file = tmp_path / "events"
    file.write_text(f"{EVENT}\n" * 150 + "nonsense\n")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("push", "t", str(file), "--batch"),
        cwd=tmp_path,
        env={**shell.settings, "TERM": "xterm"},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    screen = b""
    while True:
        try:
            some = os.read(ours, 65536)
        except OSError:  # Linux's way to say that the other side has closed
            break
        if not some:
            break
        screen += some
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"100%" in screen
    assert b"line 151: 400" in screen
    assert out.startswith(b"t: 150 pushed, 1 refused")


# -- peek, errors, requeue, purge ----------------------------------------------------------------------------------


def test_peek_tells_states_and_touches_nothing(operator: Operator, app: Flask) -> None:
    """interface.md: which SETs are on a stream, oldest first."""
    operator("add-tpp", "t")
    assert operator("peek", "t").stdout == "Nothing is outstanding for t.\n"
    assert the_json(operator("peek", "t", "--json")) == {"sets": []}
    for jti in ("a", "b"):
        pushed(operator, "t", jti)
    report(app, "t", "a")
    pushed(operator, "t", "c")
    pushed(operator, "t", "d")
    rows = the_json(operator("peek", "t", "--json"))["sets"]
    assert [(row["jti"], row["state"]) for row in rows] == [
        ("c", "pending"),
        ("d", "pending"),
        ("b", "in_flight"),
        ("a", "parked"),
    ]
    lines = operator("peek", "t", "--state", "pending", "--limit", "1").stdout.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [["c", "pending", "0"]]
    refused(operator("peek", "t", "--state", "gone"), "gone", 2)
    refused(operator("peek", "t", "--limit", "0"), "0", 2)


def test_peek_tells_the_whole_history_of_one_set(operator: Operator, app: Flask) -> None:
    """Issue 3, "Nothing out of sight": pushed, each delivery, reported, requeued, acked, by which profile."""
    operator("add-tpp", "t")
    pushed(operator, "t", "a")
    report(app, "t", "a")
    operator("requeue", "t", "a")
    store: Store = app.extensions["eventpoll"].transmitter.store
    store.poll("t", max_events=5, profile="o")
    whole = the_json(operator("peek", "t", "a", "--json"))
    assert whole["set"].count(".") == 2
    store.poll("t", max_events=0, ack=["a"], profile="w")
    ended = the_json(operator("peek", "t", "a", "--json"))
    assert [(each["what"], each["by"]) for each in ended["history"]] == [
        ("pushed", "bank"),
        ("delivered", "rfc8936"),
        ("reported", "rfc8936"),
        ("requeued", "bank"),
        ("delivered", "obie"),
        ("acknowledged", "wso2"),
    ]
    assert ended["state"] == "settled"
    assert "set" not in ended
    text = operator("peek", "t", "a").stdout
    assert text.startswith("a is settled, delivered 1 times.\nError: jwtIss: bad issuer\n")
    assert re.search(r"Z +acknowledged +wso2$", text, re.M)
    refused(operator("peek", "t", "unknown"), "no such SET")


@pytest.mark.parametrize("what", ["\x1b[31mred\x1b[0m", "two\nlines", "a\u202eb", "c1\x9b31m", "tab\there", "\r\x08"])
def test_what_a_tpp_writes_cannot_play_with_the_terminal(operator: Operator, app: Flask, what: str) -> None:
    """The err and description of setErrs are a stranger's text: shown in one cell, in printable characters."""
    operator("add-tpp", "t")
    pushed(operator, "t", "a")
    report(app, "t", "a", err=what, description=f"<b>{what}</b>")
    for arguments in (("errors", "t"), ("peek", "t"), ("peek", "t", "a")):
        text = operator(*arguments).stdout
        assert all(line.isprintable() for line in text.splitlines())
        assert what not in text
    assert len(operator("errors", "t").stdout.splitlines()) == 2
    row = the_json(operator("errors", "t", "--json"))["sets"][0]
    assert (row["err"], row["description"]) == (what, f"<b>{what}</b>")
    assert operator("errors", "t", "--json").stdout.strip().isprintable()


def test_errors_tells_what_is_parked_and_why(operator: Operator, app: Flask) -> None:
    """Issue 3: listed with err, description, deliveries, times; undelivered ones too."""
    operator("add-tpp", "t")
    assert operator("errors", "t").stdout == "Nothing is parked for t.\n"
    pushed(operator, "t", "a")
    report(app, "t", "a", "jwtAud", "Zoë says no")
    head, row = operator("errors", "t").stdout.splitlines()
    assert head.split() == ["jti", "err", "description", "deliveries", "pushed", "at", "parked", "at"]
    assert row.startswith("a    jwtAud  Zoë says no")
    (told,) = the_json(operator("errors", "t", "--json"))["sets"]
    assert (told["jti"], told["deliveries"], told["state"]) == ("a", 1, "parked")


@pytest.mark.parametrize(("name", "done", "left"), [("requeue", "requeued", "pending"), ("purge", "discarded", None)])
def test_parked_sets_are_mended_one_or_many_or_all(
    operator: Operator, app: Flask, name: str, done: str, left: str | None
) -> None:
    """decision 4: the bank requeues or discards; what fails is told, and the rest goes on."""
    operator("add-tpp", "t")
    for jti in "abcdef":
        pushed(operator, "t", jti)
    for jti in "abcde":
        report(app, "t", jti)
    assert operator(name, "t", "a").stdout == f"a: {done}\n"
    result = operator(name, "t", "b", "f", "nowhere", "c", "--json")
    assert result.exit_code == 1
    statuses = {row["jti"]: row["status"] for row in the_json(result)["sets"]}
    assert statuses == {"b": done, "f": "refused", "nowhere": "refused", "c": done}
    assert sorted(operator(name, "t", "--all").stdout.splitlines()) == [f"d: {done}", f"e: {done}"]
    assert operator(name, "t", "--all").stdout == "Nothing is parked for t.\n"
    assert the_json(operator(name, "t", "--all", "--json")) == {"sets": []}
    pending = [row["jti"] for row in the_json(operator("peek", "t", "--state", "pending", "--json"))["sets"]]
    assert pending == (["a", "b", "c", "d", "e"] if left else [])


@pytest.mark.parametrize("arguments", [("requeue", "t"), ("purge", "t"), ("requeue", "t", "a", "--all")])
def test_which_ones_must_be_said(operator: Operator, arguments: tuple[str, ...]) -> None:
    """Neither none nor both: nothing is done to all by mistake."""
    operator("add-tpp", "t")
    refused(operator(*arguments), "say which", 2)


def test_all_means_all_however_many(operator: Operator, app: Flask) -> None:
    """More parked SETs than one page of the listing holds (500)."""
    operator("add-tpp", "t")
    store: Store = app.extensions["eventpoll"].transmitter.store
    jtis = [f"j{number:04}" for number in range(620)]
    store.push_many("t", [(jti, set_of(jti), "") for jti in jtis])
    store.poll("t", max_events=0, set_errs={jti: {"err": "e"} for jti in jtis}, profile="r")
    assert len(the_json(operator("errors", "t", "--json"))["sets"]) == 620
    assert len(operator("requeue", "t", "--all").stdout.splitlines()) == 620
    store.poll("t", max_events=0, set_errs={jti: {"err": "e"} for jti in jtis}, profile="r")
    assert len(operator("purge", "t", "--all").stdout.splitlines()) == 620
    assert store.status("t").parked == 0


def test_purge_alone_takes_out_what_is_past_its_retention(
    environ: dict[str, str], redis_server: RedisServer, store: Store
) -> None:
    """Without a TPP, on all streams, and all of it: "N SETs expired."."""
    url = redis_server.url
    config = Config.from_environ({**environ, "REDIS_URL": url, "EVENTPOLL_RETENTION_DAYS": "0.000001"})
    runner = create_app(config).test_cli_runner()
    for tpp, count in (("a", 5_400), ("b", 1)):
        store.configure(tpp, "", {})
        store.push_many(tpp, [(f"j{number}", set_of(f"j{number}"), "") for number in range(count)])
    wait_for(lambda: (store.status("b").oldest["pending"] or 0) > 0.1)
    assert runner.invoke(args=["eventpoll", "purge"]).stdout == "5401 SETs expired.\n"
    assert the_json(runner.invoke(args=["eventpoll", "purge", "--json"])) == {"expired": 0}


# -- keygen --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alg", ["PS256", "RS256", "ES256", "EdDSA", "Ed25519"])
def test_a_key_that_keygen_made_signs(operator: Operator, environ: dict[str, str], alg: str) -> None:
    """Its output is EVENTPOLL_SIGNING_KEYS as it stands."""
    text = operator("keygen", "--alg", alg).stdout
    config = Config.from_environ({**environ, "EVENTPOLL_SIGNING_KEYS": text})
    assert config.signing_keys is not None
    key, algorithm = Minter("https://bank.example", config.signing_keys).key("rfc8417")
    assert algorithm == alg
    assert key.kid
    assert the_json(operator("keygen", "--alg", alg, "--json"))["keys"][0]["kid"] != key.kid


def test_keygen_puts_the_new_key_before_the_old_ones(operator: Operator, tmp_path: Path) -> None:
    """A rotation: the first signs, the old ones stay published (issue 3, "Keys")."""
    file = tmp_path / "keys.json"
    old: list[dict[str, str]] = []
    for alg in ("PS256", "EdDSA", "ES256"):
        file.write_text(json.dumps({"keys": old}))
        before = ("--before", str(file)) if old else ()
        made = the_json(operator("keygen", "--alg", alg, *before))["keys"]
        assert made[1:] == old
        old = made
    assert [key["kty"] for key in old] == ["EC", "OKP", "RSA"]
    assert len({key["kid"] for key in old}) == 3


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"keys": 5}', '{"keys": [5]}', '{"keys": [{}]}', '{"keys": [{"kty": "XX"}]}']
)
def test_keygen_refuses_to_put_a_key_before_what_is_no_jwk_set(operator: Operator, tmp_path: Path, text: str) -> None:
    """RFC 7517 section 5; said in one line."""
    file = tmp_path / "keys.json"
    file.write_text(text)
    refused(operator("keygen", "--before", str(file)), "no JWK Set")


def test_keygen_refuses_public_keys_to_go_on_with(operator: Operator, tmp_path: Path) -> None:
    """A set with a public key would stop the next start; better said here."""
    keys = json.loads(operator("keygen", "--alg", "ES256").stdout)
    keys["keys"][0].pop("d")
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(keys))
    refused(operator("keygen", "--before", str(file)), "private half")


# -- hash-password -------------------------------------------------------------------------------------------------

LONG = "a pässword: of more than 24 characters"


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_hash_of_the_password_opens_the_banks_calls(operator: Operator, environ: dict[str, str], end: str) -> None:
    """Its output is EVENTPOLL_BANK_PASSWORD as it stands; a line's end is no part of a password."""
    result = operator("hash-password", text=LONG + end)
    assert (result.exit_code, result.stderr) == (0, "")
    (hashed,) = result.stdout.splitlines()
    client = create_app(Config.from_environ({**environ, "EVENTPOLL_BANK_PASSWORD": hashed})).test_client()
    assert client.get("/streams", headers={"Authorization": basic("bank", LONG)}).status_code == 200
    assert client.get("/streams", headers={"Authorization": basic("bank", LONG + " ")}).status_code == 401
    assert the_json(operator("hash-password", "--json", text=LONG))["hash"] != hashed  # another salt


@pytest.mark.parametrize(
    ("text", "what"),
    [(b"", "is empty"), (b"\n", "is empty"), (b"scrypt:32768:8:1$x$y", "a hash already"), (b"p\xe4ss", "not UTF-8")],
)
def test_what_is_no_password_is_not_hashed(operator: Operator, text: bytes, what: str) -> None:
    """One line, and nothing that could be taken for a hash."""
    refused(operator("hash-password", text=text), what)


def test_a_short_password_is_hashed_with_a_warning(operator: Operator) -> None:
    """A hash does not protect what can be guessed."""
    result = operator("hash-password", text="short")
    assert result.exit_code == 0
    assert "24 random characters" in result.stderr


def test_on_a_terminal_the_password_is_asked_for_twice_and_not_shown(shell: Shell, tmp_path: Path) -> None:
    """It stands neither in a shell's history nor on the screen."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("hash-password"),
        cwd=tmp_path,
        env=shell.settings,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    for asked in (b"Password: ", b"Repeat for confirmation: "):
        while asked not in shown:
            shown += os.read(ours, 1024)
        os.write(ours, LONG.encode() + b"\n")
    assert process.stdout is not None
    hashed = process.stdout.read().decode().strip()
    assert process.wait(60) == 0
    os.close(ours)
    process.stdout.close()
    assert LONG.encode() not in shown
    assert Password(hashed).is_it(LONG)


def test_minting_without_keys_says_what_to_set(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """interface.md: unset, minting is refused with a clear error, signed SETs still pass."""
    del environ["EVENTPOLL_SIGNING_KEYS"]
    client = fakeredis.FakeRedis(version=(7,))
    monkeypatch.setattr("eventpoll.store.store.connect", lambda url, data_dir: client)
    runner = create_app(Config.from_environ(environ)).test_cli_runner()
    runner.invoke(args=["eventpoll", "add-tpp", "t"])
    refused(runner.invoke(args=["eventpoll", "push", "t"], input=EVENT), "EVENTPOLL_SIGNING_KEYS is not set")
    assert runner.invoke(args=["eventpoll", "push", "t"], input=set_of("s")).stdout == "s: queued\n"


# -- a SET's life --------------------------------------------------------------------------------------------------


def test_a_set_is_followed_from_error_to_ack_on_the_command_line(shared_server: Server, shell: Shell) -> None:
    """Issue 3, "What it must show": setErrs, listing, requeue, redelivery, ack; over a real server's store."""
    url = {"REDIS_URL": shared_server.environ["REDIS_URL"]}
    added = shell("add-tpp", "cli-life", "--json", **url)
    shared_server.secrets["cli-life"] = json.loads(added.stdout)["secret"]
    jti = the_json(shell("push", "cli-life", "--json", text=EVENT, **url))["jti"]
    first = shared_server.poll("cli-life", {"returnImmediately": True}).json["sets"]
    error = {"err": "jwtIss", "description": "Issuer is invalid"}
    told = shared_server.poll("cli-life", {"setErrs": {jti: error}, "returnImmediately": True}).json
    assert told == {"sets": {}, "moreAvailable": False}
    (parked,) = the_json(shell("errors", "cli-life", "--json", **url))["sets"]
    assert {name: parked[name] for name in ("jti", "err", "description", "deliveries")} == {
        "jti": jti,
        **error,
        "deliveries": 1,
    }
    assert jti in shell("errors", "cli-life", **url).stdout
    assert shell("requeue", "cli-life", jti, **url).stdout == f"{jti}: requeued\n"
    again = shared_server.poll("cli-life", {"returnImmediately": True}).json["sets"]
    assert again == first
    assert shared_server.poll("cli-life", {"ack": [jti], "maxEvents": 0, "returnImmediately": True}).status == 200
    assert the_json(shell("peek", "cli-life", jti, "--json", **url))["state"] == "settled"
    assert shell("peek", "cli-life", **url).stdout == "Nothing is outstanding for cli-life.\n"
    refused(shell("requeue", "cli-life", jti, "--all", **url), "say which", 2)
    late = shell("requeue", "cli-life", jti, **url)
    assert (late.returncode, late.stdout) == (1, f"{jti}: refused: no such SET on this stream\n")


def test_a_set_is_followed_from_error_to_ack_over_http(shared_server: Server) -> None:
    """The same, with the bank's calls (interface.md, "HTTP")."""
    shared_server.tpp("http-life")
    jti = shared_server.push("http-life")
    base = f"/streams/http-life/sets/{jti}"
    first = shared_server.poll("http-life", {"returnImmediately": True}).json["sets"]
    assert shared_server.bank("POST", f"{base}/requeue").status == 409
    error = {"err": "jwtIss", "description": "Issuer is invalid"}
    shared_server.poll("http-life", {"setErrs": {jti: error}, "returnImmediately": True})
    (parked,) = shared_server.bank("GET", "/streams/http-life/sets?state=parked").json["sets"]
    assert (parked["jti"], parked["err"], parked["description"]) == (jti, error["err"], error["description"])
    assert shared_server.bank("POST", f"{base}/requeue").status == 200
    assert shared_server.poll("http-life", {"returnImmediately": True}).json["sets"] == first
    shared_server.poll("http-life", {"ack": [jti], "maxEvents": 0, "returnImmediately": True})
    ended = shared_server.bank("GET", base).json
    assert ended["state"] == "settled"
    assert [each["what"] for each in ended["history"]] == [
        "pushed",
        "delivered",
        "reported",
        "requeued",
        "delivered",
        "acknowledged",
    ]
    assert shared_server.bank("POST", f"{base}/requeue").status == 404
    assert shared_server.bank("DELETE", base).status == 404


def test_a_push_on_the_command_line_wakes_a_held_poll(
    serve: Callable[..., Server], redis_server: RedisServer, shell: Shell
) -> None:
    """decision 12: a push by any means. A hold that runs out is answered empty, so a SET means that it was woken."""
    server = serve(REDIS_URL=shell.settings["REDIS_URL"], EVENTPOLL_LONG_POLL_SECONDS="25")
    server.tpp("t")
    with ThreadPoolExecutor() as pool:
        held = pool.submit(server.poll, "t", {"returnImmediately": False})
        assert shell("push", "t", text=set_of("woken")).stdout == "woken: queued\n"
        assert list(held.result(30).json["sets"]) == ["woken"]


def test_what_the_store_refuses_midway_is_told_for_each(operator: Operator, app: Flask) -> None:
    """The store goes away between two SETs: one line, exit code 1, and nothing is claimed for the rest."""
    operator("add-tpp", "t")
    store: Store = app.extensions["eventpoll"].transmitter.store

    def away(tpp: str, jti: str) -> None:
        raise Unavailable("gone")

    store.requeue = away  # type: ignore[method-assign]
    refused(operator("requeue", "t", "a", "b"), "the store is not available: gone")
