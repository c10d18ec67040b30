"""The application, assembled."""

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

import eventpoll
from eventpoll.api import refusals
from eventpoll.api.fast_path import Express
from eventpoll.settings import Config
from eventpoll.web import request_log


def create_app(config: Config | None = None) -> Flask:
    """eventpoll as an application of its own. Raises config.ConfigError."""
    config = config or Config.from_environ()
    app = Flask(__name__, static_folder=None)
    if config.trusted_hosts:
        app.config["TRUSTED_HOSTS"] = list(config.trusted_hosts)
    eventpoll.init_app(app, config)
    refusals.init_app(app)
    if config.log == "json":
        request_log.init(app)
    app.wsgi_app = Express(app, logs=config.log == "json")  # type: ignore[method-assign]
    if config.proxy_hops:
        hops = config.proxy_hops
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]
    return app
