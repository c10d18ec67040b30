"""The price of appendfsync always, through HTTP."""

from bench import load, polls
from bench.load import Load
from bench.results import Results
from bench.service import BANK, PROOF, Bench, basic
from bench.sets import secevent
from bench.sizes import Size

PART = "appendfsync"
PAGE = 10
POLLS, PUSHES = f"polls of {PAGE} with acks", "signed pushes"
WAYS = ("everysec", "always")
FASTEST = 12_000


def name(what: str, way: str) -> str:
    """A line's name."""
    return f"{what}, {way}"


def measure(bench: Bench, size: Size, results: Results) -> None:
    """Every round measures both ways, each time the other first."""
    wire, web = bench.wire, bench.web
    wire.make((polls.TPP, polls.FEW), PROOF)
    wire.fill(polls.FEW, range(size.few_sets))
    file = bench.directory / "pushes"
    file.write_text("".join(secevent(n, "f")[1] + "\n" for n in range(int(FASTEST * (size.seconds + 0.5)))))
    pushed = Load(
        "push",
        f"/streams/{polls.TPP}/sets",
        content_type="application/secevent+jwt",
        authorization=basic(*BANK),
        file=file,
    )
    polled = polls.loads(PAGE)["RFC 8936, Basic"]
    for turn in range(size.rounds):
        for way in WAYS[:: 1 if turn % 2 else -1]:
            wire.ask("CONFIG", "SET", "appendfsync", way)
            wire.copy(polls.FEW, polls.TPP)
            results.add(PART, name(POLLS, way), load.run(web.url, polled, size.seconds), "/s")
            wire.clear(polls.TPP)
            results.add(PART, name(PUSHES, way), load.run(web.url, pushed, size.seconds), "/s")
    wire.ask("CONFIG", "SET", "appendfsync", "everysec")
    wire.clear(polls.TPP)
    wire.clear(polls.FEW)
