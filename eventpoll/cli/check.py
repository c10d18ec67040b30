"""flask eventpoll check: find settings, store options and keys that would do harm in production."""

import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from eventpoll.access.passwords import LEAST
from eventpoll.cli.output import as_json, show, with_service
from eventpoll.service import Service
from eventpoll.store.clock import Clock, distance
from eventpoll.store.errors import NewerLayout, NoStream, Unavailable
from eventpoll.store.records import Facts
from eventpoll.store.redis.embedded import SHIPPED

OLDEST_REDIS = (6, 2)
SKEW_SECONDS = 2.0
DEMO_TPP = "demo-tpp"
STRENGTH = {"no": 0, "everysec": 1, "always": 2}


@dataclass(frozen=True)
class Finding:
    """One finding. An `error` loses SETs or stops the service, a `warning` needs attention, `ok` is right."""

    level: str
    what: str


def findings(service: Service, appendfsync: str) -> Iterator[Finding]:
    """Yield every finding; `appendfsync` is the weakest value that the store may have."""
    yield from _settings(service)
    try:
        yield from _store(service, appendfsync)
    except Unavailable as error:
        yield Finding("error", f"the store is not available: {error}")


def _store(service: Service, appendfsync: str) -> Iterator[Finding]:
    store = service.transmitter.store
    asked = time.time()
    found = store.facts()
    told = time.time()
    for facts in found:
        yield from _server(facts, appendfsync)
        if store.is_embedded:
            yield _program(facts)
        yield from _clock(store.clock, facts.clock, distance(facts.clock, asked, told))
    store.clock.look()
    if store.clock.ahead > store.clock.most:
        yield Finding(
            "warning",
            f"the store's clock has gone {store.clock.ahead:.0f} s further than the time in which the service ran:"
            " for as long nothing expires by it; if it is wrong, set it right before",
        )
    try:
        store.ping()
    except Unavailable as error:
        yield Finding("error", f"the store takes no writes: {error}")
    try:
        store.check_layout()
    except NewerLayout as error:
        yield Finding("error", str(error))
    try:
        store.status(DEMO_TPP)
        yield Finding("warning", f"there is a stream {DEMO_TPP}: remove it (DELETE /streams/{DEMO_TPP}?force=true)")
    except NoStream:
        pass
    if dead := store.dead_entries():
        yield Finding("warning", f"{dead} bad entries in eventpoll:inbox:dead: look at their reason, then remove them")


def _server(facts: Facts, appendfsync: str) -> Iterator[Finding]:
    version = tuple(int(part) for part in re.findall(r"\d+", facts.version)[:2])
    if version < OLDEST_REDIS:
        yield Finding("error", f"Redis {facts.version} is too old: 6.2 or later is wanted")
    else:
        yield Finding("ok", f"{facts.name} {facts.version}")
    if not facts.settings:
        yield Finding("warning", "CONFIG is not allowed: persistence and eviction could not be looked at")
    else:
        yield from _store_settings(facts.settings, appendfsync)


def _clock(clock: Clock, told: float, skew: float) -> Iterator[Finding]:
    if mistake := clock.mistake(told, skew):
        yield Finding("error", mistake)
    elif abs(skew) > SKEW_SECONDS:
        yield Finding(
            "warning", f"the store's clock is {skew:+.1f} s from this machine's: iat and pushed_at will differ"
        )


def _program(facts: Facts) -> Finding:
    """Return a finding that names the program of the embedded store, and says whose updates fix it."""
    runs = f"the embedded store runs on {facts.program}"
    if SHIPPED not in Path(facts.program).parts:
        return Finding("ok", f"{runs}: your system's updates mend it, once all that uses the store was stopped")
    return Finding(
        "warning",
        f"{runs}, of a package that is meant for development and testing: only a new release of eventpoll mends it. "
        "Set REDIS_URL, or let your system's server go on with the files: see docs/operations.md",
    )


def _settings(service: Service) -> Iterator[Finding]:
    for warning in service.warnings:
        yield Finding("warning", warning)
    minter = service.transmitter.minter
    if minter.keys is None:
        yield Finding("warning", "EVENTPOLL_SIGNING_KEYS is not set: only SETs signed by the bank can be pushed")
    else:
        yield Finding("ok", f"{len(minter.keys.keys)} signing keys; the first, {minter.keys.keys[0].kid}, signs")
        if minter.issuer is None:
            yield Finding("error", "EVENTPOLL_ISSUER is not set: nothing can be minted")
    if minter.issuer is not None and not minter.issuer.startswith("https://"):
        yield Finding("warning", f"EVENTPOLL_ISSUER {minter.issuer!r} is no https URL: receivers may refuse the SETs")
    if service.door.bank is None:
        yield Finding("warning", "EVENTPOLL_BANK_USERNAME is not set: the bank cannot call over HTTP")
    elif service.door.bank.password.short:
        yield Finding(
            "warning",
            f"EVENTPOLL_BANK_PASSWORD is short: use {LEAST} random characters or more, "
            "or their hash (flask eventpoll hash-password)",
        )


def _store_settings(settings: dict[str, str], appendfsync: str) -> Iterator[Finding]:
    if settings.get("appendonly") != "yes":
        yield Finding("error", "appendonly is not yes: a crash of the store loses SETs")
    elif STRENGTH[settings["appendfsync"]] < STRENGTH[appendfsync]:
        yield Finding("error", f"appendfsync is {settings['appendfsync']}, weaker than {appendfsync}")
    else:
        yield Finding("ok", f"append-only file, appendfsync {settings['appendfsync']}")
    policy = settings.get("maxmemory-policy", "noeviction")
    if policy != "noeviction" and settings.get("maxmemory") != "0":
        yield Finding("error", f"maxmemory-policy is {policy}: a full store drops SETs")
    elif policy != "noeviction":
        yield Finding("warning", f"maxmemory-policy is {policy}: set noeviction before any maxmemory")


@click.command("check")
@click.option(
    "--appendfsync",
    type=click.Choice(list(STRENGTH)),
    default="everysec",
    show_default=True,
    help="The least that the store must do.",
)
@as_json
@with_service
def check_(service: Service, appendfsync: str, as_json: bool) -> None:
    """Report what would do harm in production. The exit code is 1 if something would lose SETs or stop the service."""
    found = list(findings(service, appendfsync))
    rows = [{"level": each.level, "what": each.what} for each in found]
    show({"findings": rows}, as_json, lambda: [f"{row['level']:<8}{row['what']}" for row in rows])
    if any(each.level == "error" for each in found):
        sys.exit(1)
