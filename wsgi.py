"""What gunicorn and flask load: `gunicorn wsgi:app`."""

import sys

from app import create_app
from eventpoll.settings import ConfigError

try:
    app = create_app()
except ConfigError as error:
    sys.exit(str(error))
