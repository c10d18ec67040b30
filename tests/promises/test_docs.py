"""What stands in the documents is true: commands run, answers are the ones shown, links lead somewhere."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from flask import Flask

from eventpoll.store.records import LANE
from eventpoll.store.store import Store
from harness import ROOT
from harness.ports import free_port
from harness.programs import gunicorn
from harness.redis_servers import RedisServer
from harness.service import ISSUER
from harness.sets import set_of
from harness.waiting import wait_for
from tests.web.test_request_log import MEMBERS

LUA = sorted((ROOT / "eventpoll" / "store" / "lua").glob("*.lua"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
RUNNABLE = [path for path in DOCUMENTS if "```console" in path.read_text(encoding="utf-8")]

#: The first line that the example of each Lua command prints, on a stream that holds the SET jti-1.
FIRST_LINES = {
    "configure": "changed",
    "discard": "discarded",
    "find": "pending",
    "forget": "forgotten",
    "peek": "jti-1",
    "poll": "0",
    "prove": "proven",
    "push": "repeated",
    "requeue": "requeued",
    "rotate": "rotated",
    "status": r"\d{13}",
    "sweep": "0",
}


def name(path: Path) -> str:
    """A document's name, for the report."""
    return str(path.relative_to(ROOT))


def shell(line: str, port: int, cwd: Path = ROOT) -> str:
    """What bash prints of a line whose redis-cli speaks to our server."""
    line = re.sub(r"\bredis-cli\b", f"redis-cli -p {port}", line)
    done = subprocess.run(["bash", "-c", line], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not re.match(r"\(error\)|ERR|WRONGTYPE", done.stdout), done.stdout
    return done.stdout


@pytest.mark.parametrize("path", LUA, ids=lambda path: path.stem)
def test_the_example_in_a_lua_header_runs(path: Path, store: Store, redis_server: RedisServer) -> None:
    """Pasted into bash, on a stream that is there, each does what its header says."""
    (line,) = re.findall(r"^--   (redis-cli .*)$", path.read_text(encoding="utf-8"), re.M)
    store.configure("tpp-1", "5e88", {})
    if path.stem != "forget":
        store.push("tpp-1", "jti-1", "eyJ0.eyJ9.c2ln")
    if path.stem in ("discard", "requeue"):
        store.poll("tpp-1", max_events=0, set_errs={"jti-1": {"err": "invalid_key"}}, profile="r")
    printed = shell(line, redis_server.port, path.parent)
    assert re.fullmatch(FIRST_LINES[path.stem], printed.splitlines()[0])


def layout_lines() -> list[str]:
    """The redis-cli lines of docs/redis-layout.md."""
    text = (ROOT / "docs" / "redis-layout.md").read_text(encoding="utf-8")
    return [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()]


@pytest.mark.parametrize("line", [line for line in layout_lines() if line.startswith("redis-cli")])
def test_a_line_of_the_redis_layout_runs(line: str, store: Store, redis_server: RedisServer) -> None:
    """Looking with redis-cli finds what the document says is there."""
    store.configure("tpp-1", "5e88", {})
    store.push("tpp-1", "jti-1", "eyJ0.eyJ9.c2ln")
    store.push("tpp-1", "jti-2", "eyJ0.eyJ9.c2ln")
    store.poll("tpp-1", max_events=0, set_errs={"jti-2": {"err": "invalid_key"}}, profile="r")
    store.redis.xadd("eventpoll:inbox:dead", {"id": "1-0", "reason": "no such TPP"})
    assert shell(line, redis_server.port).strip()


def test_an_event_put_into_the_inbox_as_the_layout_says_becomes_a_set(
    store: Store, redis_server: RedisServer, signing_keys: str
) -> None:
    """The XADD line of docs/redis-layout.md, and the worker that it names."""
    (line,) = [line for line in layout_lines() if " XADD " in line]
    store.configure("tpp-1", "5e88", {})
    shell(line, redis_server.port)
    environ = {
        "PATH": os.environ["PATH"],
        "REDIS_URL": redis_server.url,
        "EVENTPOLL_ISSUER": ISSUER,
        "EVENTPOLL_SIGNING_KEYS": signing_keys,
    }
    command = [sys.executable, "-m", "flask", "eventpoll", "worker", "--once"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert store.status("tpp-1").pending == 1


def test_push_set_runs_as_the_layout_says(store: Store, redis_server: RedisServer, tmp_path: Path) -> None:
    """bank/push-set tpp-1 < set.jwt, from the top of the tree."""
    (line,) = [line for line in layout_lines() if "push-set" in line]
    store.configure("tpp-1", "5e88", {})
    (tmp_path / "set.jwt").write_text(set_of("jti-1") + "\n")
    printed = shell(
        f"export REDIS_URL={redis_server.url}; {line.replace('set.jwt', str(tmp_path / 'set.jwt'))}", redis_server.port
    )
    assert printed == "jti-1: queued\n"


class Demo:
    """The service as `make run` starts it, whose address, credentials and SETs the documents use."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.log = directory / "demo.log"
        environ = {"PATH": os.environ["PATH"], "PORT": str(self.port), "WEB_CONCURRENCY": "1"}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                gunicorn("wsgi:app", config=ROOT / "demo" / "gunicorn.conf.py"),
                cwd=directory,
                env=environ,
                stdout=output,
                stderr=output,
            )
        wait_for(lambda: "Ctrl-C stops everything" in self.log.read_text(), 30, 0.05)

    def stop(self) -> None:
        """End it, and wait until it is gone."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(40)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """A demo of its own for each document: its lines run in order, from a fresh start."""
    demo = Demo(tmp_path)
    yield demo
    demo.stop()


@pytest.mark.parametrize("path", RUNNABLE, ids=name)
def test_what_a_document_shows_of_a_shell_is_what_one_sees(path: Path, demo: Demo) -> None:
    """Each `$` line runs and prints what stands below it; … stands for what differs each time."""
    text = path.read_text(encoding="utf-8")
    shown = "".join(re.findall(r"```console\n(.*?)```", text, re.S))
    steps = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", shown, re.M)
    assert steps
    for line, expected in steps:
        line = line.replace("http://127.0.0.1:8000", f"http://127.0.0.1:{demo.port}")
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        pattern = r'[^"]*'.join(re.escape(piece) for piece in expected.strip().split("…"))
        assert re.fullmatch(pattern, done.stdout.strip()), f"{line}\n{done.stdout}\nis not\n{expected}"


def test_readme_shows_a_poll_and_its_answer() -> None:
    """A newcomer polls a SET within two minutes: README shows how before it lists anything."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.index("make run") < text.index('/events\n{"sets":{"demo-1":') < text.index("## Where to read on")


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_link_between_documents_leads_somewhere(path: Path) -> None:
    """The file is there, and the heading in it."""
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        other = (path.parent / file).resolve() if file else path
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


def test_every_decision_is_listed_and_short() -> None:
    """docs/architecture.md lists each; none is over 40 lines; each has context, decision and consequences."""
    listed = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs" / "adr").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        assert f"(adr/{path.name})" in listed
        assert len(text.splitlines()) <= 40
        assert all(f"**{part}.**" in text for part in ("Context", "Decision", "Consequences"))


def commands(app: Flask) -> set[str]:
    """The words that may follow flask eventpoll."""
    group = app.cli.commands["eventpoll"]
    assert isinstance(group, click.Group)
    return set(group.commands)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_command_that_a_document_names_is_there(path: Path, app: Flask) -> None:
    """make targets, and the words after flask eventpoll."""
    text = path.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"(?:`|^|\n)make ([a-z]+)", text)) <= targets
    assert set(re.findall(r"(?:flask |`)eventpoll ([a-z][a-z-]*)", text)) <= commands(app)


def test_the_operators_handbook_lists_every_command(app: Flask) -> None:
    """A row for each, in docs/operations.md."""
    rows = re.findall(r"^\| `([a-z-]+)[ `]", (ROOT / "docs" / "operations.md").read_text(encoding="utf-8"), re.M)
    assert commands(app) <= set(rows)


def test_the_record_in_the_layout_is_one_that_the_store_reads(store: Store) -> None:
    """The example of a record, as a parked SET has it: what the document says it means."""
    text = (ROOT / "docs" / "redis-layout.md").read_text(encoding="utf-8")
    (record,) = re.findall(r"^```\n(\d{16} .*?\n.*?)\n```$", text, re.M | re.S)
    store.configure("tpp-1", "5e88", {})
    store.push("tpp-1", "jti-1", "eyJ0.eyJ9.c2ln")
    store.redis.zrem("eventpoll:{tpp-1}:pending", "jti-1")
    store.redis.hset("eventpoll:{tpp-1}:parked", "jti-1", record)
    found = store.find("tpp-1", "jti-1")
    assert (found.state, found.deliveries) == ("parked", 1)
    assert [(each.what, each.by) for each in found.history] == [
        ("pushed", "bank"),
        ("delivered", "rfc8936"),
        ("reported", "rfc8936"),
    ]
    assert found.error == json.loads(record.partition("\n")[2])


def test_the_line_of_the_request_log_is_one_that_is_written() -> None:
    """docs/operations.md shows a line as requestlog.py writes it: these members, and no other."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^```json\n(.*)\n```$", text, re.M)
    assert set(json.loads(line)) == MEMBERS
    section = text.partition("## The request log")[2].partition("\n## ")[0]
    assert {name for name in MEMBERS if name not in section} == set()


@pytest.mark.parametrize("name", ["README.md", "docs/architecture.md"])
def test_the_table_of_threats_is_found_from(name: str) -> None:
    """Issue 4: who audits us finds docs/security.md from where reading begins."""
    assert re.search(r"\]\((docs/)?security\.md\)", (ROOT / name).read_text(encoding="utf-8"))


def test_the_sections_on_the_redis_layout_and_the_lua_files_agree() -> None:
    """The numbers that docs/redis-layout.md and docs/protocol.md give are those of poll.lua."""
    code = (ROOT / "eventpoll" / "store" / "lua" / "poll.lua").read_text(encoding="utf-8")
    numbers = {name: int(value) for name, value in re.findall(r"^local ([A-Z]+) = (\d+)", code, re.M)}
    layout = (ROOT / "docs" / "redis-layout.md").read_text(encoding="utf-8")
    assert (numbers["LANE"], numbers["TRAIL"], numbers["ENDED"], numbers["ROOM"]) == (LANE, 100, 32, 8 * 1_048_576)
    assert all(text in layout for text in ("2^51", "last hundred happenings", "the last 32 happenings", "8 MiB"))
