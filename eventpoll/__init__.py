"""eventpoll keeps Security Event Tokens (RFC 8417) for the receivers that poll for them (RFC 8936, OBIE, WSO2).

The rooms, from the top; imports go down only (tests/promises/test_shape.py):

 __main__, gunicorn_conf > wsgi > app > console, cli > api > profiles > service > web, worker > access > delivery
  > sets > store > errors, settings > setting_readers > redis_url

This module imports nothing of them before a function is called: gunicorn_conf must be imported before any socket is.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask import Flask

    from eventpoll.settings import Config

__version__ = "0.1.0"
__all__ = ["PARTS", "__version__", "init_app", "push"]

PARTS = ("polling", "bank", "health", "well_known", "openapi", "metrics", "console")
"""The parts that init_app mounts; each is one blueprint."""

log = logging.getLogger(__name__)


def init_app(app: Flask, settings: Config | None = None, url_prefix: str = "", parts: Collection[str] = PARTS) -> None:
    """Mount eventpoll in a Flask application, its own or a bank's; docs/embedding.md is the page.

    Without `settings` they come from the environment, and from `app.config`, which wins. `url_prefix` is put before
    every path. `parts` are some of PARTS. Opens no connection yet.

    Raises settings.ConfigError with a line for each mistake, and web.routes.RouteConflict where a route of the
    application and one of eventpoll's answer the same path: here, or later, in the line that adds such a route.
    """
    from flask import Blueprint

    from eventpoll.api import bank, health, metrics, openapi, poll, refusals, well_known
    from eventpoll.cli import commands
    from eventpoll.console import views
    from eventpoll.profiles import all_profiles
    from eventpoll.service import Service
    from eventpoll.settings import Config
    from eventpoll.web import routes
    from eventpoll.web.around import Around

    modules = dict(zip(PARTS, (poll, bank, health, well_known, openapi, metrics, views), strict=True))
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"unknown parts {', '.join(sorted(unknown))}: the parts are {', '.join(PARTS)}")
    if settings is None:
        settings = Config.from_environ(over=app.config)
        for warning in settings.warnings:
            log.warning("%s", warning)
    prefix = url_prefix.rstrip("/")
    service = Service.build(settings, all_profiles(settings.wso2_empty_status), prefix)
    app.extensions["eventpoll"] = service
    root = Blueprint("eventpoll", __name__)
    around = app.extensions["eventpoll.around"] = Around(log=settings.log == "json")
    around.init(root)
    refusals.init(root)
    for part in PARTS:
        if part in parts:
            root.register_blueprint(modules[part].blueprint(service))
    app.register_blueprint(root, url_prefix=prefix or None)
    app.cli.add_command(commands.group)
    routes.keep_apart(app.url_map, root.name)


def push(
    app: Flask,
    tpp: str,
    events: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    secevent: str | None = None,
    scope: str = "",
    **claims: Any,
) -> str:
    """Queue one SET for a TPP in this process, and return its jti; docs/embedding.md has examples.

    `events` maps each event's type to its members: the SET is minted and signed here, with the `claims` given of jti,
    sub, sub_id, txn and toe. Or `secevent` is a SET as the bank signed it, in compact serialisation. `scope` is the
    SET's family. The same jti again queues nothing, so that a push may be repeated.

    Raises ValueError where the event or the SET is wrong, LookupError where the TPP has no stream, and ConnectionError
    where the store is away or the stream is full: nothing is known of the push then, and it may be repeated.
    """
    import json

    from eventpoll.delivery.transmitter import Conflict
    from eventpoll.errors import Refused
    from eventpoll.sets.event import BadSecevent, read_event, read_line
    from eventpoll.store.errors import Full, NoStream, StoreError
    from eventpoll.store.keys import check_tpp

    if (events is None) == (secevent is None):
        raise ValueError("give events or secevent, one of them")
    try:
        if secevent is not None:
            if claims:
                raise ValueError(f"{', '.join(claims)}: a signed SET has its own claims")
            item = read_line(secevent.encode(), scope)
        else:
            item = read_event(json.dumps({"events": events, **claims, **({"scope": scope} if scope else {})}).encode())
        jti, _ = app.extensions["eventpoll"].transmitter.push(check_tpp(tpp), item)
    except (Refused, BadSecevent, Conflict) as error:
        raise ValueError(str(error)) from None
    except NoStream:
        raise LookupError(f"{tpp} has no stream: make one with eventpoll add-tpp {tpp}") from None
    except Full:
        raise ConnectionError(f"the stream of {tpp} holds as many SETs as it may: try again later") from None
    except StoreError as error:
        raise ConnectionError(f"the store is not available: {error}") from error
    return str(jti)
