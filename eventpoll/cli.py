"""flask eventpoll …: the bank's operator at a shell."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import click
from flask import Blueprint

from eventpoll import auth, views
from eventpoll.bank import STATES, read_event
from eventpoll.errors import Refused
from eventpoll.schemas import check_tpp
from eventpoll.secevent import BadSecevent
from eventpoll.service import Service
from eventpoll.store import StoreError, Unavailable
from eventpoll.transmitter import Conflict

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
SWEEP_SECONDS = 60.0


class Name(click.ParamType[str]):
    """The name of a TPP."""

    name = "tpp"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return check_tpp(str(value))
        except Refused as error:
            self.fail(error.description, param, ctx)


TPP = Name()


@contextmanager
def told() -> Iterator[None]:
    """Errors as one line and exit code 1."""
    try:
        yield
    except Unavailable as error:
        raise click.ClickException(f"the store is not available: {error}") from None
    except (Refused, BadSecevent, Conflict) as error:
        raise click.ClickException(str(error)) from None
    except StoreError as error:
        raise click.ClickException(str(error)) from None


def show(value: Any, as_json: bool, lines: Callable[[], Sequence[str]]) -> None:
    """Print a value as JSON, or as lines that a person reads."""
    if as_json:
        click.echo(json.dumps(value, ensure_ascii=False))
    else:
        for line in lines():
            click.echo(line)


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str], empty: str) -> list[str]:
    """Rows under their column names, each column as wide as it needs."""
    if not rows:
        return [empty]
    cells = [[column.replace("_", " ") for column in columns]]
    cells += [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _cell(value: Any) -> str:
    text = "-" if value is None else str(value)
    return "".join(character if character.isprintable() else "?" for character in text)


def init(bp: Blueprint, service: Service) -> None:
    """Add the commands; the blueprint's cli_group is their first word."""
    transmitter = service.transmitter
    store = transmitter.store

    @bp.cli.command("add-tpp")
    @click.argument("tpp", type=TPP)
    @as_json
    def add_tpp(tpp: str, as_json: bool) -> None:
        """Make the stream of a TPP, and print its secret, this once."""
        secret = auth.new_secret()
        with told():
            if not transmitter.configure(tpp, auth.hash_of(secret), {}):
                raise click.ClickException(f"{tpp} has a stream already; its secret stays")
        show(
            {"tpp": tpp, "secret": secret},
            as_json,
            lambda: [f"{tpp}: the secret is {secret}", "It is not shown again."],
        )

    @bp.cli.command()
    @click.argument("tpp", type=TPP)
    @click.argument("file", type=click.File("rb"), default="-")
    @as_json
    def push(tpp: str, file: BinaryIO, as_json: bool) -> None:
        """Queue the SET, or mint the event, that FILE holds (standard input without FILE).

        A SET is its compact serialisation; an event is JSON: {"events": {…}, "sub"?, "txn"?, "toe"?, "jti"?}.
        """
        text = file.read().strip()
        with told():
            if text.startswith(b"{"):
                jti, new = transmitter.push_event(tpp, read_event(text))
            else:
                jti, new = transmitter.push_signed(tpp, text.decode("ascii", "replace"))
        status = "queued" if new else "repeated"
        show(
            {"jti": jti, "status": status},
            as_json,
            lambda: [f"{jti}: {status}" + ("" if new else ", it was there already")],
        )

    @bp.cli.command()
    @as_json
    def streams(as_json: bool) -> None:
        """Tell how each stream stands."""
        rows: list[dict[str, Any]] = []
        with told():
            while found := transmitter.streams(rows[-1]["tpp"] if rows else ""):
                rows += [views.stream(status, store, transmitter.set_profile) for status in found]
        columns = ("tpp", "pending", "in_flight", "parked", "oldest", "last_poll", "last_push")
        for row in rows:
            ages = [age for age in row["oldest_seconds"].values() if age is not None]
            row["oldest"] = f"{max(ages):.0f} s" if ages else None
        plain = [{name: value for name, value in row.items() if name != "oldest"} for row in rows]
        show(
            {"streams": plain},
            as_json,
            lambda: table(rows, columns, "There are no streams. Make one: flask eventpoll add-tpp TPP"),
        )

    @bp.cli.command()
    @click.argument("tpp", type=TPP)
    @click.option("--state", type=click.Choice(STATES), help="Only this state; otherwise each in turn.")
    @click.option(
        "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="The most of each state."
    )
    @as_json
    def peek(tpp: str, state: str | None, limit: int, as_json: bool) -> None:
        """Tell which SETs are on a stream, oldest first, without touching them."""
        with told():
            rows = [
                views.secevent(record)
                for each in ([state] if state else STATES)
                for record in transmitter.peek(tpp, each, limit)
            ]
        columns = ("jti", "state", "deliveries", "pushed_at", "delivered_at", "err", "description")
        show({"sets": rows}, as_json, lambda: table(rows, columns, f"Nothing is outstanding for {tpp}."))

    @bp.cli.command()
    @click.option("--once", is_flag=True, help="One round, then stop.")
    def worker(once: bool) -> None:
        """Take out expired SETs on every stream, from time to time, until stopped."""
        while True:
            with told():
                _sweep_all()
            if once:
                return
            time.sleep(SWEEP_SECONDS)

    def _sweep_all() -> None:
        after = ""
        while found := transmitter.streams(after):
            for status in found:
                expired = transmitter.sweep(status.tpp)
                if expired:
                    click.echo(f"{status.tpp}: {expired} SETs expired", file=sys.stderr)
            after = found[-1].tpp
