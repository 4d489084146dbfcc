# SPDX-License-Identifier: Apache-2.0
"""An error in each step of each operation, in an acri inside the test: nothing is left behind, the next try works."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from cri_client import Cri
from cri_lab import AcriProcess, MakeAcri, leftovers
from cri_pods import BUSYBOX, FOREVER, POD, Pods, options, read_log, rejoin

from acri import errors
from acri.aio.operation import Operation
from acri.daemon import Daemon
from acri.proto.runtime import v1 as m

Step = tuple[str, str]


class Faults:
    """Interrupts steps of one operation; remembers which it has met."""

    def __init__(self) -> None:
        self.operation = ""
        self.at: Step | None = None
        self.once = False
        self.hits = 0
        self.met: list[Step] = []

    async def __call__(self, running: Operation, step: str, when: str) -> None:
        if running.key[0] != self.operation:
            return
        self.met.append((step, when))
        if self.at == (step, when):
            self.hits += 1
            if self.once:
                self.at = None
            raise errors.UnknownError(f"interrupted {when} {step}")


class Inside:
    """An acri in this process, with faults."""

    def __init__(self, process: AcriProcess, cri: Cri, pods: Pods, faults: Faults) -> None:
        self.process, self.cri, self.pods, self.faults = process, cri, pods, faults

    async def each_step(self, operation: str, whole: Callable[[], Awaitable[object]]) -> AsyncIterator[Step]:
        """Run `whole` once to learn the steps; then each of them, set to fail for the next `whole`."""
        self.faults.operation, self.faults.at, self.faults.met = operation, None, []
        await whole()
        for step in list(dict.fromkeys(self.faults.met)):
            self.faults.at = step
            yield step
            self.faults.at = None


@pytest.fixture
async def inside(own_acri: MakeAcri, tmp_path: Path) -> AsyncIterator[Inside]:
    process = own_acri()
    daemon = Daemon(process.settings)
    await daemon.start()
    faults = Faults()
    daemon.node.operations.on_step = faults
    try:
        async with Cri(process.socket) as cri:
            await cri.pull(BUSYBOX)
            pods = Pods(cri, tmp_path)
            yield Inside(process, cri, pods, faults)
            faults.at = None
            await pods.remove_all()
            assert await leftovers(process) == []
    finally:
        await daemon.stop()


async def test_run_pod_sandbox(inside: Inside) -> None:
    config = inside.pods.config(
        namespaces=options(pid=POD), port_mappings=[m.PortMapping(container_port=80, host_port=18080)]
    )

    async def whole() -> None:
        pod_id = await inside.cri.run(config)
        await inside.cri.remove_sandbox(pod_id)

    count = 0
    async for step, when in inside.each_step("RunPodSandbox", whole):
        count += 1
        with pytest.raises(errors.UnknownError, match=f"interrupted {when} {step}"):
            await inside.cri.run(config)
        assert await inside.cri.sandboxes() == [], step
        assert await leftovers(inside.process) == [], step
    assert count >= 10
    await whole()


async def test_create_container(inside: Inside) -> None:
    pod = await inside.pods.run()

    async def whole() -> None:
        await inside.cri.remove(await pod.create("true"))

    before = await leftovers(inside.process)
    count = 0
    async for step, when in inside.each_step("CreateContainer", whole):
        count += 1
        with pytest.raises(errors.UnknownError, match=f"interrupted {when} {step}"):
            await pod.create("true")
        assert await inside.cri.containers() == [], step
        assert await leftovers(inside.process) == before, step
    assert count >= 8
    await whole()


async def test_start_container(inside: Inside) -> None:
    """The container stays, EXITED with the reason; no task, no process, no open log."""
    pod = await inside.pods.run()

    async def whole() -> None:
        await inside.cri.remove(await pod.start())

    count = 0
    async for step, when in inside.each_step("StartContainer", whole):
        count += 1
        container_id = await pod.create(*FOREVER)
        with pytest.raises(errors.UnknownError, match=f"interrupted {when} {step}"):
            await inside.cri.start(container_id)
        status = await inside.cri.container_status(container_id)
        assert status.state == m.ContainerState.CONTAINER_EXITED, step
        assert (status.exit_code, status.reason) == (128, "StartError"), step
        assert f"interrupted {when} {step}" in status.message
        assert inside.process.processes() == [], step
        await inside.cri.remove(container_id)
    assert count >= 6
    await whole()


@pytest.mark.parametrize("operation", ["StopContainer", "StopPodSandbox", "RemoveContainer", "RemovePodSandbox"])
async def test_what_takes_away_can_be_repeated(inside: Inside, operation: str) -> None:
    async def whole() -> None:
        pod = await inside.pods.run(namespaces=options(pid=POD))
        await inside.cri.stop(await pod.start(), 30)
        await pod.start(name="second")
        await inside.cri.stop_sandbox(pod.id)
        await inside.cri.remove_sandbox(pod.id)

    count = 0
    async for step, _ in inside.each_step(operation, whole):
        count += 1
        with pytest.raises(errors.AcriError):
            await whole()
        inside.faults.at = None
        for sandbox in await inside.cri.sandboxes():
            await inside.cri.stop_sandbox(sandbox.id)
            await inside.cri.remove_sandbox(sandbox.id)
        assert await leftovers(inside.process) == [], step
    assert count >= 2


async def test_an_exit_that_could_not_be_recorded_is_recorded_later(inside: Inside) -> None:
    """The event comes once; until the exit is recorded the container would look as if it ran."""
    pod = await inside.pods.run()

    async def whole() -> None:
        status, _ = await pod.run("sh", "-c", "echo out; exit 3")
        await inside.cri.remove(status.id)

    inside.faults.once = True
    async for step, _ in inside.each_step("ContainerExit", whole):
        hits = inside.faults.hits
        container_id = await pod.start("sh", "-c", "echo out; exit 3", attempt=hits)
        status = await inside.cri.exited(container_id)
        assert inside.faults.hits == hits + 1
        assert (status.exit_code, status.reason) == (3, "Error"), step
        assert rejoin(read_log(status.log_path), "stdout") == b"out\n"
        await inside.cri.remove(container_id)
