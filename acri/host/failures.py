# SPDX-License-Identifier: Apache-2.0
"""From an errno to an error of acri's: who is to blame, in one table."""

from __future__ import annotations

import errno
import os

from acri import errors

__all__ = ["host_error"]

_BY_ERRNO: dict[int, type[errors.AcriError]] = {
    errno.EPERM: errors.PermissionDenied,
    errno.EACCES: errors.PermissionDenied,
    errno.EROFS: errors.PermissionDenied,
    errno.ENOMEM: errors.ResourceExhausted,
    errno.ENOSPC: errors.ResourceExhausted,  # also: a limit of /proc/sys/user/max_*_namespaces, or of mounts
    errno.EDQUOT: errors.ResourceExhausted,
    errno.EMFILE: errors.ResourceExhausted,
    errno.ENFILE: errors.ResourceExhausted,
    errno.EAGAIN: errors.ResourceExhausted,
    errno.EUSERS: errors.ResourceExhausted,
    errno.ENOSYS: errors.Unimplemented,
    errno.ENODEV: errors.Unimplemented,  # mount(2): a file system that this kernel does not have
    errno.EOPNOTSUPP: errors.Unimplemented,
}


def host_error(doing: str, error: OSError) -> errors.AcriError:
    """The error for a system call that failed while `doing` ("pin the network namespace at /run/netns/…")."""
    number = error.errno or 0
    cls = _BY_ERRNO.get(number, errors.UnknownError)
    return cls(f"{doing}: {os.strerror(number) if number else error}")
