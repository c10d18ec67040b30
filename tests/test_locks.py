"""The locks are complete, and whatever installs packages goes by them: today, tomorrow and with any pip."""

import re
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from itertools import product
from typing import cast

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from harness import ROOT

LOCKED = ["requirements", "requirements-dev", "requirements-tools", "bench/requirements"]
Lock = dict[NormalizedName, list[Requirement]]


def entries(text: str) -> Lock:
    """The entries of a lock or a list of requirements, by package: several where their markers exclude each other."""
    found: Lock = defaultdict(list)
    for line in re.sub(r"\s*\\\n\s*--hash=\S+", "", text).splitlines():
        if re.match(r"[A-Za-z]", line):
            entry = Requirement(line.partition(" #")[0])
            found[canonicalize_name(entry.name)].append(entry)
    return found


def read(name: str) -> Lock:
    """A file's entries."""
    return entries((ROOT / name).read_text(encoding="utf-8"))


def version(entry: Requirement) -> Version:
    """The one version that an entry of a lock allows."""
    (pin,) = entry.specifier
    assert pin.operator == "=="
    return Version(pin.version)


def environments() -> Iterator[dict[str, str]]:
    """Every CPython that is supported, on every system for which the locks are made."""
    systems = [("posix", "linux", "Linux"), ("posix", "darwin", "Darwin"), ("nt", "win32", "Windows")]
    for python, system in product(["3.11.0", "3.11.7", "3.12.1", "3.13.0", "3.14.0"], systems):
        yield {
            **cast(dict[str, str], default_environment()),
            **dict(zip(("os_name", "sys_platform", "platform_system"), system, strict=True)),
            "python_full_version": python,
            "python_version": python.rpartition(".")[0],
            "implementation_version": python,
        }


def holds(entry: Requirement, environment: dict[str, str], extra: str = "") -> bool:
    """Whether an entry counts in an environment."""
    return entry.marker is None or entry.marker.evaluate({**environment, "extra": extra})


def missing(asked: Requirement, lock: Lock, environment: dict[str, str]) -> str | None:
    """What is asked for and not locked in this environment: the package, a version that will do, or an extra."""
    here = [entry for entry in lock.get(canonicalize_name(asked.name), []) if holds(entry, environment)]
    if len(here) != 1:
        return f"{asked} has {len(here)} entries"
    if not asked.specifier.contains(version(here[0]), prereleases=True):
        return f"{asked} is locked as {here[0]}"
    return f"{asked} is locked without {asked.extras - here[0].extras}" if asked.extras - here[0].extras else None


def incomplete(lock: Lock) -> set[str]:
    """What some package of a lock asks for, in an environment where it is installed, and the lock leaves open."""
    found = set()
    for name, locked in lock.items():
        try:
            asked = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:  # it is for other environments alone, so that its metadata are not here
            assert not any(entry.marker is None or entry.marker.evaluate() for entry in locked), (
                f"{name}: make test installs it"
            )
            continue
        for environment, entry in product(environments(), locked):
            wanted = [each for each in asked if any(holds(each, environment, extra) for extra in {"", *entry.extras})]
            if holds(entry, environment):
                found |= {f"{name}: {what}" for each in wanted if (what := missing(each, lock, environment))}
    return found


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_a_lock_holds_all_that_its_packages_ask_for(name: str) -> None:
    """Issue 11, 1: what is left open is chosen by pip, and refused by some pips once there is a newer release."""
    assert incomplete(read(f"{name}.lock")) == set()


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        (r"coverage\[toml\]", "coverage", r"pytest-cov: coverage\[toml\].* is locked without {'toml'}"),
        (r"(?m)^async-timeout==.*", "", r"redis: async-timeout.* has 0 entries"),
        (r"(?m)^werkzeug==\S+", "werkzeug==2.0", r"flask: werkzeug.* is locked as werkzeug==2.0"),
        (r"(?m)^lupa==\S+", "", r"fakeredis: lupa.* has 0 entries"),
        (r"(?m)^colorama==.*", "", r"pytest: colorama.* has 0 entries"),
    ],
)
def test_a_lock_with_a_gap_is_found(before: str, after: str, what: str) -> None:
    """The extra that made the README's second command fail; a package for another Python or system; a wrong version."""
    text, count = re.subn(before, after, (ROOT / "requirements-dev.lock").read_text(encoding="utf-8"), count=1)
    assert count == 1
    assert any(re.match(what, found) for found in incomplete(entries(text)))


@pytest.mark.parametrize("name", LOCKED)
def test_a_lock_pins_every_package_by_version_and_hash(name: str) -> None:
    """And takes wheels alone: nothing that a package brings runs while it is installed."""
    text = (ROOT / f"{name}.lock").read_text(encoding="utf-8")
    assert "\n--only-binary :all:\n" in text
    lines = [line for line in re.sub(r" *\\\n *", " ", text).splitlines() if re.match(r"[a-z]", line)]
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[^#]+==[^#]+ --hash=sha256:[0-9a-f]{64}.*", line)] == []
    assert all(version(entry) for entries in read(f"{name}.lock").values() for entry in entries)


@pytest.mark.parametrize("name", LOCKED)
def test_a_lock_holds_what_its_requirements_ask_for(name: str) -> None:
    """With its extras; `make lock` writes it anew."""
    lock = read(f"{name}.lock")
    asked = [entry for entries in read(f"{name}.txt").values() for entry in entries]
    assert asked
    assert all(version(entry) for entry in asked)
    assert {what for entry in asked for env in environments() if (what := missing(entry, lock, env))} == set()


def test_what_is_tested_is_what_serves() -> None:
    """`make test` installs one lock after the other: what is in both has the same version in both."""
    served, tested = read("requirements.lock"), read("requirements-dev.lock")
    for environment, (name, locked) in product(environments(), served.items()):
        first = {version(entry) for entry in locked if holds(entry, environment)}
        assert first <= {version(entry) for entry in tested[name] if holds(entry, environment)}


def test_whatever_installs_packages_goes_by_a_lock() -> None:
    """pip refuses what was exchanged on its way, and takes nothing that appeared since. .ci/locks tries two pips."""
    files = [ROOT / "Makefile", ROOT / "Dockerfile", *(ROOT / ".ci").iterdir(), *ROOT.glob("*/*.sh")]
    text = "\n".join(path.read_text(encoding="utf-8").replace("\\\n", " ") for path in files)
    text = text.replace("$(INSTALL)", *re.findall(r"^INSTALL := (.*)$", text, re.M))
    lines = [line.strip() for line in re.findall(r"^[^#\n]*pip\W* install .*$", text, re.M)]
    assert len(lines) == 7
    pips = ['"$at/bin/pip" install --quiet --disable-pip-version-check --upgrade "$1"']  # those that .ci/locks tries
    assert [line for line in lines if not re.search(r'--require-hashes -r ("\$lock"|[\w/-]+\.lock)', line)] == pips
