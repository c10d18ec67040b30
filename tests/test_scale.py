"""docs/scale.md reckons right: what follows, follows from the figures that it names."""

import ast
import re

import pytest

from harness import ROOT

TEXT = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
GIVEN = {
    name: float(figure.replace(" ", "")) for name, figure in re.findall(r"^\| `(\w+)` \| ([\d .]+) \| \S", TEXT, re.M)
}
FOLLOWS = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| ([\d .]+) \|", TEXT, re.M)


def reckoned() -> dict[str, float]:
    """Every line, with the figures of the lines above it."""
    known = dict(GIVEN)
    for name, formula, _ in FOLLOWS:
        names = {node.id for node in ast.walk(ast.parse(formula)) if isinstance(node, ast.Name)}
        assert names <= set(known), names - set(known)
        known[name] = float(eval(formula, {"__builtins__": {}}, known))
    return known


@pytest.mark.parametrize(("name", "formula", "figure"), FOLLOWS, ids=[name for name, *_ in FOLLOWS])
def test_a_line_follows_from_those_above_it(name: str, formula: str, figure: str) -> None:
    """Issue 6, 7: from the measured figures. A figure that was measured anew changes all that hangs on it."""
    shown, digits = figure.replace(" ", ""), len(figure.partition(".")[2].strip())
    assert f"{reckoned()[name]:.{digits}f}" == shown, formula


def test_every_figure_is_used_and_says_where_it_comes_from() -> None:
    """Nothing in the tables is there for show; what was measured names its command."""
    used = {word for _, formula, _ in FOLLOWS for word in re.findall(r"[a-z_]\w*", formula)}
    assert set(GIVEN) <= used
    measured = TEXT.partition("## What was measured")[2].partition("## What follows")[0]
    for line in re.findall(r"^\| `.*$", measured, re.M):
        assert re.search(r"`python -m bench\.\w+`|`make bench`|`ps ", line), line


def test_the_summary_is_what_was_reckoned() -> None:
    """Who reads no further is told the same."""
    known = reckoned()
    primaries = max(known["primaries_by_time"], known["primaries_by_memory"])
    assert f"{known['web_processes']:.0f} web processes, {-(-primaries // 1):.0f} Redis primaries" in TEXT
    assert f"{known['gb']:.0f} GB" in TEXT.partition("## What is asked")[0]
