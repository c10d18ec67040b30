"""The application, assembled."""

from flask import Flask

import eventpoll
from config import Config
from eventpoll import answers


def create_app(config: Config | None = None) -> Flask:
    """eventpoll as an application of its own. Raises config.ConfigError."""
    app = Flask(__name__, static_folder=None)
    eventpoll.init_app(app, config or Config.from_environ())
    answers.init_app(app)
    return app
