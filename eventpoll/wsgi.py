"""The application that a WSGI server loads: `gunicorn --config python:eventpoll.gunicorn_conf eventpoll.wsgi:app`."""

import sys

from eventpoll.app import create_app
from eventpoll.settings import ConfigError

try:
    app = create_app()
except ConfigError as error:
    sys.exit(str(error))
