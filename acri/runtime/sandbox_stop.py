# SPDX-License-Identifier: Apache-2.0
"""StopPodSandbox: end the pod's processes and give back its network.

    ready ──▶ stopped, recorded ──▶ containers killed ──▶ cni del ∥ holder ∥ shm ──▶ namespaces ──▶ recorded
                 ▲                                                                             │
                 └── called again: whatever is left of this is done, nothing twice ────────────┘

Stopped comes first, so that no container is made or started behind our back. Every call goes the whole way, also for a
sandbox that is NOTREADY: a step that failed last time is tried again (the kubelet repeats StopPodSandbox).
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from acri.aio.operation import Operation
from acri.aio.tasks import settle
from acri.aio.threads import Kind
from acri.model.container import Container, ContainerState, Exit
from acri.model.sandbox import Phase, Sandbox
from acri.runtime import persist, sandbox_files
from acri.runtime.container_exit import end_task, release
from acri.runtime.container_stop import kill_container
from acri.runtime.node import Node, now_ns
from acri.runtime.sandbox_namespaces import remove_namespaces, stop_holder
from acri.runtime.sandbox_network import detach
from acri.store import Entry

__all__ = ["stop_pod_sandbox"]

log = structlog.get_logger(__name__)

NEVER_STARTED_CODE = 137


async def stop_pod_sandbox(node: Node, sandbox_id: str) -> None:
    """Stop a pod sandbox; one that does not exist or is stopped already is fine (runtime.v1: idempotent)."""
    entry = node.sandboxes.find(sandbox_id)
    if entry is None:
        return
    await node.operations.join(("StopPodSandbox", entry.value.id), lambda op: _stop(node, op, entry))


async def _stop(node: Node, op: Operation, entry: Entry[Sandbox]) -> None:
    async with entry.lock:
        was_ready = entry.value.phase is Phase.READY
        if was_ready:
            await op.step("stopped record", lambda: persist.save(node, replace(entry.value, phase=Phase.STOPPED)))
    await op.step("containers", lambda: _end_containers(node, entry.value.id))
    await _tear_down(node, op, entry.value)
    if entry.value.network_attached or entry.value.holder:
        # Addresses stay in the record: the kubelet reads them after the stop.
        await op.step("record", lambda: persist.save(node, replace(entry.value, network_attached=False, holder=None)))
    if was_ready:
        log.info("pod sandbox stopped", sandbox_id=entry.value.id, pod=entry.value.metadata.name)


async def _tear_down(node: Node, op: Operation, sandbox: Sandbox) -> None:
    """Give back what a sandbox holds on this host besides its record and its files."""
    paths = node.paths.sandbox(sandbox.id)
    side_by_side = [
        op.step("shm", lambda: node.threads.run(Kind.TEARDOWN, sandbox_files.unmount_shm, node.kernel, paths)),
    ]
    if sandbox.holder is not None:
        side_by_side.append(op.step("holder", lambda: stop_holder(node, sandbox)))
    if sandbox.network_attached:
        side_by_side.append(op.step("cni del", lambda: detach(node, sandbox)))
    await settle(*side_by_side)
    # Last: while it is pinned, CNI plugins can look into the network namespace.
    await op.step("namespaces", lambda: remove_namespaces(node, sandbox))


async def _end_containers(node: Node, sandbox_id: str) -> None:
    await settle(*(_end_container(node, entry) for entry in node.containers_of(sandbox_id)))


async def _end_container(node: Node, entry: Entry[Container]) -> None:
    await kill_container(node, entry.value.id)
    async with entry.lock:
        if node.containers.get(entry.value.id) is not entry or entry.value.state is not ContainerState.CREATED:
            return
        await end_task(node, entry.value.id)
        message = "the pod sandbox was stopped before the container was started"
        end = Exit(NEVER_STARTED_CODE, now_ns(), "SandboxStopped", message)
        await persist.save(node, replace(entry.value, exit=end))
        await release(node, entry.value.id)
