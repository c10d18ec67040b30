"""Certificates made at run time: for an authority, for servers on loopback and for clients."""

import base64
import datetime
import hashlib
import ipaddress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HERE: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]


class Certificate:
    """A certificate and its key, signed by `by` or by itself. It is for this machine, or for the machine `host`."""

    def __init__(
        self, name: str, by: "Certificate | None" = None, subject: str | None = None, host: str | None = None
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject or name)])
        now = datetime.datetime.now(datetime.UTC)
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        self.x509 = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(by.name if by else self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)] if host else HERE), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .sign(by.key if by else self.key, hashes.SHA256())
        )
        self.der = self.x509.public_bytes(serialization.Encoding.DER)
        self.pem = self.x509.public_bytes(serialization.Encoding.PEM).decode()
        self.thumbprint = base64.urlsafe_b64encode(hashlib.sha256(self.der).digest()).decode().rstrip("=")
        self.bound: dict[str, Any] = {"cnf": {"x5t#S256": self.thumbprint}}

    def rfc9440(self) -> str:
        """Return the certificate as RFC 9440 section 2.1 writes it: a byte sequence of structured fields."""
        return f":{base64.b64encode(self.der).decode()}:"

    def escaped(self) -> str:
        """Return the certificate as nginx's $ssl_client_escaped_cert writes it."""
        return quote(self.pem, safe="")

    def envoy(self, before: str = "") -> str:
        """Return the certificate as Envoy's x-forwarded-client-cert writes it."""
        return f'{before}Hash={hashlib.sha256(self.der).hexdigest()};Cert="{self.escaped()}";Subject="/C=GB/CN=tpp"'

    def files(self, directory: Path) -> tuple[str, str]:
        """Write the certificate and the key, each to a file, and return the names of the files."""
        names = directory / f"{self.thumbprint}.pem", directory / f"{self.thumbprint}.key"
        names[0].write_text(self.pem)
        form = serialization.PrivateFormat.PKCS8
        names[1].write_bytes(
            self.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()),
        )
        return str(names[0]), str(names[1])
