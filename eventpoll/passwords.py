"""The bank's password, set as it is or as its scrypt hash, and how it is compared."""

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
"""How a hash of Werkzeug's begins; config.py sees to it that no other text begins so."""

LEAST = 24
"""Characters of a password that nobody guesses."""

MOST_WAITING = 100
"""Logins that may wait in a process while a hash is computed. It takes some 0.1 s, and 32 MB for one at a time."""

KEY = secrets.token_bytes(32)


class Password:
    """A password that callers must show. Where its hash is set, the hash is computed until a right password came once:
    from then on this process compares digests, which are made with a key of its own."""

    def __init__(self, text: str) -> None:
        self.hashed = text.startswith(HASHED)
        self.short = not self.hashed and len(text) < LEAST
        self._hash = text if self.hashed else ""
        self._right = None if self.hashed else _digest(text)
        self._places = threading.Semaphore(MOST_WAITING)
        self._lock = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until nobody else's password is being compared. Raises Refused (503): too many wait already."""
        if not self._places.acquire(blocking=False):
            text = "too many logins are being checked at the moment: try again"
            raise Refused("unavailable", text, headers={"Retry-After": "1"})
        try:
            with self._lock:
                yield
        finally:
            self._places.release()

    def is_it(self, shown: str) -> bool:
        """Return whether this is the password, in a time that says nothing of how near it comes."""
        digest = _digest(shown)
        if self._right is not None:
            return hmac.compare_digest(self._right, digest)
        if not _computed(self._hash, shown):
            return False
        self._right = digest
        return True


def hash_password(password: str) -> str:
    """Return the hash of a password as EVENTPOLL_BANK_PASSWORD takes it."""
    return generate_password_hash(password, method="scrypt")


def _digest(password: str) -> bytes:
    return hashlib.blake2b(password.encode(errors="surrogateescape"), key=KEY).digest()


def _computed(hashed: str, shown: str) -> bool:
    if monkey.is_module_patched("threading"):  # in a thread apart, so that the worker answers others meanwhile
        return bool(gevent.get_hub().threadpool.apply(check_password_hash, (hashed, shown)))
    return check_password_hash(hashed, shown)
