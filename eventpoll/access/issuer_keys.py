"""The token issuer's keys: a JWK Set given inline, as a file, or by URL. An unknown key id causes a new fetch."""

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
"""Minimum seconds between two attempts to fetch. Anyone can invent key ids, and without this minimum each unknown id
would cause a fetch."""

FIRST_FLOOR_SECONDS = 1.0
"""The same minimum while there are no keys at all."""

FRESH_SECONDS = 3600.0
"""Seconds after which a set is fetched again although no key is missing, because issuers also withdraw keys."""

HEADERS = {"User-Agent": f"eventpoll/{__version__}", "Accept": "application/json"}
"""Headers of a fetch. Firewalls recognise urllib's own User-Agent and refuse it."""

TIMEOUT_SECONDS = 5.0
LARGEST = 1_048_576


class NoKeys(Exception):
    """There are no keys, and none can be read at the moment."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Refuse every redirect. Keys come only from the configured URL, never from one that an answer names."""


class IssuerKeys:
    """The keys with which tokens may be signed. During an outage of the issuer the known keys stay in use."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._keys: KeySet | None = None
        self._said: list[str] = []
        self._tried = self._fetched = float("-inf")
        self._lock = threading.Lock()

    def candidates(self, kid: str | None) -> list[Key]:
        """Return the keys that may have signed a token: those with its `kid`, or all if `kid` is None.

        Raises NoKeys if no keys have ever been read.
        """
        now = time.monotonic()
        found = self._find(kid)
        if not found:
            self._refresh(now)
            found = self._find(kid)
        elif now - self._fetched > FRESH_SECONDS and now - self._tried >= FLOOR_SECONDS:
            threading.Thread(target=self._refresh, args=(now,), daemon=True).start()  # no request waits for the issuer
        if self._keys is None:
            raise NoKeys(f"no keys from {self.source.partition('?')[0]}")
        return found

    def _find(self, kid: str | None) -> list[Key]:
        keys = self._keys.keys if self._keys else []
        return [key for key in keys if kid is None or key.get("kid") == kid]

    def _refresh(self, asked: float) -> None:
        """Fetch the keys unless another thread has fetched since `asked`, or an attempt was made within the floor.

        `asked`: a time of the monotonic clock, in seconds. A failed attempt is logged and leaves the keys as they are.
        """
        with self._lock:
            floor = FIRST_FLOOR_SECONDS if self._keys is None else FLOOR_SECONDS
            if asked < self._fetched or asked - self._tried < floor:
                return
            try:
                keys, left_out = read_public_keys(self._read())
            except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
                # Do not log the repr: for an undecodable answer it holds the whole answer.
                log.warning("The token issuer's keys could not be read: %s: %.200s", type(error).__name__, error)
                self._tried = time.monotonic()
                return
            for words in left_out:
                if words not in self._said:
                    log.warning("Of the token issuer's keys %s", words)
            self._said = left_out
            # The next attempt after the first fetch need not wait: the issuer may add a key a second after our start.
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
