"""Endpoints without credentials: whether the process runs, and whether it is ready."""

from flask import Blueprint, Response, jsonify

from eventpoll import __version__
from eventpoll.delivery.refusals import wrong_clock
from eventpoll.service import Service
from eventpoll.store.errors import WrongClock

LOOKED_AT = 20
"""Number of streams whose layout one call of /readyz checks. The next call checks the next streams."""


def blueprint(service: Service) -> Blueprint:
    """Return the blueprint of the endpoints without credentials."""
    bp = Blueprint("health", __name__)

    @bp.get("/healthz", provide_automatic_options=False)
    def healthz() -> Response:
        """Answer 200: the process runs."""
        return jsonify(status="ok", version=__version__)

    @bp.get("/readyz", provide_automatic_options=False)
    def readyz() -> Response:
        """Answer 200 if the store accepts writes, its layout is known and its clock is near ours; else 503."""
        store = service.transmitter.store
        store.ping()
        store.check_layout(LOOKED_AT)
        try:
            store.clock.check()
        except WrongClock as error:
            raise wrong_clock(str(error)) from None
        return jsonify(status="ready")

    return bp
