# SPDX-License-Identifier: Apache-2.0
"""The receiving side of sd_notify(3), with its fd store: what systemd is to a service, for `acri up`'s child.

A message is a datagram of `KEY=value` lines, with descriptors beside it (SCM_RIGHTS):

    READY=1, STATUS=…                  kept as the state of the child
    FDSTORE=1 FDNAME=name + fds        kept here, until …
    FDSTOREREMOVE=1 FDNAME=name        … they are given up, or the store is closed
    anything else                      ignored; descriptors that came with it are closed

Stored descriptors are handed to the next child as LISTEN_FDS does (`listen_exec`). systemd drops a stored descriptor
that hangs up unless FDPOLL=0 came with it; this store drops none.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
from collections.abc import Callable

import structlog

__all__ = ["DEFAULT_NAME", "FdStore"]

DEFAULT_NAME = "stored"
_MAX_MESSAGE = 64 * 1024
_MAX_FDS = 253
"""SCM_MAX_FD: the kernel passes no more at once."""
_FD = struct.Struct("i")

log = structlog.get_logger(__name__)


class FdStore:
    """A notification socket and what was stored by it. Make it inside the running loop; `close` it.

    Args:
        path: where to bind; at most 107 bytes. An old socket there is removed.
        on_message: called with the lines of each message, as a dict.
        limit: descriptors kept at most; more are refused, as with FileDescriptorStoreMax=.

    Raises:
        OSError: it cannot be bound.
    """

    def __init__(
        self, path: str, on_message: Callable[[dict[str, str]], None] | None = None, *, limit: int = 65536
    ) -> None:
        self.path = path
        self._on_message = on_message
        self._limit = limit
        self._stored: list[tuple[str, int]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if os.path.lexists(path):
                os.unlink(path)
            self._socket.bind(path)
            os.chmod(path, 0o600)
        except BaseException:
            self._socket.close()
            raise
        asyncio.get_running_loop().add_reader(self._socket, self._readable)

    def __len__(self) -> int:
        return len(self._stored)

    def stored(self) -> tuple[tuple[str, int], ...]:
        """Name and descriptor of all that is stored, oldest first. They stay the store's."""
        return tuple(self._stored)

    def close(self) -> None:
        """Close the socket, remove it, close what is stored."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass
        self._drop(lambda _: True)

    def _readable(self) -> None:
        while True:
            try:
                # Not socket.recv_fds: before Python 3.12 it forgets the flags.
                data, beside, flags, _ = self._socket.recvmsg(
                    _MAX_MESSAGE, socket.CMSG_SPACE(_MAX_FDS * _FD.size), socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("notification lost", error=str(error))
                return
            fds = [fd for level, kind, raw in beside for fd in _descriptors(level, kind, raw)]
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                log.warning("notification cut", bytes=len(data), fds=len(fds))
            self._take(data, fds)

    def _take(self, data: bytes, fds: list[int]) -> None:
        lines = data.decode(errors="replace").splitlines()
        message = dict(line.split("=", 1) for line in lines if "=" in line)
        name = message.get("FDNAME", DEFAULT_NAME)
        if message.get("FDSTORE") == "1":
            for fd in fds:
                self._keep(name, fd)
        else:
            for fd in fds:
                os.close(fd)
            if message.get("FDSTOREREMOVE") == "1":
                self._drop(lambda stored: stored == name)
        if self._on_message is not None:
            self._on_message(message)

    def _keep(self, name: str, fd: int) -> None:
        if len(self._stored) >= self._limit:
            log.warning("fd store is full", name=name, limit=self._limit)
            os.close(fd)
        elif any(kept == name and _same_file(other, fd) for kept, other in self._stored):
            os.close(fd)  # a child that was restarted stores what it was given once more
        else:
            self._stored.append((name, fd))

    def _drop(self, wanted: Callable[[str], bool]) -> None:
        for name, fd in self._stored:
            if wanted(name):
                os.close(fd)
        self._stored = [(name, fd) for name, fd in self._stored if not wanted(name)]


def _descriptors(level: int, kind: int, raw: bytes) -> list[int]:
    if (level, kind) != (socket.SOL_SOCKET, socket.SCM_RIGHTS):
        return []
    return [fd for (fd,) in _FD.iter_unpack(raw[: len(raw) - len(raw) % _FD.size])]


def _same_file(one: int, other: int) -> bool:
    """Whether both are open on the same file in the same way (of a FIFO, both the read or both the write end)."""
    first, second = os.fstat(one), os.fstat(other)
    modes = {fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE for fd in (one, other)}
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino) and len(modes) == 1
