"""What the store raises, and nothing else of the driver's passes it."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis.exceptions import RedisClusterException


class StoreError(Exception):
    """What went wrong in the store."""


class Unavailable(StoreError):
    """The store is away, loading, read-only, full or cannot persist. Nothing can be said of what was asked."""


class NewerLayout(Unavailable):
    """A newer version of eventpoll has written this store, in a layout that this version cannot read."""


class Named(StoreError):
    """A refusal by a Lua command, with the word that it answered."""


class WrongClock(Named, Unavailable):
    """CLOCK: the store's clock is far from ours, or past May 2041. Nothing was done."""


class NoStream(Named):
    """NOSTREAM: no stream of this TPP."""


class Denied(Named):
    """DENIED: the secret is not the one of this stream."""


class BadSet(Named):
    """BADSET: not a SET, or not a jti."""


class Full(Named):
    """FULL: the stream holds as many SETs as it may."""


class NoSet(Named):
    """NOSET: no such SET on this stream, or forgotten."""


class NotParked(Named):
    """NOTPARKED: the SET is pending or in flight."""


class Outstanding(Named):
    """OUTSTANDING: SETs are outstanding on this stream."""


NAMED = {
    "CLOCK": WrongClock,
    "NOSTREAM": NoStream,
    "DENIED": Denied,
    "BADSET": BadSet,
    "FULL": Full,
    "NOSET": NoSet,
    "NOTPARKED": NotParked,
    "OUTSTANDING": Outstanding,
}


@contextmanager
def errors() -> Iterator[None]:
    """Turn what the driver raises into what this module promises."""
    try:
        yield
    except redis.ResponseError as error:
        name, _, text = str(error).partition(" ")
        if name in NAMED:
            raise NAMED[name](text) from None
        raise Unavailable(str(error)) from error
    except (redis.RedisError, RedisClusterException, OSError) as error:
        raise Unavailable(str(error)) from error


def refused(reply: Exception) -> StoreError:
    """What an error reply in a pipeline stands for."""
    try:
        with errors():
            raise reply
    except StoreError as error:
        return error
