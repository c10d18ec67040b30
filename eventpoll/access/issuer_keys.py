"""The token issuer's keys: a JWK Set given inline, as a file, or by URL; fetched again when a key is not known."""

import http.client
import logging
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from joserfc.jwk import Key, KeySet

from eventpoll import __version__
from eventpoll.setting_readers import read_public_keys

log = logging.getLogger(__name__)

FLOOR_SECONDS = 10.0
"""Between two attempts to fetch: unknown key ids, which anyone can make up, cause no more than that."""

FIRST_FLOOR_SECONDS = 1.0
"""The same, while there are no keys at all."""

FRESH_SECONDS = 3600.0
"""After so long a set is fetched again although nothing is missing: keys are withdrawn, too."""

HEADERS = {"User-Agent": f"eventpoll/{__version__}", "Accept": "application/json"}
"""Of a fetch. Firewalls know urllib's own User-Agent, and refuse it."""

TIMEOUT_SECONDS = 5.0
LARGEST = 1_048_576


class NoKeys(Exception):
    """There are no keys, and none can be had at the moment."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Keys come from where we were told, and from nowhere that an answer names."""


class IssuerKeys:
    """The keys with which tokens may be signed. An outage of the issuer leaves the keys that we have."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._keys: KeySet | None = None
        self._said: list[str] = []
        self._tried = self._fetched = float("-inf")
        self._lock = threading.Lock()

    def candidates(self, kid: str | None) -> list[Key]:
        """The keys that may have signed a token: the one with its `kid`, or all where it names none.

        Raises NoKeys where no keys could ever be had.
        """
        now = time.monotonic()
        found = self._find(kid)
        if not found:
            self._refresh(now)
            found = self._find(kid)
        elif now - self._fetched > FRESH_SECONDS and now - self._tried >= FLOOR_SECONDS:
            threading.Thread(target=self._refresh, args=(now,), daemon=True).start()  # nobody waits for a slow issuer
        if self._keys is None:
            raise NoKeys(f"no keys from {self.source.partition('?')[0]}")
        return found

    def _find(self, kid: str | None) -> list[Key]:
        keys = self._keys.keys if self._keys else []
        return [key for key in keys if kid is None or key.get("kid") == kid]

    def _refresh(self, asked: float) -> None:
        """Fetch, unless somebody did since `asked`, or tried a moment before."""
        with self._lock:
            floor = FIRST_FLOOR_SECONDS if self._keys is None else FLOOR_SECONDS
            if asked < self._fetched or asked - self._tried < floor:
                return
            try:
                keys, left_out = read_public_keys(self._read())
            except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
                # Not its repr: that of an undecodable answer holds the whole answer.
                log.warning("The token issuer's keys could not be read: %s: %.200s", type(error).__name__, error)
                self._tried = time.monotonic()
                return
            for words in left_out:
                if words not in self._said:
                    log.warning("Of the token issuer's keys %s", words)
            self._said = left_out
            # The first fetch leaves the next one free: a key may be new a second after the start.
            self._tried = float("-inf") if self._keys is None else time.monotonic()
            self._keys, self._fetched = keys, time.monotonic()

    def _read(self) -> str:
        if self.source.lstrip().startswith("{"):
            return self.source
        if self.source.startswith(("https://", "http://")):
            opener = urllib.request.build_opener(_NoRedirect)
            asked = urllib.request.Request(self.source, headers=HEADERS)  # noqa: S310 (settings.py lets only https through)
            with opener.open(asked, timeout=TIMEOUT_SECONDS) as answer:
                text, coding = answer.read(LARGEST + 1), answer.headers.get("Content-Encoding", "identity")
            if coding.strip().lower() not in ("", "identity"):
                raise ValueError(f"the answer has the Content-Encoding {coding!r:.50}, which was not asked for")
            if len(text) > LARGEST:
                raise ValueError("the JWK Set is too large")
            return str(text.decode("utf-8-sig"))
        return Path(self.source).read_text(encoding="utf-8-sig")
