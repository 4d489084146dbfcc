# SPDX-License-Identifier: Apache-2.0
"""RemoveContainer: end it, then its snapshot, its files and its record."""

from __future__ import annotations

import structlog

from acri import errors
from acri.aio.operation import Operation
from acri.aio.tasks import settle
from acri.aio.threads import Kind
from acri.host.mounts import remove_tree
from acri.model.container import Container
from acri.runtime import persist
from acri.runtime.container_exit import end_task, release
from acri.runtime.container_stop import kill_container
from acri.runtime.node import Node
from acri.store import Entry

__all__ = ["discard", "purge", "remove_container", "remove_files", "remove_snapshot"]

log = structlog.get_logger(__name__)


async def remove_container(node: Node, container_id: str) -> None:
    """Remove a container, killing it if it runs; one that does not exist is fine (runtime.v1: idempotent).

    Its log stays: the kubelet removes that by itself.
    """
    entry = node.containers.find(container_id)
    if entry is None:
        return
    await node.operations.join(("RemoveContainer", entry.value.id), lambda op: _remove(node, op, entry))


async def _remove(node: Node, op: Operation, entry: Entry[Container]) -> None:
    container = entry.value
    await op.step("kill", lambda: kill_container(node, container.id))
    async with entry.lock:
        await op.step("purge", lambda: purge(node, container))
    log.info("container removed", container_id=container.id, sandbox_id=container.sandbox_id)


async def purge(node: Node, container: Container) -> None:
    """Take away everything that there is of a container, whatever state it is in; idempotent.

    Also of one that never ran or has exited, the task is asked for: a call that was cut off may have left one, or its
    shim, and once the record is gone nobody can ask for them any more.
    """
    await end_task(node, container.id)
    await settle(remove_files(node, container.id), remove_snapshot(node, container))
    await discard(node, container.id)


async def remove_files(node: Node, container_id: str) -> None:
    """Remove the container's directories; what is mounted below them is unmounted, never walked into."""
    paths = node.paths.container(container_id)

    def remove() -> None:
        for path in (paths.state, paths.root):
            remove_tree(node.kernel, path)

    await node.threads.run(Kind.TEARDOWN, remove)


async def remove_snapshot(node: Node, container: Container) -> None:
    """Remove the container's root file system; one that is gone is fine."""
    try:
        await node.containerd.snapshots.remove(container.snapshotter, container.id)
    except errors.NotFound:
        pass


async def discard(node: Node, container_id: str) -> None:
    """Delete the record and forget the container."""
    await persist.delete(node, container_id)
    node.containers.remove(container_id)
    if container_id in node.live:
        await release(node, container_id)
        del node.live[container_id]
