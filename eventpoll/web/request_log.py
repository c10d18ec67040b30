"""One JSON line a request, where EVENTPOLL_LOG=json: enough to settle a dispute, and no secret, token or SET."""

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any

from flask import Request

from eventpoll.access.door import loggable
from eventpoll.web import response

log = logging.getLogger(__name__)

NOTED, BEGUN = "eventpoll.noted", "eventpoll.begun"

LONGEST_PATH = 1024
"""Characters of a path that are told; none of ours is longer."""


def begin(environ: dict[str, Any]) -> None:
    """The request of this environ gets a line."""
    environ.setdefault(BEGUN, time.monotonic())


def note(environ: dict[str, Any], **facts: Any) -> None:
    """Add to the line of a request, if it gets one: the TPP, the profile, counts."""
    if BEGUN in environ:
        environ.setdefault(NOTED, {}).update(facts)


def write(request: Request, status: int) -> None:
    """The line of a request, once, if it gets one."""
    begun = request.environ.pop(BEGUN, None)
    if begun is None:
        return
    profile = (request.view_args or {}).get("profile")
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "method": request.method,
        "path": loggable(request.environ, request.path)[:LONGEST_PATH],
        "profile": profile.name if profile is not None else None,
        "tpp": None,
        "status": status,
        "sets": 0,
        "acked": 0,
        "reported": 0,
        "ms": round((time.monotonic() - begun) * 1000, 1),
        "address": request.remote_addr,
        "x-fapi-interaction-id": response.interaction_id(request.environ),
        **request.environ.get(NOTED, {}),
    }
    for name in {"tpp", "caller"} & line.keys():
        line[name] = line[name] and loggable(request.environ, line[name])
    try:
        sys.stdout.write(json.dumps(line) + "\n")  # in one piece: other workers write here too
        sys.stdout.flush()
    except OSError as error:  # the answer is worth more than its line
        log.warning("A request could not be logged: %s", error)
