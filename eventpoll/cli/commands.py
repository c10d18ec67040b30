"""The list of the commands: flask eventpoll …."""

from flask import Blueprint

from eventpoll.cli.check import check_
from eventpoll.cli.keys import hash_password, keygen
from eventpoll.cli.sets import errors, peek, purge, push, requeue
from eventpoll.cli.streams import add_tpp, streams
from eventpoll.cli.worker import worker


def init(bp: Blueprint) -> None:
    """Add the commands; the blueprint's cli_group is their first word."""
    bp.cli.help = "Streams of Security Event Tokens: make them, fill them, see what became of each SET."
    for command in (add_tpp, push, streams, peek, errors, requeue, purge, worker, keygen, hash_password, check_):
        bp.cli.add_command(command)
