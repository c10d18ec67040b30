"""What anyone may ask: whether we live, and whether we are ready."""

from flask import Blueprint, Response, jsonify

from eventpoll import __version__
from eventpoll.delivery.refusals import wrong_clock
from eventpoll.service import Service
from eventpoll.store.errors import WrongClock

LOOKED_AT = 20
"""Streams whose layout one call of /readyz looks at: the next call looks at the next ones."""


def blueprint(service: Service) -> Blueprint:
    """The open endpoints."""
    bp = Blueprint("health", __name__)

    @bp.get("/healthz", provide_automatic_options=False)
    def healthz() -> Response:
        """The process answers."""
        return jsonify(status="ok", version=__version__)

    @bp.get("/readyz", provide_automatic_options=False)
    def readyz() -> Response:
        """The store can be written to, we know its layout, and its clock is near ours; else 503."""
        store = service.transmitter.store
        store.ping()
        store.check_layout(LOOKED_AT)
        try:
            store.clock.check()
        except WrongClock as error:
            raise wrong_clock(str(error)) from None
        return jsonify(status="ready")

    return bp
