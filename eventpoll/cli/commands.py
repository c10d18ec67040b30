"""The group of all commands. The application, the console script and Flask's plugins use this one group."""

import click

from eventpoll import __version__
from eventpoll.cli.check import check_
from eventpoll.cli.keys import hash_password, keygen
from eventpoll.cli.sets import errors, peek, purge, push, requeue
from eventpoll.cli.streams import add_tpp, streams
from eventpoll.cli.worker import worker


@click.group("eventpoll")
@click.version_option(__version__, message="eventpoll %(version)s")
def group() -> None:
    """Make streams of Security Event Tokens, fill them, and follow each SET."""


for command in (add_tpp, push, streams, peek, errors, requeue, purge, worker, keygen, hash_password, check_):
    group.add_command(command)
