"""POST …/events: the same steps answer the polls of all profiles."""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any, cast

import flask
from flask import Blueprint, Request, Response
from gevent import monkey

from eventpoll.access.door import CLAIMED, Caller, Door
from eventpoll.api import metrics
from eventpoll.delivery.held_polls import TooManyHeld
from eventpoll.delivery.transmitter import Poll, TooManyJtis
from eventpoll.errors import Refused
from eventpoll.profiles.rfc8936 import Profile
from eventpoll.profiles.wso2 import Wso2
from eventpoll.service import Service
from eventpoll.store.errors import Denied, NoStream
from eventpoll.store.keys import TPP
from eventpoll.web import request_log
from eventpoll.web.body import want_json_answer
from eventpoll.web.response import Told

log = logging.getLogger(__name__)

BLUEPRINTS = ("eventpoll", "eventpoll.polling")
"""The blueprints that a poll belongs to, the outer one first."""

FAILED = "eventpoll.failed"
"""Key of a WSGI environ: the exception of a poll on the fast path. Flask's view raises it again."""


def blueprint(service: Service) -> Blueprint:
    """Return the blueprint of the poll endpoints: one path for each profile."""
    bp = Blueprint("polling", __name__)
    for profile in service.profiles:
        bp.add_url_rule(
            profile.path,
            endpoint=profile.name,
            view_func=partial(view, answerer(service, profile)),
            defaults={"profile": profile},
            methods=["POST"],
            provide_automatic_options=False,
            strict_slashes=not isinstance(profile, Wso2),
            merge_slashes=False,  # no redirect: receivers treat any status but 200 as an error
        )
    return bp


def endpoints(profiles: Iterable[Profile]) -> list[str]:
    """Return Flask's names of the poll endpoints."""
    return [f"{BLUEPRINTS[-1]}.{profile.name}" for profile in profiles]


def answerer(service: Service, profile: Profile) -> Callable[[Request], Told]:
    """Return the function that answers the polls of a profile and counts them."""
    return metrics.counted(profile.name, partial(poll, service, profile))


def view(answer: Callable[[Request], Told], profile: Profile) -> Response:
    """Answer a poll that comes through Flask, or raise the exception that the fast path left."""
    environ = flask.request.environ
    if FAILED in environ:
        raise environ.pop(FAILED)
    told = answer(flask.request)
    return Response(told.text, told.status, told.headers, content_type=told.content_type)


def poll(service: Service, profile: Profile, request: Request) -> Told:
    """Answer a poll: settle acknowledged SETs, take error reports, return SETs (RFC 8936 section 2.4).

    Raises Refused, Unavailable.
    """
    try:
        caller = service.door.poller(request, is_tpps=not isinstance(profile, Wso2))
    finally:
        request_log.note(request.environ, profile=profile.name, tpp=request.environ.get(CLAIMED))
    want_json_answer(request)
    members = profile.read(request)
    tpp = _tpp(service.door, profile, caller, request)  # before the members are checked, as WSO2 does
    asked = profile.poll(members)
    headers = service.rate.count(tpp) if service.rate is not None else {}
    try:
        answer = service.transmitter.poll(
            tpp,
            asked,
            profile=profile.letter,
            hold=profile.holds(asked) and may_hold(request.environ),
            proof=caller.proof,
            families=caller.families,
            unknown_is_empty=caller.polls and not caller.proof and tpp == caller.name,
            client=request.environ.get("gunicorn.socket") or request.environ.get("werkzeug.socket"),
        )
    except (NoStream, Denied):
        raise _unknown(service, profile, caller, tpp, request) from None
    except TooManyJtis as error:
        raise Refused("field_invalid", str(error), "ack") from None
    except TooManyHeld as error:
        raise _too_many(error, asked) from None
    request_log.note(request.environ, tpp=tpp, sets=len(answer.sets), acked=answer.acked, reported=answer.reported)
    text, status = profile.write(answer, asked)
    return Told(text, status, profile.content_type, headers)


def may_hold(environ: Mapping[str, Any]) -> bool:
    """Return whether the server can answer other requests while a poll is held: it has threads or gevent.

    A synchronous worker serves one request at a time: a held poll would keep the whole site waiting.
    """
    concurrent = bool(environ.get("wsgi.multithread")) or monkey.is_module_patched("socket")
    if not concurrent:
        _log_no_hold()
    return concurrent


@lru_cache(maxsize=1)
def _log_no_hold() -> None:
    """Log, once for each process, that polls are not held."""
    log.warning(
        "Polls are answered at once: this server handles one request at a time, and a held poll would block it. "
        "Run threads or gevent workers to hold polls."
    )


def _tpp(door: Door, profile: Profile, caller: Caller, request: Request) -> str:
    """Return the TPP whose stream the caller polls. Raises Refused."""
    if not isinstance(profile, Wso2):
        if not caller.polls:
            words = "the bank's token polls for nobody here: a TPP's credentials are wanted"
            raise door.forbidden(request, words, door.poll_scopes)
        return caller.name
    named = profile.client(request)
    if caller.bank:
        if not named:
            raise Refused("header_missing", f"Missing header {profile.client_header}", profile.client_header)
        if not TPP.fullmatch(named):
            raise Refused("header_invalid", "Invalid characters found in the request headers", profile.client_header)
        return named
    if named not in ("", caller.name):
        raise door.forbidden(request, f"{profile.client_header} names another TPP", door.bank_scopes)
    return caller.name


def _unknown(service: Service, profile: Profile, caller: Caller, tpp: str, request: Request) -> Refused:
    if not caller.bank:
        return service.door.revoked(request, caller)
    # WSO2's exact text, with its two dots and its final space.
    words = f"A client was not found for the client id : '{tpp}' in the database.. "
    return Refused("client_unknown", words, cast(Wso2, profile).client_header)


def _too_many(error: TooManyHeld, asked: Poll) -> Refused:
    where, code = ("stream", "too_many") if error.where == "stream" else ("service", "unavailable")
    settled = "; the acknowledgements in it hold" if asked.ack or asked.set_errs else ""
    return Refused(
        code,
        f"too many polls are held on this {where}: poll with returnImmediately{settled}",
        headers={"Retry-After": "1"},
    )
