# SPDX-License-Identifier: Apache-2.0
"""What happens when a container's first process has ended.

    task exit (event, or found by `reconcile`)
      └─▶ OOM asked of the cgroup ─▶ logs drained ┐
                                     exit recorded ┴─▶ task deleted ─▶ EXITED in the store

EXITED becomes visible last: whoever sees it finds the log complete, the exit code recorded and no task left
(kubelet-cri.md 3.8). The exit is recorded before the task goes, since the task is the only other place that knows it.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from acri import errors
from acri.aio.operation import Operation
from acri.aio.tasks import settle
from acri.aio.threads import Kind
from acri.containerd.types import TaskStatus
from acri.host import cgroups
from acri.model.container import Container, ContainerState, Exit
from acri.runtime import persist
from acri.runtime.node import Live, Node, now_ns
from acri.store import Entry

__all__ = ["delete_task", "handle_exit", "reconcile", "release"]

log = structlog.get_logger(__name__)

SIGKILL_CODE = 128 + 9
LOST_CODE = 255
"""Exit code of a container whose end nobody saw (containerd's CRI plugin reports the same)."""


async def handle_exit(node: Node, container_id: str, code: int, finished_at_ns: int) -> None:
    """The container's first process ended with `code`. Unknown containers and repeated news are ignored."""
    entry = node.containers.get(container_id)
    if entry is not None:
        await node.operations.join(
            ("ContainerExit", container_id), lambda op: _exited(node, op, entry, code, finished_at_ns)
        )


async def reconcile(node: Node, container_id: str) -> None:
    """Ask containerd what the container's task is doing, and act on an exit that no event told of.

    Raises:
        errors.Unavailable: containerd does not answer. That is not an exit.
    """
    entry = node.containers.get(container_id)
    if entry is None or entry.value.state in (ContainerState.EXITED, ContainerState.CREATED):
        return
    try:
        task = await node.containerd.tasks.get(container_id)
    except errors.NotFound:
        await handle_exit(node, container_id, LOST_CODE, now_ns())
        return
    if task.status is TaskStatus.STOPPED:
        await handle_exit(node, container_id, task.exit_status, task.exited_at_ns or now_ns())
    elif entry.value.unknown:
        await persist.save(node, replace(entry.value, unknown=False))


async def _exited(node: Node, op: Operation, entry: Entry[Container], code: int, finished_at_ns: int) -> None:
    async with entry.lock:
        container = entry.value
        if container.exit is not None or node.containers.get(container.id) is not entry:
            return
        live = node.live_of(container.id)
        if code == SIGKILL_CODE and not live.oom_killed:
            live.oom_killed = await op.step("oom", lambda: _oom_killed(node, container))
        ended = replace(container, unknown=False, exit=_exit(code, finished_at_ns, live, container))
        # The record goes to containerd now, the store hears of it last.
        await op.step("drain", lambda: settle(_drain(node, live), persist.write_record(node, ended)))
        await op.step("delete task", lambda: delete_task(node, container.id))
        node.containers.put(ended)
        await release(node, container.id)
        log.info(
            "container exited",
            container_id=container.id,
            sandbox_id=container.sandbox_id,
            code=code,
            reason=ended.exit.reason if ended.exit else None,
        )


def _exit(code: int, finished_at_ns: int, live: Live, container: Container) -> Exit:
    reason = "OOMKilled" if live.oom_killed else "Completed" if code == 0 else "Error"
    # A clock that was set back must not make a container end before it began: the kubelet's back-off starts from it.
    return Exit(code, max(finished_at_ns, container.started_at_ns + 1), reason)


async def _oom_killed(node: Node, container: Container) -> bool:
    """The container's cgroup counts its OOM kills until the task is deleted."""
    return await node.threads.run(Kind.FILE, cgroups.oom_kill_count, node.facts.cgroups, container.cgroups_path) > 0


async def _drain(node: Node, live: Live) -> None:
    if live.log is not None:
        await live.log.drain(node.settings.runtime.drain_timeout)


async def delete_task(node: Node, container_id: str) -> None:
    """Delete the container's task; none is fine."""
    try:
        await node.containerd.tasks.delete(container_id)
    except errors.NotFound:
        pass


async def release(node: Node, container_id: str) -> None:
    """Close what was open for a container that runs no more, and wake who waits for its end."""
    live = node.live_of(container_id)
    if live.log is not None:
        await node.fifo_keeper.release(container_id)
        await live.log.close()
        live.log = None
    live.exited.set()
    live.wake.set()
