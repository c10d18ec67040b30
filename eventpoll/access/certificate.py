"""The client's TLS certificate, from our own TLS or from the proxy that ends it."""

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
"""A line of the log about a certificate that does not count comes so often at most, of each kind."""

PEM = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
ENVOY = re.compile(r'\s*([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^";,]*)(;|$)')


class ClientCertificate:
    """Finds the certificate with which a client connected: in our own TLS, or in the header of a trusted proxy."""

    def __init__(self, header: str | None, proxies: Sequence[str]) -> None:
        """`header` is believed from the peers in `proxies` alone: addresses, networks, or "unix" for a Unix socket."""
        self._header = header
        self._proxies = proxies
        self._said: dict[str, float] = {}

    def thumbprint(self, request: Request) -> str | None:
        """Return its SHA-256, as `x5t#S256` has it (RFC 8705 section 3.1); None where there is none."""
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
        """Log why a bound token is refused, once a minute: its TPP is told no more than 401."""
        now = time.monotonic()
        if now - self._said.get(words, -math.inf) >= SAID_SECONDS:
            self._said[words] = now
            log.warning(words + ": tokens that are bound to a certificate get 401", *facts)


def read(text: str) -> bytes | None:
    """Return the certificate (DER) in a header; None where there is none, or more than can be one client's.

    Read are RFC 9440, also with blanks; PEM, plain, percent-encoded or form-encoded; the base64 of a DER; Envoy's
    Cert="…". Of a chain the first is the client's.
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
    """Whether this may be a certificate: a sequence that is as long as it says, with two bytes for the length."""
    return der[:2] == b"\x30\x82" and len(der) == 4 + int.from_bytes(der[2:4])


def _first(ders: list[bytes]) -> bytes:
    """Return the first certificate of a chain. Raises an error where one is not signed by the next.

    Two that are no chain came from two speakers: a client may send the header as well, and a proxy that adds its own
    makes one of both.
    """
    if len(ders) > 1:
        for one, issuer in pairwise(map(x509.load_der_x509_certificate, ders)):
            one.verify_directly_issued_by(issuer)
    return ders[0]


def _envoy(text: str) -> str:
    """The Cert of one element of x-forwarded-client-cert; empty where there are more elements: which of the hops
    spoke for the client cannot be told. Quotes count: a subject may be made to look like a certificate."""
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
    """Whether a peer is one of the proxies that we were told of."""
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
