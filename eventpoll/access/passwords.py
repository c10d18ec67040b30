"""The bank's password, configured as plain text or as its scrypt hash, and its comparison."""

import hashlib
import hmac
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import gevent
from gevent import monkey
from werkzeug.security import check_password_hash, generate_password_hash

from eventpoll.errors import Refused

HASHED = "scrypt:"
"""Prefix of a hash of Werkzeug's. settings.py refuses every other text with this prefix."""

LEAST = 24
"""Minimum number of characters of a password that nobody can guess."""

MOST_WAITING = 100
"""Logins that may wait in a process while it computes a hash. One hash at a time takes some 0.1 s and 32 MB."""

KEY = secrets.token_bytes(32)


class Password:
    """A password that callers must send.

    If a hash is configured, this process computes the hash of each password until the first right one. After that the
    process compares digests, which it makes with a key of its own.
    """

    def __init__(self, text: str) -> None:
        self.hashed = text.startswith(HASHED)
        self.short = not self.hashed and len(text) < LEAST
        self._hash = text if self.hashed else ""
        self._right = None if self.hashed else _digest(text)
        self._places = threading.Semaphore(MOST_WAITING)
        self._lock = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until no other password is being compared. Raises Refused (503) if too many logins wait already."""
        if not self._places.acquire(blocking=False):
            text = "too many logins are being checked at the moment: try again"
            raise Refused("unavailable", text, headers={"Retry-After": "1"})
        try:
            with self._lock:
                yield
        finally:
            self._places.release()

    def is_it(self, shown: str) -> bool:
        """Return whether this is the password. The time taken does not reveal how similar the two are."""
        digest = _digest(shown)
        if self._right is not None:
            return hmac.compare_digest(self._right, digest)
        if not _computed(self._hash, shown):
            return False
        self._right = digest
        return True


def hash_password(password: str) -> str:
    """Return the scrypt hash of a password, in the form that EVENTPOLL_BANK_PASSWORD accepts."""
    return generate_password_hash(password, method="scrypt")


def _digest(password: str) -> bytes:
    return hashlib.blake2b(password.encode(errors="surrogateescape"), key=KEY).digest()


def _computed(hashed: str, shown: str) -> bool:
    if monkey.is_module_patched("threading"):  # in another thread, so that the worker answers others meanwhile
        return bool(gevent.get_hub().threadpool.apply(check_password_hash, (hashed, shown)))
    return check_password_hash(hashed, shown)
