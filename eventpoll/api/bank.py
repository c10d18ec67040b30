"""The bank's calls: manage streams, push SETs, and look up the state of each SET."""

import hashlib
import json
import re
import uuid
from typing import Any

from flask import Blueprint, Response, jsonify, request, stream_with_context

from eventpoll.access import door
from eventpoll.api.batch import BATCH_BYTES, read_lines, result_lines
from eventpoll.api.call import Jti, let_in
from eventpoll.api.refusals import refuse
from eventpoll.delivery.batch import push_lines
from eventpoll.delivery.refusals import REFUSALS, refusal
from eventpoll.delivery.stream_settings import SecretSchema, StreamSchema
from eventpoll.delivery.transmitter import Transmitter
from eventpoll.errors import Refused
from eventpoll.profiles.wso2 import WSO2_BASES, Wso2, wso2_field, wso2_object
from eventpoll.service import Service
from eventpoll.sets.event import Event, Signed, read_event
from eventpoll.sets.json import BODY_BYTES, Marked, encodes, refuse_mark
from eventpoll.sets.schema import load
from eventpoll.store.errors import NoStream
from eventpoll.store.keys import check_tpp
from eventpoll.store.records import FAMILIES, STATES
from eventpoll.web import representations, request_log
from eventpoll.web.body import body, want_type

STREAM, SECRET = StreamSchema(), SecretSchema()
BAD_RESOURCE = re.compile(r"[!@#$%&*()'+,./:;<=>?\[\]^_`{|}]")

JSON, SECEVENT = "application/json", "application/secevent+jwt"

LISTED, MOST_LISTED = 100, 1000


def blueprint(service: Service) -> Blueprint:
    """Return the blueprint of the bank's endpoints."""
    bp = Blueprint("bank", __name__)
    calls = Calls(service)

    @bp.before_request
    def _only_the_bank() -> None:
        request_log.note(
            request.environ, **{name: value for name, value in (request.view_args or {}).items() if name == "tpp"}
        )
        let_in(service)

    bp.record_once(lambda state: state.app.url_map.converters.update(eventpoll_jti=Jti))

    def route(method: str, path: str, view: Any, **defaults: Any) -> None:
        endpoint = f"{view.__name__}{len(bp.deferred_functions)}"
        options: dict[str, Any] = {"defaults": defaults, "provide_automatic_options": False, "merge_slashes": False}
        bp.add_url_rule(path, endpoint, view, methods=[method], **options)

    route("GET", "/streams", calls.streams)
    route("PUT", "/streams/<tpp>", calls.put_stream)
    route("GET", "/streams/<tpp>", calls.get_stream)
    route("DELETE", "/streams/<tpp>", calls.delete_stream)
    route("POST", "/streams/<tpp>/secret", calls.post_secret)
    route("POST", "/streams/<tpp>/sets", calls.push)
    route("POST", "/streams/<tpp>/sets:batch", calls.batch)
    route("GET", "/streams/<tpp>/sets", calls.get_sets)
    route("GET", "/streams/<tpp>/sets/<eventpoll_jti:jti>", calls.get_set)
    route("DELETE", "/streams/<tpp>/sets/<eventpoll_jti:jti>", calls.delete_set)
    route("POST", "/streams/<tpp>/sets/<eventpoll_jti:jti>/requeue", calls.requeue)
    for profile in service.profiles:
        if isinstance(profile, Wso2):
            route("POST", f"{WSO2_BASES[profile.generation]}/create-events", calls.create_events, profile=profile)

    for error in REFUSALS:
        bp.register_error_handler(error, lambda raised: refuse(refusal(raised)))
    return bp


class Calls:
    """The views. They share the transmitter of the service."""

    def __init__(self, service: Service) -> None:
        self.transmitter: Transmitter = service.transmitter

    def _view(self, status: Any) -> dict[str, Any]:
        return representations.stream(status, self.transmitter.store, self.transmitter.set_profile)

    def streams(self) -> Response:
        """List all streams by name, a page at a time (GET /streams?limit&after)."""
        limit = _limit()
        found = self.transmitter.streams(request.args.get("after", ""), limit + 1)
        more = {"next": found[limit - 1].tpp} if len(found) > limit else {}
        return jsonify({"streams": [self._view(status) for status in found[:limit]], **more})

    def put_stream(self, tpp: str) -> tuple[Response, int]:
        """Make a stream or change its settings (PUT /streams/{tpp})."""
        check_tpp(tpp)
        settings = load(STREAM, _optional_body())
        if settings.get("redeliver_after") is not None:
            settings["redeliver_after"] = round(settings["redeliver_after"] * 1000)
        secret = door.new_secret()
        texts = {name: "" if value is None else str(value) for name, value in settings.items()}
        created = self.transmitter.configure(tpp, door.hash_of(secret), texts)
        view = self._view(self.transmitter.status(tpp))
        return (jsonify({"tpp": tpp, "secret": secret, **view}), 201) if created else (jsonify(view), 200)

    def get_stream(self, tpp: str) -> Response:
        """Return the counts and the settings of one stream (GET /streams/{tpp})."""
        return jsonify(self._view(self.transmitter.status(check_tpp(tpp))))

    def delete_stream(self, tpp: str) -> tuple[str, int]:
        """Delete a stream; with `force=true` also one that still has SETs (DELETE /streams/{tpp}?force=true)."""
        self.transmitter.store.forget(check_tpp(tpp), force=request.args.get("force") == "true")
        return "", 204

    def post_secret(self, tpp: str) -> Response:
        """Give a stream a new secret (POST /streams/{tpp}/secret)."""
        check_tpp(tpp)
        grace = load(SECRET, _optional_body())["grace_seconds"]
        secret = door.new_secret()
        self.transmitter.store.rotate(tpp, door.hash_of(secret), grace)
        return jsonify({"tpp": tpp, "secret": secret, "grace_seconds": grace})

    def push(self, tpp: str) -> tuple[Response | str, int]:
        """Push events to mint, or a SET that the bank signed (POST /streams/{tpp}/sets; RFC 8935 section 2)."""
        check_tpp(tpp)
        kind = request.mimetype
        if kind not in (JSON, SECEVENT):
            raise Refused("media_type", f"the Content-Type must be {JSON} or {SECEVENT}", "Content-Type")
        want_type(request, kind)
        if kind == SECEVENT:
            try:
                secevent = body(request)
                refuse_mark(secevent)
                text = secevent.decode("ascii").strip()
            except Marked as error:
                raise Refused("malformed", str(error)) from None
            except UnicodeDecodeError:
                raise Refused("malformed", "a SET is three base64url parts with dots between") from None
            self.transmitter.push(tpp, Signed(text, _scope()))
            return "", 202
        jti, new = self.transmitter.push(tpp, read_event(body(request)))
        return jsonify({"jti": jti}), 201 if new else 200

    def batch(self, tpp: str) -> Response:
        """Push each line of the body and answer with a line for each, while lines still arrive.

        POST /streams/{tpp}/sets:batch.
        """
        check_tpp(tpp)
        want_type(request, "application/x-ndjson")
        if (request.content_length or 0) > BATCH_BYTES:
            raise Refused("too_large", f"a batch has at most {BATCH_BYTES} bytes")
        # Raise NoStream or Unavailable here: once the first line is answered, the status cannot change any more.
        self.transmitter.store.status(tpp)
        # Without Werkzeug's limit: read_lines counts the bytes, and result_lines reports too many as a last line.
        request.max_content_length = None
        results = push_lines(self.transmitter, tpp, read_lines(request.stream, request.content_length or 0), _scope())
        return Response(stream_with_context(result_lines(results)), content_type="application/x-ndjson")

    def get_sets(self, tpp: str) -> Response:
        """List the SETs in one state, oldest first (GET /streams/{tpp}/sets?state&limit&after)."""
        check_tpp(tpp)
        state, limit = request.args.get("state", "pending"), _limit()
        if state not in STATES:
            raise Refused("field_invalid", f"state: one of {', '.join(STATES)}", "state")
        found = self.transmitter.peek(tpp, state, limit + 1, request.args.get("after", ""))
        more = {"next": found[limit - 1].jti} if len(found) > limit else {}
        return jsonify({"sets": [representations.secevent(record) for record in found[:limit]], **more})

    def get_set(self, tpp: str, jti: str) -> Response:
        """Return one SET with its history (GET /streams/{tpp}/sets/{jti})."""
        self.transmitter.sweep(check_tpp(tpp))
        return jsonify(representations.whole_secevent(self.transmitter.store.find(tpp, jti)))

    def delete_set(self, tpp: str, jti: str) -> tuple[str, int]:
        """Discard a parked SET (DELETE /streams/{tpp}/sets/{jti})."""
        self.transmitter.store.discard(check_tpp(tpp), jti)
        return "", 204

    def requeue(self, tpp: str, jti: str) -> Response:
        """Make a parked SET pending again (POST /streams/{tpp}/sets/{jti}/requeue)."""
        self.transmitter.store.requeue(check_tpp(tpp), jti)
        return jsonify({"jti": jti, "state": "pending"})

    def create_events(self, profile: Wso2) -> tuple[Response, int]:
        """Create an event in the way of WSO2 (POST …/create-events)."""
        text, events = wso2_object(wso2_field(request))
        tpp, resource = profile.client(request), profile.resource(request)
        for named, header in ((tpp, profile.client_header), (resource, profile.resource_header)):
            if not named:
                raise Refused("header_missing", f"Missing header {header}", header)
        if BAD_RESOURCE.search(resource):
            raise Refused("header_invalid", "Invalid characters found in the request headers", profile.resource_header)
        if not all(name and isinstance(value, dict) for name, value in events.items()):
            raise Refused("malformed", "Error in the request payload", "request")
        if not encodes(events):
            raise Refused(
                "field_invalid", "The events have a lone surrogate, which is no well-formed Unicode", "request"
            )
        if not events:
            raise Refused("client_unknown", "Error in event creation request payload", "request")
        key = request.headers.get("x-idempotency-key")
        event = Event(
            text.strip(),
            {"sub": json.dumps(resource)},
            jti_of(tpp, key) if key else None,
            wso2_generation=profile.generation,
        )
        unknown = f"A client was not found for the client id : '{tpp}' in the database. "
        try:
            check_tpp(tpp)
            jti, _ = self.transmitter.push(tpp, event)
        except Refused:
            raise Refused(
                "header_invalid", "Invalid characters found in the request headers", profile.client_header
            ) from None
        except NoStream:
            raise Refused("client_unknown", unknown, profile.client_header) from None
        return jsonify({"notificationsID": jti}), 201


def jti_of(tpp: str, key: str) -> str:
    """Return the jti for an idempotency key: the same jti for a retry, and a different one for each TPP."""
    return str(uuid.UUID(bytes=hashlib.sha256(f"{tpp}\n{key}".encode()).digest()[:16], version=4))


def _optional_body() -> bytes:
    text = body(request, BODY_BYTES)
    if text:
        want_type(request, JSON)
    return text or b"{}"


def _scope() -> str:
    """Return the family of a signed SET, from ?scope: the SET itself has no member for a family. Raises Refused."""
    scope = request.args.get("scope", "")
    if scope not in FAMILIES:
        raise Refused("field_invalid", f"scope: one of {', '.join(FAMILIES[1:])}", "scope")
    return scope


def _limit() -> int:
    text = request.args.get("limit", str(LISTED))
    if not re.fullmatch(r"[0-9]{1,6}", text) or not 1 <= int(text) <= MOST_LISTED:
        raise Refused("field_invalid", f"limit: a whole number from 1 to {MOST_LISTED}", "limit")
    return int(text)
