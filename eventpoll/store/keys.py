"""The names of all keys in Redis. No other module writes them.

All keys of one TPP share the hash tag {TPP}. So a Redis Cluster stores them on one node, and a Lua command may use
them together. Keys for all streams have no tag, and no such command uses them.
"""

import re
from functools import lru_cache

from eventpoll.errors import Refused

#: The keys of a stream, in the order in which every Lua command takes them as KEYS.
STREAM_KEYS = (
    "stream",
    "pending",
    "sets",
    "inflight",
    "inflight_order",
    "leases",
    "parked",
    "parked_order",
    "requeued",
    "settled",
    "settled_before",
    "wake",
)

#: Sorted set of the names of all streams, each with score 0, so that Redis keeps them in alphabetical order.
STREAMS = "eventpoll:streams"

#: Hash of the counters of deleted streams, so that totals never decrease.
FORGOTTEN = "eventpoll:forgotten"

#: Sorted set of two times: the watermark (clock.py), and since when the store's clock has been ahead of it.
CLOCK = "eventpoll:clock"

#: Redis stream of raw events that wait to be minted, and the Redis stream of those that could not be minted.
INBOX = "eventpoll:inbox"
INBOX_DEAD = "eventpoll:inbox:dead"

#: The consumer group that shares the inbox among the workers.
INBOX_GROUP = "eventpoll"


@lru_cache(maxsize=4096)
def of(tpp: str) -> tuple[str, ...]:
    """Return the keys of the stream of `tpp`, in the order of KEYS.

    The caller has checked the name with `check_tpp`, because a brace in it would change the hash tag.
    """
    return tuple(f"eventpoll:{{{tpp}}}:{key}" for key in STREAM_KEYS)


def wake(tpp: str) -> str:
    """Return the wake-up channel for the held polls of `tpp`, which is the last of its keys."""
    return of(tpp)[-1]


TPP = re.compile(r"[A-Za-z0-9._~@:+-]{1,128}")


def check_tpp(name: str) -> str:
    """Check the name of a TPP and return it. Raises Refused if it is not allowed."""
    if not TPP.fullmatch(name):
        raise Refused("field_invalid", "the name of a TPP is 1 to 128 of A-Z a-z 0-9 . _ ~ @ : + -", path="tpp")
    return name
