"""The fast path of polls: it answers them before Flask's request dispatch, which takes longer than the poll itself.

Only answers leave by the fast path. A poll that fails goes to Flask, whose view raises the error again, so that one
place turns errors into answers. The fast path serves our own application only; in a bank's application polls pass the
bank's hooks.
"""

from collections.abc import Iterable
from typing import Any

from flask import Flask
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.wsgi import get_host

from eventpoll.api import poll as api_poll
from eventpoll.web import response
from eventpoll.web.around import Around


class FastPath:
    """A WSGI application in front of a Flask application: it answers polls and passes on every other request."""

    def __init__(self, app: Flask, around: Around) -> None:
        self._app, self._around = app, around
        self._flask = app.wsgi_app
        service = app.extensions["eventpoll"]
        self._polls = {profile.path: api_poll.answerer(service, profile) for profile in service.profiles}
        self._hosts: list[str] | None = app.config["TRUSTED_HOSTS"]
        self._views = {name: app.view_functions[name] for name in api_poll.endpoints(service.profiles)}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a poll; leave everything else to Flask."""
        poll = self._polls.get(environ["PATH_INFO"])
        if poll is None or environ["REQUEST_METHOD"] != "POST" or not self._alone():
            return self._flask(environ, start_response)
        try:
            if self._hosts is not None:
                get_host(environ, self._hosts)  # raises SecurityError, as in Flask
            for before in self._around.before:
                before(environ)
            request = self._app.request_class(environ)
            told = poll(request)
        except Exception as error:
            environ[api_poll.FAILED] = error
            return self._flask(environ, start_response)
        start_response(
            f"{told.status} {HTTP_STATUS_CODES[told.status].upper()}",
            [
                ("Content-Type", told.content_type),
                ("Content-Length", str(len(told.text))),
                ("x-fapi-interaction-id", response.interaction_id(environ)),
                *response.HEADERS,
                *told.headers.items(),
            ],
        )
        for after in self._around.after:
            after(request, told.status)
        return [told.text]

    def _alone(self) -> bool:
        """Return whether only our own steps surround our views: no other hook, no signal receiver, no other view."""
        views = self._app.view_functions
        return self._around.complete(self._app, api_poll.BLUEPRINTS) and all(
            views[name] is view for name, view in self._views.items()
        )
