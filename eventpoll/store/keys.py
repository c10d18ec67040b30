"""The names of everything in Redis; no other place spells them.

All keys of one TPP share the hash tag {TPP}, so that Redis Cluster keeps them on one node and a Lua command
may touch them together. What spans streams has a name without a tag, and is never part of such a command.
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

#: Sorted set of the names of all streams, each with score 0: in alphabetical order.
STREAMS = "eventpoll:streams"

#: Hash of what the streams that are no more had counted: so a count over all streams never goes back.
FORGOTTEN = "eventpoll:forgotten"

#: Sorted set: up to when time has surely passed, and since when the store's clock has been ahead of that.
CLOCK = "eventpoll:clock"

#: Stream of raw events that wait to be minted, and the stream of those that could not be.
INBOX = "eventpoll:inbox"
INBOX_DEAD = "eventpoll:inbox:dead"

#: The consumer group that shares the inbox among the workers.
INBOX_GROUP = "eventpoll"


@lru_cache(maxsize=4096)
def of(tpp: str) -> tuple[str, ...]:
    """The keys of the stream of `tpp`, in KEYS order. The name must have been checked: a brace would move the tag."""
    return tuple(f"eventpoll:{{{tpp}}}:{key}" for key in STREAM_KEYS)


def wake(tpp: str) -> str:
    """The channel on which the held polls of `tpp` listen: the last of its keys."""
    return of(tpp)[-1]


TPP = re.compile(r"[A-Za-z0-9._~@:+-]{1,128}")


def check_tpp(name: str) -> str:
    """The name, if it may be the name of a TPP. Raises Refused."""
    if not TPP.fullmatch(name):
        raise Refused("field_invalid", "the name of a TPP is 1 to 128 of A-Z a-z 0-9 . _ ~ @ : + -", path="tpp")
    return name
