"""The client's TLS certificate, from eventpoll's own TLS or from the proxy that terminates TLS."""

import base64
import binascii
import hashlib
import ipaddress
import logging
import math
import re
import time
from collections.abc import Sequence
from itertools import pairwise
from urllib.parse import unquote, unquote_plus

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from flask import Request

log = logging.getLogger(__name__)

SAID_SECONDS = 60.0
"""Minimum seconds between two log lines of the same kind about a certificate that is not accepted."""

PEM = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
ENVOY = re.compile(r'\s*([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^";,]*)(;|$)')


class ClientCertificate:
    """Finds a client's certificate in eventpoll's own TLS connection or in the header of a trusted proxy."""

    def __init__(self, header: str | None, proxies: Sequence[str]) -> None:
        """Set the header that may hold a certificate, and the peers from which it is accepted.

        `proxies`: addresses, networks, or "unix" for a Unix socket. The header of any other peer is ignored.
        """
        self._header = header
        self._proxies = proxies
        self._said: dict[str, float] = {}

    def thumbprint(self, request: Request) -> str | None:
        """Return the SHA-256 of the client's certificate; None if there is no certificate.

        The form is that of `x5t#S256`: base64url without padding (RFC 8705 section 3.1).
        """
        of_tls = getattr(request.environ.get("gunicorn.socket"), "getpeercert", None)
        der: bytes | None = of_tls(binary_form=True) if of_tls else None
        if der is None and self._header is not None:
            der = self._handed_over(self._header, request)
        return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).decode().rstrip("=") if der else None

    def _handed_over(self, header: str, request: Request) -> bytes | None:
        text, peer = request.headers.get(header, "").strip(), _peer_address(request)
        if not text:
            return None
        if not is_trusted(peer, self._proxies):
            self._say(
                "The header %s comes from %s, which EVENTPOLL_TRUSTED_PROXIES does not name", header, peer or "unix"
            )
            return None
        der = read(text)
        if der is None:
            self._say("The header %s has %d characters, and no certificate that can be read", header, len(text))
        return der

    def _say(self, words: str, *facts: object) -> None:
        """Log why a token that is bound to a certificate is refused.

        Each text in `words` is logged at most once a minute. The log is the only explanation: the TPP gets a bare 401.
        """
        now = time.monotonic()
        if now - self._said.get(words, -math.inf) >= SAID_SECONDS:
            self._said[words] = now
            log.warning(words + ": tokens that are bound to a certificate get 401", *facts)


def read(text: str) -> bytes | None:
    """Return the certificate (DER) in a header.

    Return None if there is no certificate, or if the header holds certificates that cannot be one client's.

    Accept these forms: RFC 9440, also with blanks; PEM, plain, percent-encoded or form-encoded; the base64 of a DER;
    Envoy's Cert="…". The first certificate of a chain is the client's.
    """
    text = text.strip()
    try:
        if text.startswith(":") and text.endswith(":") and len(text) > 2:
            return _decoded(text[1:-1])
        pems = PEM.findall(_unescaped(text if text.startswith("-----BEGIN") else _envoy(text)))
        if pems:
            return _first(list(map(_decoded, pems)))
        ders = list(map(_decoded, unquote(text).split(",")))
        return _first(ders) if all(map(_is_der, ders)) else None
    except (binascii.Error, ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return None


def _unescaped(text: str) -> str:
    return unquote_plus(text) if "BEGIN+CERTIFICATE" in text else unquote(text)


def _decoded(text: str) -> bytes:
    bare = "".join(text.split())
    return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)


def _is_der(der: bytes) -> bool:
    """Return whether this may be a certificate: a DER sequence with the length that its two length bytes declare."""
    return der[:2] == b"\x30\x82" and len(der) == 4 + int.from_bytes(der[2:4])


def _first(ders: list[bytes]) -> bytes:
    """Return the first certificate of a chain. Raises an error if a certificate is not signed by the next one.

    Certificates that form no chain come from two senders. A client may send the header too, and a proxy that adds
    its own value joins both into one header.
    """
    if len(ders) > 1:
        for one, issuer in pairwise(map(x509.load_der_x509_certificate, ders)):
            one.verify_directly_issued_by(issuer)
    return ders[0]


def _envoy(text: str) -> str:
    """Return the Cert of the only element of x-forwarded-client-cert; an empty text if there are more elements.

    With more elements it is unknown which hop saw the client's certificate. Quotes are parsed, because a client may
    make its subject look like a certificate.
    """
    certificates, at = [], 0
    while at < len(text):
        pair = ENVOY.match(text, at)
        if pair is None:
            return ""
        if pair[1].lower() == "cert":
            certificates.append(pair[2].strip('"'))
        at = pair.end()
    return certificates[0] if len(certificates) == 1 else ""


def is_trusted(address: str, proxies: Sequence[str]) -> bool:
    """Return whether a peer is one of the configured proxies.

    `address`: the peer's IP address; empty for a Unix socket. `proxies`: addresses, networks, or "unix".
    """
    if not address:
        return "unix" in proxies
    try:
        peer = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(peer, "ipv4_mapped", None)
    return any((mapped or peer) in ipaddress.ip_network(proxy, strict=False) for proxy in proxies if proxy != "unix")


def _peer_address(request: Request) -> str:
    original = request.environ.get("werkzeug.proxy_fix.orig", {})
    return str(original.get("REMOTE_ADDR", request.environ.get("REMOTE_ADDR", "")))
