# SPDX-License-Identifier: Apache-2.0
"""The recording twin of the kernel interface: writes down every call, can fail any of them, passes the rest on.

RecordingKernel()                       answers by itself, touches nothing: what *would* be called, and in what order
RecordingKernel(LinuxKernel())          the real thing, recorded
RecordingKernel(LinuxKernel(), fail_at=3, error=errno.EPERM)   … whose fourth call fails before it is made
"""

from __future__ import annotations

import errno as errno_module
import os
from collections.abc import Callable
from typing import TypeVar

from acri.host.kernel import CLONE_NEWNET, MNT_DETACH, UMOUNT_NOFOLLOW, Kernel

__all__ = ["RecordingKernel"]

_T = TypeVar("_T")


class RecordingKernel:
    """A `Kernel`. `calls` is the list of `(method, *arguments)` in order, the failed one included.

    fail_at  the index of the one call that fails, None for none; it fails before the inner kernel sees it
    error    its errno
    """

    def __init__(
        self, inner: Kernel | None = None, *, fail_at: int | None = None, error: int = errno_module.EIO
    ) -> None:
        self.calls: list[tuple[object, ...]] = []
        self._inner = inner
        self._fail_at = fail_at
        self._error = error

    @property
    def names(self) -> list[str]:
        """The methods called, in order."""
        return [str(call[0]) for call in self.calls]

    def _do(self, name: str, arguments: tuple[object, ...], real: Callable[[Kernel], _T], answer: _T) -> _T:
        self.calls.append((name, *arguments))
        if len(self.calls) - 1 == self._fail_at:
            raise OSError(self._error, f"{name}: {os.strerror(self._error)} (injected)")
        return answer if self._inner is None else real(self._inner)

    def unshare(self, flags: int) -> None:
        self._do("unshare", (flags,), lambda kernel: kernel.unshare(flags), None)

    def setns(self, fd: int, kind: int) -> None:
        self._do("setns", (fd, kind), lambda kernel: kernel.setns(fd, kind), None)

    def namespace_kind(self, fd: int) -> int:
        return self._do("namespace_kind", (fd,), lambda kernel: kernel.namespace_kind(fd), CLONE_NEWNET)

    def mount(self, source: str, target: str, fs_type: str, flags: int, data: str = "") -> None:
        arguments = (source, target, fs_type, flags, data)
        self._do("mount", arguments, lambda kernel: kernel.mount(*arguments), None)

    def umount(self, target: str, flags: int = MNT_DETACH | UMOUNT_NOFOLLOW) -> None:
        self._do("umount", (target, flags), lambda kernel: kernel.umount(target, flags), None)

    def is_mount_root(self, path: str) -> bool:
        return self._do("is_mount_root", (path,), lambda kernel: kernel.is_mount_root(path), True)

    def openat2(self, directory: int, path: str, flags: int, resolve: int) -> int:
        arguments = (directory, path, flags, resolve)
        return self._do("openat2", arguments, lambda kernel: kernel.openat2(*arguments), -1)

    def sethostname(self, name: str) -> None:
        self._do("sethostname", (name,), lambda kernel: kernel.sethostname(name), None)

    def link_up(self, name: str) -> None:
        self._do("link_up", (name,), lambda kernel: kernel.link_up(name), None)

    def write_file(self, path: str, data: str) -> None:
        self._do("write_file", (path, data), lambda kernel: kernel.write_file(path, data), None)

    def pidfd_open(self, pid: int) -> int:
        return self._do("pidfd_open", (pid,), lambda kernel: kernel.pidfd_open(pid), -1)

    def pidfd_send_signal(self, fd: int, number: int) -> None:
        self._do("pidfd_send_signal", (fd, number), lambda kernel: kernel.pidfd_send_signal(fd, number), None)

    def prctl(self, option: int, value: int = 0) -> int:
        return self._do("prctl", (option, value), lambda kernel: kernel.prctl(option, value), 0)

    def tee(self, source: int, target: int, length: int) -> int:
        return self._do("tee", (source, target, length), lambda kernel: kernel.tee(source, target, length), 0)

    def set_pipe_size(self, fd: int, size: int) -> int:
        return self._do("set_pipe_size", (fd, size), lambda kernel: kernel.set_pipe_size(fd, size), size)
