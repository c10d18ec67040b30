"""A client of the service that costs little: it reads answers by the length of what is in them, and parses nothing."""

import base64
import socket

from bench.sets import JTI_CHARACTERS, SET_CHARACTERS

STRIDE = JTI_CHARACTERS + SET_CHARACTERS + 6


def request_text(
    path: str, body: bytes | None, content_type: str = "application/json", authorization: str = ""
) -> bytes:
    """A request as it goes over the wire."""
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", "Host: bench"]
    if authorization:
        lines.append(f"Authorization: {authorization}")
    if body is not None:
        lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


class Connection:
    """A connection that asks and hears, one at a time; `heard` is the answer's body once it is whole."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((host, port), 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.status = 0
        self._read = bytearray()

    def ask(self, text: bytes) -> bytes:
        """Send a request; the body of its answer."""
        self.socket.sendall(text)
        while (found := self.heard()) is None:
            pass
        return found

    def ask_to_the_end(self, text: bytes) -> bytes:
        """Send a request whose answer comes in chunks, and ask for an end after it; all that came."""
        self.socket.sendall(text.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        parts = []
        while part := self.socket.recv(1_048_576):
            parts.append(part)
        return b"".join(parts)

    def heard(self) -> bytes | None:
        """Read once; the body if that made it whole. Raises ConnectionError."""
        part = self.socket.recv(1_048_576)
        if not part:
            raise ConnectionError("closed in the middle of an answer")
        self._read += part
        end = self._read.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self._read[:end]).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(self._read) < end + 4 + length:
            return None
        self.status = int(head[9:12])
        body = bytes(self._read[end + 4 :])
        self._read = bytearray()
        return body

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


def jtis(body: bytes, page: int) -> list[bytes]:
    """The jtis of an answer, each in its quotes; empty where there are fewer than a page."""
    start = body.find(b'"sets":{') + 8
    found = [body[start + i * STRIDE : start + i * STRIDE + JTI_CHARACTERS + 2] for i in range(page)]
    return found if found and found[-1][:2] == b'"j' and found[-1][-1:] == b'"' else []


def poll_body(page: int, settled: bytes, form: bool = False) -> bytes:
    """A poll for a page, with acks as jtis() has them, joined by commas."""
    acks = b',"ack":[%b]' % settled if settled else b""  # OBIE wants no empty list
    body = b'{"maxEvents":%d,"returnImmediately":true%b}' % (page, acks)
    return b"request=" + base64.b64encode(body + b" " * (-len(body) % 3)) if form else body
