"""The secrets that this process has seen to be right, so that the next poll needs no round trip to prove them."""

import threading
import time
from collections import OrderedDict

SECONDS = 60.0
"""How long a right secret is remembered. poll.lua checks it again in its own step, so a secret that was rotated or
deleted meanwhile fetches and settles nothing."""

MOST = 10_000
"""Secrets that a process remembers at most; the ones remembered longest go first."""


class Proofs:
    """Remembers pairs of a TPP and the SHA-256 of its secret."""

    def __init__(self) -> None:
        self._until: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._lock = threading.Lock()

    def has(self, tpp: str, proof: str) -> bool:
        """Return whether this secret of this TPP was right a moment ago."""
        return self._until.get((tpp, proof), 0.0) > time.monotonic()

    def add(self, tpp: str, proof: str) -> None:
        """Remember a right secret."""
        with self._lock:
            self._until[tpp, proof] = time.monotonic() + SECONDS
            self._until.move_to_end((tpp, proof))
            while len(self._until) > MOST:
                self._until.popitem(last=False)

    def drop(self, tpp: str, proof: str) -> None:
        """Forget a secret: the store says that it is not right any more."""
        with self._lock:
            self._until.pop((tpp, proof), None)
