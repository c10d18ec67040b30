"""Helpers that all commands share: names of TPPs, errors, JSON and tables."""

import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import click
from flask import current_app
from flask.cli import with_appcontext

from eventpoll.delivery.transmitter import Conflict
from eventpoll.errors import Refused
from eventpoll.sets.event import BadSecevent
from eventpoll.store.errors import StoreError, Unavailable
from eventpoll.store.keys import check_tpp

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")


class Name(click.ParamType[str]):
    """The click type of a TPP's name."""

    name = "tpp"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return check_tpp(str(value))
        except Refused as error:
            self.fail(error.description, param, ctx)


TPP = Name()


def with_service(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the application's service as its first argument.

    The command raises ClickException where the application has no eventpoll.
    """

    @with_appcontext
    @wraps(command)
    def call(*args: Any, **options: Any) -> None:
        service = current_app.extensions.get("eventpoll")
        if service is None:
            raise click.ClickException("this application has no eventpoll: call eventpoll.init_app(app) in it")
        command(service, *args, **options)

    return call


@contextmanager
def told() -> Iterator[None]:
    """Report an error of the block as one line, and exit with code 1."""
    try:
        yield
    except Unavailable as error:
        raise click.ClickException(cell(f"the store is not available: {error}")) from None
    except (Refused, BadSecevent, Conflict, StoreError) as error:
        raise click.ClickException(cell(error)) from None


def close_output() -> None:
    """Remove the access of other users to the file that standard output goes to, if it goes to a regular file.

    A command calls this before it prints a secret. Otherwise others could read the secret in that file.
    """
    try:
        found = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):  # standard output has no file descriptor
        return
    if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:
        try:
            os.fchmod(sys.stdout.fileno(), stat.S_IMODE(found.st_mode) & ~0o077)
            click.echo("The secret goes to a file that others could read: its mode is 0600 now.", err=True)
        except OSError:
            click.echo("WARNING: the secret goes to a file that others can read. Take it away from them.", err=True)


def show(value: Any, as_json: bool, lines: Callable[[], Sequence[str]]) -> None:
    """Print a value as JSON, or else as the lines for a person that `lines` returns."""
    if as_json:
        show_json(value)
    else:
        for line in lines():
            click.echo(line)


def show_json(value: Any) -> None:
    """Print a value as one line of JSON in ASCII.

    ASCII keeps a terminal from interpreting what a TPP wrote, and every encoding can write it.
    """
    click.echo(json.dumps(value))


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str], empty: str) -> list[str]:
    """Return the lines of a table with column names, each column as wide as its widest cell.

    Without rows, returns the line `empty`.
    """
    if not rows:
        return [empty]
    cells = [[column.replace("_", " ") for column in columns]]
    cells += [[cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def cell(value: Any) -> str:
    """Return a value as text, without characters that a terminal would interpret or cannot write; "-" for None."""
    text = "-" if value is None else str(value)
    shown = "".join(character if character.isprintable() else "?" for character in text)
    encoding = sys.stdout.encoding or "utf-8"
    return shown.encode(encoding, "replace").decode(encoding)
