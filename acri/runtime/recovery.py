# SPDX-License-Identifier: Apache-2.0
"""Building the stores from containerd: on start-up, and after the event stream broke.

What a sandbox or container *is* stands in its record; what *runs* is what containerd's tasks and the kernel say:

    sandbox record │ what the host says                │ becomes
    creating       │                                   │ taken back: an acri died while making it
    ready          │ namespaces and holder are there   │ ready
    ready          │ one is gone (reboot, killed)      │ stopped; StopPodSandbox frees the rest
    stopped        │                                   │ stopped

    container record │ task      │ becomes
    created          │ none      │ created; taken back where an acri died while making it
    created          │ created   │ its task is deleted (a start was cut off): exited 128
    created, running │ running   │ running; its output is followed again
    created, running │ stopped   │ exited, with the task's code and time
    running          │ none      │ exited 255
    exited           │ any       │ exited; a task that is left is deleted
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from acri import errors
from acri.aio.tasks import settle
from acri.containerd.types import ContainerObject, TaskInfo, TaskStatus
from acri.model import records
from acri.model.container import Container, ContainerState, Exit
from acri.model.sandbox import Phase, Sandbox
from acri.runtime import container_io, persist
from acri.runtime.container_exit import delete_task, reconcile, release
from acri.runtime.container_remove import remove_container
from acri.runtime.container_start import START_FAILED_CODE
from acri.runtime.node import Node, now_ns
from acri.runtime.sandbox_namespaces import sandbox_is_whole
from acri.runtime.sandbox_remove import remove_pod_sandbox

__all__ = ["recover", "resync"]

log = structlog.get_logger(__name__)


async def recover(node: Node) -> None:
    """Fill the stores. Run once, before the first request is served.

    Raises:
        errors.Unavailable: containerd does not answer.
    """
    objects = await node.containerd.containers.list(f'labels."{records.KIND_LABEL}"')
    tasks = {task.id: task for task in await node.containerd.tasks.list()}
    sandboxes, containers = _read(objects)
    for sandbox in sandboxes:
        node.sandboxes.put(sandbox)
    for container in containers:
        if node.sandboxes.get(container.sandbox_id) is None:
            await _remove_orphan(node, container)
        else:
            node.containers.put(container)
    for sandbox in sandboxes:
        await _recover_sandbox(node, sandbox)
    await settle(*(_recover_container(node, entry.value, tasks.get(entry.value.id)) for entry in node.containers))
    log.info("state rebuilt from containerd", sandboxes=len(node.sandboxes), containers=len(node.containers))


async def resync(node: Node) -> None:
    """Ask containerd about images and every container that runs, after events may have been lost."""
    await node.images.load()
    running = {task.id for task in await node.containerd.tasks.list() if task.status is not TaskStatus.STOPPED}
    suspects = [
        entry.value.id
        for entry in node.containers
        if entry.value.state is ContainerState.RUNNING and entry.value.id not in running
    ]
    # A task whose shim answers slowly is missing in the list too: `reconcile` asks for each by itself.
    await settle(*(reconcile(node, container_id) for container_id in suspects))


def _read(objects: list[ContainerObject]) -> tuple[list[Sandbox], list[Container]]:
    """The records, oldest first. One that cannot be read is logged and left alone: it may be a newer acri's."""
    sandboxes: list[Sandbox] = []
    containers: list[Container] = []
    for found in objects:
        extension = found.extensions.get(records.EXTENSION)
        data = extension.value if extension else b""
        try:
            if found.labels.get(records.KIND_LABEL) == records.SANDBOX:
                sandboxes.append(records.read_sandbox(data))
            else:
                containers.append(records.read_container(data))
        except errors.Internal as error:
            log.error("record cannot be read; the object is left alone", object_id=found.id, error=error.message)
    return sorted(sandboxes, key=lambda s: s.created_at_ns), sorted(containers, key=lambda c: c.created_at_ns)


async def _recover_sandbox(node: Node, sandbox: Sandbox) -> None:
    if sandbox.phase is Phase.CREATING:
        # What it holds is known from the record: removing it goes the way of every removal.
        node.sandboxes.put(replace(sandbox, phase=Phase.STOPPED))
        log.warning("taking back a pod sandbox that was not finished", sandbox_id=sandbox.id)
        try:
            await remove_pod_sandbox(node, sandbox.id)
        except errors.AcriError as error:
            log.error("pod sandbox left for the kubelet to remove", sandbox_id=sandbox.id, error=str(error))
        return
    if sandbox.phase is Phase.READY and not await sandbox_is_whole(node, sandbox):
        log.warning("namespaces of a pod sandbox are gone; it is not ready", sandbox_id=sandbox.id)
        await persist.save(node, replace(sandbox, phase=Phase.STOPPED))


async def _recover_container(node: Node, container: Container, task: TaskInfo | None) -> None:
    """Bring one container in line with its task; what fails leaves it UNKNOWN, which the kubelet stops."""
    try:
        await _align(node, container, task)
    except errors.AcriError as error:
        log.error("container's state is unknown", container_id=container.id, error=str(error))
        if node.containers.get(container.id) is not None:
            node.containers.put(replace(container, unknown=True))


async def _align(node: Node, container: Container, task: TaskInfo | None) -> None:
    live = node.live_of(container.id)
    status = task.status if task else None
    if container.state is ContainerState.EXITED:
        if task is not None:
            await delete_task(node, container.id)
        await release(node, container.id)
    elif status is TaskStatus.CREATED:
        await delete_task(node, container.id)
        message = "acri ended while it started the container"
        end = Exit(START_FAILED_CODE, now_ns(), "StartError", message)
        await persist.save(node, replace(container, started_at_ns=0, exit=end))
        await release(node, container.id)
    elif status is TaskStatus.STOPPED or container.state is ContainerState.RUNNING:
        live.log = await container_io.open_log(node, container, recovering=True)
        if container.state is ContainerState.CREATED:  # it ended before its start was recorded
            await persist.save(node, replace(container, started_at_ns=container.created_at_ns))
        await reconcile(node, container.id)
    elif status is None:
        await _complete(node, container)
    else:
        live.log = await container_io.open_log(node, container, recovering=True)
        if container.state is ContainerState.CREATED:
            await persist.save(node, replace(container, started_at_ns=now_ns()))


async def _complete(node: Node, container: Container) -> None:
    """A container that was never started: take it back if its creation was cut off, else see that it can start."""
    try:
        await node.containerd.snapshots.mounts(container.snapshotter, container.id)
    except errors.NotFound:
        log.warning("taking back a container that was not finished", container_id=container.id)
        await remove_container(node, container.id)
    else:
        await container_io.make_fifos(node, container)


async def _remove_orphan(node: Node, container: Container) -> None:
    """A container without its sandbox: the last removal was cut off after the sandbox's record was gone."""
    log.warning("removing a container without pod sandbox", container_id=container.id)
    node.containers.put(replace(container, unknown=True))
    await remove_container(node, container.id)
