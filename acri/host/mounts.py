# SPDX-License-Identifier: Apache-2.0
"""Mounts that acri makes and removes itself, and removing trees without ever leaving them.

Everything that removes is idempotent: a mount or a directory that is gone already is fine.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from acri import errors
from acri.host import mountinfo
from acri.host.failures import host_error
from acri.host.kernel import (
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_REC,
    UMOUNT_NOFOLLOW,
    Kernel,
)
from acri.host.rootfs import read_from_rootfs

__all__ = [
    "DEFAULT_SHM_SIZE",
    "bind",
    "is_mount_point",
    "mount_shm",
    "read_from_rootfs",
    "remove_tree",
    "unmount",
]

DEFAULT_SHM_SIZE = 64 << 20
"""Bytes of a pod's /dev/shm, as Docker, containerd and CRI-O have it."""

_ATTEMPTS = 50
_PAUSE_S = 0.02
_MAX_STACKED = 64


def is_mount_point(kernel: Kernel, path: str) -> bool:
    """Whether something is mounted on `path`, a bind mount of the same file system included. False if it is gone.

    Raises:
        errors.AcriError: the path cannot be looked at.
    """
    try:
        return kernel.is_mount_root(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ENOSYS:  # statx of Linux before 5.8
            return any(entry.mount_point == os.path.realpath(path) for entry in mountinfo.read())
        raise host_error(f"look at {path}", error) from error


def bind(kernel: Kernel, source: str, target: str, *, recursive: bool = False) -> None:
    """Bind `source` over the existing `target`.

    Raises:
        errors.AcriError: the kernel refused.
    """
    try:
        kernel.mount(source, target, "", MS_BIND | (MS_REC if recursive else 0))
    except OSError as error:
        raise host_error(f"bind {source} to {target}", error) from error


def mount_shm(kernel: Kernel, path: str, size: int = DEFAULT_SHM_SIZE) -> None:
    """A pod's /dev/shm: a tmpfs of at most `size` bytes, mode 1777, at `path`, which is made (0711 above it).

    A tmpfs that is there already stays, so a step that is repeated makes no second one.

    Raises:
        errors.AcriError: the kernel refused.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
        os.makedirs(path, mode=0o755, exist_ok=True)
        if not is_mount_point(kernel, path):
            kernel.mount("shm", path, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, f"mode=1777,size={size}")
    except OSError as error:
        raise host_error(f"mount /dev/shm of a pod at {path}", error) from error


def unmount(kernel: Kernel, path: str) -> None:
    """Unmount everything that is stacked on `path`, lazily, so that a user of the mount cannot stop it.

    A last symlink is not followed. Not mounted or not there is fine.

    Raises:
        errors.AcriError: the kernel refused.
    """
    for _ in range(_MAX_STACKED):
        try:
            kernel.umount(path, MNT_DETACH | UMOUNT_NOFOLLOW)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno == errno.EINVAL:  # not, or no longer, a mount point
                return
            raise host_error(f"unmount {path}", error) from error


def remove_tree(kernel: Kernel, path: str) -> None:
    """Remove `path` and all below it, unmounting what is mounted there first; never anything outside of it.

    Symlinks are removed, not followed; the walk goes by directory fds, so a directory that is swapped for a symlink
    meanwhile leads nowhere, and it does not descend into a mount that appears meanwhile (the files of a volume are not
    ours): such a tree fails and can be tried again.

    Raises:
        errors.FailedPrecondition: something keeps being mounted below it.
        errors.AcriError: the kernel refused.
    """
    if not os.path.isabs(path) or not os.path.normpath(path).strip("/"):  # normpath leaves "//" as it is
        raise errors.InvalidArgument(f"remove_tree needs an absolute path below /, not {path!r}")
    path = os.path.normpath(path)
    busy: OSError | None = None
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_S)
        try:
            _unmount_below(kernel, path)
            _remove(path)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.EXDEV):
                raise host_error(f"remove {path}", error) from error
            busy = error  # a mount that is about to go, or a file that was just made: look again
        else:
            return
    raise errors.FailedPrecondition(f"remove {path}: still in use: {busy}")


def _unmount_below(kernel: Kernel, path: str) -> None:
    # The table has resolved paths; only the directory part is resolved, as a last symlink will not be followed.
    parent, name = os.path.split(path)
    real = os.path.join(os.path.realpath(parent), name)
    for point in mountinfo.mounts_below(mountinfo.read(naming=real), real):
        unmount(kernel, point)


def _remove(path: str) -> None:
    parent, name = os.path.split(path)
    directory = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _remove_at(directory, name, None)
    finally:
        os.close(directory)


def _remove_at(directory: int, name: str, mount_id: int | None) -> None:
    """Remove one entry. `mount_id`: the mount that the walk is in, None at its top, which decides."""
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=directory)
            return
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        if mount_id is None:
            raise
        return
    try:
        own = _mount_id(fd)
        if own != (_mount_id(directory) if mount_id is None else mount_id):
            raise OSError(errno.EXDEV, "something is mounted there", name)
        with os.scandir(fd) as entries:
            names = [entry.name for entry in entries]
        for child in names:
            _remove_at(fd, child, own)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=directory)


def _mount_id(fd: int) -> int:
    """The mount that an open directory lies in: a bind mount of the same file system has the same st_dev."""
    with open(f"/proc/thread-self/fdinfo/{fd}", "rb") as file:
        for line in file:
            if line.startswith(b"mnt_id:"):
                return int(line[7:])
    raise OSError(errno.EIO, "fdinfo has no mnt_id")
