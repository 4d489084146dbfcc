# SPDX-License-Identifier: Apache-2.0
"""Reading files out of a container's root file system, as the host, without trusting what is in it.

    fresh thread ─unshare(NEWNS)─▶ slave copy of the mount table ─▶ read-only mounts at the scratch directory
        └─ ends: the mount namespace and everything mounted in it are gone, and the host never saw them

An image may hold anything: `/etc/passwd` as a symlink to the host's shadow file, as a FIFO that blocks its reader, as a
device. So paths are resolved by the kernel with the root file system as "/" (openat2(2), RESOLVE_IN_ROOT), first to
O_PATH, which opens nothing, and only a regular file of a bounded size is then opened for reading.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from acri import errors
from acri.host.failures import host_error
from acri.host.kernel import (
    CLONE_NEWNS,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_SLAVE,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    Kernel,
)

__all__ = ["MountLike", "MountOptions", "parse_options", "read_from_rootfs", "read_only_overlay"]

_PAGE = 4096  # mount(2) takes one page of data
_READ_ONLY = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC

# mount(8) options that are flags of mount(2): (flag, set or cleared).
_FLAGS = {
    "async": (0x10, False),
    "atime": (0x400, False),
    "bind": (MS_BIND, True),
    "defaults": (0, True),
    "dev": (MS_NODEV, False),
    "diratime": (0x800, False),
    "dirsync": (0x80, True),
    "exec": (MS_NOEXEC, False),
    "mand": (0x40, True),
    "noatime": (0x400, True),
    "nodev": (MS_NODEV, True),
    "nodiratime": (0x800, True),
    "noexec": (MS_NOEXEC, True),
    "nomand": (0x40, False),
    "norelatime": (0x200000, False),
    "nostrictatime": (0x1000000, False),
    "nosuid": (MS_NOSUID, True),
    "rbind": (MS_BIND | MS_REC, True),
    "relatime": (0x200000, True),
    "remount": (MS_REMOUNT, True),
    "ro": (MS_RDONLY, True),
    "rw": (MS_RDONLY, False),
    "strictatime": (0x1000000, True),
    "suid": (MS_NOSUID, False),
    "sync": (0x10, True),
}


class MountLike(Protocol):
    """A mount as containerd's snapshotters answer it (`acri.containerd.types.Mount` is one)."""

    @property
    def type(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def options(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Options as mount(2) takes them: MS_* bits, and the file system's own, comma-joined."""

    flags: int
    data: str


def parse_options(options: Iterable[str]) -> MountOptions:
    """Sort mount options into flags and data; the last of contradicting flags wins, as for mount(8).

    What belongs to user space only (`x-…`, `X-…`, `loop…`) is left out.
    """
    flags = 0
    data = []
    for option in options:
        if option in _FLAGS:
            bits, on = _FLAGS[option]
            flags = flags | bits if on else flags & ~bits
        elif option and not option.startswith(("x-", "X-", "loop")):
            data.append(option)
    return MountOptions(flags, ",".join(data))


def read_only_overlay(data: str) -> str:
    """Overlay options for looking only: the upper directory becomes the topmost lower one, and the work directory is
    not touched, so a container that runs on the same directories is not disturbed.
    """
    kept: list[str] = []
    lower = upper = ""
    for option in data.split(","):
        key, _, value = option.partition("=")
        if key == "lowerdir":
            lower = value
        elif key == "upperdir":
            upper = value
        elif key not in ("workdir", "index", "nfs_export", "uuid", "volatile", "fsync"):
            kept.append(option)
    layers = ":".join(filter(None, (upper, lower)))
    return ",".join([f"lowerdir={layers}", *filter(None, kept)])


def read_from_rootfs(
    kernel: Kernel, mounts: Sequence[MountLike], paths: Sequence[str], limit: int, scratch_dir: str
) -> dict[str, bytes | None]:
    """Contents of `paths` in the root file system that `mounts` make; None where there is no such regular file.

    Call it in a fresh thread that ends afterwards (it leaves the thread in a mount namespace of its own).
    `scratch_dir` is a directory to mount over, made if missing; all callers at once may use the same, and nothing is
    ever seen in it. `limit`: bytes a file may have.

    Raises:
        errors.ResourceExhausted: a file is larger than `limit`.
        errors.Unimplemented: a mount of a type that this kernel does not have.
        errors.AcriError: the kernel refused.
    """
    doing = "read from the container's root file system"
    try:
        os.makedirs(scratch_dir, mode=0o700, exist_ok=True)
        kernel.unshare(CLONE_NEWNS)
        # Slave, not private: what the host unmounts meanwhile goes away here too, and nothing made here gets out.
        kernel.mount("", "/", "", MS_SLAVE | MS_REC)
        for mount in mounts:
            _mount_read_only(kernel, mount, scratch_dir)
        root = os.open(scratch_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise host_error(doing, error) from error
    try:
        return {path: _read(kernel, root, path, limit) for path in paths}
    except OSError as error:
        raise host_error(doing, error) from error
    finally:
        os.close(root)


def _mount_read_only(kernel: Kernel, mount: MountLike, root: str) -> None:
    options = parse_options(mount.options)
    place = -1
    target = root
    if mount.target:
        directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            place = kernel.openat2(directory, mount.target, os.O_PATH | os.O_DIRECTORY, RESOLVE_IN_ROOT)
        finally:
            os.close(directory)
        target = f"/proc/thread-self/fd/{place}"
    try:
        if options.flags & MS_BIND or mount.type in ("bind", "rbind"):
            kernel.mount(mount.source, target, "", MS_BIND | (options.flags & MS_REC))
            if place < 0:  # through an fd this would still be the directory below the mount, which is none
                kernel.mount("", target, "", MS_REMOUNT | MS_BIND | _READ_ONLY)
        elif mount.type == "overlay":
            _mount_overlay(kernel, read_only_overlay(options.data), target)
        else:
            kernel.mount(mount.source, target, mount.type, options.flags | _READ_ONLY, options.data)
    finally:
        if place >= 0:
            os.close(place)


def _mount_overlay(kernel: Kernel, data: str, target: str) -> None:
    """Mount an overlay; where its directories do not fit into a page, by names relative to their common parent.

    The working directory is the thread's own since unshare(CLONE_NEWNS), so nobody else notices the change.
    """
    if len(os.fsencode(data)) < _PAGE:
        kernel.mount("overlay", target, "overlay", _READ_ONLY, data)
        return
    lowerdir, _, rest = data.removeprefix("lowerdir=").partition(",")
    layers = lowerdir.split(":")
    common = os.path.commonpath(layers) if layers[0].startswith("/") else ""
    if not common or "\\" in lowerdir:
        raise OSError(errno.E2BIG, "the overlay has more layers than mount(2) takes")
    os.chdir(common)
    short = ":".join(os.path.relpath(layer, common) for layer in layers)
    kernel.mount("overlay", target, "overlay", _READ_ONLY, ",".join(filter(None, (f"lowerdir={short}", rest))))


def _read(kernel: Kernel, root: int, path: str, limit: int) -> bytes | None:
    """One regular file, None if it is absent or anything else."""
    try:
        place = kernel.openat2(root, path, os.O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENAMETOOLONG):
            return None
        raise
    try:
        found = os.fstat(place)
        if not stat.S_ISREG(found.st_mode):
            return None
        with open(f"/proc/thread-self/fd/{place}", "rb", buffering=0) as file:
            content = bytearray()
            while piece := file.read(limit + 1 - len(content)):
                content += piece
        if len(content) > limit:
            raise errors.ResourceExhausted(f"{path} in the image has more than {limit} bytes")
        return bytes(content)
    finally:
        os.close(place)
