"""flask eventpoll push, peek, errors, requeue, purge: fill streams, and follow each SET."""

import sys
import time
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any, BinaryIO

import click

from eventpoll.cli.output import TPP, as_json, cell, show, show_json, table, told, with_service
from eventpoll.delivery.batch import push_lines
from eventpoll.service import Service
from eventpoll.sets.event import read_line
from eventpoll.store.errors import StoreError, Unavailable
from eventpoll.store.records import STATES, SetRecord
from eventpoll.web import representations


@click.command()
@click.argument("tpp", type=TPP)
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--batch", is_flag=True, help="Each line of FILE is an event or a SET; with --json a line tells of each.")
@as_json
@with_service
def push(service: Service, tpp: str, file: BinaryIO, batch: bool, as_json: bool) -> None:
    """Queue the SET in FILE, or mint and queue the event in FILE (standard input without FILE).

    A SET is in compact serialisation. An event is JSON: {"events": {…}, "sub"?, "txn"?, "toe"?, "jti"?, "scope"?}.
    """
    if batch:
        _push_batch(service, tpp, file, as_json)
        return
    with told():
        item = read_line(file.read().removeprefix(BOM_UTF8))
        jti, new = service.transmitter.push(tpp, item)
    status = "queued" if new else "repeated"
    text = f"{jti}: {status}" + ("" if new else ", it was there already")
    show({"jti": jti, "status": status}, as_json, lambda: [cell(text)])


def _push_batch(service: Service, tpp: str, file: BinaryIO, as_json: bool) -> None:
    """Push a file line by line, with a progress bar on a terminal. Exit with code 1 if a line was refused."""
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
    """Yield the lines that are not blank, and append their numbers to `numbers`.

    `read` is called with the length in bytes of every line, blank or not.
    """
    for number, line in enumerate(file, 1):
        if read is not None:
            read(len(line))
        text = line.removeprefix(BOM_UTF8) if number == 1 else line
        if text.strip():
            numbers.append(number)
            yield text


@click.command()
@click.argument("tpp", type=TPP)
@click.argument("jti", required=False)
@click.option("--state", type=click.Choice(STATES), help="Only this state; otherwise each in turn.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="The most of each state.")
@as_json
@with_service
def peek(service: Service, tpp: str, jti: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List the SETs of a stream, oldest first, without changing them. With JTI, print everything about that SET."""
    transmitter = service.transmitter
    if jti is not None:
        with told():
            record = transmitter.store.find(tpp, jti)
        show(representations.whole_secevent(record), as_json, lambda: _history(record))
        return
    with told():
        found = [record for each in ([state] if state else STATES) for record in transmitter.peek(tpp, each, limit)]
    rows = [representations.secevent(record) for record in found]
    columns = ("jti", "state", "deliveries", "pushed_at", "delivered_at", "err", "description")
    show({"sets": rows}, as_json, lambda: table(rows, columns, f"Nothing is outstanding for {tpp}."))


def _history(record: SetRecord) -> list[str]:
    whole = representations.whole_secevent(record)
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
    """List the parked SETs of a TPP, and why each is parked."""
    with told():
        rows = [representations.secevent(record) for record in service.transmitter.parked(tpp)]
    columns = ("jti", "err", "description", "deliveries", "pushed_at", "parked_at")
    show({"sets": rows}, as_json, lambda: table(rows, columns, f"Nothing is parked for {tpp}."))


@click.command()
@click.argument("tpp", type=TPP)
@click.argument("jtis", metavar="[JTI]…", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every parked SET of the TPP.")
@as_json
@with_service
def requeue(service: Service, tpp: str, jtis: Sequence[str], every: bool, as_json: bool) -> None:
    """Put parked SETs back into the stream. They are delivered again, as if for the first time."""
    _each_parked(service, tpp, jtis, every, service.transmitter.store.requeue, "requeued", as_json)


@click.command()
@click.argument("tpp", type=TPP, required=False)
@click.argument("jtis", metavar="[JTI]…", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every parked SET of the TPP.")
@as_json
@with_service
def purge(service: Service, tpp: str | None, jtis: Sequence[str], every: bool, as_json: bool) -> None:
    """Discard parked SETs of a TPP for good. Without a TPP, remove SETs past their retention from all streams."""
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
    """Call `what` for each SET in `jtis`, or with `every` for each parked SET, and print the results.

    After a refusal the next SETs are still done, and the exit code is 1. An unavailable store ends the command.
    """
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
