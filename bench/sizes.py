"""How much is measured: the whole run, a look, and the smallest form that still does everything."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """Counts and seconds of one run. `waiting` ends with the count at which memory and restarts are measured."""

    name: str
    seconds: float  # of load, for each thing measured in each round
    rounds: int
    sets: int  # that wait where a page is large, so that a round does not run dry
    few_sets: int  # the same, for pages of 1 and 10
    batch: int  # lines of a batch that is signed already; a quarter of it where each must be signed with RSA
    batches: int  # in one round
    held: tuple[int, ...]
    wakings: int
    idle_seconds: float
    waiting: tuple[int, int, int]
    streams: tuple[int, int, int]
    samples: int  # polls of one client, for each thing measured in each round
    peer_sets: int  # that wait at a peer which gets slower with each

    #: SETs a poll; 0 is the empty poll.
    pages: tuple[int, ...] = (0, 1, 10, 100, 1000)


FULL = Size(
    name="full",
    seconds=1.0,
    rounds=5,
    sets=200_000,
    few_sets=60_000,
    batch=1000,
    batches=24,
    held=(1_000, 5_000, 10_000),
    wakings=300,
    idle_seconds=5.0,
    waiting=(100, 10_000, 1_000_000),
    streams=(1, 1_000, 10_000),
    samples=400,
    peer_sets=1000,
)
SHORT = Size(
    name="short",
    seconds=0.3,
    rounds=2,
    sets=80_000,
    few_sets=20_000,
    batch=500,
    batches=8,
    held=(1_000, 10_000),
    wakings=100,
    idle_seconds=2.0,
    waiting=(100, 10_000, 125_000),
    streams=(1, 1_000, 10_000),
    samples=200,
    peer_sets=200,
)
SMOKE = Size(
    name="smoke",
    seconds=0.05,
    rounds=1,
    sets=60_000,
    few_sets=6_000,
    batch=40,
    batches=2,
    held=(40,),
    wakings=5,
    idle_seconds=0.2,
    waiting=(100, 400, 4_000),
    streams=(1, 10, 100),
    samples=20,
    peer_sets=50,
)
SIZES = {size.name: size for size in (FULL, SHORT, SMOKE)}
