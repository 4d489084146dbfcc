# SPDX-License-Identifier: Apache-2.0
"""The log file itself: opened so that nobody can point it elsewhere, appended to by whole lines.

A container that has the log directory mounted can plant a symlink or a FIFO under the log's name (the class of
CVE-2026-53489). So the last path component is never followed, never waited on, and has to be a regular file. The
directories above it are the caller's: it has checked or made them.

Between two calls the file ends with a newline: an append that fails is cut back to the last whole record, and a torn
line that a power cut left is mended when the file is opened. The kubelet judges a file's format by its first line and
skips what it cannot parse.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from acri import errors
from acri.logs.format import LogFormatError, Pieces, parse_line

__all__ = ["LogFile", "open_error"]

_MODE = 0o640
# More than a record can have (piece, time, stream, tag), so that the last line of our own file is always found whole.
_LOOK_BACK = 64 * 1024
_DAY_NS = 24 * 3600 * 10**9
_MOST_PIECES = os.sysconf("SC_IOV_MAX")


class LogFile:
    """An open log file. Synchronous; the caller serialises."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd
        status = os.fstat(fd)
        self.device, self.inode = status.st_dev, status.st_ino

    @classmethod
    def open(cls, path: str, *, create: bool = True) -> LogFile:
        """Open for appending; made with mode 0640 if missing and `create`; never truncated. Raises OSError.

        A symlink is ELOOP, anything else that is no regular file ENXIO or EINVAL.
        """
        # O_NONBLOCK: a planted FIFO must not hold the thread; it means nothing for a regular file.
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        made = False
        while True:
            try:
                fd = os.open(path, flags)
                break
            except FileNotFoundError:
                if not create:
                    raise
            try:
                fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, _MODE)
                made = True
                break
            except FileExistsError:  # somebody else made it meanwhile (or it is a dangling symlink: ELOOP above)
                continue
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
            if made:
                os.fchmod(fd, _MODE)  # whatever the umask says
            return cls(path, fd)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def find(cls, directory: str, device: int, inode: int) -> LogFile | None:
        """The file of that identity in `directory`, under whatever name (rotation renames); None if it is gone."""
        try:
            names = [entry.path for entry in os.scandir(directory) if entry.inode() == inode]
        except OSError:
            return None
        for name in names:
            try:
                file = cls.open(name, create=False)
            except OSError:
                continue
            if file.is_at(device, inode):
                return file
            file.close()
        return None

    def is_at(self, device: int, inode: int) -> bool:
        return (self.device, self.inode) == (device, inode)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def append(self, pieces: Pieces, start: int = 0) -> None:
        """Append the joined `pieces`, from the byte `start` on: one write, or more where the kernel takes less.

        Raises OSError; then the file holds a prefix of it that ends with a whole record (or nothing).
        """
        floor = self.size()
        try:
            if start == 0 and len(pieces) <= _MOST_PIECES:
                start = os.writev(self._fd, pieces)
                if start == sum(map(len, pieces)):
                    return
            view = memoryview(b"".join(pieces))[start:]
            while view:
                written = os.write(self._fd, view)
                if written == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
                view = view[written:]
        except OSError:
            self.cut_torn(floor)
            raise

    def cut_torn(self, floor: int) -> None:
        """Remove what stands after the last newline, but nothing before `floor` (bytes)."""
        try:
            size = self.size()
            start = max(floor, size - _LOOK_BACK)
            line_end = os.pread(self._fd, size - start, start).rfind(b"\n") + 1
            if start + line_end < size:
                os.ftruncate(self._fd, start + line_end)
        except OSError:  # the disk does not even take that; the next append meets the torn line and mends nothing
            pass

    def mend(self) -> int:
        """Make an existing file end with a whole line; the time of that line in ns, 0 if it has none.

        A torn record that lacks only its newline gets it, any other fragment is removed. Raises OSError. A time more
        than a day ahead counts as 0: whoever can write the directory could put the log into the year 9999 otherwise.
        """
        size = self.size()
        start = max(0, size - _LOOK_BACK)
        data = os.pread(self._fd, size - start, start)
        line_end = data.rfind(b"\n") + 1
        if line_end < len(data):
            fragment = data[line_end:] + b"\n"
            foreign = line_end == 0 and start > 0  # a line longer than any of ours: keep it
            if foreign or _believable(fragment) is not None:
                os.write(self._fd, b"\n")
                return _time_of(fragment)
            os.ftruncate(self._fd, start + line_end)
        return _time_of(data[data.rfind(b"\n", 0, max(0, line_end - 1)) + 1 : line_end])

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _time_of(line: bytes) -> int:
    return _believable(line) or 0


def _believable(line: bytes) -> int | None:
    """The time of a record, 0 if it is far in the future; None if this is no record."""
    try:
        found = parse_line(line).time_ns
    except LogFormatError:
        return None
    return found if found < time.time_ns() + _DAY_NS else 0


def open_error(error: OSError, path: str) -> errors.AcriError:
    """What the caller of StartContainer or ReopenContainerLog hears.

    Never NOT_FOUND: for a container's RPC the kubelet takes that to mean that the container is gone.
    """
    if error.errno in (errno.ELOOP, errno.ENXIO, errno.EINVAL, errno.EISDIR):
        return errors.FailedPrecondition(f"log path {path!r} is not a regular file")
    text = f"log file {path!r} cannot be opened: {os.strerror(error.errno or 0)}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE):
        return errors.ResourceExhausted(text)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return errors.PermissionDenied(text)
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return errors.FailedPrecondition(text)
    return errors.UnknownError(text)
