"""Well-known addresses for receivers: the public keys of the SETs that are minted here."""

from flask import Blueprint, Response, jsonify

from eventpoll.service import Service

JWKS_SECONDS = 300


def blueprint(service: Service) -> Blueprint:
    """Return the blueprint of the addresses below /.well-known."""
    bp = Blueprint("well_known", __name__)
    public = service.transmitter.minter.public(service.transmitter.set_profile)

    @bp.get("/.well-known/jwks.json", provide_automatic_options=False)
    def jwks() -> Response:
        """Return the public half of each signing key as a JWK Set (RFC 7517)."""
        response = jsonify(public)
        response.headers["Cache-Control"] = f"public, max-age={JWKS_SECONDS}"
        return response

    return bp
