# SPDX-License-Identifier: Apache-2.0
"""Building the stores from containerd: on start-up, and after events may have been lost.

What a sandbox or container *is* stands in its record; what *runs* is what containerd's tasks and the kernel say:

    sandbox record │ what the host says                │ becomes
    creating       │                                   │ stopped, and removed: an acri died while making it
    ready          │ namespaces and holder are there   │ ready
    ready          │ one is gone (reboot, killed)      │ stopped; StopPodSandbox frees the rest
    stopped        │                                   │ stopped

    container record │ task      │ becomes
    created          │ none      │ created, if its snapshot is there; else removed: an acri died while making it
    created          │ created   │ exited 128: a start was cut off
    created, running │ running   │ running; its output is followed again
    running          │ stopped   │ exited, with the task's code and time
    running          │ none      │ exited 255 (reboot)
    exited           │ any       │ exited; a task that is left is ended
    any              │ no answer │ unknown: asked for again with every resync, and by StopContainer

One object that makes trouble is logged and never keeps the others, or acri, from starting. Objects whose record this
acri cannot read are left alone, with everything that belongs to them: they may be a newer acri's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import structlog

from acri import errors
from acri.aio.tasks import settle
from acri.containerd.types import ContainerObject, TaskInfo, TaskStatus
from acri.model import records
from acri.model.container import Container, ContainerState, Exit
from acri.model.sandbox import Phase, Sandbox
from acri.runtime import container_io, container_remove, persist
from acri.runtime.container_exit import end_task, follow, reconcile, release
from acri.runtime.container_start import START_FAILED_CODE
from acri.runtime.node import Node, now_ns
from acri.runtime.sandbox_namespaces import sandbox_is_whole
from acri.runtime.sandbox_remove import remove_pod_sandbox
from acri.store import Entry

__all__ = ["Recovered", "recover", "resync"]

log = structlog.get_logger(__name__)

V = TypeVar("V", Sandbox, Container)

TAKE_BACK_WITHIN_S = 5.0


@dataclass(slots=True)
class Recovered:
    """What was found in containerd, listed or not."""

    sandboxes: list[Sandbox] = field(default_factory=list)
    containers: list[Container] = field(default_factory=list)
    foreign_sandboxes: set[str] = field(default_factory=set)
    """Ids of sandboxes whose record, or a record of whose containers, cannot be read."""
    ids: set[str] = field(default_factory=set)
    """Ids of all of acri's objects: what has one of these belongs to somebody."""


async def recover(node: Node) -> Recovered:
    """Fill the stores. Run once, before the first request is served.

    Raises:
        errors.Unavailable: containerd does not answer.
    """
    found = _read(await node.containerd.containers.list(f'labels."{records.KIND_LABEL}"'))
    tasks = {task.id: task for task in await node.containerd.tasks.list()}
    for sandbox in found.sandboxes:
        node.sandboxes.put(sandbox)
    await settle(*(_guarded(_recover_sandbox(node, sandbox), sandbox.id) for sandbox in found.sandboxes))
    await _take_back(node, [sandbox for sandbox in found.sandboxes if sandbox.phase is Phase.CREATING])
    for container in found.containers:
        if container.sandbox_id not in found.foreign_sandboxes:
            node.containers.put(container)
    await settle(*(_recover_container(node, entry, tasks.get(entry.value.id)) for entry in node.containers))
    log.info("state rebuilt from containerd", sandboxes=len(node.sandboxes), containers=len(node.containers))
    return found


async def resync(node: Node) -> None:
    """Ask containerd about every container that should run, after events may have been lost; then about images."""
    running = {task.id for task in await node.containerd.tasks.list() if task.status is not TaskStatus.STOPPED}
    for entry in node.containers:
        container = entry.value
        # A task whose shim answers slowly is missing in the list too: `reconcile` asks for each by itself.
        if container.state is ContainerState.UNKNOWN or (
            container.state is ContainerState.RUNNING and container.id not in running
        ):
            await _guarded(reconcile(node, container.id), container.id)
    for container in list(node.leftovers):
        await _guarded(_remove_leftover(node, container), container.id)
    await node.images.load()


async def _guarded(work: Awaitable[object], object_id: str) -> None:
    try:
        await work
    except errors.AcriError as error:
        log.error("object not brought in line yet", object_id=object_id, error=error.message)
    except Exception:
        log.exception("object not brought in line", object_id=object_id)


def _read(objects: Iterable[ContainerObject]) -> Recovered:
    """The records, oldest first."""
    found = Recovered()
    for item in objects:
        found.ids.add(item.id)
        extension = item.extensions.get(records.EXTENSION)
        data = extension.value if extension else b""
        try:
            if item.labels.get(records.KIND_LABEL) == records.SANDBOX:
                found.sandboxes.append(_own(records.read_sandbox(data), item.id))
            else:
                found.containers.append(_own(records.read_container(data), item.id))
        except errors.Internal as error:
            log.error("record cannot be read; its pod is left alone", object_id=item.id, error=error.message)
            found.foreign_sandboxes.add(item.labels.get(records.SANDBOX_LABEL, item.id))
    found.sandboxes = [sandbox for sandbox in found.sandboxes if sandbox.id not in found.foreign_sandboxes]
    found.sandboxes.sort(key=lambda sandbox: sandbox.created_at_ns)
    found.containers.sort(key=lambda container: container.created_at_ns)
    return found


def _own(record: V, object_id: str) -> V:
    """Refuse a record that names another object: ids become paths."""
    if record.id != object_id:
        raise errors.Internal(f"the record is that of {record.id!r}")
    return record


async def _recover_sandbox(node: Node, sandbox: Sandbox) -> None:
    if sandbox.phase is Phase.READY and not await sandbox_is_whole(node, sandbox):
        log.warning("namespaces of a pod sandbox are gone; it is not ready", sandbox_id=sandbox.id)
        stopped = replace(sandbox, phase=Phase.STOPPED)
        node.sandboxes.put(stopped)
        await persist.save(node, stopped)


async def _take_back(node: Node, unfinished: list[Sandbox]) -> None:
    """Remove sandboxes that an acri died making. What they hold is known from their records.

    A network plugin that hangs must not keep acri from serving: what takes longer goes on beside it, and is listed.
    """
    removals = []
    for sandbox in unfinished:
        log.warning("taking back a pod sandbox that was not finished", sandbox_id=sandbox.id)
        node.sandboxes.put(replace(sandbox, phase=Phase.STOPPED))
        removal = _guarded(remove_pod_sandbox(node, sandbox.id), sandbox.id)
        removals.append(node.tasks.spawn(removal, name=f"take back {sandbox.id}"))
    if removals:
        await asyncio.wait(removals, timeout=TAKE_BACK_WITHIN_S)


async def _recover_container(node: Node, entry: Entry[Container], task: TaskInfo | None) -> None:
    """Bring one container in line with its task; what fails leaves it UNKNOWN, which the kubelet stops."""
    container = entry.value
    try:
        if node.sandboxes.get(container.sandbox_id) is None:
            log.warning("removing a container without pod sandbox", container_id=container.id)
            await container_remove.purge(node, container)
        else:
            await _align(node, entry, task)
    except Exception as error:
        message = error.message if isinstance(error, errors.AcriError) else repr(error)
        log.error("container's state is unknown", container_id=container.id, error=message)
        node.containers.replace(replace(entry.value, unknown=True))


async def _align(node: Node, entry: Entry[Container], task: TaskInfo | None) -> None:
    container = entry.value
    status = task.status if task else None
    if container.state is ContainerState.EXITED:
        if task is not None:
            await end_task(node, container.id)
        await release(node, container.id)
    elif status is TaskStatus.CREATED:
        await end_task(node, container.id)
        end = Exit(START_FAILED_CODE, now_ns(), "StartError", "acri ended while it started the container")
        await persist.save(node, replace(container, started_at_ns=0, exit=end))
        await release(node, container.id)
    elif container.state is ContainerState.CREATED and status is None:
        if await _has_snapshot(node, container):
            await container_io.make_fifos(node, container)  # a reboot took them
        else:
            log.warning("taking back a container that was not finished", container_id=container.id)
            await container_remove.purge(node, container)
    else:
        # What it wrote last may still be in its FIFOs, also where it has ended meanwhile.
        async with entry.lock:
            await follow(node, entry)
        if status in (None, TaskStatus.STOPPED):
            await reconcile(node, container.id)


async def _has_snapshot(node: Node, container: Container) -> bool:
    """Whether CreateContainer got as far as the root file system."""
    try:
        await node.containerd.snapshots.stat(container.snapshotter, container.id)
    except errors.NotFound:
        return False
    return True


async def _remove_leftover(node: Node, container: Container) -> None:
    await container_remove.purge(node, container)
    node.leftovers.remove(container)
