# SPDX-License-Identifier: Apache-2.0
"""What happens when a container's first process has ended.

    task exit (event, or found by `reconcile`)
      └─▶ OOM asked of the cgroup ─▶ logs drained ∥ exit recorded ─▶ task deleted ─▶ EXITED in the store

EXITED becomes visible last: whoever sees it finds the log complete, the exit code recorded and no task left. The exit
is recorded before the task goes, since the task is the only other place that knows it. Once known, how it ended is kept
(`Live.ending`) until all of this is done, however often it has to be tried.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import structlog

from acri import errors
from acri.aio.operation import Operation
from acri.aio.tasks import settle
from acri.aio.threads import Kind
from acri.containerd.types import TaskStatus
from acri.host import cgroups
from acri.model.container import Container, ContainerState, Exit
from acri.runtime import container_io, persist
from acri.runtime.node import Live, Node, now_ns
from acri.store import Entry

__all__ = ["delete_task", "end_task", "follow", "handle_exit", "reconcile", "release"]

log = structlog.get_logger(__name__)

SIGKILL = 9
SIGKILL_CODE = 128 + SIGKILL
LOST_CODE = 255
"""Exit code of a container whose end nobody saw (containerd's CRI plugin reports the same)."""
TRIES = 4
END_PATIENCE_S = 30.0


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
    elif entry.value.state is ContainerState.UNKNOWN:
        async with entry.lock:
            await follow(node, entry)


async def follow(node: Node, entry: Entry[Container]) -> None:
    """A container that runs and that acri did not know to run: read its output, show it as RUNNING. Holds its lock.

    A log that cannot be opened does not make the container's state any less known.
    """
    container = entry.value
    live = node.live_of(container.id)
    if live.log is None:
        try:
            live.log = await container_io.open_log(node, container, recovering=True)
        except errors.AcriError as error:
            log.error("output is not followed", container_id=container.id, error=error.message)
    if container.unknown or not container.started_at_ns:
        await persist.save(node, replace(container, unknown=False, started_at_ns=container.started_at_ns or now_ns()))


async def _exited(node: Node, op: Operation, entry: Entry[Container], code: int, finished_at_ns: int) -> None:
    async with entry.lock:
        container = entry.value
        if container.exit is not None or node.containers.get(container.id) is not entry:
            return
        live = node.live_of(container.id)
        if live.ending is None:
            if code == SIGKILL_CODE and not live.oom_killed:
                live.oom_killed = await op.step("oom", lambda: _oom_killed(node, container))
            live.ending = _exit(code, finished_at_ns, live, container)
        ended = replace(container, unknown=False, exit=live.ending)
        # The record goes to containerd now, the store hears of it last.
        await op.step("drain", lambda: settle(_drain(node, live), persist.write_record(node, ended, gone_ok=True)))
        await op.step("delete task", lambda: delete_task(node, container.id))
        node.containers.replace(ended)
        await release(node, container.id)
    log.info(
        "container exited",
        container_id=container.id,
        sandbox_id=container.sandbox_id,
        code=live.ending.code,
        reason=live.ending.reason,
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
    """Delete the container's task, which has stopped; none is fine.

    A shim that dies under the call is asked for again: containerd then knows that it is gone.
    """
    for attempt in range(1, TRIES + 1):
        try:
            await node.containerd.tasks.delete(container_id)
            return
        except errors.NotFound:
            return
        except errors.OutcomeUnknown:
            if attempt == TRIES:
                raise
            await asyncio.sleep(0.1 * attempt**2)


async def end_task(node: Node, container_id: str) -> None:
    """Whatever the container's task is doing: afterwards there is none.

    Raises:
        errors.DeadlineExceeded: a process outlived SIGKILL.
        errors.AcriError: containerd could not do it, or does not answer.
    """
    tasks = node.containerd.tasks
    for attempt in range(1, TRIES + 1):
        try:
            await delete_task(node, container_id)
            return
        except errors.FailedPrecondition:  # it runs
            if attempt == TRIES:
                raise
        try:
            await tasks.kill(container_id, SIGKILL, all=True)
            async with asyncio.timeout(END_PATIENCE_S):
                await tasks.wait(container_id)
        except errors.NotFound:
            continue
        except TimeoutError:
            raise errors.DeadlineExceeded(
                f"container {container_id} did not end within {END_PATIENCE_S:g} s of SIGKILL; "
                "a process of it hangs in the kernel (state D in ps)"
            ) from None


async def release(node: Node, container_id: str) -> None:
    """Close what was open for a container that runs no more, and wake who waits for its end."""
    live = node.live_of(container_id)
    if live.log is not None:
        await node.fifo_keeper.release(container_id)
        await live.log.close()
        live.log = None
    live.exited = True
    live.process = b""
    live.rootfs = ()
    if live.wake is not None:
        live.wake.set()
