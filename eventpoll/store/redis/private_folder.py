"""Protect folders with SETs and sockets from other users of the machine, and identify the peer of a socket."""

import errno
import os
import socket
import stat
import struct
from collections.abc import Container
from pathlib import Path


def folder(path: Path, owners: Container[int] | None = None) -> bool:
    """Create a folder that only its owner can enter, or close an existing one. Return True if it was open to others.

    Raises PermissionError if the folder is a link, or if its owner is not in `owners` (user ids; None: this user only).
    Someone else could then read or replace its files.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):  # ENOTDIR on Linux, ELOOP elsewhere
            raise PermissionError(f"{path} is a link: remove it") from None
        raise
    try:
        found = os.fstat(descriptor)
        if found.st_uid not in (owners or {os.geteuid()}):
            raise PermissionError(f"{path} belongs to the user {found.st_uid}: remove it, or give it to {os.geteuid()}")
        if not found.st_mode & 0o077:
            return False
        os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & ~0o077)
        return True
    finally:
        os.close(descriptor)


def peer(connection: socket.socket) -> int:
    """Return the user id of the process that listens at the other end of a Unix socket."""
    if hasattr(socket, "SO_PEERCRED"):
        told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", told)[1])
    return Path(connection.getpeername()).stat().st_uid  # macOS: the owner of the socket file
