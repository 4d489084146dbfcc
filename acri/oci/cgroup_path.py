# SPDX-License-Identifier: Apache-2.0
"""`linux.cgroupsPath`: where under the pod's cgroup a container's own is, in the form of the cgroup driver.

    driver     parent (CRI's cgroup_parent)                              cgroupsPath
    cgroupfs   /kubepods/burstable/pod<uid>                              /kubepods/burstable/pod<uid>/<id>
    systemd    /kubepods.slice/…/kubepods-burstable-pod<uid>.slice       kubepods-burstable-pod<uid>.slice:acri:<id>

systemd names a slice by its last part alone, which holds its ancestors' names. The two forms do not mix: a kubelet with
the other driver is told so at its first pod.

References:
    OCI runtime-spec, config-linux.md, "Cgroups Path"; runc, docs/systemd.md.
"""

from __future__ import annotations

import re

from acri import errors
from acri.oci import paths

__all__ = ["SCOPE_PREFIX", "cgroups_path", "check_parent"]

SCOPE_PREFIX = "acri"
"""The middle of systemd's form: the scope is `acri-<id>.scope`; cAdvisor looks for the id's 64 hex digits in it."""

# systemd.unit(5): what a slice's name may have, without its escapes; a dash separates, so none at an end or doubled.
_SLICE = re.compile(r"(?:-|[A-Za-z0-9:_.\\]+(?:-[A-Za-z0-9:_.\\]+)*)\.slice", re.ASCII)


def check_parent(parent: str, *, systemd: bool) -> str:
    """The checked form of a cgroup parent: a clean absolute path (cgroupfs), or a slice's name (systemd).

    Raises:
        InvalidArgument: not of the driver's form.
    """
    if "\0" in parent or "\n" in parent or ".." in parent.split("/"):
        raise errors.InvalidArgument(f"cgroup parent {parent!r} must not contain '..', NUL bytes or line breaks")
    cleaned = paths.clean("/" + parent)
    name = cleaned.rpartition("/")[2]
    if systemd:
        if not _SLICE.fullmatch(name):
            raise errors.InvalidArgument(
                f"cgroup parent {parent!r} is not a slice: acri's cgroup driver is systemd, the caller's seems to be "
                "cgroupfs"
            )
        return name
    if name.endswith(".slice"):
        raise errors.InvalidArgument(
            f"cgroup parent {parent!r} is a systemd slice: acri's cgroup driver is cgroupfs, the caller's seems to be "
            "systemd"
        )
    return cleaned


def cgroups_path(parent: str, container_id: str, *, systemd: bool) -> str:
    """The spec's `linux.cgroupsPath` below a parent, checked again. Raises InvalidArgument as `check_parent`."""
    checked = check_parent(parent, systemd=systemd)
    if systemd:
        return f"{checked}:{SCOPE_PREFIX}:{container_id}"
    return f"{checked.rstrip('/')}/{container_id}"
