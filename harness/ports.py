"""Ports for the servers that we start."""

import socket
import sys

KEPT: list[socket.socket] = []
"""Sockets that keep the ports which free_port gave: bound, and never listening."""


def free_port() -> int:
    """Return a port on which nobody listens. On Linux it stays ours until this process ends: nobody else gets it before
    the server that it is for listens there, or while that server is killed; and no client that an earlier server left
    behind finds another server at its old port."""
    probe = socket.socket()
    probe.bind(("127.0.0.1", 0))
    port = int(probe.getsockname()[1])
    if sys.platform == "linux":  # servers set SO_REUSEADDR, and may listen at a port that is bound with it
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        KEPT.append(probe)
    else:
        probe.close()
    return port
