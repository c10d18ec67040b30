"""Certificate-bound tokens (RFC 8705): the certificate from a proxy's header, from our own TLS, from nobody else."""

import base64
import http.client
import os
import re
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import wrap
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from flask import Request

from eventpoll.access import certificate
from eventpoll.access.certificate import ClientCertificate
from harness import ROOT, issuer
from harness.certificates import Certificate
from harness.issuer import bearer, token
from harness.ports import free_port
from harness.programs import gunicorn
from harness.redis_servers import RedisServer
from harness.service import BANK_SETTINGS, Reply, Server, start_server
from harness.waiting import wait_for

JSON = {"Content-Type": "application/json"}
POLL_NOW = '{"returnImmediately":true}'


AUTHORITY = Certificate("Authority")
TPP = Certificate("tpp", AUTHORITY)
OTHER = Certificate("other", AUTHORITY)


def base64_of(each: Certificate) -> str:
    """The DER, as HAProxy's ssl_c_der,base64 writes it."""
    return base64.b64encode(each.der).decode()


FORMS: dict[str, Callable[[Certificate], str]] = {
    "RFC 9440": Certificate.rfc9440,
    "nginx": Certificate.escaped,
    "nginx, slashes and colons left": lambda each: quote(each.pem, safe="/+:"),
    "in one line": lambda each: each.pem.strip().replace("\n", " "),
    "Envoy": Certificate.envoy,
    "Envoy with By": lambda each: each.envoy("By=spiffe://bank/frontend;"),
    "Envoy, unquoted": lambda each: f"Cert={each.escaped()}",
    "Envoy, other case": lambda each: f'hash=abc;cert="{each.escaped()}"',
    "with blanks around": lambda each: f"  {each.rfc9440()} ",
    "RFC 9440 with blanks": lambda each: ": " + " ".join(wrap(base64_of(each), 64)) + " :",
    "RFC 9440 without padding": lambda each: f":{base64_of(each).rstrip('=')}:",
    "HAProxy": lambda each: base64_of(each),
    "HAProxy, wrapped": lambda each: " ".join(wrap(base64_of(each), 76)),
    "Traefik": lambda each: quote(base64_of(each), safe=""),
    "Traefik, with the chain": lambda each: quote(f"{base64_of(each)},{base64_of(AUTHORITY)}", safe=""),
    "Traefik 3, with the chain": lambda each: f"{base64_of(each)},{base64_of(AUTHORITY)}",
    "Azure App Service, Cloudflare": lambda each: base64_of(each).rstrip("="),
    "AWS' load balancer": lambda each: quote(each.pem, safe="+=/"),
    "a PEM chain": lambda each: quote(each.pem + AUTHORITY.pem, safe=""),
    "a PEM chain in one line": lambda each: (each.pem + AUTHORITY.pem).strip().replace("\n", " "),
    "form-encoded": lambda each: quote_plus(each.pem),
    "a form-encoded chain": lambda each: quote_plus(each.pem + AUTHORITY.pem),
    "Envoy, form-encoded": lambda each: f'Cert="{quote_plus(each.pem)}";Subject="CN=x"',
}


@pytest.mark.parametrize("form", FORMS)
def test_each_way_of_writing_a_certificate_is_read(form: str) -> None:
    """Issues 4, and 13, 6: as proxies and load balancers in the field hand it over."""
    assert certificate.read(FORMS[form](TPP)) == TPP.der


LOOKALIKE = f'/CN=x";Cert="{OTHER.escaped()}'

NONE = {
    "nothing": "",
    "a word": "certificate",
    "colons": "::",
    "base64 that is none": ":!!!!:",
    "two of RFC 9440": f"{TPP.rfc9440()}, {OTHER.rfc9440()}",
    "two of nginx": f"{TPP.escaped()},{OTHER.escaped()}",
    "two in one PEM": quote(TPP.pem + OTHER.pem, safe=""),
    "two of Envoy's elements": f"{TPP.envoy()},{OTHER.envoy()}",
    "two of Envoy's elements, Cert first": f'Cert="{TPP.escaped()}",Cert="{OTHER.escaped()}"',
    "an element of Envoy's before": f"Hash=abc,{TPP.envoy()}",
    "an element of Envoy's behind": f"{TPP.envoy()},By=x;Hash=abc",
    "two Certs in one element": f'Cert="{TPP.escaped()}";Cert="{OTHER.escaped()}"',
    "Envoy without Cert": 'Hash=abc;Subject="/CN=tpp"',
    "Envoy with a subject like a certificate": 'Hash=abc;Subject="' + LOOKALIKE.replace('"', '\\"') + '"',
    "Envoy with a quote that does not end": f'Cert="{TPP.escaped()}',
    "a PEM without its end": TPP.escaped()[:-40],
    "a key": "-----BEGIN PRIVATE KEY-----AAAA-----END PRIVATE KEY-----",
    "nginx where there was none": "(null)",
    "two of HAProxy": f"{base64_of(TPP)},{base64_of(OTHER)}",
    "two of HAProxy, encoded": quote(f"{base64_of(TPP)}, {base64_of(OTHER)}"),
    "a chain the wrong way round": f"{base64_of(AUTHORITY)},{base64_of(TPP)}",
    "a chain with a stranger": quote(TPP.pem + AUTHORITY.pem + OTHER.pem, safe=""),
    "a chain by another authority of that name": quote(TPP.pem + Certificate("Authority").pem, safe=""),
    "base64 of words": base64.b64encode(b"no certificate " * 30).decode(),
    "a DER that is cut": base64.b64encode(TPP.der[:-1]).decode(),
    "a DER with more behind": base64.b64encode(TPP.der + b"x").decode(),
    "a DER and a comma": base64_of(TPP) + ",",
    "base64 with a sign in it": base64_of(TPP)[:40] + "!" + base64_of(TPP)[41:],
}


@pytest.mark.parametrize("what", NONE)
def test_what_is_not_one_certificate_is_none(what: str) -> None:
    """Which of several spoke for the client cannot be told; a subject cannot be made to pass for a certificate."""
    assert not certificate.read(NONE[what])


def test_a_subject_like_a_certificate_hides_nothing() -> None:
    """The Cert that the proxy wrote is the one that counts, whatever the client had put into its subject."""
    text = f'Cert="{TPP.escaped()}";Subject="' + LOOKALIKE.replace('"', '\\"') + '"'
    assert certificate.read(text) == TPP.der


@pytest.mark.parametrize(
    ("address", "proxies", "trusted"),
    [
        ("127.0.0.1", ("127.0.0.0/8",), True),
        ("::ffff:127.0.0.1", ("127.0.0.0/8",), True),
        ("::1", ("127.0.0.0/8",), False),
        ("10.1.2.3", ("10.0.0.0/8", "unix"), True),
        ("11.1.2.3", ("10.0.0.0/8", "unix"), False),
        ("2001:db8::7", ("2001:db8::/32",), True),
        ("", ("unix",), True),
        ("", ("127.0.0.0/8", "::1"), False),
        ("unix", ("unix",), False),
        ("10.0.0.1, 127.0.0.1", ("127.0.0.0/8",), False),
        ("0.0.0.0", ("127.0.0.0/8",), False),
    ],
)
def test_a_peer_is_trusted_by_its_address(address: str, proxies: tuple[str, ...], trusted: bool) -> None:
    """EVENTPOLL_TRUSTED_PROXIES: addresses, networks, or unix."""
    assert certificate.is_trusted(address, proxies) is trusted


# -- behind a proxy ---------------------------------------------------------------------------------------------


def environ(redis_server: RedisServer, signing_keys: str, **others: str) -> dict[str, str]:
    """A service that takes tokens, and certificates from `Client-Cert`."""
    return {
        "REDIS_URL": redis_server.url.removesuffix("0") + "7",
        **BANK_SETTINGS,
        "EVENTPOLL_SIGNING_KEYS": signing_keys,
        "EVENTPOLL_LONG_POLL_SECONDS": "1",
        **issuer.settings(),
        **others,
    }


@pytest.fixture(scope="module")
def proxied(redis_server: RedisServer, signing_keys: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service whose proxy is on loopback, which is trusted by default."""
    settings = environ(redis_server, signing_keys, EVENTPOLL_CLIENT_CERT_HEADER="Client-Cert")
    server = start_server(settings, tmp_path_factory.mktemp("proxied"))
    yield server
    server.stop()


def ask(server: Server, text: str, shown: str | None = None, header: str = "Client-Cert") -> Reply:
    """A poll with a token, and with a certificate as a proxy hands it over."""
    headers = {**JSON, **bearer(text), **({header: shown} if shown is not None else {})}
    return server.request("POST", "/events", POLL_NOW, headers)


@pytest.mark.parametrize("form", FORMS)
def test_a_bound_token_with_its_certificate_is_let_in(proxied: Server, form: str) -> None:
    """RFC 8705 section 3.1, over the wire."""
    assert ask(proxied, token(**TPP.bound), FORMS[form](TPP)).status == 200


@pytest.mark.parametrize(
    "shown",
    [None, "", OTHER.rfc9440(), OTHER.escaped(), OTHER.envoy(), f"{OTHER.rfc9440()}, {TPP.rfc9440()}", "garbage"],
    ids=["none", "empty", "other", "other nginx", "other Envoy", "two", "garbage"],
)
def test_a_bound_token_without_its_certificate_is_refused(proxied: Server, shown: str | None) -> None:
    """RFC 8705 section 3: invalid_token, 401. A stolen token is worth nothing without the key."""
    for _ in range(2):  # a token that is known already is no better
        reply = ask(proxied, token(jti="replayed", exp=2_000_000_000, iat=1, **TPP.bound), shown)
        assert reply.status == 401
        assert 'error="invalid_token"' in reply.headers["www-authenticate"]
        assert ask(proxied, token(jti="replayed", exp=2_000_000_000, iat=1, **TPP.bound), TPP.rfc9440()).status == 200


UNPROVEN: dict[str, Any] = {
    "nothing": {},
    "DPoP": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"},
    "a JWK": {"jwk": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}},
    "a key's name": {"kid": "tpp"},
    "SHA-1": {"x5t": "AA"},
    "another way": {"https://issuer.example/way": True},
}


@pytest.mark.parametrize("way", UNPROVEN)
def test_a_token_bound_to_what_cannot_be_checked_is_refused_whatever_certificate_is_shown(
    proxied: Server, way: str
) -> None:
    """Issue 11, 10; RFC 7800 section 3.1, RFC 9449 section 7: each member of cnf is a key to prove. A token that is
    bound to a DPoP key beside the certificate is no bearer token; one whose cnf is empty is not known to be one."""
    both = {**TPP.bound["cnf"], **UNPROVEN[way]}
    for shown in (None, TPP.rfc9440(), OTHER.rfc9440()):
        reply = ask(proxied, token(cnf=UNPROVEN[way]), shown)
        assert reply.status == 401
        assert 'error="invalid_token"' in reply.headers["www-authenticate"]
        assert ask(proxied, token(cnf=both), shown).status == (
            200 if shown == TPP.rfc9440() and way == "nothing" else 401
        )


def test_the_header_twice_is_refused(proxied: Server) -> None:
    """A client's own header beside the proxy's: neither counts."""
    connection = http.client.HTTPConnection("127.0.0.1", proxied.port, timeout=10)
    connection.putrequest("POST", "/events")
    for name, text in {**JSON, **bearer(token(**TPP.bound)), "Content-Length": str(len(POLL_NOW))}.items():
        connection.putheader(name, text)
    connection.putheader("Client-Cert", TPP.rfc9440())
    connection.putheader("Client-Cert", OTHER.rfc9440())
    connection.endheaders(POLL_NOW.encode())
    assert connection.getresponse().status in (400, 401)
    connection.close()


@pytest.mark.parametrize("shown", [None, OTHER.rfc9440(), "garbage"])
def test_a_token_that_is_not_bound_needs_no_certificate(proxied: Server, shown: str | None) -> None:
    """RFC 8705 section 3: what is checked is what the token says."""
    assert ask(proxied, token(), shown).status == 200


@pytest.mark.parametrize("header", ["X-Client-Cert", "Client_Cert", "X-Forwarded-Client-Cert", "X-SSL-CERT"])
def test_another_header_counts_for_nothing(proxied: Server, header: str) -> None:
    """EVENTPOLL_CLIENT_CERT_HEADER names the one that does; one spelt with _ is not it."""
    assert ask(proxied, token(**TPP.bound), TPP.rfc9440(), header).status == 401


@pytest.mark.parametrize(
    "settings",
    [
        {"EVENTPOLL_CLIENT_CERT_HEADER": "Client-Cert", "EVENTPOLL_TRUSTED_PROXIES": "10.0.0.0/8 unix"},
        {
            "EVENTPOLL_CLIENT_CERT_HEADER": "Client-Cert",
            "EVENTPOLL_TRUSTED_PROXIES": "10.0.0.0/8",
            "EVENTPOLL_PROXY_HOPS": "1",
        },
        {"EVENTPOLL_TRUSTED_PROXIES": "127.0.0.1"},
    ],
    ids=["a stranger", "a stranger who says he is a proxy", "no header"],
)
def test_the_header_of_a_peer_that_is_not_trusted_is_ignored(
    redis_server: RedisServer, signing_keys: str, tmp_path: Path, settings: dict[str, str]
) -> None:
    """Issue 4: only from proxies named as trusted; X-Forwarded-For makes nobody one."""
    server = start_server(environ(redis_server, signing_keys, **settings), tmp_path)
    try:
        headers = {**JSON, **bearer(token(**TPP.bound)), "Client-Cert": TPP.rfc9440(), "X-Forwarded-For": "10.0.0.1"}
        assert server.request("POST", "/events", POLL_NOW, headers).status == 401
        assert ask(server, token(), TPP.rfc9440()).status == 200
    finally:
        server.stop()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the log goes by, in seconds, to be moved."""
    now = [1000.0]
    monkeypatch.setattr(certificate, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def of_peer(text: str | None, peer: str = "127.0.0.1") -> Request:
    """A request whose proxy wrote that into its header."""
    return Request({"REMOTE_ADDR": peer, **({} if text is None else {"HTTP_CLIENT_CERT": text})})


def test_what_is_no_certificate_is_told_to_the_operator_once_a_minute(
    caplog: pytest.LogCaptureFixture, clock: list[float]
) -> None:
    """Issue 13, 6: a TPP sees no more than 401, and its bank saw nothing. Not a word of the header is in the line."""
    ours = ClientCertificate("Client-Cert", ["127.0.0.0/8"])
    for _ in range(3):
        assert ours.thumbprint(of_peer("garbage, SECRET\n")) is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert "Client-Cert has 15 characters, and no certificate that can be read" in line
    assert "SECRET" not in line
    for _ in range(3):
        assert ours.thumbprint(of_peer(TPP.rfc9440(), "192.0.2.1")) is None
    assert len(caplog.records) == 2
    assert "192.0.2.1, which EVENTPOLL_TRUSTED_PROXIES does not name" in caplog.records[-1].getMessage()
    clock[0] += certificate.SAID_SECONDS + 1
    assert ours.thumbprint(of_peer("garbage")) is None
    assert len(caplog.records) == 3


def test_where_no_certificate_was_shown_there_is_nothing_to_say(caplog: pytest.LogCaptureFixture) -> None:
    """A proxy overwrites the header with nothing where the client has none."""
    ours = ClientCertificate("Client-Cert", ["127.0.0.0/8"])
    for text in (None, "", " "):
        assert ours.thumbprint(of_peer(text)) is None
        assert ClientCertificate(None, ["127.0.0.0/8"]).thumbprint(of_peer(text)) is None
    assert ours.thumbprint(of_peer(TPP.rfc9440())) == TPP.thumbprint
    assert caplog.records == []


def test_the_log_says_why_a_bound_token_is_refused(proxied: Server) -> None:
    """Over the wire: the line is in the log of the service."""
    assert ask(proxied, token(**TPP.bound), "garbage").status == 401
    wait_for(lambda: "no certificate that can be read: tokens that are bound" in proxied.log.read_text())


# -- our own TLS ------------------------------------------------------------------------------------------------


class TlsServer(Server):
    """gunicorn with TLS of its own, that asks for a client's certificate."""

    shown: Certificate | None = None
    directory: Path

    def request(self, method: str, path: str, *args: Any, **options: Any) -> Reply:
        """One request, with the certificate that is shown."""
        body, headers = (*args, None, None)[:2]
        context = ssl.create_default_context(cadata=AUTHORITY.pem)
        if self.shown is not None:
            context.load_cert_chain(*self.shown.files(self.directory))
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=20, context=context)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def tls(redis_server: RedisServer, signing_keys: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    """Started with the very command of docs/operations.md, "TLS of its own"."""
    directory = tmp_path_factory.mktemp("tls")
    server = start_tls(tls_arguments(directory), environ(redis_server, signing_keys), directory)
    yield server
    server.stop()


def tls_arguments(directory: Path) -> list[str]:
    """What the document gives to gunicorn, and the files that it names."""
    certfile, keyfile = Certificate("localhost", AUTHORITY).files(directory)
    Path(certfile).rename(directory / "server.pem")
    Path(keyfile).rename(directory / "server.key")
    (directory / "tpp-authorities.pem").write_text(AUTHORITY.pem)
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^gunicorn (--certfile .*)$", text, re.M)
    return str(line).split()


def start_tls(
    arguments: list[str], settings: dict[str, str], directory: Path, shown: Certificate | None = None
) -> TlsServer:
    """harness's start_server speaks plain HTTP: this one is waited for with TLS."""
    port, log = free_port(), directory / "gunicorn.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            gunicorn(*arguments),
            cwd=directory,
            env={"PATH": os.environ["PATH"], "PORT": str(port), "WEB_CONCURRENCY": "1", **settings},
            stdout=output,
            stderr=output,
        )
    server = TlsServer(port, settings, log, process)
    server.directory, server.shown = directory, shown

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return server.request("GET", "/healthz").status == 200
        except OSError:
            return False

    wait_for(answers, 30, 0.05)
    return server


@pytest.mark.parametrize(
    ("shown", "bound", "status"),
    [(TPP, TPP, 200), (OTHER, TPP, 401), (None, TPP, 401), (TPP, None, 200), (None, None, 200)],
    ids=["its own", "another", "none", "not bound", "not bound, none"],
)
def test_our_own_tls_knows_the_clients_certificate(
    tls: TlsServer, shown: Certificate | None, bound: Certificate | None, status: int
) -> None:
    """Issue 4: gunicorn's own TLS with client certificates works too (RFC 8705 section 3)."""
    tls.shown = shown
    text = token(**(bound.bound if bound else {}))
    assert tls.request("POST", "/events", POLL_NOW, {**JSON, **bearer(text)}).status == status


def test_our_own_tls_believes_no_header_unless_told(tls: TlsServer) -> None:
    """A certificate that is not shown in the handshake is not shown."""
    tls.shown = None
    headers = {**JSON, **bearer(token(**TPP.bound)), "Client-Cert": TPP.rfc9440()}
    assert tls.request("POST", "/events", POLL_NOW, headers).status == 401


def test_a_certificate_of_another_authority_ends_the_handshake(tls: TlsServer) -> None:
    """gunicorn's --ca-certs says whose certificates are taken at all."""
    tls.shown = Certificate("stranger")
    with pytest.raises((ssl.SSLError, OSError)):
        tls.request("POST", "/events", POLL_NOW, {**JSON, **bearer(token())})


def test_a_certificate_may_be_asked_of_everyone(redis_server: RedisServer, signing_keys: str, tmp_path: Path) -> None:
    """docs/operations.md: --cert-reqs 2 lets in nobody without one."""
    arguments = ["2" if each == "1" else each for each in tls_arguments(tmp_path)]
    server = start_tls(arguments, environ(redis_server, signing_keys), tmp_path, TPP)
    try:
        assert server.request("GET", "/healthz").status == 200
        server.shown = None
        with pytest.raises(OSError):  # noqa: PT011  (an SSLError, or a reset: it depends on who is first)
            server.request("GET", "/healthz")
    finally:
        server.stop()


def test_our_own_tls_is_not_an_old_one(tls: TlsServer) -> None:
    """RFC 8936 section 4.3: TLS 1.2 at least."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=AUTHORITY.pem)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        http.client.HTTPSConnection("localhost", tls.port, timeout=20, context=context).request("GET", "/healthz")
