"""The express way of a poll: to its answer without Flask's dispatch, which costs more than the poll does.

Only an answer goes out by it. Whatever goes wrong is handed to Flask, whose view raises it: so there is one place
where refusals are told. For an application that is ours alone; a bank's own has hooks, which polls must pass.
"""

from collections.abc import Iterable
from typing import Any

from flask import Flask
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.wsgi import get_host

from eventpoll.api import poll as api_poll
from eventpoll.web import request_log, response


class Express:
    """A WSGI application in front of a Flask application's own."""

    def __init__(self, app: Flask, *, logs: bool) -> None:
        self._app, self._logs = app, logs
        self._flask = app.wsgi_app
        service = app.extensions["eventpoll"]
        self._polls = {profile.path: api_poll.answerer(service, profile) for profile in service.profiles}
        self._hosts: list[str] | None = app.config["TRUSTED_HOSTS"]
        self._hooks = _hooks(app)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a poll; leave the rest to Flask."""
        poll = self._polls.get(environ["PATH_INFO"])
        if poll is None or environ["REQUEST_METHOD"] != "POST" or _hooks(self._app) != self._hooks:
            return self._flask(environ, start_response)
        if self._logs:
            request_log.begin(environ)
        try:
            if self._hosts is not None:
                get_host(environ, self._hosts)  # raises SecurityError, as it does in Flask
            response.refuse_cross_site(environ)
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
        request_log.write(request, told.status)
        return [told.text]


def _hooks(app: Flask) -> int:
    """How many functions an application calls around a request: whoever adds one means it for polls too."""
    tables = (app.before_request_funcs, app.after_request_funcs, app.teardown_request_funcs)
    return sum(len(functions) for table in tables for functions in table.values())
