"""eventpoll as a Flask application of its own."""

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

import eventpoll
from eventpoll.api import refusals
from eventpoll.api.fast_path import FastPath
from eventpoll.settings import Config


def create_app(config: Config | None = None) -> Flask:
    """Return the application. Without `config`, the settings come from the environment. Raises ConfigError."""
    config = config or Config.from_environ()
    app = Flask(__name__, static_folder=None)
    if config.trusted_hosts:
        app.config["TRUSTED_HOSTS"] = list(config.trusted_hosts)
    eventpoll.init_app(app, config)
    around = app.extensions["eventpoll.around"]
    around.init(app)  # so that errors for unknown paths and methods have our shapes too
    refusals.init(app)
    if config.fast_paths:
        app.wsgi_app = FastPath(app, around)  # type: ignore[method-assign]
    if config.proxy_hops:
        hops = config.proxy_hops
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]
    return app
