"""Every refusal: its code, its status, and what each profile calls it. HTTP statuses are chosen here alone."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Code:
    """One kind of refusal, and its names: RFC 8936 and the bank's calls, OBIE v3.1 and v4, WSO2."""

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

#: The code for what Flask and Werkzeug refuse before a view of ours is reached.
BY_STATUS = {code.status: name for name, code in reversed(CODES.items())}


@dataclass
class Refused(Exception):
    """A request that is not carried out, or not in full.

    `code` is a row of CODES; `description` is for the caller to read and tells nothing of our inside; `path` is
    the member or header at fault, as OBIE's errors want it.
    """

    code: str
    description: str
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.description

    @property
    def row(self) -> Code:
        """The names of this refusal."""
        return CODES[self.code]
