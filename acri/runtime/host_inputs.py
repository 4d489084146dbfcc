# SPDX-License-Identifier: Apache-2.0
"""What a container's spec has to know of the host's file system: sources of mounts, device nodes, seccomp files.

Everything here blocks, possibly for ever (a path on a dead NFS server), and runs in a `Kind.HOST_FILE` thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from acri import errors
from acri.host import mountinfo
from acri.host.failures import host_error
from acri.model.config import Device, Mount, MountPropagation
from acri.oci import seccomp
from acri.oci.devices import HostDevice, ResolvedDevice
from acri.oci.mounts import ResolvedMount

__all__ = ["host_devices", "read_seccomp_profile", "resolve_devices", "resolve_mounts"]

# Not devices of the host but views of it: a container has its own.
_OWN_DIRECTORIES = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})
_OWN_NODES = frozenset({"/dev/console"})


def resolve_mounts(mounts: tuple[Mount, ...]) -> tuple[ResolvedMount, ...]:
    """Each mount with its source resolved; a source that is missing is made as a directory, as every runtime does.

    Raises:
        errors.InvalidArgument: a source that can be no path.
        errors.FailedPrecondition: a source that cannot be made or looked at.
        errors.AcriError: the mount table cannot be read.
    """
    table: tuple[mountinfo.MountEntry, ...] = ()
    if any(mount.propagation is not MountPropagation.PRIVATE for mount in mounts):
        try:
            table = mountinfo.read()
        except OSError as error:
            raise host_error("read the mount table", error) from error
    return tuple(_resolve_mount(mount, table) for mount in mounts)


def _resolve_mount(mount: Mount, table: tuple[mountinfo.MountEntry, ...]) -> ResolvedMount:
    _check_path(f"mount {mount.container_path}: host path", mount.host_path)
    try:
        if not os.path.lexists(mount.host_path):
            os.makedirs(mount.host_path, mode=0o755, exist_ok=True)
        source = os.path.realpath(mount.host_path, strict=True)
    except OSError as error:
        raise errors.FailedPrecondition(
            f"mount {mount.container_path}: host path {mount.host_path!r}: {error.strerror}"
        ) from error
    entry = _mount_of(source, table) if mount.propagation is not MountPropagation.PRIVATE else None
    return ResolvedMount(mount, source, shared=bool(entry and entry.shared), slave=bool(entry and entry.slave))


def _mount_of(path: str, table: tuple[mountinfo.MountEntry, ...]) -> mountinfo.MountEntry | None:
    """The mount that `path` lies on: the deepest mount point above it, the last one mounted there."""
    best = None
    for entry in table:
        point = entry.mount_point.rstrip("/")
        if (path == point or path.startswith(point + "/")) and (
            best is None or len(point) >= len(best.mount_point.rstrip("/"))
        ):
            best = entry
    return best


def resolve_devices(devices: tuple[Device, ...]) -> tuple[ResolvedDevice, ...]:
    """Each device of the request with the node, or for a directory the nodes, that the host has there.

    Raises:
        errors.FailedPrecondition: no such node.
        errors.InvalidArgument: something that is no device.
    """
    return tuple(_resolve_device(device) for device in devices)


def _resolve_device(device: Device) -> ResolvedDevice:
    _check_path("device", device.host_path)
    try:
        source = os.path.realpath(device.host_path, strict=True)
        if os.path.isdir(source):
            return ResolvedDevice(device, source, tuple(_nodes_below(source)))
        found = _node(source, os.lstat(source))
    except OSError as error:
        raise errors.FailedPrecondition(f"device {device.host_path!r} on the host: {error.strerror}") from error
    if found is None:
        raise errors.InvalidArgument(f"device {device.host_path!r} on the host is no device node")
    return ResolvedDevice(device, source, (found,))


def host_devices() -> tuple[HostDevice, ...]:
    """All device nodes of the host, for privileged containers.

    Raises:
        errors.AcriError: /dev cannot be read; the text names what of it.
    """
    try:
        return tuple(_nodes_below("/dev"))
    except OSError as error:
        raise host_error(f"look for device nodes at {error.filename or '/dev'}", error) from error


def _nodes_below(directory: str) -> Iterator[HostDevice]:
    """Nodes at any depth, by name. What goes away between being listed and looked at is left out. Raises OSError."""
    with os.scandir(directory) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        try:
            if not entry.is_dir(follow_symlinks=False):
                found = _node(entry.path, entry.stat(follow_symlinks=False))
                if found is not None and found.path not in _OWN_NODES:
                    yield found
            elif entry.name not in _OWN_DIRECTORIES:
                yield from _nodes_below(entry.path)
        except FileNotFoundError:
            continue


def _node(path: str, status: os.stat_result) -> HostDevice | None:
    character = stat.S_ISCHR(status.st_mode)
    if not character and not stat.S_ISBLK(status.st_mode):
        return None
    return HostDevice(
        path,
        "c" if character else "b",
        os.major(status.st_rdev),
        os.minor(status.st_rdev),
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
    )


def read_seccomp_profile(path: str) -> bytes:
    """A node's seccomp profile (CRI: SecurityProfile LOCALHOST).

    Raises:
        errors.InvalidArgument: not an absolute path to a file of reasonable size.
        errors.FailedPrecondition: it cannot be read.
    """
    if not path.startswith("/"):
        raise errors.InvalidArgument(f"seccomp profile {path!r} is not an absolute path")
    _check_path("seccomp profile", path)
    try:
        data = _read_regular(path, seccomp.LOCALHOST_LIMIT + 1)
    except OSError as error:
        raise errors.FailedPrecondition(f"seccomp profile {path!r} cannot be read: {error.strerror}") from error
    if data is None:
        raise errors.InvalidArgument(f"seccomp profile {path!r} is not a regular file")
    if len(data) > seccomp.LOCALHOST_LIMIT:
        raise errors.InvalidArgument(f"seccomp profile {path!r} has more than {seccomp.LOCALHOST_LIMIT} bytes")
    return data


def _read_regular(path: str, limit: int) -> bytes | None:
    """Up to `limit` bytes of a file; None if it is none. Raises OSError."""
    # O_NONBLOCK: a FIFO must not hold the thread; it means nothing for a regular file.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        with open(fd, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(fd)


def _check_path(what: str, path: str) -> None:
    if "\0" in path:
        raise errors.InvalidArgument(f"{what} {path!r} has a NUL byte in it")
