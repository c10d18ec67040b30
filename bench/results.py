"""What was measured: for each name a figure of each round, and what follows from them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Line:
    """Something measured: a figure of each round."""

    part: str
    name: str
    unit: str
    figures: list[float]

    @property
    def middle(self) -> float:
        """The median."""
        return median(self.figures)


class Results:
    """All lines, in the order in which they came; and what could not be measured, with the reason."""

    def __init__(self) -> None:
        self.lines: dict[tuple[str, str], Line] = {}
        self.missing: dict[str, str] = {}
        self.failed = False

    def add(self, part: str, name: str, figure: float, unit: str) -> None:
        """A figure of one more round."""
        self.lines.setdefault((part, name), Line(part, name, unit, [])).figures.append(figure)

    def leave_out(self, what: str, reason: str) -> None:
        """Say that something was not measured, and why."""
        self.missing[what] = reason

    def fail(self, part: str, error: Exception) -> None:
        """Say that a part broke off: what it had measured stays, and the run is not a good one."""
        self.failed = True
        self.leave_out(part, f"**failed**: {type(error).__name__}: {' '.join(str(error).split())[:300]}")

    def middle(self, part: str, name: str) -> float:
        """The median of a line."""
        return self.lines[part, name].middle

    def ratios(self, part: str, name: str, against: str) -> list[float]:
        """One line against another, round by round: what moved both is not in it."""
        ours, theirs = self.lines[part, name].figures, self.lines[part, against].figures
        return [one / other if other else math.inf for one, other in zip(ours, theirs, strict=not self.failed)]

    def parts(self) -> Iterable[str]:
        """The names of the parts."""
        return dict.fromkeys(part for part, _ in self.lines)

    def of(self, part: str) -> list[Line]:
        """The lines of a part."""
        return [line for line in self.lines.values() if line.part == part]


def percentile(figures: list[float], share: float) -> float:
    """The figure that `share` of them do not pass."""
    return sorted(figures)[max(0, min(len(figures) - 1, round(share * len(figures)) - 1))]
