"""flask eventpoll …: the bank's operator at a shell."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any, BinaryIO

import click
from flask import Blueprint
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, KeyParameters, KeySet, OKPKey, RSAKey

from eventpoll import auth, check, passwords, views
from eventpoll.bank import STATES
from eventpoll.events import push_lines, read_line
from eventpoll.failures import StoreError, Unavailable
from eventpoll.jsontext import Malformed, read_object
from eventpoll.passwords import LEAST, Password
from eventpoll.records import SetRecord
from eventpoll.service import Service
from eventpoll.shell import TPP, as_json, cell, close_output, show, show_json, table, told, with_service
from eventpoll.worker import worker


def init(bp: Blueprint) -> None:
    """Add the commands; the blueprint's cli_group is their first word."""
    bp.cli.help = "Streams of Security Event Tokens: make them, fill them, see what became of each SET."
    for command in (add_tpp, push, streams, peek, errors, requeue, purge, worker, keygen, hash_password, check_):
        bp.cli.add_command(command)


@click.command("add-tpp")
@click.argument("tpp", type=TPP)
@as_json
@with_service
def add_tpp(service: Service, tpp: str, as_json: bool) -> None:
    """Make the stream of a TPP, and print its secret, this once."""
    secret = auth.new_secret()
    with told():
        if not service.transmitter.configure(tpp, auth.hash_of(secret), {}):
            raise click.ClickException(f"{tpp} has a stream already; its secret stays")
    close_output()
    lines = [f"{tpp}: the secret is {secret}", "It is not shown again."]
    show({"tpp": tpp, "secret": secret}, as_json, lambda: lines)


@click.command()
@click.argument("tpp", type=TPP)
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--batch", is_flag=True, help="Each line of FILE is an event or a SET; with --json a line tells of each.")
@as_json
@with_service
def push(service: Service, tpp: str, file: BinaryIO, batch: bool, as_json: bool) -> None:
    """Queue the SET, or mint the event, that FILE holds (standard input without FILE).

    A SET is its compact serialisation; an event is JSON: {"events": {…}, "sub"?, "txn"?, "toe"?, "jti"?, "scope"?}.
    """
    if batch:
        _push_batch(service, tpp, file, as_json)
        return
    with told():
        item = read_line(file.read())
        jti, new = service.transmitter.push(tpp, item)
    status = "queued" if new else "repeated"
    text = f"{jti}: {status}" + ("" if new else ", it was there already")
    show({"jti": jti, "status": status}, as_json, lambda: [cell(text)])


def _push_batch(service: Service, tpp: str, file: BinaryIO, as_json: bool) -> None:
    """Push line by line, with a progress bar on a terminal; exit code 1 if a line was refused."""
    with told():
        service.transmitter.store.status(tpp)
        size = file.seek(0, 2) if file.seekable() else 0
        if size:
            file.seek(0)
        counts = {"pushed": 0, "refused": 0}
        begun = time.monotonic()
        watched = size and sys.stderr.isatty()
        bar: Any = click.progressbar(length=size, label=tpp, file=sys.stderr, width=0) if watched else nullcontext()
        numbers: deque[int] = deque()
        with bar:
            lines = _numbered(file, numbers, bar.update if watched else None)
            for result in chain.from_iterable(push_lines(service.transmitter, tpp, lines)):
                number = numbers.popleft()
                counts["pushed" if "jti" in result else "refused"] += 1
                if as_json:
                    show_json({"line": number, **result})
                elif "jti" not in result:
                    click.echo(cell(f"line {number}: {result['status']} {result['description']}"), err=True)
    seconds = time.monotonic() - begun
    if not as_json:
        click.echo(f"{tpp}: {counts['pushed']} pushed, {counts['refused']} refused, in {seconds:.1f} s")
    if counts["refused"]:
        sys.exit(1)


def _numbered(file: BinaryIO, numbers: deque[int], read: Callable[[int], None] | None) -> Iterator[bytes]:
    """The lines that hold something; their numbers go to `numbers`, the bytes of each line to `read`."""
    for number, line in enumerate(file, 1):
        if read is not None:
            read(len(line))
        if line.strip():
            numbers.append(number)
            yield line


@click.command()
@as_json
@with_service
def streams(service: Service, as_json: bool) -> None:
    """Tell how each stream stands."""
    transmitter = service.transmitter
    with told():
        rows = [
            views.stream(status, transmitter.store, transmitter.set_profile)
            for status in service.transmitter.all_streams()
        ]
    columns = ("tpp", "pending", "in_flight", "parked", "oldest", "last_poll", "last_push")
    shown = []
    for row in rows:
        ages = [age for age in row["oldest_seconds"].values() if age is not None]
        shown.append({**row, "oldest": f"{max(ages):.0f} s" if ages else None})
    empty = "There are no streams. Make one: flask eventpoll add-tpp TPP"
    show({"streams": rows}, as_json, lambda: table(shown, columns, empty))


@click.command()
@click.argument("tpp", type=TPP)
@click.argument("jti", required=False)
@click.option("--state", type=click.Choice(STATES), help="Only this state; otherwise each in turn.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="The most of each state.")
@as_json
@with_service
def peek(service: Service, tpp: str, jti: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """Tell which SETs are on a stream, oldest first, without touching them; or all about the one with JTI."""
    transmitter = service.transmitter
    if jti is not None:
        with told():
            record = transmitter.store.find(tpp, jti)
        show(views.whole_secevent(record), as_json, lambda: _history(record))
        return
    with told():
        found = [record for each in ([state] if state else STATES) for record in transmitter.peek(tpp, each, limit)]
    rows = [views.secevent(record) for record in found]
    columns = ("jti", "state", "deliveries", "pushed_at", "delivered_at", "err", "description")
    show({"sets": rows}, as_json, lambda: table(rows, columns, f"Nothing is outstanding for {tpp}."))


def _history(record: SetRecord) -> list[str]:
    whole = views.whole_secevent(record)
    lines = [cell(f"{record.jti} is {record.state.replace('_', ' ')}, delivered {record.deliveries} times.")]
    if record.scope:
        lines.append(f"Its family is {record.scope}: tokens of other families do not see it.")
    if record.error:
        lines.append(cell("Error: " + ": ".join(record.error.get(name, "-") for name in ("err", "description"))))
    if earlier := whole.get("earlier_deliveries"):
        lines.append(f"{earlier} deliveries before these are not kept one by one.")
    lines += ["", *table(whole["history"], ("at", "what", "by"), "")]
    return lines + (["", record.secevent] if record.secevent else [])


@click.command()
@click.argument("tpp", type=TPP)
@as_json
@with_service
def errors(service: Service, tpp: str, as_json: bool) -> None:
    """Tell which SETs are parked, and why."""
    with told():
        rows = [views.secevent(record) for record in service.transmitter.parked(tpp)]
    columns = ("jti", "err", "description", "deliveries", "pushed_at", "parked_at")
    show({"sets": rows}, as_json, lambda: table(rows, columns, f"Nothing is parked for {tpp}."))


@click.command()
@click.argument("tpp", type=TPP)
@click.argument("jtis", metavar="[JTI]…", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every parked SET of the TPP.")
@as_json
@with_service
def requeue(service: Service, tpp: str, jtis: Sequence[str], every: bool, as_json: bool) -> None:
    """Put parked SETs back: they are delivered again, as if for the first time."""
    _each_parked(service, tpp, jtis, every, service.transmitter.store.requeue, "requeued", as_json)


@click.command()
@click.argument("tpp", type=TPP, required=False)
@click.argument("jtis", metavar="[JTI]…", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every parked SET of the TPP.")
@as_json
@with_service
def purge(service: Service, tpp: str | None, jtis: Sequence[str], every: bool, as_json: bool) -> None:
    """Discard parked SETs of a TPP for good. Without a TPP: take out, on all streams, SETs past their retention."""
    if tpp is not None:
        _each_parked(service, tpp, jtis, every, service.transmitter.store.discard, "discarded", as_json)
        return
    with told():
        expired = service.transmitter.sweep_all()
    show({"expired": expired}, as_json, lambda: [f"{expired} SETs expired."])


def _each_parked(
    service: Service,
    tpp: str,
    jtis: Sequence[str],
    every: bool,
    what: Callable[[str, str], None],
    done: str,
    as_json: bool,
) -> None:
    """Do something to each SET named, or to every parked one; the rest goes on where one fails, with exit code 1."""
    if every == bool(jtis):
        raise click.UsageError("say which: one JTI or more, or --all")
    results: list[dict[str, str]] = []
    with told():
        for jti in [record.jti for record in service.transmitter.parked(tpp)] if every else jtis:
            try:
                what(tpp, jti)
                results.append({"jti": jti, "status": done})
            except Unavailable:
                raise
            except StoreError as error:
                results.append({"jti": jti, "status": "refused", "description": str(error)})
    lines = [": ".join(cell(text) for text in result.values()) for result in results] or [
        f"Nothing is parked for {tpp}."
    ]
    show({"sets": results}, as_json, lambda: lines)
    if any(result["status"] == "refused" for result in results):
        sys.exit(1)


@click.command()
@click.option(
    "--alg", type=click.Choice(["PS256", "RS256", "ES256", "EdDSA", "Ed25519"]), default="PS256", show_default=True
)
@click.option("--before", type=click.File("rb"), help="A JWK Set: the new key is put before its keys, to rotate.")
@as_json
def keygen(alg: str, before: BinaryIO | None, as_json: bool) -> None:
    """Make a signing key: prints a private JWK Set for EVENTPOLL_SIGNING_KEYS. It is JSON with and without --json."""
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
            older = read_object(before.read())["keys"]
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
    """Print the hash of the bank's password, for EVENTPOLL_BANK_PASSWORD. Reads the password from standard input, or
    asks for it on a terminal."""
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        try:
            password = sys.stdin.buffer.read().decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise click.ClickException("the password on standard input is not UTF-8") from None
    if not password or Password(password).hashed:
        raise click.ClickException("give the password on standard input: what is there is empty, or a hash already")
    if Password(password).short:
        click.echo(f"Use {LEAST} random characters or more: whoever reads the hash can try short passwords.", err=True)
    hashed = passwords.hash_password(password)
    show({"hash": hashed}, as_json, lambda: [hashed])


@click.command("check")
@click.option(
    "--appendfsync",
    type=click.Choice(list(check.STRENGTH)),
    default="everysec",
    show_default=True,
    help="The least that the store must do.",
)
@as_json
@with_service
def check_(service: Service, appendfsync: str, as_json: bool) -> None:
    """Say what would hurt in production. Exit code 1 if something would lose SETs or stop the service."""
    found = list(check.findings(service, appendfsync))
    rows = [{"level": each.level, "what": each.what} for each in found]
    show({"findings": rows}, as_json, lambda: [f"{row['level']:<8}{row['what']}" for row in rows])
    if any(each.level == "error" for each in found):
        sys.exit(1)
