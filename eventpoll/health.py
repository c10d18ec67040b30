"""What anyone may ask: whether we live, whether we are ready, and our public keys."""

from flask import Blueprint, Response, jsonify

from eventpoll.failures import WrongClock
from eventpoll.refusals import wrong_clock
from eventpoll.service import Service

JWKS_SECONDS = 300


def blueprint(service: Service) -> Blueprint:
    """The open endpoints."""
    bp = Blueprint("health", __name__)
    public = service.transmitter.minter.public(service.transmitter.set_profile)

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

    @bp.get("/.well-known/jwks.json", provide_automatic_options=False)
    def jwks() -> Response:
        """The public half of each signing key (RFC 7517)."""
        response = jsonify(public)
        response.headers["Cache-Control"] = f"public, max-age={JWKS_SECONDS}"
        return response

    return bp
