# SPDX-License-Identifier: Apache-2.0
"""StopContainer: the stop signal, patience, then SIGKILL.

    running ──stop signal (once in its life)──▶ waiting ──exits in time─────────────▶ exited
                                                  └─ patience over ──SIGKILL──▶ ────▶ exited

Callers that arrive while a stop runs join it; the one with the least patience wins, since a kubelet whose grace period
was shortened calls again with less. It answers only when the logs are drained, the task is gone and the exit is
recorded (`container_exit`). A caller that goes away does not take the SIGKILL with it.
"""

from __future__ import annotations

import asyncio
import signal
import time

import structlog

from acri import errors
from acri.aio.operation import Operation
from acri.model.container import Container, ContainerState
from acri.runtime.container_exit import reconcile
from acri.runtime.node import Live, Node
from acri.store import Entry

__all__ = ["kill_container", "stop_container"]

log = structlog.get_logger(__name__)

_ENDED = (ContainerState.CREATED, ContainerState.EXITED)
LOOK_AGAIN_S = 5.0
"""While waiting for an exit, containerd is asked this often: an event lost with its connection must not hang a stop."""
KILL_PATIENCE_S = 60.0
"""How long a SIGKILL may take. A process in uninterruptible sleep outlives it; the caller gets to know."""


async def stop_container(node: Node, container_id: str, timeout: float) -> None:
    """Stop a container, with `timeout` seconds between the stop signal and SIGKILL; 0 is SIGKILL at once.

    One that does not exist, was never started or has exited is fine (runtime.v1: idempotent).

    Raises:
        errors.DeadlineExceeded: SIGKILL did not end it.
    """
    entry = node.containers.find(container_id)
    if entry is None or entry.value.state is ContainerState.EXITED:
        return
    live = node.live_of(entry.value.id)
    live.kill_at = min(live.kill_at, time.monotonic() + max(0.0, timeout))
    live.wake.set()
    await node.operations.join(("StopContainer", entry.value.id), lambda op: _stop(node, op, entry, live))


async def kill_container(node: Node, container_id: str) -> None:
    """StopContainer without patience."""
    await stop_container(node, container_id, 0)


async def _stop(node: Node, op: Operation, entry: Entry[Container], live: Live) -> None:
    container_id = entry.value.id
    async with entry.lock:  # lets a StartContainer that is under way finish
        pass
    if entry.value.state is ContainerState.UNKNOWN:
        await op.step("ask containerd", lambda: reconcile(node, container_id))
    if entry.value.state in _ENDED:
        live.kill_at = float("inf")
        return
    if live.kill_at > time.monotonic() and not live.stop_signal_sent:
        live.stop_signal_sent = True
        await op.step("stop signal", lambda: _signal(node, container_id, entry.value.stop_signal))
    await op.step("grace", lambda: _wait_patiently(node, container_id, live))
    if not live.exited.is_set():
        await op.step("kill", lambda: _signal(node, container_id, signal.SIGKILL))
        await op.step("wait", lambda: _wait_exit(node, container_id, live, KILL_PATIENCE_S))
    log.info("container stopped", container_id=container_id, sandbox_id=entry.value.sandbox_id)


async def _signal(node: Node, container_id: str, number: int) -> None:
    try:
        await node.containerd.tasks.kill(container_id, number)
    except errors.NotFound:  # it ended by itself; the exit is on its way
        await reconcile(node, container_id)


async def _wait_patiently(node: Node, container_id: str, live: Live) -> None:
    """Wait for the exit until `kill_at`, which a joining caller may move."""
    while not live.exited.is_set() and (left := live.kill_at - time.monotonic()) > 0:
        live.wake.clear()
        try:
            await asyncio.wait_for(live.wake.wait(), min(left, LOOK_AGAIN_S))
        except TimeoutError:
            if left > LOOK_AGAIN_S:
                await reconcile(node, container_id)


async def _wait_exit(node: Node, container_id: str, live: Live, patience: float) -> None:
    deadline = time.monotonic() + patience
    while not live.exited.is_set():
        left = deadline - time.monotonic()
        if left <= 0:
            raise errors.DeadlineExceeded(
                f"container {container_id} did not end within {patience:g} s of SIGKILL; "
                "a process of it hangs in the kernel (state D in ps)"
            )
        try:
            await asyncio.wait_for(live.exited.wait(), min(left, LOOK_AGAIN_S))
        except TimeoutError:
            await reconcile(node, container_id)
