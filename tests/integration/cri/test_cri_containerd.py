# SPDX-License-Identifier: Apache-2.0
"""containerd goes away under acri and comes back, or stops answering: pods run on, calls work again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from containerd_process import ContainerdProcess
from cri_client import Cri, eventually
from cri_lab import SERVE, AcriProcess, Lab, MakeAcri, command_of, leftovers
from cri_pods import BUSYBOX, FOREVER, POD, Pod, Pods, options, read_log, rejoin

from acri import errors
from acri.proto.runtime import v1 as m

RUNNING, EXITED = m.ContainerState.CONTAINER_RUNNING, m.ContainerState.CONTAINER_EXITED


@pytest.fixture
def containerd() -> Iterator[ContainerdProcess]:
    with ContainerdProcess() as process:
        yield process


@pytest.fixture(scope="module", autouse=True)
def lonely(lab: Lab) -> Iterator[AcriProcess]:
    """An acri whose containerd is not there. Being patient, it begins before the other tests."""
    process = lab.acri("lonely", containerd=str(lab.directory / "no-containerd.sock"))
    process.spawn(*SERVE)
    yield process
    process.stop()


@pytest.fixture
def on_top(own_acri: MakeAcri, containerd: ContainerdProcess) -> AcriProcess:
    process = own_acri(containerd=containerd.address)
    process.start()
    return process


async def _pods(cri: Cri, directory: Path) -> tuple[Pods, Pod, str]:
    await cri.pull(BUSYBOX)
    pods = Pods(cri, directory)
    pod = await pods.run(namespaces=options(pid=POD))
    return pods, pod, await pod.start("sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.01; done")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told-to-end"])
async def test_containerd_is_restarted(
    on_top: AcriProcess, containerd: ContainerdProcess, tmp_path: Path, how: int
) -> None:
    async with Cri(on_top.socket) as cri:
        pods, pod, running = await _pods(cri, tmp_path)
        processes = on_top.processes()
        short = await pod.start("sh", "-c", "sleep 1; exit 6", name="short")
        before = await cri.container_status(running)
        containerd.kill(how)
        # Answered from memory; containers are not taken for ended because nobody can be asked.
        assert (await cri.container_status(running)).state == RUNNING
        assert {item.state for item in await cri.containers()} <= {RUNNING, EXITED}
        assert (await cri.sandbox_status(pod.id)).state == m.PodSandboxState.SANDBOX_READY
        await eventually(lambda: _condition(cri, "RuntimeReady", False))
        containerd.start()
        await eventually(lambda: _condition(cri, "RuntimeReady", True))
        assert await cri.container_status(running) == before
        assert set(processes[:2]) <= set(on_top.processes())  # the holder and who writes lines
        status = await cri.exited(short)  # ended while nobody could tell of it
        # containerd from 1.7 on deletes such a task, and its exit code, before anybody can ask.
        assert (status.exit_code, status.reason) in ((6, "Error"), (255, "Error"))
        assert (await cri.exec(running, "echo", "on")).stdout == b"on\n"
        other = await pods.run()
        assert await other.output("echo", "new") == "new\n"
        await cri.stop(running)
        lines = rejoin(read_log(pod.log()), "stdout").splitlines()
        assert lines == [b"line %d" % i for i in range(1, len(lines) + 1)]
        await pods.remove_all()
        assert await leftovers(on_top) == []


async def _condition(cri: Cri, name: str, status: bool) -> bool:
    return (await cri.conditions())[name].status is status


async def test_containerd_stops_answering(on_top: AcriProcess, containerd: ContainerdProcess, tmp_path: Path) -> None:
    """Lists and statuses are answered all the same; the node says that it is not ready, and is again."""
    async with Cri(on_top.socket) as cri:
        pods, pod, running = await _pods(cri, tmp_path)
        containerd.pause()
        try:
            assert [item.id for item in await cri.containers()] == [running]
            assert (await cri.sandbox_status(pod.id)).id == pod.id
            assert (await cri.container_status(running)).state == RUNNING
            await eventually(lambda: _condition(cri, "RuntimeReady", False))
            message = (await cri.conditions())["RuntimeReady"].message
            assert containerd.address in message or "containerd" in message
            with pytest.raises(errors.AcriError):
                await cri(m.StartContainerRequest(container_id="f" * 64), timeout=5)
        finally:
            os.kill(containerd.pid, signal.SIGCONT)
        await eventually(lambda: _condition(cri, "RuntimeReady", True))
        assert (await cri.exec(running, "echo", "on")).stdout == b"on\n"
        await pods.remove_all()
        assert await leftovers(on_top) == []


async def test_a_shim_is_killed(on_top: AcriProcess, containerd: ContainerdProcess, tmp_path: Path) -> None:
    """The container ends with it; nothing hangs, everything can be removed."""
    async with Cri(on_top.socket) as cri:
        await cri.pull(BUSYBOX)
        pods = Pods(cri, tmp_path)
        pod = await pods.run()
        container_id = await pod.start(*FOREVER)
        (shim,) = containerd.shims()
        os.kill(shim, signal.SIGKILL)
        status = await cri.exited(container_id)
        assert status.exit_code in (137, 255)
        again = await pod.start(*FOREVER, attempt=1)
        assert (await cri.exec(again, "echo", "on")).stdout == b"on\n"
        await pods.remove_all()
        left = await leftovers(on_top)
        assert left == [], [command_of(pid) for pid in on_top.processes()]


async def test_acri_starts_before_containerd(own_acri: MakeAcri, tmp_path: Path) -> None:
    with ContainerdProcess() as containerd:
        containerd.kill(signal.SIGTERM)
        process = own_acri(containerd=containerd.address)
        process.spawn(*SERVE)
        containerd.start()
        process.wait_until_it_serves()
        async with Cri(process.socket) as cri:
            await eventually(lambda: _condition(cri, "RuntimeReady", True))


def test_without_containerd_there_is_one_clear_line(lonely: AcriProcess) -> None:
    assert lonely.wait() == 1
    last = lonely.log.splitlines()[-1]
    assert last.startswith("acri serve: ")
    assert "no-containerd.sock" in last
    assert "Traceback" not in lonely.log
