"""POST …/events: one way to answer for all profiles."""

from collections.abc import Callable
from functools import cache, partial
from typing import cast

import flask
from flask import Blueprint, Request, Response

from eventpoll import metrics, profiles, requestlog
from eventpoll.auth import Caller, Door
from eventpoll.errors import Refused
from eventpoll.failures import Denied, NoStream
from eventpoll.profiles import Profile, Told, Wso2
from eventpoll.schemas import TPP
from eventpoll.service import Service
from eventpoll.transmitter import Poll, TooManyJtis
from eventpoll.waiting import TooManyHeld

FAILED = "eventpoll.failed"
"""In an environ: what went wrong with a poll on its express way, for Flask to tell."""


def blueprint(service: Service) -> Blueprint:
    """The poll endpoints, a path for each profile."""
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
            merge_slashes=False,  # no redirect: receivers take what is not 200 for an error
        )
    return bp


def answerer(service: Service, profile: Profile) -> Callable[[Request], Told]:
    """What answers the polls of a profile, and counts them."""
    return metrics.counted(profile.name, partial(poll, service, profile))


def view(answer: Callable[[Request], Told], profile: Profile) -> Response:
    """A poll by Flask's way."""
    environ = flask.request.environ
    if FAILED in environ:
        raise environ.pop(FAILED)
    told = answer(flask.request)
    return Response(told.text, told.status, told.headers, content_type=told.content_type)


def poll(service: Service, profile: Profile, request: Request) -> Told:
    """Poll, acknowledge, report errors: RFC 8936 section 2.4. Raises Refused, Unavailable."""
    caller = service.door.caller(request, is_tpps=not isinstance(profile, Wso2))
    requestlog.note(request.environ, profile=profile.name, tpp=caller.name)
    prove = cache(partial(service.prove, caller, request))  # at most once: it is a round trip
    try:
        profiles.want_json_answer(request)
        members = profile.read(request, prove)
        tpp = _tpp(service.door, profile, caller, request)  # before the members are judged, as WSO2 does
        asked = profile.poll(members)
    except Refused as error:
        if error.code != "unauthenticated":
            prove()  # a caller with wrong credentials is told nothing but that
        raise
    headers: dict[str, str] = {}
    if service.rate is not None:
        prove()  # nobody else uses up what a TPP may ask
        headers = service.rate.count(tpp)
    try:
        answer = service.transmitter.poll(
            tpp,
            asked,
            profile=profile.letter,
            hold=profile.holds(asked),
            proof=caller.proof,
            families=caller.families,
            unknown_is_empty=caller.polls and not caller.proof and tpp == caller.name,
            client=request.environ.get("gunicorn.socket") or request.environ.get("werkzeug.socket"),
        )
    except (NoStream, Denied):
        raise _unknown(service, profile, caller, tpp, request) from None
    except TooManyJtis as error:
        prove()
        raise Refused("field_invalid", str(error), "ack") from None
    except TooManyHeld as error:
        service.door.proven(request, caller)
        raise _too_many(error, asked) from None
    service.door.proven(request, caller)
    requestlog.note(request.environ, tpp=tpp, sets=len(answer.sets), acked=answer.acked, reported=answer.reported)
    text, status = profile.write(answer, asked)
    return Told(text, status, profile.content_type, headers)


def _tpp(door: Door, profile: Profile, caller: Caller, request: Request) -> str:
    """Whose stream is polled. Raises Refused."""
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
        return service.door.denied(request, caller.name)
    # WSO2's own words, its two dots and its last blank included.
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
