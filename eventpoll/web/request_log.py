"""One JSON line for each request if EVENTPOLL_LOG=json: enough to settle a dispute, but no secret, token or SET."""

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
"""Maximum characters of a path in a line. No path of ours is longer."""


def begin(environ: dict[str, Any]) -> None:
    """Note the start of a request in its environ, so that the request gets a line."""
    environ.setdefault(BEGUN, time.monotonic())


def note(environ: dict[str, Any], **facts: Any) -> None:
    """Add to the line of a request, if it gets one: the TPP, the profile, counts."""
    if BEGUN in environ:
        environ.setdefault(NOTED, {}).update(facts)


def write(request: Request, status: int) -> None:
    """Write the line of a request to stdout, once, if the request gets one."""
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
        sys.stdout.write(json.dumps(line) + "\n")  # one write, because other workers write here too
        sys.stdout.flush()
    except OSError as error:  # a log line that fails must not fail the answer
        log.warning("A request could not be logged: %s", error)
