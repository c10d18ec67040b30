"""eventpoll keeps Security Event Tokens (RFC 8417) for the receivers that poll for them (RFC 8936, OBIE, WSO2).

The rooms (packages and modules), top layer first. Imports go downwards only (tests/promises/test_shape.py):

 __main__, gunicorn_conf > wsgi > app > console, cli > api > profiles > service > web, worker > access > delivery
  > sets > store > errors, settings > setting_readers > redis_url

This module imports the rooms only inside its functions. Python imports it before gunicorn_conf, and gunicorn_conf must
patch sockets before any other module imports them.
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
"""The parts that init_app mounts. Each part is one blueprint."""

log = logging.getLogger(__name__)


def init_app(app: Flask, settings: Config | None = None, url_prefix: str = "", parts: Collection[str] = PARTS) -> None:
    """Mount eventpoll in a Flask application, its own or a bank's. See docs/embedding.md.

    Without `settings`, the settings come from the environment and from `app.config`; `app.config` wins. `url_prefix` is
    the prefix of every path. `parts` are some of PARTS. This call opens no connection.

    Raises settings.ConfigError with a line for each mistake. Raises ValueError for an unknown part. Raises
    web.routes.RouteConflict if a route of the application and a route of eventpoll answer the same path. If such a
    route is added later, the line that adds it raises RouteConflict.
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
    """Queue one SET for a TPP in this process, and return its jti. docs/embedding.md has examples.

    Give `events` or `secevent`. `events` maps each event's type to its members: this function then mints and signs the
    SET. `claims` are any of jti, sub, sub_id, txn and toe. `secevent` is a SET that the bank signed, in compact
    serialisation. `scope` is the SET's family. A second push of the same jti queues nothing, so a push may be repeated.

    Raises ValueError if the event or the SET is wrong, and LookupError if the TPP has no stream. Raises ConnectionError
    if the store is unavailable or the stream is full. Whether the SET is queued is unknown then, and the push may be
    repeated.
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
