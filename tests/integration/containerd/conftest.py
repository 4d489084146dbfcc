# SPDX-License-Identifier: Apache-2.0
"""One private containerd for this directory, a client per test, a busybox root file system."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from containerd_process import ContainerdProcess

from acri.containerd.client import Containerd
from acri.containerd.types import SPEC_TYPE_URL, AnyValue, ContainerObject, Mount, runc_options

NAMESPACE = "acri-test"
APPLETS = ("sh", "sleep", "echo", "cat", "true", "kill")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.integration)


def require_tools() -> None:
    missing = [tool for tool in ("containerd", "runc", "busybox") if shutil.which(tool) is None]
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


@pytest.fixture(scope="session")
def containerd_process() -> Iterator[ContainerdProcess]:
    require_tools()
    with ContainerdProcess() as process:
        yield process
        assert process.shims() == []
        assert process.mounts() == []


@pytest.fixture
async def client(containerd_process: ContainerdProcess) -> AsyncIterator[Containerd]:
    async with Containerd(containerd_process.address, NAMESPACE) as client:
        yield client


@pytest.fixture
def unique() -> str:
    return f"t{secrets.token_hex(6)}"


def fill_rootfs(root: Path) -> None:
    """busybox (the static one) and what runc wants to mount on."""
    for name in ("bin", "proc", "dev", "sys", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(shutil.which("busybox") or "", root / "bin" / "busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")


@pytest.fixture
def rootfs(tmp_path: Path) -> tuple[Mount, ...]:
    fill_rootfs(tmp_path / "rootfs")
    return (Mount("bind", str(tmp_path / "rootfs"), options=("rbind", "rw")),)


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
            "cgroupsPath": f"/acri-test/{container_id}",
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
