"""What gunicorn and flask load in this folder: `gunicorn wsgi:app`. An installed package has eventpoll.wsgi instead."""

from eventpoll.wsgi import app

__all__ = ["app"]
