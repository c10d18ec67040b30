"""Polls/s: empty and with SETs, in each profile, Basic and Bearer, beside bare Flask and bare Redis."""

from collections.abc import Callable

from bench import load, resp
from bench.load import BadLoad, Load
from bench.resp import Wire
from bench.results import Results
from bench.service import PROOF, Bench, basic, bearer
from bench.sizes import Size

PART = "polls/s"
TPP, FEW, MANY = "polled", "few", "many"
FORM = "application/x-www-form-urlencoded"
HELLO = "bare Flask, hello"


def name(page: int, who: str) -> str:
    """A line's name."""
    return f"{f'{page} a poll' if page else 'empty'}, {who}"


def loads(page: int) -> dict[str, Load]:
    """What our profiles and bare Flask are asked. An empty poll has nothing to acknowledge."""

    def asked(path: str, authorization: str, *, form: bool = False) -> Load:
        body = '{"maxEvents":10,"returnImmediately":true}'
        if form:  # the same, in base64
            body = "request=eyJtYXhFdmVudHMiOjEwLCJyZXR1cm5JbW1lZGlhdGVseSI6dHJ1ZX0="
        script = "poll" if page else "fixed"
        return Load(script, path, body, FORM if form else "application/json", authorization, page, form)

    wso2 = "/api/fs/event-notifications/events"
    return {
        "RFC 8936, Basic": asked("/events", basic(TPP)),
        "RFC 8936, Bearer": asked("/events", bearer(TPP)),
        "OBIE, Basic": asked("/open-banking/v3.1/events", basic(TPP)),
        "WSO2, Basic": asked(wso2, basic(TPP), form=True),
        "bare Flask": asked(f"/page/{page}", ""),
    }


def measure(bench: Bench, size: Size, results: Results) -> None:
    """Every round measures everything once, each time beginning elsewhere."""
    wire = bench.wire
    wire.make((TPP, FEW, MANY), PROOF)
    wire.fill(FEW, range(size.few_sets))
    wire.fill(MANY, range(size.sets))
    for _, step in _steps(bench, size, 0):  # whatever is made with the first requests is there before we look
        step()
    for turn in range(size.rounds):
        for page in size.pages:
            steps = _steps(bench, size, page)
            first = turn % len(steps)
            for who, step in [*steps[first:], *steps[:first]]:
                _prepare(wire, page)
                rate = step()
                if page and who not in ("bare Flask", HELLO):
                    _check(wire, page, who)
                results.add(PART, who if who == HELLO else name(page, who), rate, "/s")
    for tpp in (TPP, FEW, MANY):
        wire.clear(tpp)


def _steps(bench: Bench, size: Size, page: int) -> list[tuple[str, Callable[[], float]]]:
    def http(url: str, asked: Load) -> Callable[[], float]:
        return lambda: load.run(url, asked, size.seconds)

    steps = [
        (who, http(bench.bare.url if who == "bare Flask" else bench.web.url, asked))
        for who, asked in loads(page).items()
    ]
    steps.append(
        ("bare Redis", lambda: resp.drive(bench.redis.path, TPP, PROOF, page or 10, size.seconds, empty=not page))
    )
    if page == 10:
        steps.append((HELLO, http(bench.bare.url, Load("fixed", "/"))))
    return steps


def _prepare(wire: Wire, page: int) -> None:
    if page:
        wire.copy(MANY if page > 10 else FEW, TPP)
    else:
        wire.clear(TPP)


def _check(wire: Wire, page: int, who: str) -> None:
    """Each page was full, or the load would have said so; here, that there was more to come."""
    if not wire.pending(TPP):
        raise BadLoad(f"{name(page, who)}: the stream ran dry: Size.sets is too low for this machine")
