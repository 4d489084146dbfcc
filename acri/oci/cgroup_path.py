# SPDX-License-Identifier: Apache-2.0
"""`linux.cgroupsPath`: where under its pod's cgroup a container's own is, in the form of the cgroup driver.

    driver     parent (CRI's cgroup_parent)                              cgroupsPath
    cgroupfs   /kubepods/burstable/pod<uid>                              /kubepods/burstable/pod<uid>/<id>
    systemd    /kubepods.slice/…/kubepods-burstable-pod<uid>.slice       kubepods-burstable-pod<uid>.slice:acri:<id>

The parent has been checked against the driver (`host.cgroups.check_parent`), so its form tells the driver: no cgroupfs
parent ends in ".slice". systemd names a slice by its last part alone, which holds its ancestors' names.

References:
    OCI runtime-spec, config-linux.md, "Cgroups Path"; runc, docs/systemd.md.
"""

from __future__ import annotations

from acri.oci import paths

__all__ = ["SCOPE_PREFIX", "cgroups_path"]

SCOPE_PREFIX = "acri"
"""The middle of systemd's form: the scope is `acri-<id>.scope`; cAdvisor looks for the id's 64 hex digits in it."""


def cgroups_path(parent: str, container_id: str) -> str:
    """The spec's `linux.cgroupsPath` of a container (or sandbox) directly below a checked parent."""
    cleaned = paths.clean("/" + parent)
    name = cleaned.rpartition("/")[2]
    if name.endswith(".slice"):
        return f"{name}:{SCOPE_PREFIX}:{container_id}"
    return f"{cleaned.rstrip('/')}/{container_id}"
