# SPDX-License-Identifier: Apache-2.0
"""acri killed after each step of each operation: the next acri takes back or finishes what the dead one had begun.

One process per step, each recovering from the death of the one before; the sweep of an operation ends when the
operation runs through.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cri_client import Cri, eventually
from cri_lab import AcriProcess, leftovers
from cri_pods import FOREVER, POD, Pod, Pods, options

from acri import errors
from acri.proto.runtime import v1 as m

SCRIPT = str(Path(__file__).with_name("cri_killed.py"))
READY, NOTREADY = m.PodSandboxState.SANDBOX_READY, m.PodSandboxState.SANDBOX_NOTREADY
MOST_STEPS = 30


class Sweep:
    """Starts one doomed acri after the other."""

    def __init__(self, process: AcriProcess, directory: Path) -> None:
        self.process = process
        self.directory = directory

    async def __call__(
        self,
        operation: str,
        prepare: Callable[[Pods], Awaitable[str]],
        request: Callable[[Cri, str], Awaitable[object]],
        check: Callable[[Pods, str], Awaitable[None]],
    ) -> int:
        """For each step: prepare, request until it kills acri, then let `check` look at what a new acri made of it.

        Answers the number of steps.
        """
        armed = self.process.directory / "armed"
        subject = ""
        for number in range(1, MOST_STEPS):
            self.process.start(sys.executable, SCRIPT, operation, str(number))
            async with Cri(self.process.socket) as cri:
                pods = Pods(cri, self.directory)
                if number > 1:
                    await self._look(pods, check, subject, f"step {number - 1} of {operation}")
                subject = await prepare(pods)
                armed.touch()
                died = await _dies(request(cri, subject))
                armed.unlink()
                if not died:
                    await self._look(pods, check, subject, operation)
                    self.process.kill()
                    return number - 1
            self.process.kill()
        raise AssertionError(f"{operation} never came to its end")

    async def _look(self, pods: Pods, check: Callable[[Pods, str], Awaitable[None]], subject: str, after: str) -> None:
        await check(pods, subject)
        await pods.remove_all()
        assert await leftovers(self.process) == [], f"after {after}: {self.process.log[-3000:]}"


async def _dies(request: Awaitable[object]) -> bool:
    try:
        await request
    except errors.Unavailable:
        return True
    return False


@pytest.fixture
async def sweep(crashing: AcriProcess, tmp_path: Path):  # type: ignore[no-untyped-def]
    crashing.kill()
    yield Sweep(crashing, tmp_path)
    crashing.restart()


async def test_run_pod_sandbox(sweep: Sweep) -> None:
    configs: list[m.PodSandboxConfig] = []

    async def prepare(pods: Pods) -> str:
        mapping = m.PortMapping(container_port=80, host_port=18000 + len(configs))
        configs.append(pods.config(namespaces=options(pid=POD), port_mappings=[mapping]))
        return ""

    async def check(pods: Pods, _: str) -> None:
        if not [item for item in await pods.cri.sandboxes() if item.state == READY]:

            async def taken_back() -> bool:
                return await pods.cri.sandboxes() == []

            await eventually(taken_back)
            assert await leftovers(sweep.process) == []
        # The kubelet tries again with the same request.
        pod_id = await pods.cri.run(configs[-1])
        assert [(item.id, item.state) for item in await pods.cri.sandboxes()] == [(pod_id, READY)]

    assert await sweep("RunPodSandbox", prepare, lambda cri, _: cri.run(configs[-1]), check) >= 5


async def _ready_pod(pods: Pods) -> Pod:
    return await pods.run(namespaces=options(pid=POD))


async def test_create_container(sweep: Sweep) -> None:
    made: list[Pod] = []

    async def prepare(pods: Pods) -> str:
        made.append(await _ready_pod(pods))
        return made[-1].id

    async def check(pods: Pods, pod_id: str) -> None:
        assert [(item.id, item.state) for item in await pods.cri.sandboxes()] == [(pod_id, READY)]
        states = [item.state for item in await pods.cri.containers()]
        assert states in ([], [m.ContainerState.CONTAINER_CREATED])
        pod = Pod(pods.cri, pod_id, made[-1].config)
        container_id = await pod.start()
        assert [item.id for item in await pods.cri.containers()] == [container_id]

    async def request(cri: Cri, pod_id: str) -> object:
        return await cri.create(pod_id, made[-1].container(*FOREVER), made[-1].config)

    assert await sweep("CreateContainer", prepare, request, check) >= 4


@pytest.mark.parametrize("command", [FOREVER, ("sh", "-c", "exit 3")], ids=["long", "short"])
async def test_start_container(sweep: Sweep, command: tuple[str, ...]) -> None:
    """CREATED, to be started again, or what became of it: RUNNING, EXITED with its own code, or with StartError."""
    made: list[Pod] = []
    state = m.ContainerState

    async def prepare(pods: Pods) -> str:
        made.append(await _ready_pod(pods))
        return await made[-1].create(*command)

    async def check(pods: Pods, container_id: str) -> None:
        status = await pods.cri.container_status(container_id)
        if status.state == state.CONTAINER_CREATED:
            await pods.cri.start(container_id)
        elif status.state == state.CONTAINER_EXITED:
            assert (status.exit_code, status.reason) in ((128, "StartError"), (3, "Error"))
        elif command == FOREVER:
            assert (await pods.cri.exec(container_id, "echo", "on")).stdout == b"on\n"
        else:
            assert (await pods.cri.exited(container_id)).exit_code == 3
        pod = Pod(pods.cri, made[-1].id, made[-1].config)
        again = await pod.start(attempt=1)
        assert (await pods.cri.container_status(again)).state == state.CONTAINER_RUNNING

    assert await sweep("StartContainer", prepare, lambda cri, c: cri.start(c), check) >= 3


async def test_stop_container(sweep: Sweep) -> None:
    async def prepare(pods: Pods) -> str:
        return await (await _ready_pod(pods)).start()

    async def check(pods: Pods, container_id: str) -> None:
        await pods.cri.stop(container_id, 30)
        status = await pods.cri.container_status(container_id)
        assert status.state == m.ContainerState.CONTAINER_EXITED
        assert status.exit_code in (0, 143)

    for operation in ("StopContainer", "ContainerExit"):
        await sweep(operation, prepare, lambda cri, c: cri.stop(c, 30), check)


async def test_stop_pod_sandbox(sweep: Sweep) -> None:
    async def prepare(pods: Pods) -> str:
        pod = await _ready_pod(pods)
        await pod.start()
        return pod.id

    async def check(pods: Pods, pod_id: str) -> None:
        for _ in range(2):
            await pods.cri.stop_sandbox(pod_id)
        assert (await pods.cri.sandbox_status(pod_id)).state == NOTREADY
        assert sweep.process.network.addresses() == []

    assert await sweep("StopPodSandbox", prepare, lambda cri, p: cri.stop_sandbox(p), check) >= 3


async def test_remove_pod_sandbox(sweep: Sweep) -> None:
    async def prepare(pods: Pods) -> str:
        pod = await _ready_pod(pods)
        await pod.start()
        await pod.create("true", name="second")
        return pod.id

    async def check(pods: Pods, pod_id: str) -> None:
        await pods.cri.remove_sandbox(pod_id)
        assert await pods.cri.sandboxes() == []
        assert await pods.cri.containers() == []

    for operation in ("RemovePodSandbox", "RemoveContainer"):
        assert await sweep(operation, prepare, lambda cri, p: cri.remove_sandbox(p), check) >= 3
