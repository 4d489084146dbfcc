# SPDX-License-Identifier: Apache-2.0
"""One private containerd and one registry for this directory; a containerd namespace and an ImageService per test."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from containerd_process import ContainerdProcess
from fixtures.images import Built, LocalRegistry, build, busybox_files, layer
from images_world import World

from acri.aio.operation import Operations
from acri.aio.threads import Threads
from acri.config import ContainerdSettings, ImageSettings, Settings
from acri.containerd.client import Containerd
from acri.images.service import ImageService


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def images_containerd() -> Iterator[ContainerdProcess]:
    if shutil.which("containerd") is None:
        pytest.skip("containerd is not installed")
    with ContainerdProcess() as process:
        yield process


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    with LocalRegistry.start(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def certs_dir(registry: LocalRegistry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return registry.write_certs_dir(tmp_path_factory.mktemp("certs.d"))


@pytest.fixture(scope="session")
def busybox() -> Built:
    return build([layer(busybox_files())], {"Cmd": ["sh"], "User": "1000:1000"})


@pytest.fixture
async def world(images_containerd: ContainerdProcess, certs_dir: Path) -> AsyncIterator[World]:
    namespace = f"t{secrets.token_hex(6)}"
    threads = Threads()
    services: list[ImageService] = []
    async with Containerd(images_containerd.address, namespace) as containerd:
        operations = Operations()

        def make(certs: Path | str = certs_dir, operations: Operations = operations, **changes: Any) -> ImageService:
            settings = Settings(
                containerd=ContainerdSettings(address=images_containerd.address, namespace=namespace),
                images=ImageSettings(certs_dir=str(certs), **changes),
            )
            services.append(ImageService(settings, containerd, threads, operations))
            return services[-1]

        made = World(containerd, operations, make(), make)
        await made.images.load()
        try:
            yield made
            assert await made.leftovers() == []
            for record in await containerd.images.list():
                await containerd.images.delete(record.name, sync=True)
        finally:
            await operations.drain(10)
            for service in services:
                await service.close()
            threads.close()
