"""All refusals: code, HTTP status, and name in each profile. No other module chooses an HTTP status."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Code:
    """One kind of refusal: its HTTP status, and its name in each profile.

    `err` is the name in RFC 8936 and in the bank's calls. OBIE v3.1, OBIE v4 and WSO2 have names of their own.
    """

    status: int
    err: str
    obie_v3: str
    obie_v4: str
    wso2: str


CODES = {
    "malformed": Code(400, "invalid_request", "UK.OBIE.Resource.InvalidFormat", "U010", "invalid_request_payload"),
    "field_invalid": Code(400, "invalid_request", "UK.OBIE.Field.Invalid", "U002", "invalid_request_payload"),
    "field_missing": Code(400, "invalid_request", "UK.OBIE.Field.Missing", "U004", "invalid_request_payload"),
    "field_unexpected": Code(400, "invalid_request", "UK.OBIE.Field.Unexpected", "U005", "invalid_request_payload"),
    "payload_missing": Code(400, "invalid_request", "UK.OBIE.Field.Missing", "U004", "missing_request_payload"),
    "header_missing": Code(400, "invalid_request", "UK.OBIE.Header.Missing", "U007", "missing_request_header"),
    "header_invalid": Code(400, "invalid_request", "UK.OBIE.Header.Invalid", "U006", "invalid_request_header"),
    "client_unknown": Code(400, "invalid_request", "UK.OBIE.Header.Invalid", "U006", "invalid_request"),
    "key_invalid": Code(400, "invalid_key", "UK.OBIE.Field.Invalid", "U002", "invalid_request"),
    "signature_invalid": Code(400, "authentication_failed", "UK.OBIE.Field.Invalid", "U002", "invalid_request"),
    "unauthenticated": Code(401, "authentication_failed", "", "", "invalid_client"),
    "forbidden": Code(403, "access_denied", "UK.OBIE.Header.Invalid", "U006", "access_denied"),
    "not_found": Code(404, "not_found", "UK.OBIE.Resource.NotFound", "U011", "invalid_request"),
    "method": Code(405, "invalid_request", "UK.OBIE.Resource.InvalidFormat", "U010", "invalid_request"),
    "not_acceptable": Code(406, "invalid_request", "UK.OBIE.Header.Invalid", "U006", "invalid_request_header"),
    "conflict": Code(409, "conflict", "UK.OBIE.Rules.DuplicateReference", "U013", "invalid_request"),
    "too_large": Code(413, "invalid_request", "UK.OBIE.Resource.InvalidFormat", "U010", "invalid_request_payload"),
    "media_type": Code(415, "invalid_request", "UK.OBIE.Header.Invalid", "U006", "invalid_request_header"),
    "too_many": Code(429, "too_many_requests", "UK.OBIE.Rules.FailsControlParameters", "U014", "too_many_requests"),
    "internal": Code(500, "server_error", "UK.OBIE.UnexpectedError", "U000", "server_error"),
    "unavailable": Code(503, "temporarily_unavailable", "UK.OBIE.UnexpectedError", "U000", "temporarily_unavailable"),
}

#: The code for each status with which Flask or Werkzeug refuses a request before it reaches one of our views.
BY_STATUS = {code.status: name for name, code in reversed(CODES.items())}


@dataclass
class Refused(Exception):
    """Raised for a request that the service does not carry out, or not in full.

    `code` is a row of CODES. `description` is for the caller and reveals nothing internal. `path` is the member or
    header at fault, as OBIE's errors require. `headers` are added to the answer.
    """

    code: str
    description: str
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.description

    @property
    def row(self) -> Code:
        """Return the row of CODES with the status and the names of this refusal."""
        return CODES[self.code]
