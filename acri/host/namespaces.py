# SPDX-License-Identifier: Apache-2.0
"""A pod's own network, IPC and UTS namespaces, kept alive by pins: bind mounts of nsfs files, and no process.

    create:  plan ─check─▶ unshare ─▶ configure (loopback, hostname, sysctls) ─▶ pin each ─▶ verify each ─▶ Pinned
                                                                                 └── any failure: pins removed
    remove:  unmount until nothing is mounted ─▶ unlink ─▶ remove the directory if it is empty    (idempotent)

A pin is made last, so a pin that exists is a finished namespace. `create`, `enter` and nothing else here change the
calling thread: give them a fresh thread that ends afterwards.

Pin directories are mount points of their own with shared propagation, made exactly as `ip netns` makes /run/netns: it
would otherwise bind the directory over itself later and hide our pins below, and CNI daemons in other mount namespaces
would not see them. Where a copy of a pin lives on in a private mount namespace, unlink(2) of the pin file detaches that
copy too (Linux 3.18), so removal frees the namespace however many copies there are.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from acri import errors
from acri.host import sysctl
from acri.host.failures import host_error
from acri.host.kernel import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MNT_DETACH,
    MS_BIND,
    MS_REC,
    MS_SHARED,
    UMOUNT_NOFOLLOW,
    Kernel,
)

__all__ = ["KINDS", "NamespacePlan", "Pinned", "Pins", "check", "create", "enter", "pin", "prepare_root", "remove"]

KINDS = {
    "net": CLONE_NEWNET,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "pid": CLONE_NEWPID,
    "user": CLONE_NEWUSER,
    "mnt": CLONE_NEWNS,
}
"""Name below /proc/PID/ns → CLONE_NEW* flag."""

_HOST_NAME_MAX = 64
_REMOVE_ATTEMPTS = 50
_REMOVE_PAUSE_S = 0.02
_root_lock = threading.Lock()


class Pins(Protocol):
    """Paths of a pod's pins, "" for a namespace that it has not (`Pinned`, or a record of the same shape)."""

    @property
    def net(self) -> str: ...
    @property
    def ipc(self) -> str: ...
    @property
    def uts(self) -> str: ...
    @property
    def pid(self) -> str: ...


@dataclass(frozen=True, slots=True)
class NamespacePlan:
    """What to make. Paths are absolute and do not exist yet; "" means that the pod has no namespace of that kind.

    net              e.g. /run/netns/acri-ID
    ipc, uts         e.g. /run/acri/ns/ID/ipc; missing directories are made, mode 0711
    hostname         set in the new UTS namespace; "" leaves a copy of the node's; without `uts` it has no effect
    sysctls          the user's, any spelling; a mistake is an error
    default_sysctls  acri's own, written first and where the kernel has them: `net.ipv4.ip_unprivileged_port_start`, …
    roots            directories to have as mount points first (`prepare_root`): /run/netns, /run/acri/ns
    """

    net: str = ""
    ipc: str = ""
    uts: str = ""
    hostname: str = ""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    default_sysctls: Mapping[str, str] = field(default_factory=dict)
    roots: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pinned:
    """What was made: paths of the pins, "" where there is none."""

    net: str = ""
    ipc: str = ""
    uts: str = ""
    pid: str = ""


def prepare_root(kernel: Kernel, directory: str) -> None:
    """Make `directory` (mode 0755) a mount point with shared propagation, as ip-netns(8) does; one that is a mount
    point already stays as it is. Safe to call from several threads.

    Raises:
        errors.AcriError: the directory or the mount cannot be made.
    """
    with _root_lock:
        try:
            os.makedirs(directory, mode=0o755, exist_ok=True)
            if not kernel.is_mount_root(directory):
                kernel.mount(directory, directory, "", MS_BIND | MS_REC)
                try:
                    kernel.mount("", directory, "", MS_SHARED | MS_REC)
                except OSError:
                    kernel.umount(directory)
                    raise
        except OSError as error:
            raise host_error(f"prepare {directory} for pinned namespaces", error) from error


def create(kernel: Kernel, plan: NamespacePlan) -> Pinned:
    """Make, configure and pin the planned namespaces. Leaves the calling thread inside them, also on failure.

    Raises:
        errors.InvalidArgument: a sysctl or the hostname; nothing was made.
        errors.AlreadyExists: a pin's path is taken; everything made so far is undone.
        errors.AcriError: the kernel refused; everything made so far is undone. If an undo failed, a note says so.
    """
    wanted = {name: path for name in ("net", "ipc", "uts") if (path := getattr(plan, name))}
    shared = {"host_network": not plan.net, "host_ipc": not plan.ipc, "host_uts": not plan.uts}
    sysctls = sysctl.check(plan.sysctls, **shared)
    defaults = sysctl.check(plan.default_sysctls, **shared)
    _check_hostname(plan)
    if not wanted:
        return Pinned()
    for root in plan.roots:
        prepare_root(kernel, root)
    made: list[str] = []
    try:
        _unshare(kernel, wanted)
        _configure(kernel, plan, {path: value for path, value in defaults.items() if path not in sysctls}, sysctls)
        for name, path in wanted.items():
            pin(kernel, f"/proc/thread-self/ns/{name}", path, name)
            made.append(path)
    except BaseException as error:
        for path in reversed(made):
            _undo_pin(kernel, path, error)
        raise
    return Pinned(**wanted)


def _configure(kernel: Kernel, plan: NamespacePlan, defaults: Mapping[str, str], sysctls: Mapping[str, str]) -> None:
    try:
        if plan.net:
            kernel.link_up("lo")
        if plan.uts and plan.hostname:
            kernel.sethostname(plan.hostname)
    except OSError as error:
        raise host_error("set up the pod's namespaces", error) from error
    sysctl.apply(kernel, defaults, skip_missing=True)
    sysctl.apply(kernel, sysctls)


def _undo_pin(kernel: Kernel, path: str, error: BaseException) -> None:
    """Remove a pin because of `error`, which gets a note if that fails too."""
    try:
        _remove_pin(kernel, path)
    except errors.AcriError as left:
        error.add_note(f"and left behind: {left.message}")


def _check_hostname(plan: NamespacePlan) -> None:
    name = plan.hostname
    if len(os.fsencode(name)) > _HOST_NAME_MAX or (name and not name.isprintable()):
        raise errors.InvalidArgument(f"hostname {name!r} has more than {_HOST_NAME_MAX} bytes or a control character")


def _identity(path: str) -> tuple[int, int]:
    """What makes a namespace unique on a host: device and inode of its nsfs file."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _unshare(kernel: Kernel, wanted: Mapping[str, str]) -> None:
    """New namespaces for this thread; each must differ from the one it had and from that of acri itself."""
    try:
        before = {name: {_identity(f"/proc/{who}/ns/{name}") for who in ("thread-self", "self")} for name in wanted}
        flags = 0
        for name in wanted:
            flags |= KINDS[name]
        kernel.unshare(flags)
        for name, old in before.items():
            if _identity(f"/proc/thread-self/ns/{name}") in old:
                raise OSError(errno.ENOTRECOVERABLE, f"unshare made no new {name} namespace")
    except OSError as error:
        raise host_error(f"make new namespaces ({', '.join(wanted)})", error) from error


def pin(kernel: Kernel, source: str, path: str, name: str) -> None:
    """Bind the namespace file `source` to the new file `path` and verify that exactly that namespace is pinned there.

    Missing directories are made (0711). On failure nothing is left at `path`.

    Raises:
        errors.AlreadyExists: there is something at `path`.
        errors.AcriError: the kernel refused, or another namespace than `source`'s would have been pinned.
    """
    doing = f"pin the {name} namespace at {path}"
    try:
        expected = _identity(source)
        os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o444))
    except FileExistsError as error:
        raise errors.AlreadyExists(f"{doing}: there is something already") from error
    except OSError as error:
        raise host_error(doing, error) from error
    try:
        kernel.mount(source, path, "", MS_BIND)
        if _live_identity(kernel, path, name) != expected:
            raise errors.Aborted(f"{doing}: another namespace was found there")
    except OSError as error:
        failure = host_error(doing, error)
        _undo_pin(kernel, path, failure)
        raise failure from error
    except BaseException as error:
        _undo_pin(kernel, path, error)
        raise


def _live_identity(kernel: Kernel, path: str, name: str) -> tuple[int, int] | None:
    """The identity of the namespace pinned at `path`; None where it is none, or of another kind."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if kernel.namespace_kind(fd) != KINDS[name]:
            return None
        found = os.fstat(fd)
        return found.st_dev, found.st_ino
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):  # a plain file: the pin's mount is gone
            return None
        raise
    finally:
        os.close(fd)


def check(kernel: Kernel, path: str, name: str) -> bool:
    """Whether `path` pins a namespace of the kind `name` ("net", …) that is not acri's own.

    A PID namespace whose PID 1 is dead still counts: what lives there is the holder's business.
    """
    try:
        identity = _live_identity(kernel, path, name)
        return identity is not None and identity != _identity(f"/proc/self/ns/{name}")
    except OSError:
        return False


def enter(kernel: Kernel, path: str, name: str) -> None:
    """Move the calling (fresh) thread into the pinned namespace of the kind `name`.

    Raises:
        errors.NotFound: there is no pin.
        errors.FailedPrecondition: what is there is no namespace of that kind.
    """
    doing = f"enter the {name} namespace at {path}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise errors.NotFound(f"{doing}: it is gone") from error
    except OSError as error:
        raise host_error(doing, error) from error
    try:
        kernel.setns(fd, KINDS[name])
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise errors.FailedPrecondition(f"{doing}: it is no such namespace (its pin was unmounted?)") from error
        raise host_error(doing, error) from error
    finally:
        os.close(fd)


def remove(kernel: Kernel, pins: Pins) -> None:
    """Remove the pins and the directories that only they were in. What is gone already is fine.

    All are tried; the first failure is raised afterwards.

    Raises:
        errors.AcriError: a pin cannot be removed (after about a second of trying).
    """
    failure: errors.AcriError | None = None
    # The PID namespace first: its processes are gone by then, and nothing else keeps it.
    for path in filter(None, (pins.pid, pins.net, pins.ipc, pins.uts)):
        try:
            _remove_pin(kernel, path)
        except errors.AcriError as error:
            failure = failure or error
    if failure is not None:
        raise failure


def _remove_pin(kernel: Kernel, path: str) -> None:
    """Unmount all that is stacked at `path`, unlink it, remove its directory if that is empty and no mount point.

    EBUSY from unlink(2) means that something was mounted again in between, or that a lazy unmount is not yet visible:
    both go away by trying again.
    """
    error: OSError | None = None
    for attempt in range(_REMOVE_ATTEMPTS):
        if attempt:
            time.sleep(_REMOVE_PAUSE_S)
        try:
            _unmount_all(kernel, path)
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as found:
            error = found
            if found.errno not in (errno.EBUSY, errno.EINTR, errno.EAGAIN):
                break
            continue
        try:
            os.rmdir(os.path.dirname(path))
        except OSError:  # other pins are in it, or it is the mount point that `prepare_root` made
            pass
        return
    assert error is not None
    raise host_error(f"remove the pinned namespace {path}", error) from error


def _unmount_all(kernel: Kernel, path: str) -> None:
    for _ in range(64):  # a pin is mounted once, or twice where propagation doubles it
        try:
            kernel.umount(path, MNT_DETACH | UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return
            raise
