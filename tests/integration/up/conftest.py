# SPDX-License-Identifier: Apache-2.0
"""`acri up` as a user runs it: a process of its own, its stdout, its exit code; and the test image for its pods."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from up_process import IMAGE, UpProcess

from acri.testing import sweep
from acri.testing.image import Image, busybox
from acri.testing.registry import MemoryRegistry


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(autouse=True)
def _tools() -> None:
    missing = [tool for tool in ("containerd", "runc", "busybox", "iptables") if shutil.which(tool) is None]
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


@pytest.fixture(scope="session")
def image() -> Image:
    return busybox()


@pytest.fixture
async def certs_dir(image: Image, tmp_path: Path) -> AsyncIterator[str]:
    """A certs.d by which the test image can be pulled from this process."""
    async with MemoryRegistry({IMAGE.partition("/")[2]: image}) as registry:
        yield registry.write_certs_dir(str(tmp_path / "certs.d"))


@pytest.fixture
def ups(tmp_path: Path) -> Iterator[list[UpProcess]]:
    """Every `UpProcess` of a test, ended by force if the test did not end it; nothing of them may be left."""
    made: list[UpProcess] = []
    yield made
    for up in made:
        up.end_by_force()
    left = [line for up in made for line in sweep.leftovers(up.place) if not line.startswith("address")]
    for up in made:
        sweep.sweep(up.place)
        Path(up.place.record).unlink(missing_ok=True)
        Path(up.place.link).unlink(missing_ok=True)
        sweep.remove_directory(up.place)
    assert left == []
