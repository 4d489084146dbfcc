# SPDX-License-Identifier: Apache-2.0
"""One containerd, one registry and one acri for all tests here; an acri of its own for tests that kill it.

Each test that makes pods ends with a look for leftovers: whatever a pod needs has to be gone with it.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from containerd_process import ContainerdProcess
from cri_client import Cri
from cri_lab import AcriProcess, Lab, MakeAcri, Network, leftovers, require_tools
from cri_pods import BUSYBOX, Pods
from fixtures.images import Built, LocalRegistry, build, busybox_files, layer

_LOG_START = pytest.StashKey[int]()
_ACRI = pytest.StashKey[AcriProcess]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.integration)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failed test shows what acri logged meanwhile."""
    report = yield
    acri = item.stash.get(_ACRI, None)
    if report.failed and acri is not None:
        report.sections.append(("acri's log", acri.log[item.stash.get(_LOG_START, 0) :][-20000:]))
    return report


IMAGES: dict[str, dict[str, object]] = {
    "library/busybox:1.35": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
    "test/configured:1": {
        "Entrypoint": ["sh", "-c"],
        "Cmd": ["echo from image; pwd; id -u; echo $FROM $BOTH"],
        "Env": ["PATH=/bin", "FROM=image", "BOTH=image"],
        "WorkingDir": "/srv/work",
        "User": "app",
        "StopSignal": "SIGUSR1",
    },
    "test/user-uid:1": {"User": "1002", "Cmd": ["id"]},
    "test/nothing:1": {},
    "test/user-name:1": {"User": "www-data", "Cmd": ["id"]},
}


def make_images() -> dict[str, Built]:
    base = layer(busybox_files())
    return {
        name: build([base, layer({f"marker-{i}": (0o644, b"x")})], config)
        for i, (name, config) in enumerate(IMAGES.items())
    }


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    if reason := require_tools():
        pytest.skip(reason)
    directory = Path(tempfile.mkdtemp(prefix="acri-e2e-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        registry = stack.enter_context(LocalRegistry.start(directory / "registry"))
        for name, image in make_images().items():
            repository, tag = name.split(":")
            registry.push(repository, tag, image)
        containerd = stack.enter_context(ContainerdProcess())
        network = Network(directory)
        stack.callback(network.close)
        yield Lab(directory, containerd, registry, registry.write_certs_dir(directory / "certs.d"), network)


@pytest.fixture(scope="session")
def _shared_acri(lab: Lab) -> Iterator[AcriProcess]:
    process = lab.acri("acri", namespace="k8s.io")
    process.start()
    asyncio.run(_pull_busybox(process))
    yield process
    process.stop()
    assert "Traceback" not in process.log, "acri met a bug of its own: see its log"
    assert not process.cgroups()


async def _pull_busybox(process: AcriProcess) -> None:
    async with Cri(process.socket) as cri:
        await cri.pull(BUSYBOX)


@pytest.fixture
def acri(_shared_acri: AcriProcess, request: pytest.FixtureRequest) -> AcriProcess:
    """The session's acri. Tests leave it running and empty."""
    _follow(request, _shared_acri)
    return _shared_acri


def _follow(request: pytest.FixtureRequest, process: AcriProcess) -> None:
    request.node.stash[_ACRI] = process
    request.node.stash[_LOG_START] = len(process.log)


@pytest.fixture
async def cri(acri: AcriProcess) -> AsyncIterator[Cri]:
    async with Cri(acri.socket) as client:
        yield client


@pytest.fixture
async def pods(cri: Cri, acri: AcriProcess, tmp_path: Path) -> AsyncIterator[Pods]:
    """Pods on the session's acri; all are removed at the end, and nothing may be left of them."""
    made = Pods(cri, tmp_path)
    yield made
    await made.remove_all()
    assert await leftovers(acri) == []


@pytest.fixture
def own_acri(lab: Lab, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeAcri]:
    """Makes acris of this test's own, with a containerd namespace and a network of their own; not started yet."""
    made: list[AcriProcess] = []

    def make(**changes: object) -> AcriProcess:
        name = f"own{len(made)}-{tmp_path.name}"
        network = Network(lab.directory / f"{name}-net")
        namespace = name.lower().replace("_", "-")[:60]
        process = lab.acri(name, **({"namespace": namespace, "network": network} | changes))
        _follow(request, process)
        made.append(process)
        return process

    yield make
    for process in made:
        process.stop()
        process.network.close()


@pytest.fixture
async def crashing(own_acri: MakeAcri) -> AsyncIterator[AcriProcess]:
    """A started acri of this test's own with the busybox image. What it made must be gone at the end."""
    process = own_acri()
    process.start()
    await _pull_busybox(process)
    yield process
    async with Cri(process.socket) as client:
        await Pods(client, Path("/nowhere")).remove_all()
    assert await leftovers(process) == []
