"""The client's TLS certificate, from our own TLS or from the proxy that ends it."""

import base64
import binascii
import hashlib
import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import unquote

from flask import Request

PEM = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
ENVOY = re.compile(r'\s*([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^";,]*)(;|$)')


def thumbprint(request: Request, header: str | None, proxies: Sequence[str]) -> str | None:
    """SHA-256 of the client's certificate, as `x5t#S256` has it (RFC 8705 section 3.1); None where there is none.

    `header` is believed from the peers in `proxies` alone: addresses, networks, or "unix" for a Unix socket.
    """
    of_tls = getattr(request.environ.get("gunicorn.socket"), "getpeercert", None)
    der: bytes | None = of_tls(binary_form=True) if of_tls else None
    if der is None and header and is_trusted(_peer_address(request), proxies):
        der = read(request.headers.get(header, ""))
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).decode().rstrip("=") if der else None


def read(text: str) -> bytes | None:
    """The certificate (DER) in a header: RFC 9440, URL-encoded PEM (nginx), or Envoy's Cert="…"; None for any other."""
    text = text.strip()
    try:
        if text.startswith(":") and text.endswith(":") and len(text) > 2:
            return base64.b64decode(text[1:-1], validate=True)
        pems = PEM.findall(unquote(text if text.startswith("-----BEGIN") else _envoy(text)))
        return base64.b64decode("".join(pems[0].split()), validate=True) if len(pems) == 1 else None
    except (binascii.Error, ValueError):
        return None


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
