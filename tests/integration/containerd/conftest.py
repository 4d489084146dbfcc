# SPDX-License-Identifier: Apache-2.0
"""One private containerd for this directory and a client per test."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from containerd_helpers import NAMESPACE, fill_rootfs, remove_cgroup_parents, require_tools
from containerd_process import ContainerdProcess

from acri.containerd.client import Containerd
from acri.containerd.types import Mount


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def containerd_process() -> Iterator[ContainerdProcess]:
    require_tools()
    with ContainerdProcess() as process:
        yield process
        assert process.shims() == []
        assert process.mounts() == []
    remove_cgroup_parents()


@pytest.fixture
async def client(containerd_process: ContainerdProcess) -> AsyncIterator[Containerd]:
    async with Containerd(containerd_process.address, NAMESPACE) as client:
        yield client


@pytest.fixture
def unique() -> str:
    return f"t{secrets.token_hex(6)}"


@pytest.fixture
def rootfs(tmp_path: Path) -> tuple[Mount, ...]:
    fill_rootfs(tmp_path / "rootfs")
    return (Mount("bind", str(tmp_path / "rootfs"), options=("rbind", "rw")),)
