# SPDX-License-Identifier: Apache-2.0
"""An acri for foreign clients: on a private containerd and a network of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration" / "cri"))

from containerd_process import ContainerdProcess
from cri_client import Cri
from cri_lab import AcriProcess, Network, leftovers, require_tools

from acri import errors

IMAGE = "registry.k8s.io/e2e-test-images/busybox:1.29-2"


@pytest.fixture
def image() -> str:
    """One of those that critest needs; it is pulled already."""
    return IMAGE


@pytest.fixture
def endpoint() -> Iterator[AcriProcess]:
    """A running acri that reaches critest's images; nothing may be left on it at the end."""
    if reason := require_tools():
        pytest.skip(reason)
    certs_dir = Path(os.environ.get("ACRI_CRITEST_CERTS_DIR", "/etc/containerd/certs.d"))
    directory = Path(tempfile.mkdtemp(prefix="acri-critest-", dir="/tmp"))
    network = Network(directory)
    with ContainerdProcess() as containerd:
        process = AcriProcess(directory / "acri", network, containerd.address, certs_dir)
        process.start()
        try:
            if failure := asyncio.run(_pull_failure(process)):
                pytest.skip(f"critest's images cannot be pulled (ACRI_CRITEST_CERTS_DIR may name a mirror): {failure}")
            yield process
            assert asyncio.run(leftovers(process)) == []
            assert "Traceback" not in process.log
        finally:
            process.stop()
            network.close()
            shutil.rmtree(directory, ignore_errors=True)


async def _pull_failure(process: AcriProcess) -> str:
    async with Cri(process.socket) as cri:
        try:
            await cri.pull(IMAGE)
        except errors.AcriError as error:
            return error.message
    return ""
