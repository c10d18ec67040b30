"""/console: show the bank's operators which TPP is behind, since when and why; requeue or discard parked SETs."""

import hashlib
import hmac
import importlib.resources
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from flask import Blueprint, Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from eventpoll.api.call import Jti, let_in
from eventpoll.api.refusals import PAGE, refuse
from eventpoll.console import pages
from eventpoll.delivery.refusals import REFUSALS, refusal
from eventpoll.errors import Refused
from eventpoll.service import Service
from eventpoll.store.errors import NoSet, NotParked
from eventpoll.store.keys import check_tpp
from eventpoll.store.records import STATES, SetRecord, Status, hours
from eventpoll.store.store import Store
from eventpoll.web import representations, request_log
from eventpoll.web.body import body, want_type

ROWS = 50
"""Streams or SETs on one page."""

STEP = 200
"""Parked SETs that one press of a button requeues or discards."""

SEARCHED, FOUND = 10_000, 20
"""The most streams that one search reads, and the number of SETs found at which it stops."""

SECONDS = 5.0
"""Seconds for which the order of the streams is cached, at least. A slow sort is cached for ten times its duration."""

FORM_BYTES = 8192
ASSETS = {"console.css": "text/css; charset=utf-8", "console.svg": "image/svg+xml"}
DONE = {
    "requeued": "requeued: pending again, as if never delivered",
    "discarded": "discarded: ended for good, and not to be delivered again",
}


def blueprint(service: Service) -> Blueprint:
    """Return the blueprint of the console.

    Only the bank gets the pages. Anyone gets the style sheet and the picture, because a refusal's page needs them too.
    """
    bp = Blueprint("console", __name__)
    console = Console(service)

    @bp.before_request
    def _only_the_bank() -> None:
        named = request.view_args or {}
        if "asset" not in named:
            request_log.note(request.environ, **{name: value for name, value in named.items() if name == "tpp"})
            let_in(service)

    bp.record_once(lambda state: state.app.url_map.converters.update(eventpoll_jti=Jti))
    bp.record_once(lambda state: state.app.extensions.update({PAGE: pages.refused}))

    def route(method: str, path: str, view: Callable[..., AnyResponse], **defaults: Any) -> None:
        endpoint = f"{view.__name__}{len(bp.deferred_functions)}"
        options: dict[str, Any] = {"defaults": defaults, "provide_automatic_options": False, "merge_slashes": False}
        bp.add_url_rule(f"{pages.ROOT}{path}", endpoint, view, methods=[method], **options)

    route("GET", "", console.streams)
    route("GET", "/search", console.search)
    route("GET", "/streams/<tpp>", console.stream)
    route("GET", "/streams/<tpp>/sets/<eventpoll_jti:jti>", console.secevent)
    for what, verb in (("requeued", "requeue"), ("discarded", "discard")):
        route("POST", f"/streams/<tpp>/{verb}", console.end, what=what)
        route("POST", f"/streams/<tpp>/{verb}-all", console.end_all, what=what)
    for asset in ASSETS:
        route("GET", f"/{asset}", _asset, asset=asset)
    for error in REFUSALS:
        bp.register_error_handler(error, lambda raised: refuse(refusal(raised)))
    return bp


@dataclass(frozen=True)
class Order:
    """The names of all streams in the order of pages.rank, the number with a problem, and the time of this reading."""

    names: list[str]
    wrong: int
    at: datetime


class Ranking:
    """A cache of the order of the streams. To sort 10 000 streams takes about one second."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._order: Order | None = None
        self._until = 0.0

    def order(self) -> Order:
        """Return the cached order, or a new one where the cache has expired. Raises Unavailable."""
        with self._lock:
            begun = time.monotonic()
            if self._order is None or begun >= self._until:
                at = datetime.now(UTC)
                ranks = sorted(pages.rank(status) for status in self._store.statuses() if status)
                self._order = Order([name for *_, name in ranks], sum(not fine for fine, *_ in ranks), at)
                took = time.monotonic() - begun
                self._until = begun + took + max(SECONDS, 10 * took)
            return self._order


class Console:
    """The views of the console."""

    def __init__(self, service: Service) -> None:
        self.transmitter = service.transmitter
        self.store = service.transmitter.store
        self.ranking = Ranking(self.store)

    def streams(self) -> AnyResponse:
        """Show all streams, those with a problem first: GET /console?page.

        The state of each stream is current; the order may be some seconds old.
        """
        order = self.ranking.order()
        last = max(1, -(-len(order.names) // ROWS))
        text = request.args.get("page", "1")
        if not re.fullmatch(r"[0-9]{1,6}", text) or not 1 <= int(text) <= last:
            raise Refused("field_invalid", f"page: a whole number from 1 to {last}", "page")
        shown = order.names[(int(text) - 1) * ROWS : int(text) * ROWS]
        rows = [self._row(status) for status in self.store.statuses(shown) if status] if shown else []
        return pages.page("streams", order=order, rows=rows, number=int(text), last=last, first=(int(text) - 1) * ROWS)

    def _row(self, status: Status) -> dict[str, Any]:
        told = hours(status.fields, datetime.now(UTC))
        return {
            "status": status,
            "oldest": pages.oldest(status),
            "wrong": pages.wrong(status),
            "polled": pages.moment(status.fields, "polled_at"),
            "pushed": pages.moment(status.fields, "pushed_at"),
            "hours": told,
            "bars": pages.bars(told),
        }

    def stream(self, tpp: str) -> AnyResponse:
        """Show the state of a stream, and its SETs in one state: GET /console/streams/{tpp}?state&after."""
        status = self.transmitter.status(check_tpp(tpp))
        counts = dict(zip(STATES, (status.pending, status.in_flight, status.parked), strict=True))
        usual = next((state for state in ("parked", *STATES) if counts[state]), STATES[0])
        state = request.args.get("state") or usual
        if state not in STATES:
            raise Refused("field_invalid", f"state: one of {', '.join(STATES)}", "state")
        after = request.args.get("after", "")
        found = self.transmitter.peek(tpp, state, ROWS + 1, after)
        view = representations.stream(status, self.store, self.transmitter.set_profile)
        return pages.page(
            "stream",
            **self._row(status),
            done=_done(),
            view=view,
            state=state,
            counts=counts,
            sets=[(record, {each.what: each.at for each in record.history}) for record in found[:ROWS]],
            after=after,
            next=found[ROWS - 1].jti if len(found) > ROWS else "",
            step=STEP,
            token=lambda verb: _token(f"{pages.ROOT}/streams/{tpp}/{verb}"),
        )

    def secevent(self, tpp: str, jti: str) -> AnyResponse:
        """Show one SET, its content and its history: GET /console/streams/{tpp}/sets/{jti}."""
        self.transmitter.sweep(check_tpp(tpp))
        record = self.store.find(tpp, jti)
        header, claims, *_ = (record.secevent or "..").split(".")
        return pages.page(
            "secevent",
            done=_done(),
            tpp=tpp,
            record=record,
            view=representations.whole_secevent(record),
            header=pages.readable(header),
            claims=pages.readable(claims),
            times=pages.times(claims),
            token=lambda verb: _token(f"{pages.ROOT}/streams/{tpp}/{verb}", jti),
        )

    def search(self) -> AnyResponse:
        """Find a SET by its jti, on one stream or all, or a stream by its name: GET /console/search?jti&tpp&after."""
        jti, tpp, after = (request.args.get(name, "").strip() for name in ("jti", "tpp", "after"))
        if tpp and jti:
            return self.secevent(tpp, jti)
        if tpp:
            return redirect(pages.at("streams", check_tpp(tpp)), 303)
        found: list[tuple[str, SetRecord]] = []
        looked, more = 0, False
        for names in self.store.names(after) if jti else ():
            more = looked >= SEARCHED or len(found) >= FOUND
            if more:
                break
            found += self.store.found(jti, names)
            looked, after = looked + len(names), names[-1]
        return pages.page("search", jti=jti, found=found, looked=looked, next=after if more else "")

    def end(self, tpp: str, what: str) -> AnyResponse:
        """Requeue or discard the parked SET that the form names: POST /console/streams/{tpp}/requeue or /discard."""
        form = _form()
        jti = form.get("jti", "")
        _check_token(form, jti)
        (self.store.requeue if what == "requeued" else self.store.discard)(check_tpp(tpp), jti)
        return redirect(pages.at_set(tpp, jti, done=what), 303)

    def end_all(self, tpp: str, what: str) -> AnyResponse:
        """Requeue or discard the oldest STEP parked SETs: POST /console/streams/{tpp}/requeue-all or /discard-all."""
        form = _form()
        _check_token(form)
        if what == "discarded" and form.get("sure") != "yes":
            raise Refused("field_missing", "sure: tick the box to say that you mean it", "sure")
        step = self.store.requeue if what == "requeued" else self.store.discard
        ended = 0
        for record in self.store.peek(check_tpp(tpp), "parked", STEP):
            try:
                step(tpp, record.jti)
                ended += 1
            except (NoSet, NotParked):  # someone else has settled or requeued the SET meanwhile
                continue
        return redirect(pages.at("streams", tpp, state="parked", done=what, count=str(ended)), 303)


def _form() -> dict[str, str]:
    """Return the fields of a form. Raises Refused."""
    want_type(request, "application/x-www-form-urlencoded")
    text = body(request, FORM_BYTES).decode("utf-8", "replace")
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=10))
    except ValueError:
        raise Refused("malformed", "the form has more fields than it had") from None


def _token(path: str, jti: str = "") -> str:
    """Return the token that a form must contain, so that only our own pages can have written the form.

    The token is an HMAC of the form's path and jti; its key is the Authorization header, which no other site knows.
    Therefore the console needs no session, and the workers share no key.
    """
    credentials = request.headers.get("Authorization", "").encode("utf-8", "replace")
    return hmac.new(credentials, f"{path}\n{jti}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def _check_token(form: dict[str, str], jti: str = "") -> None:
    if not hmac.compare_digest(form.get("token", "").encode(), _token(request.path, jti).encode()):
        raise Refused("forbidden", "the form is not ours, or your credentials have changed: reload the page, try again")


def _done() -> str:
    """Return the sentence about what a form has just done; "" where there is none.

    The address names only the action and the count. The words are ours, so a link cannot put other text on the page.
    """
    count, what = request.args.get("count", "1"), DONE.get(request.args.get("done", ""))
    if what is None or not re.fullmatch(r"[0-9]{1,6}", count):
        return ""
    return f"{pages.counted(int(count), 'SET')} {what}."


def _asset(asset: str) -> Response:
    response = Response((importlib.resources.files("eventpoll.console") / "static" / asset).read_bytes())
    response.headers["Content-Type"] = ASSETS[asset]
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    return response.make_conditional(request)  # type: ignore[return-value]
