# SPDX-License-Identifier: Apache-2.0
"""`linux.cgroupsPath`: where under its pod's cgroup a container's own is, in the form of the cgroup driver.

    driver     parent (CRI's cgroup_parent)                              cgroupsPath
    cgroupfs   /kubepods/burstable/pod<uid>                              /kubepods/burstable/pod<uid>/<id>
    systemd    /kubepods.slice/…/kubepods-burstable-pod<uid>.slice       kubepods-burstable-pod<uid>.slice:acri:<id>

`host.cgroups` knows both forms. A record keeps its pod's parent in checked form, so the parent tells the driver (no
cgroupfs parent ends in ".slice"), and a pod outlives a change of the setting.

References:
    OCI runtime-spec, config-linux.md, "Cgroups Path"; runc, docs/systemd.md.
"""

from __future__ import annotations

from acri.host import cgroups

__all__ = ["cgroups_path"]


def cgroups_path(parent: str, container_id: str) -> str:
    """The spec's `linux.cgroupsPath` of a container (or sandbox) directly below a checked parent.

    Raises:
        InvalidArgument: no parent, or an id that cannot name a cgroup.
    """
    driver = "systemd" if parent.endswith(".slice") else "cgroupfs"
    return cgroups.cgroups_path(driver, parent, container_id)
