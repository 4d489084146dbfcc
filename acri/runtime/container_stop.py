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
import time
from collections.abc import Callable

import structlog

from acri import errors
from acri.aio.operation import Operation
from acri.model.container import Container, ContainerState
from acri.runtime.container_exit import SIGKILL, reconcile
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
    _wake(live).set()
    await node.operations.join(("StopContainer", entry.value.id), lambda op: _stop(node, op, entry, live))


async def kill_container(node: Node, container_id: str) -> None:
    """StopContainer without patience."""
    await stop_container(node, container_id, 0)


async def _stop(node: Node, op: Operation, entry: Entry[Container], live: Live) -> None:
    container_id = entry.value.id
    async with entry.lock:  # lets a StartContainer that is under way finish
        pass
    try:
        if entry.value.state is ContainerState.UNKNOWN:
            await op.step("ask containerd", lambda: reconcile(node, container_id))
        if entry.value.state in _ENDED:
            return
        if live.kill_at > time.monotonic() and not live.stop_signal_sent:
            await op.step("stop signal", lambda: _signal(node, container_id, entry.value.stop_signal))
            live.stop_signal_sent = True
        await op.step("grace", lambda: _wait(node, container_id, live, lambda: live.kill_at))
        if not live.exited:
            await op.step("kill", lambda: _signal(node, container_id, SIGKILL))
            limit = time.monotonic() + KILL_PATIENCE_S
            await op.step("wait", lambda: _wait(node, container_id, live, lambda: limit))
    finally:
        live.kill_at = float("inf")
        live.wake = None
    if not live.exited:
        raise errors.DeadlineExceeded(
            f"container {container_id} did not end within {KILL_PATIENCE_S:g} s of SIGKILL; "
            "a process of it hangs in the kernel (state D in ps)"
        )
    log.info("container stopped", container_id=container_id, sandbox_id=entry.value.sandbox_id)


async def _signal(node: Node, container_id: str, number: int) -> None:
    """Send a signal. A process that is gone, or a shim that dies under the call, has an exit that is looked for."""
    try:
        await node.containerd.tasks.kill(container_id, number)
    except errors.NotFound:
        await reconcile(node, container_id)
    except errors.OutcomeUnknown as error:
        log.warning("signal may not have arrived", container_id=container_id, signal=number, error=error.message)
        await _look(node, container_id)


async def _wait(node: Node, container_id: str, live: Live, until: Callable[[], float]) -> None:
    """Wait for the exit until `until()`, on `time.monotonic()`'s clock, which a joining caller may move."""
    look_at = time.monotonic() + LOOK_AGAIN_S
    while not live.exited and (now := time.monotonic()) < (limit := until()):
        wake = _wake(live)
        wake.clear()
        try:
            await asyncio.wait_for(wake.wait(), max(0.0, min(limit, look_at) - now))
        except TimeoutError:
            if time.monotonic() >= look_at:
                await _look(node, container_id)
                look_at = time.monotonic() + LOOK_AGAIN_S


async def _look(node: Node, container_id: str) -> None:
    """Ask containerd; that it does not answer just now must not end a stop."""
    try:
        await reconcile(node, container_id)
    except errors.AcriError as error:
        log.warning("state not known while stopping", container_id=container_id, error=error.message)


def _wake(live: Live) -> asyncio.Event:
    if live.wake is None:
        live.wake = asyncio.Event()
    return live.wake
