"""flask eventpoll keygen, hash-password: make signing keys, and hash the bank's password."""

import sys
from codecs import BOM_UTF8
from typing import Any, BinaryIO

import click
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, KeyParameters, KeySet, OKPKey, RSAKey

from eventpoll.access import passwords
from eventpoll.access.passwords import LEAST, Password
from eventpoll.cli.output import as_json, close_output, show, show_json
from eventpoll.sets.json import Malformed, read_object


@click.command()
@click.option(
    "--alg", type=click.Choice(["PS256", "RS256", "ES256", "EdDSA", "Ed25519"]), default="PS256", show_default=True
)
@click.option("--before", type=click.File("rb"), help="A JWK Set: the new key is put before its keys, to rotate.")
@as_json
def keygen(alg: str, before: BinaryIO | None, as_json: bool) -> None:
    """Make a signing key. Prints a private JWK Set for EVENTPOLL_SIGNING_KEYS, as JSON with and without --json."""
    options: KeyParameters = {"alg": alg, "use": "sig"}
    key: Key
    if alg in ("PS256", "RS256"):
        key = RSAKey.generate_key(2048, options)
    elif alg == "ES256":
        key = ECKey.generate_key("P-256", options)
    else:
        key = OKPKey.generate_key("Ed25519", options)
    key.ensure_kid()
    older: list[Any] = []
    if before is not None:
        try:
            older = read_object(before.read().removeprefix(BOM_UTF8))["keys"]
            private = all(old.is_private for old in KeySet.import_key_set({"keys": older}).keys)
        except (Malformed, JoseError, KeyError, ValueError, TypeError, AttributeError):
            raise click.ClickException("the file holds no JWK Set") from None
        if not private:
            raise click.ClickException("the file holds a key without its private half: it could not sign")
    close_output()
    show_json({"keys": [key.as_dict(private=True), *older]})


@click.command("hash-password")
@as_json
def hash_password(as_json: bool) -> None:
    """Print the hash of the bank's password, for EVENTPOLL_BANK_PASSWORD.

    Reads the password from standard input, or asks for it on a terminal.
    """
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        try:
            password = sys.stdin.buffer.read().decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError:
            raise click.ClickException("the password on standard input is not UTF-8") from None
    if not password or Password(password).hashed:
        raise click.ClickException("give the password on standard input: what is there is empty, or a hash already")
    if Password(password).short:
        click.echo(f"Use {LEAST} random characters or more: whoever reads the hash can try short passwords.", err=True)
    hashed = passwords.hash_password(password)
    show({"hash": hashed}, as_json, lambda: [hashed])
