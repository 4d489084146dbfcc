# SPDX-License-Identifier: Apache-2.0
"""What a `Place` has on the host beyond its directory: finding it, and removing it as a reboot would.

    killed `acri up` ──sweep──▶ processes, mounts, namespaces, cgroups, bridge, rules, runtime directories: gone
                                containerd's database, images, records, addresses given out: still there

What is still there is for a fresh acri to take back in order: its pods look as after a reboot, and removing them
through CRI frees their addresses and snapshots. Everything here is idempotent and blocks: call it in a thread.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

from acri import errors
from acri.host import cgroups, mountinfo, mounts
from acri.host.cgroups import CgroupLayout
from acri.host.kernel import LinuxKernel
from acri.testing import firewall, process_table
from acri.testing.place import Place

__all__ = [
    "addresses",
    "leftovers",
    "network_leftovers",
    "pinned",
    "pod_cgroups",
    "remove_directory",
    "remove_expected",
    "sweep",
]

_SHIM_SOCKETS = "/run/containerd/s"
_RUNC_ROOT = "/run/containerd/runc"
"""Both are the shim's own defaults, whatever containerd's state directory is; it cleans them up if it ends in order."""

_SIOCBRDELBR = 0x89A1  # linux/sockios.h
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


def leftovers(place: Place) -> list[str]:
    """What the place has on the host now, a line each; empty after an orderly end."""
    found = [str(process) for process in process_table.find(place)]
    found += [f"mount {point}" for point in _mount_points(place)]
    found += [f"network namespace {path}" for path in _children(place.netns)]
    found += [f"cgroup {path}" for path in _cgroup_directories(cgroups.detect(), place)]
    found += [f"bridge {place.bridge}"] if os.path.exists(f"/sys/class/net/{place.bridge}") else []
    found += [f"iptables {rule}" for rule in firewall.rules(place.network)]
    found += [f"address {name}" for name in addresses(place)]
    return found + [f"shim's {path}" for path in _shim_files(place)]


def addresses(place: Place) -> list[str]:
    """The pod addresses that host-local has given out in the place's own network."""
    return [name for name in _names(place.addresses) if re.match(r"[0-9a-f]+[.:]", name)]


def pinned(place: Place) -> list[str]:
    """Pods' mounts and pinned namespaces; the pin directories' own mounts, which stay, are none."""
    roots = (place.netns, f"{place.acri_state}/ns")
    return [point for point in _mount_points(place) if point not in roots] + [
        path for root in roots for path in _children(root)
    ]


def pod_cgroups(place: Place) -> list[str]:
    """Cgroups below the place's own parent."""
    return [
        entry.path
        for parent in _cgroup_directories(cgroups.detect(), place)
        for entry in os.scandir(parent)
        if entry.is_dir()
    ]


def network_leftovers(place: Place) -> list[str]:
    """Addresses given out and rules in iptables, in the place's own network."""
    return addresses(place) + firewall.rules(place.network)


def sweep(place: Place) -> list[str]:
    """Remove all of it but addresses, which removing the pods frees; answers what there was, a line each."""
    found = leftovers(place)
    shim_files = _shim_files(place)
    layout = cgroups.detect()
    directories = {path for process in process_table.find(place) for path in _own_cgroups(place, process.cgroups)}
    bundles = _bundle_cgroups(place)
    process_table.kill_all(place)
    kernel = LinuxKernel()
    for point in _mount_points(place):
        mounts.unmount(kernel, point)
    for path in (place.netns, place.acri_state, place.containerd_state):
        mounts.remove_tree(kernel, path)
    for path in shim_files:
        if os.path.isdir(path) and not os.path.islink(path):
            mounts.remove_tree(kernel, path)
        else:
            Path(path).unlink(missing_ok=True)
    firewall.remove(place.network)
    _remove_bridge(place)
    for path in {place.cgroup, f"/{place.slice}", *directories, *bundles}:
        _remove_cgroup(layout, path)
    for name in ("acri.sock", "notify.sock", "containerd.sock", "containerd.sock.ttrpc"):
        Path(place.below(name)).unlink(missing_ok=True)
    return found


def remove_expected(place: Place) -> None:
    """Remove what nobody removes with the last pod, by design: bridge, pin directories' own mounts, cgroup parent."""
    kernel = LinuxKernel()
    for directory in (place.netns, f"{place.acri_state}/ns"):
        if _children(directory):
            continue  # a pin in it was left behind, which is worth to be told
        mounts.unmount(kernel, directory)
    _remove_bridge(place)
    for directory in _cgroup_directories(cgroups.detect(), place):
        try:
            os.rmdir(directory)
        except OSError:  # a pod's is in it: the same
            pass


def remove_directory(place: Place) -> None:
    """Remove the directory itself, after `sweep`."""
    mounts.remove_tree(LinuxKernel(), place.directory)


def _remove_bridge(place: Place) -> None:
    name = place.bridge.encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:  # netdevice(7): only a bridge that is down can be deleted
            request = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sH14x", name, 0))
            flags = struct.unpack("16sH14x", request)[1] & ~_IFF_UP
            fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", name, flags))
            fcntl.ioctl(sock, _SIOCBRDELBR, name + b"\0")
        except OSError:  # there is none; one that cannot be removed is found by `leftovers`
            pass


def _mount_points(place: Place) -> tuple[str, ...]:
    return mountinfo.mounts_below(mountinfo.read(), place.directory)


def _shim_files(place: Place) -> list[str]:
    """Sockets and runc's state of the place's shims, as their bundles name them."""
    found = []
    for bundle in _bundles(place):
        namespace, task_id = bundle.parts[-2:]
        found.append(f"{_RUNC_ROOT}/{namespace}/{task_id}")
        try:
            address = (bundle / "address").read_text("utf-8").strip().removeprefix("unix://")
        except (OSError, UnicodeDecodeError):
            continue
        if os.path.dirname(address) == _SHIM_SOCKETS:
            found.append(address)
    return [path for path in dict.fromkeys(found) if os.path.lexists(path)]


def _bundles(place: Place) -> list[Path]:
    return sorted(Path(place.containerd_state, "io.containerd.runtime.v2.task").glob("*/*"))


def _bundle_cgroups(place: Place) -> set[str]:
    """OCI cgroups paths of the place's tasks: a pod may name a parent that is not the place's own."""
    found = set()
    for bundle in _bundles(place):
        try:
            path = json.loads((bundle / "config.json").read_text("utf-8"))["linux"]["cgroupsPath"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(path, str) and bundle.name in path:
            found.add(path)
    return found


def _own_cgroups(place: Place, paths: Iterable[str]) -> set[str]:
    """Of the cgroups that a process is in, those named by an id of the place: others may share the rest."""
    ids = process_table.known_ids(place)
    return {path for path in paths if path.rpartition("/")[2] in ids}


def _remove_cgroup(layout: CgroupLayout, path: str) -> None:
    try:
        cgroups.remove(layout, path)
    except errors.AcriError:  # `leftovers` finds it
        pass


def _cgroup_directories(layout: CgroupLayout, place: Place) -> list[str]:
    places = [f"{entry.mount_point}{path}" for entry in layout.used for path in (place.cgroup, f"/{place.slice}")]
    return [path for path in places if os.path.isdir(path)]


def _children(directory: str) -> list[str]:
    return [f"{directory}/{name}" for name in _names(directory)]


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []
