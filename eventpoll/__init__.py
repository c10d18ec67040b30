"""eventpoll hands Security Event Tokens (RFC 8417) to those who poll for them (RFC 8936, OBIE, WSO2).

The rooms, from the top; imports go down only (tests/promises/test_shape.py):

 console, cli > api > profiles > service > web, worker > access > delivery > sets > store > errors, settings
  > setting_readers > redis_url

What the service consists of is imported in the functions: who wants the settings alone imports no more.
"""

import logging

from flask import Blueprint, Flask

from eventpoll.settings import Config

__all__ = ["__version__", "init_app"]

__version__ = "0.1.0"

log = logging.getLogger(__name__)


def init_app(app: Flask, config: Config | None = None) -> None:
    """Mount eventpoll in a Flask application, its own or a bank's.

    Without `config` the settings come from the environment, and from `app.config`, which wins. Raises
    settings.ConfigError with a line for each mistake. Opens no connection yet.
    """
    from eventpoll.api import bank, health, metrics, openapi, poll, refusals, well_known
    from eventpoll.cli import commands
    from eventpoll.console import views
    from eventpoll.profiles import all_profiles
    from eventpoll.service import Service
    from eventpoll.web.around import Around

    if config is None:
        config = Config.from_environ(over=app.config)
        for warning in config.warnings:
            log.warning("%s", warning)
    service = Service.build(config, all_profiles(config.wso2_empty_status))
    app.extensions["eventpoll"] = service
    root = Blueprint("eventpoll", __name__, cli_group="eventpoll")
    around = app.extensions["eventpoll.around"] = Around(log=config.log == "json")
    around.init(root)
    refusals.init(root)
    commands.init(root)
    for part in (poll, bank, health, well_known, openapi, metrics, views):
        root.register_blueprint(part.blueprint(service))
    app.register_blueprint(root)
