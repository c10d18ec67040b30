"""What deploy/ and the Dockerfile say is true of the code: the image's files suffice, the settings are there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from eventpoll.settings import Config
from harness import ROOT
from harness.ports import free_port
from harness.redis_servers import RedisServer
from harness.waiting import wait_for

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
FILES = sorted([ROOT / "Dockerfile", *(ROOT / "deploy").iterdir()])
SETTINGS = {each.metadata["name"] for each in fields(Config) if "name" in each.metadata}


def instruction(name: str) -> list[str]:
    """What stands behind each instruction of that name."""
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.M)


def tree(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


class Container:
    """The files that the image has, at the version of this machine's Python, with the environment that it has."""

    def __init__(self, directory: Path, environ: dict[str, str]) -> None:
        directory.mkdir()
        self.directory = directory
        for *sources, target in map(str.split, instruction("COPY")):
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, directory / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, directory / target)
        said = dict(word.split("=", 1) for line in instruction("ENV") for word in shlex.split(line))
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.port = free_port()
        self.environ = {**said, "PATH": path, "PORT": str(self.port), "WEB_CONCURRENCY": "1", **environ}
        self.log = directory.parent / "container.log"

    def run(self, command: list[str]) -> "subprocess.Popen[bytes]":
        """A command in it."""
        with self.log.open("ab") as output:
            return subprocess.Popen(command, cwd=self.directory, env=self.environ, stdout=output, stderr=output)

    def is_healthy(self) -> bool:
        """What the HEALTHCHECK says."""
        (check,) = instruction("HEALTHCHECK")
        return self.run(json.loads(check.partition(" CMD ")[2])).wait(20) == 0


@pytest.fixture
def container(redis_server: RedisServer, environ: dict[str, str], tmp_path: Path) -> Container:
    return Container(tmp_path / "app", {**environ, "REDIS_URL": redis_server.url.removesuffix("0") + "6"})


def test_the_image_serves_and_writes_nothing(container: Container) -> None:
    """Issue 6, 6: a read-only file system but for /tmp. Its command serves, the check tells whether it does, and
    SIGTERM ends it with 0."""
    before = tree(container.directory)
    assert not container.is_healthy()
    process = container.run(json.loads(instruction("CMD")[-1]))
    try:
        wait_for(container.is_healthy, 30, 0.2)
    finally:
        process.terminate()
        assert process.wait(30) == 0, container.log.read_text()
    assert tree(container.directory) == before


def test_the_image_has_the_other_lines_of_the_procfile(container: Container) -> None:
    """deploy/kubernetes.yaml runs check and worker in it: flask finds the application by itself."""
    before = tree(container.directory)
    assert container.run(["flask", "eventpoll", "worker", "--once"]).wait(60) == 0, container.log.read_text()
    assert container.run(["flask", "eventpoll", "check"]).wait(60) == 0, container.log.read_text()
    assert tree(container.directory) == before


def test_nothing_gets_into_the_image_but_what_it_takes() -> None:
    """.dockerignore lets in what the Dockerfile copies, and nothing else: no secret, no .data, no .git."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert let_in == {source for line in instruction("COPY") for source in line.split()[:-1]}


def test_the_image_is_of_a_python_that_the_lock_is_for_and_not_of_root() -> None:
    """Python 3.11, by tag for the reader and by digest for Docker; packages by hash; a user without rights."""
    assert all(re.fullmatch(r"python:3\.11[\w.]*-slim-\w+@sha256:[0-9a-f]{64}", base) for base in instruction("FROM"))
    assert any("--require-hashes -r requirements.lock" in line for line in instruction("RUN"))
    (user,) = instruction("USER")
    assert int(user.partition(":")[0]) > 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_settings_that_a_file_names_are_there(path: Path) -> None:
    """A setting that was renamed would be silently without effect."""
    named = re.findall(r"\b(EVENTPOLL_[A-Z0-9_]*[A-Z0-9])\b", path.read_text(encoding="utf-8"))
    assert {name.removesuffix("_FILE") for name in named} <= SETTINGS


@pytest.mark.parametrize("name", ["eventpoll-web.service", "eventpoll-worker.service", "kubernetes.yaml"])
def test_everything_is_given_the_time_that_it_takes_to_stop(name: str) -> None:
    """gunicorn_conf.py: a poll is held for 28 s at most, and graceful_timeout is 30."""
    (graceful,) = re.findall(
        r"^graceful_timeout = (\d+)", (ROOT / "eventpoll" / "gunicorn_conf.py").read_text(encoding="utf-8"), re.M
    )
    text = (ROOT / "deploy" / name).read_text(encoding="utf-8")
    given = re.findall(r"(?:TimeoutStopSec=|terminationGracePeriodSeconds: )(\d+)", text)
    slept = [int(seconds) for seconds in re.findall(r'command: \[sleep, "(\d+)"\]', text)]
    assert given
    assert min(map(int, given)) >= int(graceful) + max(slept, default=0)
