"""What the calls of the bank share: who may make them, and a jti in their path."""

from flask import request
from werkzeug.routing import BaseConverter

from eventpoll.access.door import CLAIMED
from eventpoll.service import Service
from eventpoll.web import request_log


def let_in(service: Service) -> None:
    """Let the bank pass. Raises Refused: 401 to strangers, 403 to TPPs."""
    try:
        caller = service.door.caller(request, service.door.bank_scopes)
    finally:
        request_log.note(request.environ, caller=request.environ.get(CLAIMED))
    if not caller.bank:
        words = "this is the bank's to do, and these are a TPP's credentials"
        raise service.door.forbidden(request, words, service.door.bank_scopes)


class Jti(BaseConverter):
    """Any jti in a path, slashes and all: Werkzeug's own path converter takes none that begins with one."""

    regex = ".+?"
    part_isolating = False
