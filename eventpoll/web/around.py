"""The steps before and after every request, the same in Flask's dispatch and on the fast path of polls."""

from collections.abc import Callable
from typing import Any

import flask
from flask import Flask, Request, Response, request
from flask.sansio.scaffold import Scaffold

from eventpoll.web import request_log
from eventpoll.web.response import finish, refuse_cross_site

SIGNALS = (
    flask.appcontext_pushed,
    flask.appcontext_popped,
    flask.appcontext_tearing_down,
    flask.request_started,
    flask.request_finished,
    flask.request_tearing_down,
)


class Around:
    """The steps before and after each request. A step in this list also runs for polls on the fast path."""

    def __init__(self, *, log: bool) -> None:
        self.before: list[Callable[[dict[str, Any]], None]] = [refuse_cross_site]
        self.after: list[Callable[[Request, int], None]] = []
        if log:
            self.before.insert(0, request_log.begin)
            self.after.append(request_log.write)

    def init(self, scaffold: Scaffold) -> None:
        """Register the steps as hooks of a blueprint or an application."""
        scaffold.before_request(self._begin)
        scaffold.after_request(self._end)

    def complete(self, app: Flask, blueprints: tuple[str, ...]) -> bool:
        """Return whether nothing but these steps runs around a request of these blueprints.

        Return False if the application has a hook, a preprocessor of URLs or a receiver of Flask's signals that is not
        ours. Such a request must take Flask's whole dispatch.
        """
        if app.teardown_appcontext_funcs or any(signal.receivers for signal in SIGNALS):
            return False
        for scope in (None, *blueprints):
            if app.url_value_preprocessors.get(scope) or app.teardown_request_funcs.get(scope):
                return False
            if any(hook != self._begin for hook in app.before_request_funcs.get(scope, ())):
                return False
            if any(hook != self._end for hook in app.after_request_funcs.get(scope, ())):
                return False
        return True

    def _begin(self) -> None:
        for step in self.before:
            step(request.environ)

    def _end(self, response: Response) -> Response:
        finish(response)
        for step in self.after:
            step(request, response.status_code)
        return response
