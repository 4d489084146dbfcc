# SPDX-License-Identifier: Apache-2.0
"""Containers from Create to Remove: states, filters, exits and their reasons, stop and its patience
(kubelet-cri.md scripts 3–12; critest's Container group)."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from cri_client import Cri, eventually
from cri_pods import BUSYBOX, FOREVER, POD, Pods, options, read_log, rejoin

from acri import errors
from acri.proto.runtime import v1 as m

CREATED, RUNNING, EXITED = (
    m.ContainerState.CONTAINER_CREATED,
    m.ContainerState.CONTAINER_RUNNING,
    m.ContainerState.CONTAINER_EXITED,
)
STUBBORN = ("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")


async def test_states_times_and_identity(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    before = time.time_ns()
    labels, annotations = {"l": "1", "empty": ""}, {"a": "ü\n{}"}
    container_id = await pod.create(*FOREVER, labels=labels, annotations=annotations, attempt=3)
    (item,) = await cri.containers()
    assert (item.id, item.pod_sandbox_id, item.state) == (container_id, pod.id, CREATED)
    assert (item.metadata.name, item.metadata.attempt) == ("c", 3)
    assert (item.labels, item.annotations) == (labels, annotations)
    created = await cri.container_status(container_id)
    assert created.state == CREATED
    assert before <= created.created_at <= time.time_ns()
    assert (created.started_at, created.finished_at, created.exit_code) == (0, 0, 0)

    await cri.start(container_id)
    running = await cri.container_status(container_id)
    assert running.state == RUNNING
    assert running.started_at >= running.created_at == created.created_at
    assert os.path.isabs(running.log_path)
    assert os.path.exists(running.log_path)
    image = await cri.image(BUSYBOX)
    assert image is not None
    assert running.image_id == image.id == item.image_id
    assert running.image_ref
    assert running.image.image
    assert running.user.linux == m.LinuxContainerUser(uid=0, gid=0, supplemental_groups=[0])

    await cri.stop(container_id, 30)
    exited = await cri.container_status(container_id)
    assert (exited.state, exited.exit_code, exited.reason) == (EXITED, 0, "Completed")
    assert exited.finished_at > exited.started_at == running.started_at
    assert (await cri.containers())[0].state == EXITED

    await cri.remove(container_id)
    assert await cri.containers() == []
    with pytest.raises(errors.NotFound):
        await cri.container_status(container_id)
    assert os.path.exists(running.log_path)  # the kubelet's to remove


async def test_large_annotations_come_back(cri: Cri, pods: Pods) -> None:
    annotations = {"big": "ä" * 100_000, "json": '{"a": [1, "\\u0000"]}'}
    pod = await pods.run(annotations=annotations)
    container_id = await pod.create("true", annotations=annotations)
    assert (await cri.sandbox_status(pod.id)).annotations == annotations
    assert (await cri.container_status(container_id)).annotations == annotations
    assert (await cri.containers())[0].annotations == annotations


async def test_a_request_of_a_megabyte(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    envs = [m.KeyValue(key=f"K{i}", value=b"v" * 1000) for i in range(1050)]
    assert (await pod.output("sh", "-c", "env | grep -c ^K", envs=envs)).strip() == "1050"


async def test_filters_select_and_their_absence_does_not(cri: Cri, pods: Pods) -> None:
    pod, other = await asyncio.gather(pods.run(), pods.run())
    created = await pod.create("true", name="created", labels={"k": "1"})
    running = await pod.start(name="running", labels={"k": "2"})
    exited = await other.start("true", name="exited", labels={"k": "2"})
    await cri.exited(exited)

    async def listed(wanted: m.ContainerFilter | None) -> set[str]:
        return {item.id for item in await cri.containers(wanted)}

    def state(value: int) -> m.ContainerStateValue:
        return m.ContainerStateValue(state=m.ContainerState(value))

    everything = {created, running, exited}
    assert await listed(None) == everything
    assert await listed(m.ContainerFilter()) == everything
    assert await listed(m.ContainerFilter(state=state(CREATED))) == {created}  # 0, and yet there
    assert await listed(m.ContainerFilter(state=state(RUNNING))) == {running}
    assert await listed(m.ContainerFilter(state=state(EXITED))) == {exited}
    assert await listed(m.ContainerFilter(state=state(3))) == set()
    assert await listed(m.ContainerFilter(pod_sandbox_id=pod.id)) == {created, running}
    assert await listed(m.ContainerFilter(pod_sandbox_id="0" * 64)) == set()
    assert await listed(m.ContainerFilter(id=running[:10])) == {running}
    assert await listed(m.ContainerFilter(label_selector={"k": "2"})) == {running, exited}
    assert await listed(m.ContainerFilter(label_selector={"k": "2"}, pod_sandbox_id=pod.id)) == {running}


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [("true", 0, "Completed"), ("exit 3", 3, "Error"), ("exit 255", 255, "Error"), ("kill -9 $$", 137, "Error")],
)
async def test_exit_codes_and_reasons(pods: Pods, script: str, code: int, reason: str) -> None:
    pod = await pods.run(namespaces=options(pid=POD))  # PID 1 of its own namespace cannot kill itself
    status, _ = await pod.run("sh", "-c", script)
    assert (status.exit_code, status.reason, status.message) == (code, reason, "")
    assert status.finished_at > status.started_at > 0


async def test_out_of_memory(pods: Pods) -> None:
    pod = await pods.run()
    resources = m.LinuxContainerResources(memory_limit_in_bytes=16 << 20, memory_swap_limit_in_bytes=16 << 20)
    hog = "dd if=/dev/zero of=/dev/null bs=200M count=1"
    status, _ = await pod.run("sh", "-c", f"exec {hog}", resources=resources)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


async def test_a_start_that_fails(cri: Cri, pods: Pods) -> None:
    """The call fails with the runtime's words, and the container is EXITED: the kubelet's back-off looks there."""
    pod = await pods.run()
    container_id = await pod.create("/nonexistent")
    with pytest.raises(errors.AcriError, match="/nonexistent"):
        await cri.start(container_id)
    status = await cri.container_status(container_id)
    assert (status.state, status.exit_code, status.reason) == (EXITED, 128, "StartError")
    assert "/nonexistent" in status.message
    assert status.finished_at > 0
    with pytest.raises(errors.FailedPrecondition):
        await cri.start(container_id)
    again = await pod.start(attempt=1)
    assert (await cri.container_status(again)).state == RUNNING
    await cri.remove(container_id)


async def test_start_twice(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    container_id = await pod.create(*FOREVER)
    await asyncio.gather(*(cri.start(container_id) for _ in range(3)))
    with pytest.raises(errors.FailedPrecondition):
        await cri.start(container_id)
    assert (await cri.container_status(container_id)).state == RUNNING


async def test_create_twice(cri: Cri, pods: Pods) -> None:
    """At once and again: one container. Never a second one under the same name and attempt."""
    pod = await pods.run()
    ids = await asyncio.gather(*(pod.create(*FOREVER) for _ in range(5)))
    assert len(set(ids)) == 1
    assert await pod.create(*FOREVER) == ids[0]
    await cri.start(ids[0])
    with pytest.raises(errors.AlreadyExists):
        await pod.create(*FOREVER)
    assert len(await cri.containers()) == 1


async def test_attempts_side_by_side(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    first, _ = await pod.run("sh", "-c", "echo one; exit 3", name="c", attempt=0)
    second = await pod.start("sh", "-c", "echo two; sleep 1000", attempt=1)
    listed = sorted(await cri.containers(), key=lambda item: item.created_at)
    assert [(item.id, item.metadata.attempt, item.state) for item in listed] == [
        (first.id, 0, EXITED),
        (second, 1, RUNNING),
    ]
    await eventually(lambda: _has_content(pod.log(attempt=1)))
    assert rejoin(read_log(pod.log(attempt=0)), "stdout") == b"one\n"
    assert rejoin(read_log(pod.log(attempt=1)), "stdout") == b"two\n"
    assert (await cri.container_status(first.id)).exit_code == 3


async def _has_content(path: object) -> bool:
    return os.path.getsize(str(path)) > 0


async def test_five_one_after_the_other(cri: Cri, pods: Pods) -> None:
    """As init containers do; each is seen EXITED in the list, with its times in order."""
    pod = await pods.run()
    last = 0
    for number in range(5):
        status, lines = await pod.run("sh", "-c", f"echo {number}")
        assert (status.exit_code, status.reason) == (0, "Completed")
        assert rejoin(lines, "stdout") == f"{number}\n".encode()
        assert status.created_at > last
        last = status.finished_at
    assert {item.state for item in await cri.containers()} == {EXITED}


async def test_stop_lets_a_handler_finish(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    container_id = await pod.start("sh", "-c", "trap 'sleep 0.5; echo bye; exit 5' TERM; echo ready; sleep 1000 & wait")
    await eventually(lambda: _has_content(pod.log()))
    await cri.stop(container_id, 60)
    status = await cri.container_status(container_id)
    assert (status.state, status.exit_code, status.reason) == (EXITED, 5, "Error")
    assert rejoin(read_log(pod.log()), "stdout") == b"ready\nbye\n"
    await cri.stop(container_id, 60)


async def test_stop_loses_its_patience(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    container_id = await pod.start(*STUBBORN)
    await eventually(lambda: _has_content(pod.log()))
    started = time.monotonic()
    await cri.stop(container_id, 1)
    assert time.monotonic() - started > 0.9
    assert (await cri.container_status(container_id)).exit_code == 137


async def test_a_shorter_stop_wins_over_a_longer_one(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    container_id = await pod.start(*STUBBORN)
    await eventually(lambda: _has_content(pod.log()))
    longer = asyncio.create_task(cri.stop(container_id, 3600))
    await asyncio.sleep(0.2)
    await cri.stop(container_id, 1)
    await longer
    assert (await cri.container_status(container_id)).exit_code == 137


async def test_a_client_that_leaves_does_not_take_the_kill_along(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    container_id = await pod.start(*STUBBORN)
    await eventually(lambda: _has_content(pod.log()))
    with pytest.raises(errors.DeadlineExceeded):
        await cri.stop(container_id, 1, timeout=0.3)
    assert (await cri.exited(container_id)).exit_code == 137


async def test_one_stop_does_not_hold_up_another(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    slow, fast = await pod.start(*STUBBORN, name="slow"), await pod.start(name="fast")
    await eventually(lambda: _has_content(pod.log("slow")))
    waiting = asyncio.create_task(cri.stop(slow, 3600))
    await asyncio.sleep(0.1)
    await cri.stop(fast, 3600)
    assert not waiting.done()
    await cri.stop(slow, 0)
    await waiting


async def test_stop_signals(cri: Cri, pods: Pods) -> None:
    """The configuration's, else the image's."""
    pod = await pods.run()
    await cri.pull("docker.io/test/configured:1")
    script = "trap 'exit 10' USR1; trap 'exit 12' USR2; trap 'exit 15' TERM; echo ready; while :; do sleep 0.05; done"
    for fields, code in (
        ({}, 15),
        ({"stop_signal": m.Signal.SIGUSR2}, 12),
        ({"image": "docker.io/test/configured:1"}, 10),
        ({"image": "docker.io/test/configured:1", "stop_signal": m.Signal.SIGTERM}, 15),
    ):
        container_id = await pod.start("sh", "-c", script, name=f"c{code}-{len(fields)}", **fields)
        status = await cri.container_status(container_id)
        await eventually(lambda path=status.log_path: _has_content(path))
        await cri.stop(container_id, 60)
        assert (await cri.container_status(container_id)).exit_code == code, fields


async def test_remove_in_every_state(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    created = await pod.create("true", name="created")
    running = await pod.start(name="running")
    exited = await pod.start("true", name="exited")
    await cri.exited(exited)
    for container_id in (created, running, exited):
        for _ in range(2):
            await cri.remove(container_id)
    assert await cri.containers() == []


async def test_parallel_stop_and_remove(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    container_id = await pod.start()
    await asyncio.gather(
        *(cri.stop(container_id, 10) for _ in range(5)),
        *(cri.remove(container_id) for _ in range(5)),
        cri.stop_sandbox(pod.id),
        cri.remove_sandbox(pod.id),
    )
    assert await cri.sandboxes() == []


async def test_an_exit_is_seen_without_being_asked_for(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    container_id = await pod.start("sleep", "0.1")

    async def listed() -> bool:
        return [item.state for item in await cri.containers(m.ContainerFilter(id=container_id))] == [EXITED]

    await eventually(listed)


async def test_verbose_status(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    container_id = await pod.create("true")
    answer = await cri(m.ContainerStatusRequest(container_id=container_id, verbose=True))
    assert container_id in answer.info["info"]
