# SPDX-License-Identifier: Apache-2.0
"""Device nodes in the container (`linux.devices`) and what its device cgroup lets it open.

The rules begin with "deny all"; what follows allows. The nodes that every container has (null, zero, full, random,
urandom, tty, console, ptmx, pts) and the rules for them are the OCI runtime's duty (config-linux.md, "Default
Devices"), so they are not listed.

References:
    CRI, Device; OCI runtime-spec, config-linux.md, "Devices" and "Allowed Device list".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from acri import errors
from acri.model.config import Device
from acri.oci import paths

__all__ = ["DeviceInputs", "Devices", "HostDevice", "ResolvedDevice", "build", "check"]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class HostDevice:
    """A device node of the host: `path` without symlinks; `mode` the permission bits, e.g. 0o660."""

    path: str
    type: Literal["b", "c"]
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class ResolvedDevice:
    """A device of the request with what the host has at its host path.

    `source` is `device.host_path` with all symlinks resolved. If it is a directory, `found` are the nodes below it
    (but no pts, shm, fd, mqueue and the like); else it is the one node.
    """

    device: Device
    source: str
    found: tuple[HostDevice, ...]


@dataclass(frozen=True, slots=True)
class DeviceInputs:
    """`host_devices`: all of the host's, for privileged containers. `owner`: uid and gid that nodes get instead of the
    host's, 0 for no change (containerd's device_ownership_from_security_context)."""

    devices: tuple[ResolvedDevice, ...] = ()
    privileged: bool = False
    host_devices: tuple[HostDevice, ...] = ()
    privileged_without_host_devices: bool = False
    owner: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Devices:
    """`linux.devices` and `linux.resources.devices`."""

    nodes: list[Json]
    rules: list[Json]


def check(devices: Iterable[Device]) -> None:
    """Raises InvalidArgument for a bad path or permissions other than some of "rwm"."""
    for device in devices:
        if not device.host_path.startswith("/") or "\0" in device.host_path:
            raise errors.InvalidArgument(f"device: host path {device.host_path!r} is not absolute")
        if device.container_path:
            paths.container_path(device.container_path, f"device {device.host_path}")
        letters = device.permissions
        if len(set(letters)) != len(letters) or not set(letters) <= set("rwm"):
            raise errors.InvalidArgument(f"device {device.host_path}: permissions {letters!r} are not some of 'rwm'")


def build(inputs: DeviceInputs) -> Devices:
    """Nodes and rules. A node that the request names wins over the host's at the same path.

    Raises:
        InvalidArgument: see `check`; a host path without any device.
    """
    check(resolved.device for resolved in inputs.devices)
    nodes: dict[str, Json] = {}
    rules: list[Json] = [{"allow": False, "access": "rwm"}]
    for resolved in inputs.devices:
        if not resolved.found:
            raise errors.InvalidArgument(f"device {resolved.device.host_path}: there is no device on this host")
        access = resolved.device.permissions or "rwm"
        for found in resolved.found:
            path = _container_path(resolved, found)
            nodes[path] = _node(path, found, inputs.owner)
            rules.append(
                {"allow": True, "type": found.type, "major": found.major, "minor": found.minor, "access": access}
            )
    if inputs.privileged and not inputs.privileged_without_host_devices:
        for found in inputs.host_devices:
            nodes.setdefault(found.path, _node(found.path, found, (0, 0)))
        rules.append({"allow": True, "access": "rwm"})
    return Devices(list(nodes.values()), rules)


def _container_path(resolved: ResolvedDevice, found: HostDevice) -> str:
    """Where a node goes: at the container path, or below it as it lies below the source."""
    base = paths.clean(resolved.device.container_path or resolved.device.host_path)
    if found.path == resolved.source:
        return base
    below = found.path.removeprefix(resolved.source.rstrip("/") + "/")
    return paths.clean(f"{base}/{below}")


def _node(path: str, found: HostDevice, owner: tuple[int, int]) -> Json:
    return {
        "path": path,
        "type": found.type,
        "major": found.major,
        "minor": found.minor,
        "fileMode": found.mode & 0o7777,
        "uid": owner[0] or found.uid,
        "gid": owner[1] or found.gid,
    }
