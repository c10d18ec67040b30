"""eventpoll hands Security Event Tokens (RFC 8417) to those who poll for them (RFC 8936, OBIE, WSO2).

The layers, each importing only from those below:

  wire     polling, express, bank, console, health, metrics, cli, shell, worker, inbox, check: who asks for something;
           openapi, bankcalls, pollcalls, calls, shapes: what there is to ask, told;
           answers, pages, refusals, profiles, events, schemas, views, errors: how it is read and answered;
           auth, passwords, tokens, jwks, certificate, rates: who asks, and how often; requestlog; service: the whole
  service  transmitter: the rules; waiting: held polls; secevent: a SET; jsontext: JSON, read strictly
  store    store: one method for each Lua command; records, failures: what comes out of it; subscription: wake-ups;
           intake: the inbox; clock: how far its clock can be trusted;
           commands, circuit, roundtrip, connection, embedded, private: the way there; keys
"""

import logging
from typing import TYPE_CHECKING

from flask import Blueprint, Flask

from eventpoll import answers, bank, cli, console, health, metrics, openapi, polling, requestlog
from eventpoll.service import Service

if TYPE_CHECKING:
    from config import Config

__all__ = ["__version__", "init_app"]

__version__ = "0.1.0"

log = logging.getLogger(__name__)


def init_app(app: Flask, config: "Config | None" = None) -> None:
    """Mount eventpoll in a Flask application, its own or a bank's.

    Without `config` the settings come from the environment, and from `app.config`, which wins. Raises
    config.ConfigError with a line for each mistake. Opens no connection yet.
    """
    if config is None:
        from config import Config

        config = Config.from_environ(over=app.config)
        for warning in config.warnings:
            log.warning("%s", warning)
    service = Service.build(config)
    app.extensions["eventpoll"] = service
    root = Blueprint("eventpoll", __name__, cli_group="eventpoll")
    answers.init(root)
    if config.log == "json":
        requestlog.init(root)
    cli.init(root)
    for part in (polling, bank, health, openapi, metrics, console):
        root.register_blueprint(part.blueprint(service))
    app.register_blueprint(root)
