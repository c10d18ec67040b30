"""One JSON line a request, where EVENTPOLL_LOG=json: enough to settle a dispute, and no secret, token or SET."""

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any

from flask import Response, request
from flask.sansio.scaffold import Scaffold

from eventpoll import answers

log = logging.getLogger(__name__)

NOTED, BEGUN = "eventpoll.noted", "eventpoll.begun"

LONGEST_PATH = 1024
"""Characters of a path that are told; none of ours is longer."""


def note(**facts: Any) -> None:
    """Add to the line of this request: the TPP, the profile, counts."""
    request.environ.setdefault(NOTED, {}).update(facts)


def init(scaffold: Scaffold) -> None:
    """Write the lines for a blueprint's or an application's requests."""
    scaffold.before_request(_begin)
    scaffold.after_request(_write)


def _begin() -> None:
    request.environ[BEGUN] = time.monotonic()


def _write(response: Response) -> Response:
    begun = request.environ.pop(BEGUN, None)
    if begun is None:  # written already, or never begun
        return response
    profile = (request.view_args or {}).get("profile")
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "method": request.method,
        "path": request.path[:LONGEST_PATH],
        "profile": profile.name if profile is not None else None,
        "tpp": None,
        "status": response.status_code,
        "sets": 0,
        "acked": 0,
        "reported": 0,
        "ms": round((time.monotonic() - begun) * 1000, 1),
        "address": request.remote_addr,
        "x-fapi-interaction-id": answers.interaction_id(),
        **request.environ.get(NOTED, {}),
    }
    try:
        sys.stdout.write(json.dumps(line) + "\n")  # in one piece: other workers write here too
        sys.stdout.flush()
    except OSError as error:  # the answer is worth more than its line
        log.warning("A request could not be logged: %s", error)
    return response
