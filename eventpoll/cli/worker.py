"""flask eventpoll worker: mint the events of the inbox and remove expired SETs, outside of requests."""

import logging
import signal
import sys
import time

import click

from eventpoll import __version__
from eventpoll.cli.output import with_service
from eventpoll.service import Service
from eventpoll.store.errors import NewerLayout, Unavailable
from eventpoll.store.inbox import Intake
from eventpoll.worker.inbox import Inbox

log = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0
PAUSE_SECONDS = 2.0


@click.command()
@click.option("--once", is_flag=True, help="Until the inbox is empty, then stop.")
@with_service
def worker(service: Service, once: bool) -> None:
    """Mint the events of the inbox, and remove expired SETs, until SIGTERM or SIGINT.

    Any number of workers may run. Without signing keys or an issuer, the worker does not read the inbox.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    for warning in service.warnings:
        log.warning("%s", warning)
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, _: stopping.append(signum))
    if not once:
        click.echo(f"eventpoll {__version__}, worker.", err=True)
    try:
        service.transmitter.store.check_layout()
    except NewerLayout as error:
        raise click.ClickException(str(error)) from None
    except Unavailable:
        pass  # the loop below tries again
    minter = service.transmitter.minter
    minting = minter.keys is not None and minter.issuer is not None
    if not minting:
        click.echo(
            "Minting is off: EVENTPOLL_SIGNING_KEYS or EVENTPOLL_ISSUER is not set. The inbox is left alone.", err=True
        )
    intake = Intake(service.transmitter.store)
    inbox = Inbox(service.transmitter, intake)
    joined, swept = False, 0.0
    while not stopping:
        try:
            if minting and not joined:
                intake.join()
                joined = True
            if time.monotonic() - swept >= SWEEP_SECONDS or not swept:
                service.transmitter.sweep_all()
                swept = time.monotonic()
            service.transmitter.store.clock.check()  # with a wrong clock, entries taken here could not be pushed
            worked = inbox.step(0 if once else inbox.wait_ms) if minting else 0
        except Unavailable as error:
            if once:
                raise click.ClickException(f"the store is not available: {error}") from None
            click.echo(f"The store is not available: {error}. Trying again.", err=True)
            joined = False  # the store may come back empty, without the consumer group
            time.sleep(PAUSE_SECONDS)
            continue
        if once and not worked:
            return
        if not minting:
            time.sleep(PAUSE_SECONDS)
