"""What the calls of the bank share: who may make them, and a jti in their path."""

from flask import request
from werkzeug.routing import BaseConverter

from eventpoll.service import Service
from eventpoll.web import request_log


def let_in(service: Service) -> None:
    """Raises Refused unless it is the bank that asks: 401 to strangers, 403 to TPPs."""
    caller = service.door.caller(request, service.door.bank_scopes)
    request_log.note(request.environ, caller=caller.name)
    if not caller.bank:
        service.prove(caller, request)
        words = "this is the bank's to do, and these are a TPP's credentials"
        raise service.door.forbidden(request, words, service.door.bank_scopes)


class Jti(BaseConverter):
    """Any jti in a path, slashes and all: Werkzeug's own path converter takes none that begins with one."""

    regex = ".+?"
    part_isolating = False
