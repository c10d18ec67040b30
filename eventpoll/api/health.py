"""What anyone may ask: whether we live, and whether we are ready."""

from flask import Blueprint, Response, jsonify

from eventpoll.service import Service


def blueprint(service: Service) -> Blueprint:
    """The open endpoints."""
    bp = Blueprint("health", __name__)

    @bp.get("/healthz", provide_automatic_options=False)
    def healthz() -> Response:
        """The process answers."""
        return jsonify(status="ok")

    @bp.get("/readyz", provide_automatic_options=False)
    def readyz() -> Response:
        """The store can be written to; else 503."""
        service.transmitter.store.ping()
        return jsonify(status="ready")

    return bp
