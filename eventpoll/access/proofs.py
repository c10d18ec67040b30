"""The secrets that this process has proven to be right, so that the next poll needs no round trip to prove them."""

import threading
import time
from collections import OrderedDict

SECONDS = 60.0
"""Seconds for which a right secret is remembered. poll.lua checks the secret again in its own step. A secret that was
rotated or deleted meanwhile therefore fetches and settles nothing."""

MOST = 10_000
"""Maximum number of secrets that a process remembers. Beyond it, the process forgets the oldest first."""


class Proofs:
    """Remembers pairs of a TPP and the SHA-256 of its secret."""

    def __init__(self) -> None:
        self._until: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._lock = threading.Lock()

    def has(self, tpp: str, proof: str) -> bool:
        """Return whether this secret of this TPP was proven right within the last SECONDS."""
        return self._until.get((tpp, proof), 0.0) > time.monotonic()

    def add(self, tpp: str, proof: str) -> None:
        """Remember a right secret for SECONDS."""
        with self._lock:
            self._until[tpp, proof] = time.monotonic() + SECONDS
            self._until.move_to_end((tpp, proof))
            while len(self._until) > MOST:
                self._until.popitem(last=False)

    def drop(self, tpp: str, proof: str) -> None:
        """Forget a secret, because the store no longer accepts it."""
        with self._lock:
            self._until.pop((tpp, proof), None)
