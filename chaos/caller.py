"""A client's one connection, and what it is told on it."""

import http.client
import select
import ssl
import time
from collections.abc import Callable, Mapping

from chaos.journal import Answer, Journal

NO_ANSWER = (OSError, http.client.HTTPException, ValueError)  # ValueError: half an answer is no JSON


class Caller:
    """Requests on one connection that is kept; every status goes to the journal."""

    def __init__(
        self, port: Callable[[], int], journal: Journal, timeout: float = 20, tls: ssl.SSLContext | None = None
    ) -> None:
        self._port, self._journal, self._timeout, self._tls = port, journal, timeout, tls
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, call: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int | None, bytes]:
        """The status and the body; None where no whole answer came."""
        asked, stale = time.monotonic(), self._is_stale()
        try:
            if self._connection is None:
                self._connection = self._connect()
            self._connection.request(call.partition(" ")[0], path, body, dict(headers))
            answer = self._connection.getresponse()
            status, text = answer.status, answer.read()
        except NO_ANSWER:
            self.close()
            self._journal.answers.append(Answer(now := time.monotonic(), call, None, now - asked, stale))
            return None, b""
        self._journal.answers.append(Answer(now := time.monotonic(), call, status, now - asked))
        return status, text

    def _connect(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection("127.0.0.1", self._port(), timeout=self._timeout)
        return http.client.HTTPSConnection("localhost", self._port(), timeout=self._timeout, context=self._tls)

    def _is_stale(self) -> bool:
        sock = self._connection and self._connection.sock
        return bool(sock and select.select([sock], [], [], 0)[0])

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
