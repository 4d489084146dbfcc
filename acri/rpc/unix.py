# SPDX-License-Identifier: Apache-2.0
"""Unix sockets: bind without stealing, connect without blocking, know the peer.

Why not the loop's own `create_unix_server(path)`: it unlinks whatever socket it finds (a second daemon silently takes
the first one's clients away), leaves the mode to the umask, and cannot use a path longer than 107 bytes (`sun_path`).

    listen(path)   somebody answers ─▶ ConfigError   ·   a dead socket ─▶ replaced   ·   nothing there ─▶ bound

Everything here is a few system calls on a local directory (microseconds), so it runs on the loop's thread.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from acri.errors import ConfigError

__all__ = ["MAX_PATH", "Listener", "Peer", "connect", "credentials", "listen", "peer_pid"]

#: The longest path that fits `struct sockaddr_un` with its NUL (unix(7)).
MAX_PATH = 107

_UCRED = struct.Struct("iII")  # struct ucred: pid, uid, gid
_BACKLOG = 512
_BUSY_WAIT_S = 0.005


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end when it connected (SO_PEERCRED). All −1 when the kernel does not say."""

    pid: int
    uid: int
    gid: int


@contextmanager
def _reachable(path: str) -> Iterator[str]:
    """A name for `path` that fits a socket address; a long one goes through a descriptor of its directory.

    Raises OSError: ENOENT when the directory is missing, ENAMETOOLONG when even the last element does not fit.
    """
    if len(os.fsencode(path)) <= MAX_PATH:
        yield path
        return
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{fd}/{name}"
        if len(os.fsencode(short)) > MAX_PATH:
            raise OSError(errno.ENAMETOOLONG, "the socket's own name is too long", path)
        yield short
    finally:
        os.close(fd)


async def connect(path: str) -> socket.socket:
    """A non-blocking stream socket connected to `path`.

    A full backlog is EAGAIN for a unix socket and never becomes writable later, so it is retried here until the caller
    gives up (cancellation). Raises OSError for everything else: FileNotFoundError, ConnectionRefusedError, …
    """
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            with _reachable(path) as name:
                sock.connect(name)
            return sock
        except BlockingIOError:
            sock.close()
        except BaseException:
            sock.close()
            raise
        await asyncio.sleep(_BUSY_WAIT_S)


async def peer_pid(path: str) -> int:
    """The process that listens on a unix socket. Raises OSError if nobody does."""
    with await connect(path) as sock:
        return credentials(sock).pid


def credentials(sock: socket.socket | None) -> Peer:
    """Who is at the other end of a connected unix socket (a uvloop or asyncio transport socket will do)."""
    if sock is None:
        return Peer(-1, -1, -1)
    try:
        return Peer(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))
    except OSError:
        return Peer(-1, -1, -1)


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound, listening socket and the identity of its file, so that close removes only what is still ours."""

    sock: socket.socket
    path: str
    device: int
    inode: int

    def unlink(self) -> None:
        """Remove the socket file unless it is gone or somebody else's by now."""
        try:
            found = os.stat(self.path, follow_symlinks=False)
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                os.unlink(self.path)
        except FileNotFoundError:
            pass


def listen(path: str, mode: int) -> Listener:
    """Bind and listen on `path` with exactly `mode`, at no moment wider.

    Raises ConfigError when somebody answers there, when the path is taken by something that is no socket, or when the
    directory does not allow it.
    """
    try:
        _make_way(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as exc:
        raise ConfigError(f"cannot listen on {path}: {exc.strerror}") from exc
    try:
        # Linux gives the new file the mode of the socket's own inode, less the umask (unix_bind_bsd), so narrowing that
        # first leaves no moment with a wider mode and spares the process-wide umask; the chmod restores what it took.
        os.fchmod(sock.fileno(), mode)
        with _reachable(path) as name:
            sock.bind(name)
            # Before any await: a bound socket that does not listen yet looks dead to the next one's probe.
            sock.listen(_BACKLOG)
        os.chmod(path, mode)
        found = os.stat(path, follow_symlinks=False)
    except OSError as exc:
        sock.close()
        raise ConfigError(f"cannot listen on {path}: {exc.strerror}") from exc
    return Listener(sock, path, found.st_dev, found.st_ino)


def _make_way(path: str) -> None:
    """Remove a dead socket at `path`; refuse when it is alive or no socket."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"cannot listen on {path}: it exists and is not a socket; remove it or name another path")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        with _reachable(path) as name:
            probe.connect(name)
    except ConnectionRefusedError:
        os.unlink(path)
        return
    except FileNotFoundError:
        return
    except OSError as exc:
        # EAGAIN: its backlog is full; EPROTOTYPE: a datagram socket lives there. Both are alive.
        if exc.errno not in (errno.EAGAIN, errno.EPROTOTYPE):
            raise
    finally:
        probe.close()
    raise ConfigError(f"socket {path} is in use: another process answers there; stop it or name another path")
