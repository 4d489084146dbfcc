# SPDX-License-Identifier: Apache-2.0
"""Control groups on this host: which hierarchies there are, and the cgroup directories that acri makes itself.

Three modes (cgroups(7)): `v2` one unified hierarchy; `v1` a hierarchy for each controller; `hybrid` v1 for the
controllers plus an empty unified one for systemd's own use, which for a container runtime is v1. Container cgroups are
made by the OCI runtime; acri makes only a pod's own, for the holder, where nobody else made it.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from acri import errors
from acri.host import mountinfo
from acri.host.failures import host_error

__all__ = [
    "CgroupLayout",
    "CgroupMode",
    "Hierarchy",
    "cgroups_path",
    "check_parent",
    "choose_driver",
    "default_parent",
    "detect",
    "directory",
    "make",
    "oom_kill_count",
    "processes",
    "remove",
]

_PREFIX = "acri"
_SLICE = re.compile(r"[A-Za-z0-9_.\\:@-]+\.slice")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_REMOVE_ATTEMPTS = 60
_REMOVE_PAUSE_S = 0.02


class CgroupMode(StrEnum):
    V1 = "v1"
    HYBRID = "hybrid"
    V2 = "v2"


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted hierarchy. `controllers` of a named v1 hierarchy are `name=…`; of v2, what its root offers."""

    mount_point: str
    version: int
    controllers: frozenset[str]


@dataclass(frozen=True, slots=True)
class CgroupLayout:
    """The hierarchies of a host. `hierarchies[i].mount_point` is a path on the host (below `root` in tests)."""

    mode: CgroupMode
    hierarchies: tuple[Hierarchy, ...]

    @property
    def unified(self) -> bool:
        """True where containers live in the v2 hierarchy."""
        return self.mode is CgroupMode.V2

    @property
    def controllers(self) -> frozenset[str]:
        """The controllers that containers can have, without named hierarchies."""
        found = frozenset[str]().union(*(entry.controllers for entry in self.used))
        return frozenset(name for name in found if not name.startswith("name="))

    @property
    def used(self) -> tuple[Hierarchy, ...]:
        """The hierarchies in which a container has a cgroup: all of v1, or the one of v2."""
        version = 2 if self.unified else 1
        return tuple(entry for entry in self.hierarchies if entry.version == version)

    def hierarchy(self, controller: str) -> Hierarchy | None:
        """The hierarchy that has the controller, if any."""
        return next((entry for entry in self.used if controller in entry.controllers), None)


def _v2_controllers(mount_point: Path) -> frozenset[str]:
    try:
        return frozenset((mount_point / "cgroup.controllers").read_text(encoding="ascii").split())
    except OSError:
        return frozenset()


def detect(root: str = "/") -> CgroupLayout:
    """The layout from the mount table. `root`: a recorded tree with `proc/self/mountinfo` and `sys/fs/cgroup`.

    A hierarchy that is mounted twice counts once, at the first place. No hierarchy at all gives an empty v1 layout.
    """
    hierarchies: list[Hierarchy] = []
    seen: set[str] = set()
    for entry in mountinfo.read(root):
        if entry.fs_type not in ("cgroup", "cgroup2") or entry.device in seen:
            continue
        seen.add(entry.device)
        point = Path(root, entry.mount_point.lstrip("/"))
        if entry.fs_type == "cgroup2":
            hierarchies.append(Hierarchy(str(point), 2, _v2_controllers(point)))
            continue
        flags = {"rw", "ro", "none", "clone_children", "noprefix", "xattr", "cpuset_v2_mode", "favordynmods"}
        names = frozenset(
            option
            for option in entry.super_options
            if option not in flags and not option.startswith(("release_agent=", "nosuid", "nodev"))
        )
        hierarchies.append(Hierarchy(str(point), 1, names))
    has_v1 = any(entry.version == 1 for entry in hierarchies)
    has_v2 = any(entry.version == 2 for entry in hierarchies)
    if has_v1 or not has_v2:
        return CgroupLayout(CgroupMode.HYBRID if has_v2 else CgroupMode.V1, tuple(hierarchies))
    return CgroupLayout(CgroupMode.V2, tuple(hierarchies))


def delegation_options(root: str = "/") -> tuple[str, ...]:
    """Those of nsdelegate and memory_recursiveprot that the host's cgroup2 mount has.

    They belong to the file system, not to a mount: a container that mounts it in the host's cgroup namespace has to
    name them again, or the host loses them (the kernel's cgroup-v2.rst).
    """
    options = {option for entry in mountinfo.read(root) if entry.fs_type == "cgroup2" for option in entry.super_options}
    return tuple(sorted(options & {"nsdelegate", "memory_recursiveprot"}))


def choose_driver(choice: str, layout: CgroupLayout, *, systemd: bool) -> str:
    """ "cgroupfs" or "systemd" for the setting "cgroupfs", "systemd" or "auto" (systemd where it is PID 1, on v2)."""
    if choice != "auto":
        return choice
    return "systemd" if systemd and layout.unified else "cgroupfs"


def default_parent(driver: str) -> str:
    """The parent of pods that name none."""
    return f"{_PREFIX}.slice" if driver == "systemd" else f"/{_PREFIX}"


def check_parent(driver: str, parent: str) -> str:
    """A pod's cgroup parent in the one form that acri keeps: `/a/b` (cgroupfs), or the last slice's name (systemd).

    A kubelet sends `/kubepods/burstable/podUID` or `/kubepods.slice/…/kubepods-burstable-podUID.slice`.

    Raises:
        errors.InvalidArgument: the other driver's form, or a path that could leave its place. The text has the remedy.
    """
    wrong = f"cgroup_parent {parent!r}"
    if any(part == ".." for part in parent.split("/")) or "\0" in parent or "\n" in parent:
        raise errors.InvalidArgument(f"{wrong} has '..' or a control character in it")
    last = parent.rstrip("/").rpartition("/")[2]
    if driver == "systemd":
        if not _SLICE.fullmatch(last) or ":" in parent:
            raise errors.InvalidArgument(
                f"{wrong} is no systemd slice (NAME.slice), but acri uses the systemd cgroup driver: set the kubelet's "
                'cgroupDriver to systemd, or cgroups.driver = "cgroupfs" in acri\'s configuration'
            )
        _expand_slice(last)
        return last
    if ":" in parent:
        raise errors.InvalidArgument(f"{wrong} has a ':' in it, which the cgroupfs driver does not allow")
    if last.endswith(".slice"):
        raise errors.InvalidArgument(
            f"{wrong} is a systemd slice, but acri uses the cgroupfs cgroup driver: set the kubelet's cgroupDriver to "
            'cgroupfs, or cgroups.driver = "systemd" in acri\'s configuration'
        )
    return posixpath.normpath("/" + parent.lstrip("/"))


def cgroups_path(driver: str, parent: str, container_id: str) -> str:
    """`linux.cgroupsPath` of the OCI runtime specification for a parent that `check_parent` gave.

    cgroupfs: `<parent>/<id>`. systemd: `<last slice>:acri:<id>`, from which runc makes the unit `acri-<id>.scope`.
    """
    if not _ID.fullmatch(container_id):
        raise errors.InvalidArgument(f"{container_id!r} cannot name a cgroup")
    if driver == "systemd":
        return f"{check_parent(driver, parent)}:{_PREFIX}:{container_id}"
    return posixpath.join(check_parent(driver, parent), container_id)


def directory(path: str) -> str:
    """Where an OCI cgroups path lies in each hierarchy: `/kubepods/pod1/ID`, or for systemd's form
    `a-b.slice:acri:ID` → `/a.slice/a-b.slice/acri-ID.scope`.

    Raises:
        errors.InvalidArgument: neither form.
    """
    if ":" not in path:
        return check_parent("cgroupfs", path)
    parts = path.split(":")
    if len(parts) != 3 or not all(_ID.fullmatch(part) for part in parts[1:]):
        raise errors.InvalidArgument(f"cgroups path {path!r} is not SLICE:PREFIX:NAME")
    return f"{_expand_slice(check_parent('systemd', parts[0]))}/{parts[1]}-{parts[2]}.scope"


def _expand_slice(name: str) -> str:
    """`a-b-c.slice` → `/a.slice/a-b.slice/a-b-c.slice`; the root slice `-.slice` → "" (systemd.slice(5))."""
    if name == "-.slice":
        return ""
    parts = name.removesuffix(".slice").split("-")
    if not all(parts):
        raise errors.InvalidArgument(f"cgroup_parent {name!r}: a slice's name has no '-' at its ends and no '--'")
    return "".join("/" + "-".join(parts[: end + 1]) + ".slice" for end in range(len(parts)))


def _places(layout: CgroupLayout, path: str) -> list[str]:
    """The directories of an OCI cgroups path, one for each hierarchy in use."""
    below = directory(path)
    if below in ("", "/"):
        raise errors.InvalidArgument(f"cgroups path {path!r} is a hierarchy's root")
    return [entry.mount_point + below for entry in layout.used]


def make(layout: CgroupLayout, path: str) -> tuple[str, ...]:
    """Make the cgroup of an OCI cgroups path, parents included, in every hierarchy in use; answers the directories.

    Nothing is limited in it. One that exists is fine. On failure the cgroups made by this call go again.

    Raises:
        errors.AcriError: the kernel refused.
    """
    made: list[str] = []
    places = _places(layout, path)
    try:
        for entry, place in zip(layout.used, places, strict=True):
            _make_below(entry, place, made)
    except OSError as error:
        for place in reversed(made):
            try:
                os.rmdir(place)
            except OSError:  # somebody uses it by now
                pass
        raise host_error(f"make the cgroup {path}", error) from error
    return tuple(places)


def _make_below(entry: Hierarchy, place: str, made: list[str]) -> None:
    current = entry.mount_point
    for name in place.removeprefix(entry.mount_point).strip("/").split("/"):
        parent, current = current, f"{current}/{name}"
        try:
            os.mkdir(current, 0o755)
            made.append(current)
        except FileExistsError:
            pass
        if "cpuset" in entry.controllers and entry.version == 1:
            # A v1 cpuset takes no process before it has CPUs and memory nodes (cpuset(7)).
            for file in ("cpuset.cpus", "cpuset.mems"):
                if not _read(f"{current}/{file}").strip():
                    Path(current, file).write_text(_read(f"{parent}/{file}"), encoding="ascii")


def remove(layout: CgroupLayout, path: str) -> None:
    """Remove the cgroup of an OCI cgroups path and those below it, in every hierarchy. Gone already is fine.

    Only rmdir(2) is used; it is tried again for about a second while the kernel still counts dying processes.

    Raises:
        errors.FailedPrecondition: processes live in it.
        errors.AcriError: the kernel refused.
    """
    for place in _places(layout, path):
        for attempt in range(_REMOVE_ATTEMPTS):
            if attempt:
                time.sleep(_REMOVE_PAUSE_S)
            try:
                for found, _, _ in os.walk(place, topdown=False):
                    os.rmdir(found)
                break
            except FileNotFoundError:  # somebody else removes it too: look again
                continue
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                    raise host_error(f"remove the cgroup {place}", error) from error
        else:
            raise errors.FailedPrecondition(f"cgroup {place} cannot be removed: processes {sorted(_pids(place))}")


def processes(layout: CgroupLayout, path: str) -> frozenset[int]:
    """The pids in the cgroup of an OCI cgroups path and below it, in any hierarchy; none if it does not exist."""
    return frozenset[int]().union(*(_pids(place) for place in _places(layout, path)))


def _pids(place: str) -> set[int]:
    return {int(pid) for found, _, _ in os.walk(place) for pid in _read(f"{found}/cgroup.procs").split()}


def oom_kill_count(layout: CgroupLayout, path: str) -> int:
    """How many processes the kernel killed for want of memory in the cgroup of an OCI cgroups path; 0 if it is gone.

    v2: `oom_kill` of memory.events, which counts below it too. v1: `oom_kill` of memory.oom_control (Linux 4.13).
    """
    memory = layout.hierarchy("memory")
    if memory is None:
        return 0
    file = "memory.events" if memory.version == 2 else "memory.oom_control"
    for line in _read(f"{memory.mount_point}{directory(path)}/{file}").splitlines():
        key, _, value = line.partition(" ")
        if key == "oom_kill" and value.isdigit():
            return int(value)
    return 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""
