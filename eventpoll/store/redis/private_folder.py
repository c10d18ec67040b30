"""What no other user of the machine gets at: folders with SETs and sockets, and who is behind a socket."""

import errno
import os
import socket
import stat
import struct
from collections.abc import Container
from pathlib import Path


def folder(path: Path, owners: Container[int] | None = None) -> bool:
    """Make a folder that its owner alone can enter, or close one that is there; return whether it stood open to others.

    Raises PermissionError where it is a link, or belongs to none of `owners` (user ids; None: this user alone): someone
    else could read or exchange what it holds.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):  # one on Linux, the other elsewhere
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
    """Return the id of the user who listens at the other end of a Unix socket."""
    if hasattr(socket, "SO_PEERCRED"):
        told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", told)[1])
    return Path(connection.getpeername()).stat().st_uid  # macOS: whoever made the socket
