"""The package: a wheel that installs beside nothing of this folder, and its command, which needs no FLASK_APP."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from eventpoll import __version__
from harness import ROOT
from harness.ports import free_port
from harness.service import BANK, BANK_SETTINGS, Reply, Server, basic
from harness.waiting import wait_for

EVENT = '{"jti": "one", "events": {"urn:test:event": {"n": 1}}}'
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@dataclass
class Installed:
    """An environment with the wheel and the suite's packages, and nothing of this checkout; an empty folder beside."""

    bin: Path
    folder: Path
    settings: dict[str, str]

    def run(self, *arguments: str, text: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in the empty folder."""
        return subprocess.run(
            [str(self.bin / arguments[0]), *arguments[1:]],
            cwd=self.folder,
            env=self.environ(**settings),
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def environ(self, **settings: str) -> dict[str, str]:
        """Return the environment variables of its programs."""
        return {"PATH": os.environ["PATH"], **self.settings, **settings}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, and install it with its extras, without a network: pip finds what it needs installed already."""
    directory = tmp_path_factory.mktemp("install")
    source = directory / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "eventpoll", source / "eventpoll", ignore=shutil.ignore_patterns("__pycache__"))
    clean = directory / "clean"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    for command in (
        [*pip, "wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", str(directory), str(source)],
        [sys.executable, "-m", "venv", "--without-pip", str(clean)],
    ):
        subprocess.run(command, check=True, timeout=300)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(clean), "platbase": str(clean)}))
    suite = [path for path in sys.path if path.endswith("site-packages")]
    (own / "suite.pth").write_text("\n".join(suite) + "\n", encoding="utf-8")
    (wheel,) = directory.glob("*.whl")
    python = str(clean / "bin" / "python")
    install = [*pip, "--python", python, "install", "--no-index", f"{wheel}[gevent,embedded]"]
    subprocess.run(install, check=True, timeout=300)
    return clean


@pytest.fixture
def installed(environment: Path, tmp_path: Path, signing_keys: str) -> Installed:
    """An empty folder to work in."""
    settings = {**BANK_SETTINGS, "EVENTPOLL_SIGNING_KEYS": signing_keys, "EVENTPOLL_LONG_POLL_SECONDS": "0"}
    (tmp_path / "empty").mkdir()
    return Installed(environment / "bin", tmp_path / "empty", settings)


def printed(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON that a command printed."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_command_works_from_an_empty_folder(installed: Installed) -> None:
    """Issue 12, 3: --version, check, a push and a poll, with nothing of the checkout within reach."""
    version = installed.run("eventpoll", "--version")
    assert version.stdout == f"eventpoll {__version__}\n"
    levels = {row["level"] for row in printed(installed.run("eventpoll", "check", "--json"))["findings"]}
    assert "error" not in levels
    secret = printed(installed.run("eventpoll", "add-tpp", "tpp-1", "--json"))["secret"]
    assert printed(installed.run("eventpoll", "push", "tpp-1", "--json", text=EVENT))["status"] == "queued"

    port, log = free_port(), installed.folder / "served.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                str(installed.bin / "python"),
                "-m",
                "gunicorn",
                "--config",
                "python:eventpoll.gunicorn_conf",
                "eventpoll.wsgi:app",
            ],
            cwd=installed.folder,
            env=installed.environ(PORT=str(port), WEB_CONCURRENCY="1"),
            stdout=output,
            stderr=output,
        )
    server = Server(port, {}, log, process)
    try:
        wait_for(lambda: answers(server), 60, 0.05)
        assert f"eventpoll {__version__}" in log.read_text()
        headers = {"Content-Type": "application/json", "Authorization": basic("tpp-1", secret)}
        reply = server.request("POST", "/events", "{}", headers)
        assert list(reply.json["sets"]) == ["one"]
        assert get(server, "/healthz").json == {"status": "ok", "version": __version__}
        assert get(server, "/openapi.json").json["info"]["version"] == __version__
        assert get(server, "/docs").status == 200
        console = server.request("GET", "/console", headers={"Accept": "text/html"}, auth=BANK)
        assert console.status == 200
        metrics = server.request("GET", "/metrics", auth=BANK)
        assert f'eventpoll_build_info{{version="{__version__}"}} 1.0' in metrics.body.decode()
    finally:
        server.stop()


def get(server: Server, path: str) -> Reply:
    return server.request("GET", path)


def answers(server: Server) -> bool:
    assert server.process.poll() is None, server.log.read_text()
    try:
        return get(server, "/readyz").status == 200
    except OSError:
        return False


def test_a_banks_config_py_disturbs_nothing(installed: Installed) -> None:
    """Issue 12: a bank has a config.py of its own, whatever is in it; flask and eventpoll do not read it."""
    (installed.folder / "config.py").write_text("raise SystemExit('the bank has its own config')\n", encoding="utf-8")
    (installed.folder / "settings.py").write_text("Config = None\n", encoding="utf-8")
    (installed.folder / "app.py").write_text(
        "import eventpoll\nfrom flask import Flask\n\napp = Flask(__name__)\neventpoll.init_app(app)\n",
        encoding="utf-8",
    )
    for command in (("python", "-m", "flask", "eventpoll"), ("python", "-m", "eventpoll"), ("eventpoll",)):
        assert printed(installed.run(*command, "streams", "--json")) == {"streams": []}
    assert installed.run("python", "-m", "flask", "eventpoll", "--version").stdout == f"eventpoll {__version__}\n"


def test_an_application_without_eventpoll_gets_one_line(installed: Installed) -> None:
    """The entry point flask.commands is there for every application of the environment."""
    (installed.folder / "app.py").write_text("from flask import Flask\n\napp = Flask(__name__)\n", encoding="utf-8")
    done = installed.run("python", "-m", "flask", "eventpoll", "streams")
    assert done.returncode == 1
    assert done.stderr == "Error: this application has no eventpoll: call eventpoll.init_app(app) in it\n"


def test_a_mistake_in_the_settings_is_a_line_and_stops_only_what_needs_settings(installed: Installed) -> None:
    """--version, --help and keygen need no application."""
    done = installed.run("eventpoll", "streams", EVENTPOLL_ON_ERROR="drop")
    assert (done.returncode, done.stderr) == (1, "EVENTPOLL_ON_ERROR: must be one of park, redeliver\n")
    assert installed.run("eventpoll", "keygen", "--alg", "EdDSA", EVENTPOLL_ON_ERROR="drop").returncode == 0


def pins() -> dict[str, Requirement]:
    """What requirements.txt pins, by package."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    entries = [Requirement(line.partition("#")[0]) for line in lines if line.strip() and not line.startswith("#")]
    return {entry.name: entry for entry in entries}


def test_the_ranges_of_the_package_hold_what_the_lock_pins() -> None:
    """Every package of requirements.txt is a dependency or in an extra, and none is in one place alone."""
    texts = [*PROJECT["dependencies"], *(each for extra in PROJECT["optional-dependencies"].values() for each in extra)]
    ranges = {entry.name: entry for entry in map(Requirement, texts)}
    assert set(ranges) == set(pins())
    for name, pin in pins().items():
        (exact,) = pin.specifier
        assert ranges[name].specifier.contains(exact.version), name
        assert ranges[name].extras == pin.extras


def test_every_file_of_the_package_is_in_the_wheel(environment: Path) -> None:
    """Lua, templates, styles and scripts are found from an installed package."""
    (site,) = environment.glob("lib/python*/site-packages/eventpoll")
    ours = {path.relative_to(ROOT / "eventpoll") for path in (ROOT / "eventpoll").rglob("*") if path.is_file()}
    there = {path.relative_to(site) for path in site.rglob("*") if path.is_file()}
    assert {path for path in ours - there if path.suffix != ".pyc"} == set()


def test_the_changelog_has_a_section_for_the_version() -> None:
    """Keep a Changelog: what is not released yet first, then this version with its date."""
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert headings[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(__version__)} - \d{{4}}-\d{{2}}-\d{{2}}", headings[1])
