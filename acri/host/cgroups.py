# SPDX-License-Identifier: Apache-2.0
"""Control groups on this host: which hierarchies there are, and the cgroup directories that acri makes itself.

Three modes (cgroups(7)): `v2` one unified hierarchy; `v1` a hierarchy for each controller; `hybrid` v1 for the
controllers plus an empty unified one for systemd's own use, which for a container runtime is v1. Container cgroups are
made by the OCI runtime; acri makes only a pod's own, for the holder, where nobody else made it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from acri.host import mountinfo

__all__ = ["CgroupLayout", "CgroupMode", "Hierarchy", "detect"]


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
