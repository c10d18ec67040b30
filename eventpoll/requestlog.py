"""One JSON line a request, where EVENTPOLL_LOG=json: enough to settle a dispute, and no secret, token or SET."""

import json
import sys
import time
from typing import Any

from flask import Response, g, request
from flask.sansio.scaffold import Scaffold

from eventpoll import answers


def note(**facts: Any) -> None:
    """Add to the line of this request: the TPP, the profile, counts."""
    g.setdefault("noted", {}).update(facts)


def init(scaffold: Scaffold) -> None:
    """Write the lines for a blueprint's or an application's requests."""
    scaffold.before_request(_begin)
    scaffold.after_request(_write)


def _begin() -> None:
    g.begun = time.monotonic()


def _write(response: Response) -> Response:
    begun = g.pop("begun", None)
    if begun is None:  # written already, or never begun
        return response
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "method": request.method,
        "path": request.path,
        "status": response.status_code,
        "ms": round((time.monotonic() - begun) * 1000, 1),
        "address": request.remote_addr,
        "x-fapi-interaction-id": answers.interaction_id(),
        **g.get("noted", {}),
    }
    sys.stdout.write(json.dumps(line) + "\n")  # in one piece: other workers write here too
    sys.stdout.flush()
    return response
