# SPDX-License-Identifier: Apache-2.0
"""acri ends and comes back: killed, told to end, while things happen, after a reboot (kubelet-cri.md 15, 16)."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cri_client import Cri, eventually
from cri_lab import AcriProcess, Lab, MakeAcri, command_of, leftovers, sh
from cri_pods import BUSYBOX, FOREVER, POD, Pod, Pods, options, read_log, rejoin

from acri import errors
from acri.aio.fdstore import FdStore
from acri.containerd.client import Containerd
from acri.proto.runtime import v1 as m

READY, NOTREADY = m.PodSandboxState.SANDBOX_READY, m.PodSandboxState.SANDBOX_NOTREADY
EXITED = m.ContainerState.CONTAINER_EXITED


async def _everything(cri: Cri) -> dict[str, Any]:
    """All that can be asked about pods, containers and images."""
    sandboxes, containers = await cri.sandboxes(), await cri.containers()
    return {
        "sandboxes": sorted(sandboxes, key=lambda item: item.id),
        "containers": sorted(containers, key=lambda item: item.id),
        "sandbox statuses": [await cri.sandbox_status(i) for i in sorted(item.id for item in sandboxes)],
        "container statuses": [await cri.container_status(i) for i in sorted(item.id for item in containers)],
        "images": sorted(await cri.images(), key=lambda item: item.id),
    }


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told-to-end"])
async def test_every_answer_is_the_same_afterwards(crashing: AcriProcess, tmp_path: Path, how: int) -> None:
    async with Cri(crashing.socket) as cri:
        pods = Pods(cri, tmp_path)
        annotations = {"json": '{"a": "\\u00fc"}', "ü": "\n\t", "big": "x" * 50_000}
        first = await pods.run(annotations=annotations, namespaces=options(pid=POD))
        host = await pods.run_host_network()
        stopped = await pods.run()
        running = await first.start(*FOREVER, annotations=annotations, labels={"l": ""}, name="running")
        resources = m.LinuxContainerResources(memory_limit_in_bytes=64 << 20)
        await host.start(*FOREVER, resources=resources, security={"run_as_user": m.Int64Value(value=1000)})
        created = await first.create(*FOREVER, name="created")
        exited = await first.start("sh", "-c", "exit 7", name="exited")
        failed = await first.create("/nonexistent", name="failed")
        with pytest.raises(errors.AcriError):
            await cri.start(failed)
        await cri.exited(exited)
        await cri.stop_sandbox(stopped.id)
        before = await _everything(cri)
        processes = crashing.processes()
    crashing.restart(how)
    async with Cri(crashing.socket) as cri:
        after = await _everything(cri)
        assert after == before
        assert crashing.processes() == processes
        assert await cri.run(first.config) == first.id
        pod = Pod(cri, first.id, first.config)
        assert await pod.create(*FOREVER, name="created") == created
        await cri.start(created)
        assert (await cri.exec(running, "echo", "on")).stdout == b"on\n"
        await cri.reopen_log(running)
        await cri.stop(running, 30)
        assert (await cri.container_status(running)).exit_code == 0
        holder_and_rest = crashing.processes()
        assert holder_and_rest
        await cri.stop_sandbox(first.id)


async def test_no_line_is_lost_while_acri_is_away(crashing: AcriProcess, tmp_path: Path) -> None:
    """Killed again and again while a container writes as fast as it can."""
    script = "i=0; while :; do i=$((i+1)); echo line $i; done"
    async with Cri(crashing.socket) as cri:
        pod = await Pods(cri, tmp_path).run()
        container_id = await pod.start("sh", "-c", script)
        await eventually(lambda: _grown(pod.log(), 0))
    for _ in range(4):
        crashing.kill()
        size = pod.log().stat().st_size
        crashing.start()
        await eventually(lambda size=size: _grown(pod.log(), size))
    async with Cri(crashing.socket) as cri:
        await cri.stop(container_id)
        lines = rejoin(read_log(pod.log()), "stdout").splitlines()
        assert lines == [b"line %d" % i for i in range(1, len(lines) + 1)]
        assert len(lines) > 1000


async def _grown(path: Path, size: int) -> bool:
    return path.stat().st_size > size


async def test_an_exit_while_acri_is_away(crashing: AcriProcess, tmp_path: Path) -> None:
    async with Cri(crashing.socket) as cri:
        pod = await Pods(cri, tmp_path).run()
        container_id = await pod.start("sh", "-c", "trap 'exit 9' TERM; sleep 1000 & wait", name="told")
        short = await pod.start("sh", "-c", "while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 4", name="short")
        await cri.exec(short, "sh", "-c", "(sleep 0.5; touch /tmp/go) >/dev/null 2>&1 &")
    crashing.kill()
    (pid,) = [pid for pid in crashing.processes() if "exit 9" in command_of(pid)]
    os.kill(pid, signal.SIGTERM)

    async def gone() -> bool:
        return not crashing.processes()

    await eventually(gone)
    crashing.start()
    async with Cri(crashing.socket) as cri:
        for one, code in ((container_id, 9), (short, 4)):
            status = await cri.exited(one)
            assert (status.exit_code, status.reason) == (code, "Error")
            assert status.finished_at > status.started_at


async def test_output_of_a_container_that_ends_while_acri_is_away(own_acri: MakeAcri, tmp_path: Path) -> None:
    """The service manager holds a second read end, so the last words are still there."""
    process = own_acri()
    process.manager = FdStore(str(process.directory / "notify"))
    process.start()
    async with Cri(process.socket) as cri:
        await cri.pull(BUSYBOX)
        pods = Pods(cri, tmp_path)
        pod = await pods.run()
        script = (
            "while [ ! -e /tmp/go ]; do sleep 0.02; done; i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i; done"
        )
        container_id = await pod.start("sh", "-c", script)
        await cri.exec(container_id, "sh", "-c", "(sleep 0.5; touch /tmp/go) >/dev/null 2>&1 &")

    async def stored() -> bool:
        assert process.manager is not None
        return len(process.manager) == 2

    await eventually(stored)
    process.kill()

    async def gone() -> bool:
        return not process.processes()

    await eventually(gone)
    assert pod.log().stat().st_size == 0
    process.start()
    async with Cri(process.socket) as cri:
        status = await cri.exited(container_id)
        assert status.exit_code == 0
        assert rejoin(read_log(status.log_path), "stdout") == b"".join(b"line %d\n" % i for i in range(1, 3001))
        await Pods(cri, tmp_path).remove_all()
    await eventually(lambda: _empty(process.manager))
    assert await leftovers(process) == []
    process.manager.close()


async def _empty(store: FdStore | None) -> bool:
    assert store is not None
    return len(store) == 0


async def test_a_holder_that_dies_while_acri_is_away(crashing: AcriProcess, tmp_path: Path) -> None:
    async with Cri(crashing.socket) as cri:
        pod = await Pods(cri, tmp_path).run(namespaces=options(pid=POD))
        (holder,) = crashing.processes()
        container_id = await pod.start()
    crashing.kill()
    os.kill(holder, signal.SIGKILL)
    crashing.start()
    async with Cri(crashing.socket) as cri:
        assert (await cri.sandbox_status(pod.id)).state == NOTREADY
        assert (await cri.exited(container_id)).exit_code == 137
        # And one that dies afterwards is seen, too: the new acri watches what it did not start.
        other = await Pods(cri, tmp_path).run(namespaces=options(pid=POD))
    crashing.restart()
    (holder,) = crashing.processes()
    os.kill(holder, signal.SIGKILL)
    async with Cri(crashing.socket) as cri:
        await cri.not_ready(other.id)


async def test_reboot(crashing: AcriProcess, tmp_path: Path, lab: Lab) -> None:
    """Processes, namespaces and /run are gone, containerd's and acri's directories are there."""
    async with Cri(crashing.socket) as cri:
        pods = Pods(cri, tmp_path)
        pod, host = await pods.run(namespaces=options(pid=POD)), await pods.run_host_network()
        containers = [await pod.start("sh", "-c", "echo before; sleep 1000"), await host.start()]
        created = await pod.create(*FOREVER, name="created")
        await eventually(lambda: _grown(pod.log(), 0))
    crashing.kill()
    for number in crashing.processes():
        os.kill(number, signal.SIGKILL)
    async with Containerd(lab.containerd.address, crashing.settings.containerd.namespace) as containerd:
        for container_id in containers:
            await eventually(lambda container_id=container_id: _task_deleted(containerd, container_id))
    _forget_run(crashing)
    crashing.network.close()
    crashing.start()
    async with Cri(crashing.socket) as cri:
        assert {item.id: item.state for item in await cri.sandboxes()}[pod.id] == NOTREADY
        assert {item.id for item in await cri.containers()} - {created} == set(containers)
        for container_id in containers:
            status = await cri.container_status(container_id)
            assert (status.state, status.exit_code) == (EXITED, 255)
        assert rejoin(read_log(pod.log()), "stdout") == b"before\n"
        second = await pods_again(cri, pod, tmp_path)
        assert (await cri.sandbox_status(second)).state == READY


def _forget_run(process: AcriProcess) -> None:
    """What a tmpfs on /run would have lost."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for name in ("netns", "run"):
        for point in reversed([point for point in points if point.startswith(f"{process.directory}/{name}")]):
            subprocess.run(["umount", "-l", point], check=False, capture_output=True)
        shutil.rmtree(process.directory / name)


async def pods_again(cri: Cri, pod: Pod, directory: Path) -> str:
    config = Pods(cri, directory).config(pod.config.metadata.name, attempt=1, namespaces=options(pid=POD))
    return await cri.run(config)


async def _task_deleted(containerd: Containerd, container_id: str) -> bool:
    try:
        await containerd.tasks.delete(container_id)
    except errors.NotFound:
        return True
    except errors.AcriError:
        pass
    return False


async def test_what_nobody_owns_is_removed(crashing: AcriProcess, tmp_path: Path, lab: Lab) -> None:
    """Somebody deleted acri's objects from containerd; the pins and directories go at the next start."""
    async with Cri(crashing.socket) as cri:
        pod = await Pods(cri, tmp_path).run(namespaces=options(pid=1))
        await pod.create("true")
    crashing.kill()
    async with Containerd(lab.containerd.address, crashing.settings.containerd.namespace) as containerd:
        for item in await containerd.containers.list():
            await containerd.containers.delete(item.id)
            if item.snapshot_key:
                await containerd.snapshots.remove("overlayfs", item.snapshot_key)
    crashing.start()
    async with Cri(crashing.socket) as cri:
        assert await cri.sandboxes() == []
        assert await cri.containers() == []
    # The plugins free what a pod holds in the network by what its record says: here that is lost.
    crashing.network.forget()
    assert await leftovers(crashing) == []


async def test_two_on_one_root(crashing: AcriProcess) -> None:
    """The second one says who has it, in one line, and harms nothing."""
    config = str(crashing.directory / "config.toml")
    second = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "acri", "serve", "--config", config], capture_output=True, text=True
    )
    assert second.returncode == 1
    assert str(crashing.pid) in second.stderr
    assert second.stderr.splitlines()[-1].startswith("acri serve: ")
    async with Cri(crashing.socket) as cri:
        assert (await cri(m.VersionRequest())).runtime_name == "acri"


async def test_objects_of_others_are_left_alone(crashing: AcriProcess, lab: Lab) -> None:
    """`ctr` and containerd's own CRI plugin use the same namespace."""
    namespace = crashing.settings.containerd.namespace
    ctr = ("ctr", "-a", lab.containerd.address, "-n", namespace)
    crashing.kill()
    sh(*ctr, "containers", "create", "--rootfs", "/", "someone-elses", "true")
    try:
        crashing.start()
        async with Cri(crashing.socket) as cri:
            assert await cri.containers() == []
            with pytest.raises(errors.NotFound):
                await cri.container_status("someone-elses")
            await cri.remove("someone-elses")
        assert "someone-elses" in sh(*ctr, "containers", "list", "-q")
    finally:
        sh(*ctr, "containers", "delete", "someone-elses")
