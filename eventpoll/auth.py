"""Who is asking: HTTP Basic (RFC 7617), for TPPs and for the bank."""

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass

from flask import Request

from eventpoll.errors import Refused
from eventpoll.schemas import TPP

CHALLENGE = {"WWW-Authenticate": 'Basic realm="eventpoll", charset="UTF-8"'}


@dataclass(frozen=True)
class Caller:
    """Who asks: the bank, or the TPP `name` who showed a secret with the hash `proof`, which the store is to check
    in the same step in which it does what is asked."""

    name: str
    proof: str
    bank: bool = False


@dataclass(frozen=True)
class Bank:
    """The bank's own credentials, of which there may be none."""

    username: str | None
    password: str | None

    def is_it(self, username: str, password: str) -> bool:
        """Whether these are the bank's, in a time that tells nothing of how near they come."""
        if self.username is None or self.password is None:
            return False
        same_name = hmac.compare_digest(username.encode(), self.username.encode())
        return hmac.compare_digest(password.encode(), self.password.encode()) and same_name


def new_secret() -> str:
    """A secret for a TPP: 256 random bits, so that one SHA-256 of it is safe to keep."""
    return secrets.token_urlsafe(32)


def hash_of(secret: str) -> str:
    """What is kept of a secret: its SHA-256, in hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def caller(request: Request, bank: Bank) -> Caller:
    """Who the request says is asking. Raises Refused (401) where it says nothing that could be true."""
    credentials = _basic(request.headers.get("Authorization", ""))
    if credentials is None:
        raise denied("credentials are wanted: HTTP Basic with the name of the TPP and its secret")
    username, password = credentials
    if bank.is_it(username, password):
        return Caller(username, "", bank=True)
    if not TPP.fullmatch(username):
        raise denied()
    return Caller(username, hash_of(password))


def denied(description: str = "the credentials are not right") -> Refused:
    """The refusal of who cannot be told (RFC 9110 section 15.5.2)."""
    return Refused("unauthenticated", description, headers=dict(CHALLENGE))


def _basic(header: str) -> tuple[str, str] | None:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        username, colon, password = base64.b64decode(encoded.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        return None
    return (username, password) if colon else None
