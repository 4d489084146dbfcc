# SPDX-License-Identifier: Apache-2.0
"""The one interface to the system calls that change or inspect the host, with a recording twin for tests.

`Kernel` is the interface, `LinuxKernel` the real one (ctypes over libc, which gives the GIL back during each call),
`RecordingKernel` (acri.host.recording) the twin. Every method raises OSError with the kernel's errno; the names of
methods are the fault-injection points. Plain files are read and written with Python's own calls, but writes under
/proc/sys go through `write_file` because they act on the calling thread's namespaces.

`unshare`, `setns` and `sethostname` act on the calling thread alone: call them in a fresh thread that ends afterwards.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import socket
import struct
from typing import Protocol

__all__ = [
    "AT_EMPTY_PATH",
    "CLONE_NEWCGROUP",
    "CLONE_NEWIPC",
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWUSER",
    "CLONE_NEWUTS",
    "MNT_DETACH",
    "MS_BIND",
    "MS_MOVE",
    "MS_NODEV",
    "MS_NOEXEC",
    "MS_NOSUID",
    "MS_PRIVATE",
    "MS_RDONLY",
    "MS_REC",
    "MS_REMOUNT",
    "MS_SHARED",
    "MS_SLAVE",
    "MS_UNBINDABLE",
    "RESOLVE_BENEATH",
    "RESOLVE_IN_ROOT",
    "RESOLVE_NO_MAGICLINKS",
    "RESOLVE_NO_SYMLINKS",
    "RESOLVE_NO_XDEV",
    "UMOUNT_NOFOLLOW",
    "Kernel",
    "LinuxKernel",
]

# linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
# linux/mount.h
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8
# linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
_AT_NO_AUTOMOUNT = 0x800
_AT_SYMLINK_NOFOLLOW = 0x100
_STATX_ATTR_MOUNT_ROOT = 0x2000
_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_SYS_OPENAT2 = 437  # one number on all machines: calls since 2019 share a table


class Kernel(Protocol):
    """System calls. Paths are str, fds and flags int; OSError on failure."""

    def unshare(self, flags: int) -> None:
        """New namespaces (CLONE_NEW*) for the calling thread."""

    def setns(self, fd: int, kind: int) -> None:
        """Moves the calling thread into the namespace that `fd` refers to, which must be of the CLONE_NEW* kind."""

    def namespace_kind(self, fd: int) -> int:
        """The CLONE_NEW* kind of the namespace that `fd` refers to; ENOTTY if it refers to something else."""

    def mount(self, source: str, target: str, fs_type: str, flags: int, data: str = "") -> None:
        """mount(2). Empty `fs_type` and `data` are handed over as null."""

    def umount(self, target: str, flags: int = MNT_DETACH | UMOUNT_NOFOLLOW) -> None:
        """umount2(2); EINVAL where nothing is mounted."""

    def is_mount_root(self, path: str) -> bool:
        """Whether something is mounted on the path itself (statx(2), Linux 5.8); a last symlink is not followed."""

    def openat2(self, directory: int, path: str, flags: int, resolve: int) -> int:
        """openat2(2): an fd (always close-on-exec) of a path below `directory`, resolved as RESOLVE_* says."""

    def sethostname(self, name: str) -> None:
        """The hostname of the calling thread's UTS namespace."""

    def link_up(self, name: str) -> None:
        """Sets a network interface of the calling thread's network namespace up."""

    def write_file(self, path: str, data: str) -> None:
        """One write(2) to a file that exists (sysctls, cgroup files)."""

    def pidfd_open(self, pid: int) -> int:
        """An fd (close-on-exec) for a process, readable once it is dead; ESRCH if there is none."""

    def pidfd_send_signal(self, fd: int, number: int) -> None:
        """A signal to exactly the process that the fd stands for; ESRCH if it is dead and reaped."""

    def prctl(self, option: int, value: int = 0) -> int:
        """prctl(2) with one argument."""

    def tee(self, source: int, target: int, length: int) -> int:
        """tee(2): bytes duplicated from one pipe to another without consuming them; never blocks (EAGAIN)."""

    def set_pipe_size(self, fd: int, size: int) -> int:
        """Asks for a pipe buffer of `size` bytes, returns what it is; EPERM above /proc/sys/fs/pipe-max-size."""


class LinuxKernel:
    """The running kernel."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.syscall.restype = ctypes.c_long
        self._libc.tee.restype = ctypes.c_ssize_t
        self._libc.tee.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint)
        self._libc.mount.argtypes = (
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.c_ulong,
            ctypes.c_char_p,
        )
        self._libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)

    @staticmethod
    def _check(result: int, what: str, path: str | None = None) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}", path)
        return result

    def unshare(self, flags: int) -> None:
        self._check(self._libc.unshare(ctypes.c_int(flags)), "unshare")

    def setns(self, fd: int, kind: int) -> None:
        self._check(self._libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")

    def namespace_kind(self, fd: int) -> int:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE)

    def mount(self, source: str, target: str, fs_type: str, flags: int, data: str = "") -> None:
        result = self._libc.mount(
            os.fsencode(source) or b"none",
            os.fsencode(target),
            os.fsencode(fs_type) or None,
            flags,
            os.fsencode(data) or None,
        )
        self._check(result, "mount", target)

    def umount(self, target: str, flags: int = MNT_DETACH | UMOUNT_NOFOLLOW) -> None:
        self._check(self._libc.umount2(os.fsencode(target), ctypes.c_int(flags)), "umount2", target)

    def is_mount_root(self, path: str) -> bool:
        # struct statx: stx_attributes at byte 8, stx_attributes_mask at byte 56, 256 bytes in all.
        buffer = ctypes.create_string_buffer(256)
        flags = _AT_NO_AUTOMOUNT | _AT_SYMLINK_NOFOLLOW
        self._check(self._libc.statx(AT_FDCWD, os.fsencode(path), flags, 0, buffer), "statx", path)
        attributes, mask = struct.unpack_from("=Q", buffer, 8)[0], struct.unpack_from("=Q", buffer, 56)[0]
        if not mask & _STATX_ATTR_MOUNT_ROOT:
            raise OSError(errno.ENOSYS, "statx does not report mount points (Linux 5.8 or newer is needed)", path)
        return bool(attributes & _STATX_ATTR_MOUNT_ROOT)

    def openat2(self, directory: int, path: str, flags: int, resolve: int) -> int:
        how = ctypes.create_string_buffer(struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve), 24)
        result = self._libc.syscall(
            ctypes.c_long(_SYS_OPENAT2), ctypes.c_int(directory), os.fsencode(path), how, ctypes.c_size_t(24)
        )
        return self._check(result, "openat2", path)

    def sethostname(self, name: str) -> None:
        socket.sethostname(name)

    def link_up(self, name: str) -> None:
        # Any socket carries interface ioctls; a unix one needs no protocol that a kernel may lack.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as carrier:
            request = struct.pack("16sH22x", os.fsencode(name), 0)
            flags: int = struct.unpack_from("H", fcntl.ioctl(carrier, _SIOCGIFFLAGS, request), 16)[0]
            fcntl.ioctl(carrier, _SIOCSIFFLAGS, struct.pack("16sH22x", os.fsencode(name), flags | _IFF_UP))

    def write_file(self, path: str, data: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.write(fd, os.fsencode(data))
        finally:
            os.close(fd)

    def pidfd_open(self, pid: int) -> int:
        return os.pidfd_open(pid)

    def pidfd_send_signal(self, fd: int, number: int) -> None:
        signal.pidfd_send_signal(fd, number)

    def prctl(self, option: int, value: int = 0) -> int:
        return self._check(self._libc.prctl(option, value, 0, 0, 0), "prctl")

    def tee(self, source: int, target: int, length: int) -> int:
        nonblocking = 0x02  # SPLICE_F_NONBLOCK
        return self._check(self._libc.tee(source, target, length, nonblocking), "tee")

    def set_pipe_size(self, fd: int, size: int) -> int:
        return fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size)
