# SPDX-License-Identifier: Apache-2.0
"""The private containerd's configuration and program.

The file is in version 2 of containerd's format, which 1.6, 1.7 and 2.x all read (2.x converts it by itself). The CRI
plugin is off under both of its names; what a private containerd for runc has no use for is off too, which saves start
time and warnings. A plugin named there that does not exist is not an error in any of them.
"""

from __future__ import annotations

import json
import os
import shutil

from acri.errors import ConfigError
from acri.testing.place import Place

__all__ = ["config_toml", "find", "missing_programs"]

_OFF = (
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.podsandbox.controller.v1.podsandbox",
    "io.containerd.nri.v1.nri",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
)
CNI_BIN_DIRS = ("/opt/cni/bin", "/usr/lib/cni")
_CNI_PLUGINS = ("bridge", "host-local", "portmap")


def config_toml(place: Place) -> str:
    """The configuration for a containerd whose whole state is below `place`."""
    lines = [
        "# Written by acri up at every start.",
        "version = 2",
        f"root = {_text(place.below('containerd', 'root'))}",
        f"state = {_text(place.containerd_state)}",
        "disabled_plugins = [",
        *(f"  {_text(name)}," for name in _OFF),
        "]",
        "",
        "[grpc]",
        f"address = {_text(place.containerd_socket)}",
        "",
        "[ttrpc]",
        f"address = {_text(place.containerd_socket + '.ttrpc')}",
        "",
    ]
    return "\n".join(lines)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # a JSON string is a TOML basic string, but for surrogates


def find(wanted: str | None = None) -> str:
    """The containerd to run: `wanted`, or the first on PATH.

    Raises:
        ConfigError: there is none.
    """
    found = shutil.which(wanted or "containerd", path=_path())
    if found is None:
        if wanted:
            raise ConfigError(f"{wanted} is no program that can be run (--containerd-bin)")
        raise ConfigError("containerd was not found: apt-get install containerd, or name it with --containerd-bin")
    return os.path.abspath(found)


def missing_programs(bin_dirs: tuple[str, ...] = CNI_BIN_DIRS, *, network: bool = True) -> list[str]:
    """What a pod needs beside containerd and this host lacks, each with its remedy; `network`: for our own network."""
    missing = []
    if shutil.which("runc", path=_path()) is None:
        missing.append("runc was not found: apt-get install runc")
    if network:
        absent = [name for name in _CNI_PLUGINS if not any(os.access(f"{path}/{name}", os.X_OK) for path in bin_dirs)]
        if absent:
            missing.append(
                f"the CNI plugins {', '.join(absent)} are not in {' or '.join(bin_dirs)}: "
                "apt-get install containernetworking-plugins"
            )
        if shutil.which("iptables", path=_path()) is None:
            missing.append("iptables, which the CNI plugins run, was not found: apt-get install iptables")
    return missing


def _path() -> str:
    """PATH and where Debian keeps what root runs, which a user's PATH may lack."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
