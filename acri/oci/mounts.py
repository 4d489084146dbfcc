# SPDX-License-Identifier: Apache-2.0
"""The mounts of a container, in the order in which they are made.

    1. the kernel's file systems: /proc, /dev and below, /sys, cgroups
    2. the pod's files (hostname, hosts, resolv.conf, /dev/shm) and the request's mounts, by depth, else in their order

A mount of the request takes the place of ours at the same path; one on /dev takes the place of all of step 1 below it.

References:
    CRI, Mount and MountPropagation; OCI runtime-spec, config.md, "Mounts"; mount(8) for the options.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from acri import errors
from acri.model.config import Mount, MountPropagation
from acri.oci import paths

__all__ = ["ContainerPaths", "MountInputs", "Mounts", "ResolvedMount", "build", "check"]

Json = dict[str, Any]

SHM_SIZE = "64m"
"""Of a /dev/shm that is the container's own; the pod's is made by the host room."""
HOST_SHM = "/dev/shm"
_SHARED = "rshared"
_SLAVE = "rslave"
_PRIVATE = "rprivate"


@dataclass(frozen=True, slots=True)
class ContainerPaths:
    """Files of the pod on the host, to be mounted into its containers; "" where there is none.

    `shm` is the pod's /dev/shm, or the host's for a pod on the host's IPC namespace.
    """

    hostname: str = ""
    hosts: str = ""
    resolv_conf: str = ""
    shm: str = ""


@dataclass(frozen=True, slots=True)
class ResolvedMount:
    """A mount of the request with what its source is on the host.

    `source` is `mount.host_path` with all symlinks resolved; it exists. `shared` and `slave` say how the mount that it
    lies on propagates (mountinfo's `shared:` and `master:`).
    """

    mount: Mount
    source: str
    shared: bool = False
    slave: bool = False


@dataclass(frozen=True, slots=True)
class MountInputs:
    """`recursive_read_only`: kernel and OCI runtime have it. `cgroup_options`: what the host's cgroup2 mount has of
    nsdelegate and memory_recursiveprot; only used where the container shares the host's cgroup namespace."""

    paths: ContainerPaths = ContainerPaths()
    mounts: tuple[ResolvedMount, ...] = ()
    privileged: bool = False
    readonly_rootfs: bool = False
    recursive_read_only: bool = False
    shares_host_cgroups: bool = True
    cgroup_options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mounts:
    """`mounts` and `linux.rootfsPropagation` ("" for the runtime's default)."""

    mounts: list[Json] = field(default_factory=list)
    rootfs_propagation: str = ""


def check(mounts: Iterable[Mount]) -> None:
    """What can be said of the request's mounts before anything is looked up or made on the host.

    Raises:
        InvalidArgument: no or bad container path, no host path, recursive read-only where it cannot be.
        Unimplemented: image mounts, id-mapped mounts.
    """
    for mount in mounts:
        destination = paths.container_path(mount.container_path, "mount")
        if destination == "/":
            raise errors.InvalidArgument("mount: container path '/' would hide the container's root file system")
        if mount.image is not None and mount.image.image:
            raise errors.Unimplemented(f"mount {destination}: this version of acri has no image volumes")
        if mount.image_sub_path:
            raise errors.InvalidArgument(f"mount {destination}: image_sub_path is set without an image")
        if not mount.host_path.startswith("/") or "\0" in mount.host_path:
            raise errors.InvalidArgument(f"mount {destination}: host path {mount.host_path!r} is not absolute")
        if mount.uid_mappings or mount.gid_mappings:
            raise errors.Unimplemented(f"mount {destination}: this version of acri has no id-mapped mounts")
        if mount.recursive_read_only and not mount.readonly:
            raise errors.InvalidArgument(f"mount {destination}: recursive_read_only needs readonly")
        if mount.recursive_read_only and mount.propagation != MountPropagation.PRIVATE:
            raise errors.InvalidArgument(f"mount {destination}: recursive_read_only needs private propagation")


def build(inputs: MountInputs) -> Mounts:
    """The whole list.

    Raises:
        InvalidArgument: see `check`.
        FailedPrecondition: a propagation that the source's own mount does not give.
        Unimplemented: see `check`; recursive read-only without a runtime that can.
    """
    check(resolved.mount for resolved in inputs.mounts)
    taken = {paths.clean(resolved.mount.container_path) for resolved in inputs.mounts}
    defaults = [
        mount
        for mount in _default_mounts(inputs)
        if mount["destination"] not in taken and not ("/dev" in taken and mount["destination"].startswith("/dev/"))
    ]
    ours = [mount for mount in _pod_files(inputs) if mount["destination"] not in taken]
    theirs = [_bind_of(resolved, inputs) for resolved in inputs.mounts]
    binds = sorted((*ours, *theirs), key=lambda mount: paths.depth(mount["destination"]))
    return Mounts([*defaults, *binds], _rootfs_propagation(inputs.mounts))


def _rootfs_propagation(mounts: tuple[ResolvedMount, ...]) -> str:
    """Mounts can only travel in or out of the container if its root does not cut them off."""
    wanted = {resolved.mount.propagation for resolved in mounts}
    if MountPropagation.BIDIRECTIONAL in wanted:
        return _SHARED
    return _SLAVE if MountPropagation.HOST_TO_CONTAINER in wanted else ""


def _mount(destination: str, kind: str, source: str, *options: str) -> Json:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _default_mounts(inputs: MountInputs) -> list[Json]:
    access = "rw" if inputs.privileged else "ro"
    # Mounting cgroup2 again from its own namespace sets the options of the one superblock: without these the host
    # itself would lose them.
    cgroup_options = inputs.cgroup_options if inputs.shares_host_cgroups else ()
    mounts = [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts",
            "devpts",
            "devpts",
            *("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        ),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", access),
        _mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            *("nosuid", "noexec", "nodev", "relatime", access, *cgroup_options),
        ),
    ]
    if not inputs.paths.shm:
        mounts.append(_mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", f"size={SHM_SIZE}"))
    return mounts


def _pod_files(inputs: MountInputs) -> list[Json]:
    access = "ro" if inputs.readonly_rootfs else "rw"
    # runc 1.2 and later give a bind mount exactly the flags that are named; before, it kept its source's as well.
    shm_flags = ("nosuid", "nodev") if inputs.paths.shm == HOST_SHM else ("nosuid", "nodev", "noexec")
    files: tuple[tuple[str, str, tuple[str, ...]], ...] = (
        ("/etc/hostname", inputs.paths.hostname, (access,)),
        ("/etc/hosts", inputs.paths.hosts, (access,)),
        ("/etc/resolv.conf", inputs.paths.resolv_conf, (access,)),
        ("/dev/shm", inputs.paths.shm, ("rw", *shm_flags)),
    )
    return [
        _mount(destination, "bind", source, "rbind", _PRIVATE, *flags) for destination, source, flags in files if source
    ]


def _bind_of(resolved: ResolvedMount, inputs: MountInputs) -> Json:
    mount = resolved.mount
    destination = paths.clean(mount.container_path)
    if not mount.readonly:
        access = "rw"
    elif not mount.recursive_read_only:
        access = "ro"
    elif inputs.recursive_read_only:
        access = "rro"
    else:
        # The kubelet looks for the word (cri-api, pkg/errors).
        raise errors.Unimplemented(
            f"RROUnsupported: mount {destination}: this host's kernel or OCI runtime has no recursive read-only mounts"
        )
    return _mount(destination, "bind", resolved.source, "rbind", _propagation(resolved), access)


def _propagation(resolved: ResolvedMount) -> str:
    mode = resolved.mount.propagation
    if mode == MountPropagation.PRIVATE:
        return _PRIVATE
    if mode == MountPropagation.BIDIRECTIONAL:
        if not resolved.shared:
            raise errors.FailedPrecondition(
                f"mount {resolved.mount.container_path}: {resolved.source!r} is not on a shared mount of the host, "
                "so mounts cannot propagate in both directions"
            )
        return _SHARED
    if not (resolved.shared or resolved.slave):
        raise errors.FailedPrecondition(
            f"mount {resolved.mount.container_path}: {resolved.source!r} is not on a shared or slave mount of the "
            "host, so mounts cannot propagate from it"
        )
    return _SLAVE
