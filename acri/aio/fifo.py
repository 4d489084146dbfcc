# SPDX-License-Identifier: Apache-2.0
"""FIFOs between acri and a shim: making them, opening them without waiting, reading one to its end, feeding stdin.

When a FIFO has ended. The shim holds both ends of its FIFOs for as long as the task lives, so a
writer that finds no reader waits instead of getting EPIPE, and a reader sees:

    no writer yet ──shim opens──▶ data … nothing yet (EAGAIN) … data ──last writer closes──▶ end
    read gives b"", no POLLHUP                                       read gives b"", POLLHUP

A reader that opened the FIFO after the last writer had left (acri was restarted) gets b"" without POLLHUP as well: it
has to know from elsewhere that the process has exited. And a background child may hold the write end for ever, so
whoever waits for the end of an exited process bounds that wait.

`make`, `remove` and `open_reader` touch the file system: call them in a thread. Descriptors are non-blocking.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = [
    "MAX_OUTPUT",
    "WANTED_PIPE_SIZE",
    "Collected",
    "StdinWriter",
    "collect",
    "enlarge",
    "hung_up",
    "make",
    "open_reader",
    "open_writer",
    "remove",
]

# /proc/sys/fs/pipe-max-size is 1 MiB everywhere; pages are used only while bytes are in them.
WANTED_PIPE_SIZE = 1024 * 1024
_LEAST_PIPE_SIZE = 128 * 1024
# ExecSync's bound per stream (cri-api: "16 MB"); containerd and CRI-O cut there too.
MAX_OUTPUT = 16 * 1024 * 1024
_CHUNK = 64 * 1024
_OPEN = os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC


def make(directory: str, names: Iterable[str]) -> dict[str, str]:
    """Make `directory` (0700) and a FIFO (0600) per name in it; name → path. Idempotent. Raises OSError, with path."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    paths = {name: os.path.join(directory, name) for name in names}
    for path in paths.values():
        try:
            os.mkfifo(path, 0o600)
        except OSError as error:
            if error.errno != errno.EEXIST or not stat.S_ISFIFO(os.lstat(path).st_mode):
                raise OSError(error.errno, error.strerror, path) from None  # mkfifo does not say which
    return paths


def remove(directory: str, names: Iterable[str]) -> None:
    """Remove the FIFOs and, once it is empty, the directory. Idempotent. Raises OSError."""
    for name in names:
        try:
            os.unlink(os.path.join(directory, name))
        except FileNotFoundError:
            pass
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise


def open_reader(path: str) -> int:
    """Open a FIFO for reading; does not wait for a writer. Raises OSError, EINVAL if it is no FIFO."""
    return _fifo_only(os.open(path, os.O_RDONLY | _OPEN), path)


def open_writer(path: str) -> int:
    """Open a FIFO for writing. Raises OSError, ENXIO while it has no reader."""
    return _fifo_only(os.open(path, os.O_WRONLY | _OPEN), path)


def _fifo_only(fd: int, path: str) -> int:
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "not a FIFO", path)


def enlarge(fd: int, wanted: int = WANTED_PIPE_SIZE) -> int:
    """Let a pipe hold up to `wanted` bytes, or as much of it as the kernel allows this user; its size in bytes."""
    size = wanted
    while size >= _LEAST_PIPE_SIZE:
        try:
            return fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size)
        except OSError:  # EPERM: above pipe-max-size or the user's share; EBUSY: more than that is in it
            size //= 2
    return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)


def hung_up(fd: int) -> bool:
    """Whether the pipe had a writer since `fd` was opened and has none now."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


@dataclass(frozen=True, slots=True)
class Collected:
    """What came out of a FIFO.

    data      the first bytes, at most the limit
    dropped   bytes beyond the limit, read and thrown away
    ended     False if somebody still held the write end when the drain time was over
    """

    data: bytes
    dropped: int
    ended: bool


async def collect(fd: int, *, exited: asyncio.Future[Any], drain_s: float, limit: int = MAX_OUTPUT) -> Collected:
    """Read `fd` to its end, or until `drain_s` seconds after `exited` was done (ExecSync; containerd#9568).

    Beyond `limit` bytes it goes on reading, so that the process is not held up, and drops. `fd` stays the caller's, and
    so does `exited`, of which only "done" matters. What is in the FIFO when the time is over is still taken, at most
    one pipe's content. Raises OSError.
    """
    loop = asyncio.get_running_loop()
    data = bytearray()
    dropped = 0
    deadline: float | None = None
    left = -1  # bytes that may still be read once the time is over
    while True:
        if exited.done() and deadline is None:
            deadline = loop.time() + drain_s
        if deadline is not None and left < 0 and loop.time() >= deadline:
            left = WANTED_PIPE_SIZE
        try:
            chunk: bytes | None = os.read(fd, _CHUNK)
        except BlockingIOError:
            chunk = None
        if chunk:
            room = limit - len(data)
            data += chunk[:room]
            dropped += max(0, len(chunk) - room)
            if left >= 0:
                left = max(0, left - len(chunk))
            if left != 0:
                await asyncio.sleep(0)  # one busy process must not have the loop for itself
                continue
        elif chunk == b"" and (exited.done() or hung_up(fd)):
            return Collected(bytes(data), dropped, True)
        if left >= 0:
            return Collected(bytes(data), dropped, False)
        await _readable(fd, exited, deadline)


async def _readable(fd: int, exited: asyncio.Future[Any], deadline: float | None) -> None:
    """Wait until `fd` has something, or `exited` becomes done, or the deadline (loop time) is reached."""
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()

    def wake(_: object = None) -> None:
        if not woken.done():
            woken.set_result(None)

    loop.add_reader(fd, wake)
    if deadline is None:
        exited.add_done_callback(wake)
    timer = loop.call_at(deadline, wake) if deadline is not None else None
    try:
        await woken
    finally:
        loop.remove_reader(fd)
        exited.remove_done_callback(wake)
        if timer is not None:
            timer.cancel()


class StdinWriter:
    """The write end of a process's stdin, for exec and attach."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    async def open(cls, path: str, timeout_s: float) -> StdinWriter:
        """Open as soon as the shim reads it (ENXIO until then). Raises TimeoutError, OSError.

        The open itself is on the loop: a FIFO under the state directory (tmpfs), opened O_NONBLOCK, waits for nobody.
        """
        pause = 0.001
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    return cls(open_writer(path))
                except OSError as error:
                    if error.errno != errno.ENXIO:
                        raise
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.1)

    async def write(self, data: bytes) -> None:
        """Write all of it, waiting while the FIFO is full. Raises BrokenPipeError when nobody reads any more."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await self._writable()

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        loop.add_writer(self._fd, wake)
        try:
            await woken
        finally:
            loop.remove_writer(self._fd)

    def close(self) -> None:
        """Close: the process reads end of file once the shim has closed its own write end too (CloseIO). Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
