"""Ports for the servers that the harness starts."""

import socket
import sys

KEPT: list[socket.socket] = []
"""Sockets that keep the ports of free_port reserved. They are bound and never listen."""


def free_port() -> int:
    """Return a port on which nobody listens. On Linux the port stays reserved until this process ends.

    So no other program can take the port before its server listens there, or after a test kills that server. And no
    client of an earlier server finds another server at its old port.
    """
    probe = socket.socket()
    probe.bind(("127.0.0.1", 0))
    port = int(probe.getsockname()[1])
    if sys.platform == "linux":  # a server that sets SO_REUSEADDR may listen at a port that is bound with it
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        KEPT.append(probe)
    else:
        probe.close()
    return port
