"""The application, for who imports it from this folder: eventpoll/app.py makes it."""

from eventpoll.app import create_app

__all__ = ["create_app"]
