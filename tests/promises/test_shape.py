"""What holds the house's shape: who may import what, how Lua files are written, what must stand in the documents."""

import ast
import re
from pathlib import Path

import pytest

import eventpoll
from eventpoll.errors import CODES
from eventpoll.settings import Config
from eventpoll.store import commands, errors, keys, store
from harness import ROOT

PACKAGE = ROOT / "eventpoll"
MODULES = sorted(PACKAGE.rglob("*.py"))
MODULES.remove(PACKAGE / "__init__.py")
BESIDE = ("tests", "bench", "chaos", "demo", "examples")
SHARED = "harness"
PROGRAMS = sorted(path for room in (*BESIDE, SHARED) for path in (ROOT / room).rglob("*.py"))
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
LUA = sorted((PACKAGE / "store" / "lua").glob("*.lua"))


def document(name: str) -> str:
    """A document of docs/, as text."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def imported(path: Path) -> set[str]:
    """The dotted names of everything that a module imports, wherever in it, and be it for types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def called(path: Path) -> str:
    """A module, as its room calls it: store.redis.wakeups. A room's own __init__.py has the name of the room."""
    return ".".join(part for part in path.relative_to(PACKAGE).with_suffix("").parts if part != "__init__")


def room(module: str) -> str:
    """The room that a module is in; what is in none is a room of its own."""
    return module.partition(".")[0]


def floors() -> list[set[str]]:
    """The rooms of each floor, from the top, as the docstring of eventpoll/__init__.py draws them."""
    (line,) = re.findall(r"^ +(\w[\w, >]* > [\w, >]*\w)$", re.sub(r"\n  >", " >", eventpoll.__doc__ or ""), re.M)
    return [set(floor.split(", ")) for floor in line.split(" > ")]


def below(name: str) -> set[str]:
    """The rooms of all floors below a room's own."""
    (floor,) = (number for number, rooms in enumerate(floors()) if name in rooms)
    return set().union(*floors()[floor + 1 :])


def may_use(name: str) -> set[str]:
    """The rooms that a room says it uses, in the docstring of its __init__.py; a module without a room: all below."""
    if name not in ROOMS:
        return below(name)
    sentence = ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text(encoding="utf-8"))) or ""
    (rooms,) = re.findall(r"May use: ([a-z_, ]+)\.", sentence)
    return set(rooms.split(", "))


def ours(path: Path) -> set[str]:
    """The modules of the package that a module imports, itself aside."""
    modules = {called(module) for module in MODULES}
    found = set()
    for name in imported(path):
        parts = name.removeprefix("eventpoll.").split(".") if name.startswith("eventpoll.") else []
        prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
        found |= set([prefix for prefix in prefixes if prefix in modules][:1])
    return found - {called(path)}


def rooms(path: Path) -> set[str]:
    """Return the folders beside the package that a file imports from, its own aside."""
    return {name.partition(".")[0] for name in imported(path)} & {*BESIDE, SHARED} - {path.relative_to(ROOT).parts[0]}


def test_every_room_has_its_floor() -> None:
    """The docstring of the package is the map: whoever adds a room says there between which others it lies."""
    assert set().union(*floors()) == {room(called(module)) for module in MODULES}


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_says_what_it_is_for_and_what_it_uses(name: str) -> None:
    """Its sentence names the rooms that its modules import, no more and no fewer; all of them lie below."""
    used = {room(other) for path in MODULES if room(called(path)) == name for other in ours(path)} - {name}
    assert used == may_use(name)
    assert may_use(name) <= below(name)


@pytest.mark.parametrize("module", MODULES, ids=called)
def test_a_module_imports_downwards_only(module: Path) -> None:
    """From its own room, and from those that its room may use."""
    name = room(called(module))
    assert {room(other) for other in ours(module)} - {name} <= may_use(name)


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Within a room, too, there is an order: take out who imports nothing that is left, until nobody is."""
    left = {called(module): ours(module) for module in MODULES}
    while free := {name for name, needs in left.items() if not needs & set(left)}:
        left = {name: needs for name, needs in left.items() if name not in free}
    assert left == {}


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_benchmark_and_fault_runs_share_the_harness_and_nothing_else(path: Path) -> None:
    """No two of these folders import each other. A test of the benchmark or of the fault runs imports what it tests."""
    tested = {room for room in BESIDE if path.is_relative_to(ROOT / "tests") and path.stem.startswith(f"test_{room}")}
    assert rooms(path) <= tested | ({SHARED} if path.parent != ROOT / SHARED else set())


@pytest.mark.parametrize("path", [*ROOT.glob("*.py"), *sorted(PACKAGE.rglob("*.py"))], ids=lambda path: path.stem)
def test_the_service_imports_nothing_of_what_tries_it(path: Path) -> None:
    """An image, or a wheel, has none of these folders."""
    assert rooms(path) == set()


def test_conftest_keeps_fixtures_and_nothing_else() -> None:
    """What tests import from one another is a part of the harness, where benchmark and fault runs find it too."""
    tree = ast.parse((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    kept = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    assert ast.get_docstring(tree)
    for node in kept[1:]:
        assert isinstance(node, ast.FunctionDef)
        marks = [ast.unparse(each).partition("(")[0] for each in node.decorator_list]
        assert node.name.startswith("pytest_") or marks == ["pytest.fixture"], node.name


@pytest.mark.parametrize("module", MODULES, ids=called)
def test_only_the_store_imports_redis(module: Path) -> None:
    """Nothing above the store knows the driver or its errors."""
    if room(called(module)) not in ("store", "redis_url"):
        assert not {name for name in imported(module) if name.partition(".")[0] == "redis"}


@pytest.mark.parametrize("module", MODULES, ids=called)
def test_the_rules_and_the_store_know_no_web(module: Path) -> None:
    """Below web/ only access/ knows Flask, as it reads credentials from a request."""
    if room(called(module)) in below("web") - {"access"} | {"worker"}:
        assert not {name for name in imported(module) if name.partition(".")[0] in ("flask", "werkzeug")}


@pytest.mark.parametrize("module", MODULES, ids=called)
def test_only_config_reads_the_environment(module: Path) -> None:
    """Every setting has one reader, one table, one place for its mistakes."""
    if called(module) != "settings":
        assert not re.search(r"os\.(environ|getenv)|from_prefixed_env", module.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["app.py", "wsgi.py", "config.py", "gunicorn.conf.py"])
def test_the_top_level_reads_no_environment_either(name: str) -> None:
    """demo/gunicorn.conf.py alone may set defaults."""
    assert not re.search(r"os\.(environ|getenv)", (ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", MODULES, ids=called)
def test_a_module_stays_small_enough_to_read(module: Path) -> None:
    """One that passes some 300 lines wants to be two."""
    assert len(module.read_text(encoding="utf-8").splitlines()) <= 330


def test_nobody_signs_with_what_is_deprecated() -> None:
    """authlib.jose goes away in Authlib 2: joserfc signs and verifies."""
    sources = [*ROOT.glob("*.py"), *MODULES, *(ROOT / "tests").rglob("*.py")]
    assert not [path.name for path in sources if any(name.startswith("authlib.jose") for name in imported(path))]


def parts(path: Path) -> tuple[str, str]:
    """The header of a Lua file, and its code without comments."""
    text = path.read_text(encoding="utf-8")
    header, _, code = text.partition("\n\n")
    return header, re.sub(r"--[^\n]*", "", code)


@pytest.mark.parametrize("path", LUA, ids=lambda path: path.stem)
def test_a_lua_header_says_what_it_does_returns_and_how_to_run_it(path: Path) -> None:
    """Purpose in one sentence, Returns, whether it may be repeated, and an example with all keys in their order."""
    header, _ = parts(path)
    lines = header.splitlines()
    assert re.fullmatch(rf"-- {path.stem}: .+\.", lines[0])
    assert any(line.startswith("-- Returns ") for line in lines)
    assert re.search(r"^-- (Idempotent|Not idempotent|Safe to repeat|Reads only)", header, re.M)
    example = rf"--   redis-cli --eval {path.stem}.lua 'eventpoll:{{tpp-1}}:'{{{','.join(keys.STREAM_KEYS)}}} ,"
    assert lines[-1].startswith(example)


@pytest.mark.parametrize("path", LUA, ids=lambda path: path.stem)
def test_a_lua_command_reads_the_keys_that_it_declares_and_no_others(path: Path) -> None:
    """Each KEYS is declared under its name of keys.STREAM_KEYS, read once into a local of that name."""
    header, code = parts(path)
    declared = {int(number): name for number, name in re.findall(r"^--   KEYS\[(\d+)\] +(\w+)", header, re.M)}
    assert declared == {number: keys.STREAM_KEYS[number - 1] for number in declared}
    read: dict[str, str] = {}
    for names, values in re.findall(r"^local ([\w, ]+) = (KEYS\[[^\n]*)$", code, re.M):
        read.update(zip(re.findall(r"\d+", values), names.split(", "), strict=True))
    assert {int(number): name for number, name in read.items()} == declared
    assert len(re.findall(r"KEYS\b", code)) == len(declared)


@pytest.mark.parametrize("path", LUA, ids=lambda path: path.stem)
def test_a_lua_command_reads_the_arguments_that_it_declares_and_no_others(path: Path) -> None:
    """ARGV[n…] means all from there on, read through #ARGV or unpack."""
    header, code = parts(path)
    declared = re.findall(r"^--   ARGV\[(\d+)(…?)\] +\w+ ", header, re.M)
    assert [int(number) for number, _ in declared] == list(range(1, len(declared) + 1))
    single = {number for number, rest in declared if not rest}
    assert set(re.findall(r"ARGV\[(\d+)\]", code)) == single
    assert bool(re.search(r"#ARGV|unpack\(ARGV", code)) == any(rest for _, rest in declared)


@pytest.mark.parametrize("path", LUA, ids=lambda path: path.stem)
def test_a_lua_header_tells_the_named_errors_that_its_code_raises(path: Path) -> None:
    """Errors are named replies; the word is a class of the store."""
    header, code = parts(path)
    raised = set(re.findall(r"error_reply\('([A-Z]+) ", code))
    assert set(re.findall(r"^-- (?:Errors|      ) +([A-Z]{3,})  ", header, re.M)) == raised
    assert raised <= set(errors.NAMED)


@pytest.mark.parametrize("path", LUA, ids=lambda path: path.stem)
def test_a_lua_file_runs_as_it_stands(path: Path) -> None:
    """No #!lua line, no include, no clock of a client's, no JSON taken apart: house rules for Lua, 4, 5 and 8."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"^#!|@include|cjson|os\.time", text, re.M)


def test_every_lua_file_is_a_method_of_the_store() -> None:
    """One method for each Lua command, and none without its file."""
    assert {path.stem for path in LUA} == set(commands.NAMES)
    assert all(callable(getattr(store.Store, path.stem)) for path in LUA)


@pytest.mark.parametrize("key", keys.STREAM_KEYS)
def test_every_key_stands_in_the_layout(key: str) -> None:
    """docs/redis-layout.md is what an operator with redis-cli goes by."""
    assert f"`{key}`" in document("redis-layout.md")


def test_every_key_that_spans_streams_stands_in_the_layout() -> None:
    """Those are spelt out whole in keys.py."""
    spelt = {value for name, value in vars(keys).items() if name.isupper() and isinstance(value, str)}
    assert {name for name in spelt if f"`{name}`" not in document("redis-layout.md")} == set()


@pytest.mark.parametrize("path", LUA, ids=lambda path: path.stem)
def test_every_lua_command_stands_in_the_layout_with_its_errors(path: Path) -> None:
    """A row for each command, naming each error that it may answer."""
    (row,) = re.findall(rf"^\| `{path.stem}` \|.*$", document("redis-layout.md"), re.M)
    raised = re.findall(r"error_reply\('([A-Z]+) ", parts(path)[1])
    assert {word for word in raised if f"`{word}`" not in row} == set()


@pytest.mark.parametrize("word", sorted(errors.NAMED))
def test_every_named_error_stands_in_the_layout(word: str) -> None:
    """A row for each, with what it means."""
    assert re.search(rf"^\| `{word}` \| .+ \|", document("redis-layout.md"), re.M)


@pytest.mark.parametrize("name", list(Config.names()))
def test_every_setting_stands_in_the_operators_handbook_with_its_default(name: str) -> None:
    """A row for each variable; numbers and words as config.py has them."""
    (row,) = re.findall(rf"^\| `{name}` \| (.*?) \|", document("operations.md"), re.M)
    default = Config.names()[name].default
    if name == "WEB_CONCURRENCY":  # as many as there are cores
        assert row == "cores"
    elif default is None or default == ():
        assert row.startswith("none")
    elif isinstance(default, tuple):
        assert row == f"`{' '.join(default)}`"
    else:
        assert row.replace(" ", "") == (f"`{default:g}`" if isinstance(default, float) else f"`{default}`")


def test_the_operators_handbook_names_no_setting_that_is_not_there() -> None:
    """What was renamed or taken away is gone from the table, too."""
    named = set(re.findall(r"^\| `([A-Z][A-Z0-9_]+)` \|", document("operations.md"), re.M))
    assert named == set(Config.names())


@pytest.mark.parametrize("code", CODES)
def test_every_error_code_stands_in_the_list_of_errors(code: str) -> None:
    """Its status, and its name in each profile."""
    row = CODES[code]
    (line,) = re.findall(rf"^\| `{code}` \|(.*)$", document("errors.md"), re.M)
    told = [cell.strip().strip("`") for cell in line.strip("| ").split("|")]
    assert told[:5] == [str(row.status), row.err, row.obie_v3 or "–", row.obie_v4 or "–", row.wso2]
