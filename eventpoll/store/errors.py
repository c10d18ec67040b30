"""Exceptions of the store. Driver exceptions never leave it."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis.exceptions import RedisClusterException


class StoreError(Exception):
    """Base class of the store's exceptions."""


class Unavailable(StoreError):
    """The store is unreachable, loading, read-only, full or cannot persist. The command may or may not have run."""


class NewerLayout(Unavailable):
    """A newer version of eventpoll wrote this store in a layout that this version cannot read."""


class Named(StoreError):
    """A Lua command answered with a named error."""


class WrongClock(Named, Unavailable):
    """CLOCK: the store's clock is far from ours, or past May 2041. The command had no effect."""


class NoStream(Named):
    """NOSTREAM: this TPP has no stream."""


class Denied(Named):
    """DENIED: the secret does not match this stream's."""


class BadSet(Named):
    """BADSET: not a SET, or not a jti."""


class Full(Named):
    """FULL: the stream holds the maximum number of SETs (max_pending)."""


class NoSet(Named):
    """NOSET: this stream has no such SET, or has forgotten it."""


class NotParked(Named):
    """NOTPARKED: the SET is pending or in flight."""


class Outstanding(Named):
    """OUTSTANDING: this stream still has outstanding SETs."""


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
    """Convert exceptions of the driver into those of this module."""
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
    """Return the exception of this module for an error reply in a pipeline."""
    try:
        with errors():
            raise reply
    except StoreError as error:
        return error
