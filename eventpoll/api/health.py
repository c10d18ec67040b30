"""What anyone may ask: whether we live, and whether we are ready."""

from flask import Blueprint, Response, jsonify

from eventpoll.delivery.refusals import wrong_clock
from eventpoll.service import Service
from eventpoll.store.errors import WrongClock


def blueprint(service: Service) -> Blueprint:
    """The open endpoints."""
    bp = Blueprint("health", __name__)

    @bp.get("/healthz", provide_automatic_options=False)
    def healthz() -> Response:
        """The process answers."""
        return jsonify(status="ok")

    @bp.get("/readyz", provide_automatic_options=False)
    def readyz() -> Response:
        """The store can be written to, and its clock is near ours; else 503, which says how far it is."""
        store = service.transmitter.store
        store.ping()
        try:
            store.clock.check()
        except WrongClock as error:
            raise wrong_clock(str(error)) from None
        return jsonify(status="ready")

    return bp
