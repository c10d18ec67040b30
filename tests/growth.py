"""How the work for an input grows with the input's length: searched for the worst inputs, and held to linear."""

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

FIRST, LAST = 1_024, 1_048_576
"""Lengths between which an input is doubled. The last is the largest body that the service takes."""

BOUND = 8.0
"""How many times more a character of a long input may cost than one of a short input. A linear reader stays near 2, as
caches end. A reader whose time grows by the square of the length comes to 1 024."""

LEAST_SECONDS = 0.001
"""A first input that costs less counts as if it cost this: the clock is no finer on every machine."""

Work = Callable[[str], object]


@dataclass(frozen=True)
class Pumped:
    """A text that grows: a head, two parts that are repeated as often as each other, and a tail."""

    head: str
    pump: str
    other: str
    tail: str

    def text(self, length: int) -> str:
        """The text, with about as many characters."""
        times = max(1, (length - len(self.head) - len(self.tail)) // (len(self.pump) + len(self.other)))
        return self.head + self.pump * times + self.other * times + self.tail


def seconds(work: Work, text: str) -> float:
    """The processor's time for one run, whatever the work raises."""
    begun = time.process_time()
    try:
        work(text)
    except Exception:  # most of what is tried is refused, and has cost what it cost
        pass
    return time.process_time() - begun


def superlinear(work: Work, make: Callable[[int], str], last: int = LAST) -> str:
    """What shows that the work grows faster than its input does, as a sentence; empty where it does not.

    A length that seems a little too slow is tried again: another program may have had the cache.
    """
    text = make(FIRST)
    fair = max(min(seconds(work, text) for _ in range(3)), LEAST_SECONDS) / len(text)
    length = FIRST
    while length < last:
        length *= 2
        text = make(length)
        spent = seconds(work, text)
        for _ in range(5):
            if not 1 < spent / (BOUND * fair * len(text)) < 4:
                break
            spent = min(spent, seconds(work, text))
        if spent > BOUND * fair * len(text):
            return f"{spent:.3f} s for {len(text)} characters, {fair * len(text):.3f} s were fair: {text[:60]!r}"
    return ""


def pumped(alphabet: Sequence[str], tries: int, tails: Sequence[str] = ()) -> Iterator[Pumped]:
    """Texts that grow, made at random of the words of an alphabet; the same ones each time."""
    luck = random.Random(11)

    def words(least: int, most: int) -> str:
        return "".join(luck.choices(alphabet, k=luck.randint(least, most)))

    for _ in range(tries):
        other = words(1, 2) if luck.random() < 0.3 else ""
        tail = luck.choice(tails) if tails and luck.random() < 0.5 else words(0, 2)
        yield Pumped(words(0, 3), words(1, 3), other, tail)


def worst(work: Work, alphabet: Sequence[str], tries: int, tails: Sequence[str] = (), kept: int = 2) -> list[Pumped]:
    """The texts on which the work takes longest, of many that are tried. What is slow when short is not made longer:
    some patterns never end."""
    found: list[tuple[float, float, Pumped]] = []
    for number, each in enumerate(pumped(alphabet, tries, tails)):
        for length in (32, 256, 2_048):
            spent = seconds(work, each.text(length))
            if spent > 0.05:
                break
        found.append((-spent / length, number, each))
    return [each for *_, each in sorted(found)[:kept]]


def letters(pattern: str) -> list[str]:
    """The characters that a pattern knows, each alone, and some that it does not."""
    known = re.sub(r"\\[wWsSdDbBZA]|\(\?[:!=<P]?", "", pattern)
    return sorted({*known.replace("\\", ""), "\\", "a", "0", " ", "\n", "!", "\u00e9"})
