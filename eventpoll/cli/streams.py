"""flask eventpoll add-tpp, streams: make streams, and print their state."""

import click

from eventpoll.access import door
from eventpoll.cli.output import TPP, as_json, close_output, show, table, told, with_service
from eventpoll.service import Service
from eventpoll.web import representations


@click.command("add-tpp")
@click.argument("tpp", type=TPP)
@as_json
@with_service
def add_tpp(service: Service, tpp: str, as_json: bool) -> None:
    """Make the stream of a TPP, and print its secret. The secret is printed only once."""
    secret = door.new_secret()
    with told():
        if not service.transmitter.configure(tpp, door.hash_of(secret), {}):
            raise click.ClickException(f"{tpp} has a stream already; its secret stays")
    close_output()
    lines = [f"{tpp}: the secret is {secret}", "It is not shown again."]
    show({"tpp": tpp, "secret": secret}, as_json, lambda: lines)


@click.command()
@as_json
@with_service
def streams(service: Service, as_json: bool) -> None:
    """Print the state of each stream."""
    transmitter = service.transmitter
    with told():
        rows = [
            representations.stream(status, transmitter.store, transmitter.set_profile)
            for status in service.transmitter.all_streams()
        ]
    columns = ("tpp", "pending", "in_flight", "parked", "oldest", "last_poll", "last_push")
    shown = []
    for row in rows:
        ages = [age for age in row["oldest_seconds"].values() if age is not None]
        shown.append({**row, "oldest": f"{max(ages):.0f} s" if ages else None})
    empty = "There are no streams. Make one: flask eventpoll add-tpp TPP"
    show({"streams": rows}, as_json, lambda: table(shown, columns, empty))
