"""Schemas of the settings of a stream, as the bank sends them."""

from marshmallow import RAISE, Schema, fields, validate

from eventpoll.sets.schema import JSONNumber, told, well_formed


class StreamSchema(Schema):
    """Body of PUT /streams/{tpp}. A setting with the value null returns to the service's default."""

    class Meta:
        unknown = RAISE

    redeliver_after = JSONNumber(
        allow_none=True,
        validate=validate.Range(min=0, max=31_536_000),
        metadata=told("Seconds for which a delivered SET is hidden (its lease)"),
    )
    max_deliveries = fields.Integer(
        strict=True,
        allow_none=True,
        validate=validate.Range(min=0, max=1_000_000),
        metadata=told("Park a SET at its n-th delivery without an ack; 0: never"),
    )
    on_error = fields.String(
        allow_none=True,
        validate=validate.OneOf(["park", "redeliver"]),
        metadata=told("What setErrs does: park the SET, or note the error and offer it again"),
    )
    set_profile = fields.String(
        allow_none=True,
        validate=validate.OneOf(["rfc8417", "obie", "wso2"]),
        metadata=told("The form of the SETs that are minted"),
    )
    audience = fields.String(
        allow_none=True,
        validate=[validate.Length(min=1, max=1024), well_formed],
        metadata=told("aud of the SETs that are minted; unless set, the name of the TPP"),
    )
    max_pending = fields.Integer(
        strict=True,
        allow_none=True,
        validate=validate.Range(min=0),
        metadata=told(
            "The most SETs outstanding, or acknowledged with an error: a push over it is refused with 429; 0: no limit"
        ),
    )


class SecretSchema(Schema):
    """Body of POST /streams/{tpp}/secret."""

    class Meta:
        unknown = RAISE

    grace_seconds = JSONNumber(
        load_default=0,
        validate=validate.Range(min=0, max=31_536_000),
        metadata=told("For how long the old secret works too"),
    )
