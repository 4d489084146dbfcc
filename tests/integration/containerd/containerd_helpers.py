# SPDX-License-Identifier: Apache-2.0
"""What the tests of the containerd client share: a busybox root file system and a container's specification."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from acri.containerd.types import SPEC_TYPE_URL, AnyValue, ContainerObject, runc_options

__all__ = ["NAMESPACE", "container_object", "fill_rootfs", "process_json", "remove_cgroup_parents", "require_tools"]

NAMESPACE = "acri-test"
CGROUP_PARENT = f"acri-test-{os.getpid()}"
_APPLETS = ("sh", "sleep", "echo", "cat", "true", "kill")


def require_tools() -> None:
    missing = [tool for tool in ("containerd", "runc", "busybox") if shutil.which(tool) is None]
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


def remove_cgroup_parents() -> None:
    """runc removes a container's cgroup, not the one above it."""
    root = Path("/sys/fs/cgroup")
    for parent in (*root.glob(CGROUP_PARENT), *root.glob(f"*/{CGROUP_PARENT}")):
        parent.rmdir()


def fill_rootfs(root: Path) -> None:
    """busybox (the static one) and what runc wants to mount on."""
    for name in ("bin", "proc", "dev", "sys", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(shutil.which("busybox") or "", root / "bin" / "busybox")
    for applet in _APPLETS:
        (root / "bin" / applet).symlink_to("busybox")


def process_json(*args: str) -> dict[str, Any]:
    capabilities = ["CAP_KILL"]
    return {
        "user": {"uid": 0, "gid": 0},
        "args": list(args),
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "noNewPrivileges": True,
    }


def container_object(container_id: str, *args: str) -> ContainerObject:
    """A container that runs `args` in namespaces of its own."""
    spec = {
        "ociVersion": "1.0.2",
        "process": process_json(*args),
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": f"/{CGROUP_PARENT}/{container_id}",
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")],
        },
    }
    return ContainerObject(
        id=container_id,
        labels={"io.acri.kind": "test"},
        runtime_name="io.containerd.runc.v2",
        runtime_options=runc_options(),
        spec=AnyValue(SPEC_TYPE_URL, json.dumps(spec).encode()),
    )
