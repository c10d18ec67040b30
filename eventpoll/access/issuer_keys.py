"""The token issuer's keys: a JWK Set given inline, as a file, or by URL; fetched again when a key is not known."""

import http.client
import json
import logging
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import Key, KeySet

log = logging.getLogger(__name__)

FLOOR_SECONDS = 10.0
"""Between two attempts to fetch: unknown key ids, which anyone can make up, cause no more than that."""

FIRST_FLOOR_SECONDS = 1.0
"""The same, while there are no keys at all."""

FRESH_SECONDS = 3600.0
"""After so long a set is fetched again although nothing is missing: keys are withdrawn, too."""

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
                keys = parse(self._read())
            except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
                log.warning("The token issuer's keys could not be read: %r", error)
                self._tried = time.monotonic()
                return
            # The first fetch leaves the next one free: a key may be new a second after the start.
            self._tried = float("-inf") if self._keys is None else time.monotonic()
            self._keys, self._fetched = keys, time.monotonic()

    def _read(self) -> str:
        if self.source.lstrip().startswith("{"):
            return self.source
        if self.source.startswith(("https://", "http://")):
            opener = urllib.request.build_opener(_NoRedirect)
            with opener.open(self.source, timeout=TIMEOUT_SECONDS) as answer:  # settings.py lets only https through
                text = answer.read(LARGEST + 1)
            if len(text) > LARGEST:
                raise ValueError("the JWK Set is too large")
            return str(text.decode("utf-8"))
        return Path(self.source).read_text(encoding="utf-8")


def parse(text: str) -> KeySet:
    """A JWK Set of public keys; shared secrets and keys that we cannot read are left out. Raises ValueError."""
    value = json.loads(text)
    if not isinstance(value, dict) or not isinstance(value.get("keys"), list):
        raise ValueError('no JWK Set: {"keys": [...]} is wanted')
    keys = []
    for member in value["keys"]:
        if isinstance(member, dict) and member.get("kty") in ("RSA", "EC", "OKP"):
            try:
                keys += KeySet.import_key_set({"keys": [member]}).keys
            except (JoseError, ValueError, TypeError, KeyError):
                log.warning("A key of the token issuer cannot be read: %r", member.get("kid"))
    return KeySet(keys)
