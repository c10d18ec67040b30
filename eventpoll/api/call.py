"""Shared by the bank's calls: the check that the bank makes them, and the converter for a jti in a path."""

from flask import request
from werkzeug.routing import BaseConverter

from eventpoll.access.door import CLAIMED
from eventpoll.service import Service
from eventpoll.web import request_log


def let_in(service: Service) -> None:
    """Check that the bank makes this request. Raises Refused: 401 to unknown callers, 403 to TPPs."""
    try:
        caller = service.door.caller(request, service.door.bank_scopes)
    finally:
        request_log.note(request.environ, caller=request.environ.get(CLAIMED))
    if not caller.bank:
        words = "this is the bank's to do, and these are a TPP's credentials"
        raise service.door.forbidden(request, words, service.door.bank_scopes)


class Jti(BaseConverter):
    """Match any jti in a path, slashes included. Werkzeug's own path converter refuses a leading slash."""

    regex = ".+?"
    part_isolating = False
