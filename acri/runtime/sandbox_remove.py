# SPDX-License-Identifier: Apache-2.0
"""RemovePodSandbox: stop it, remove its containers, its files and at last its record."""

from __future__ import annotations

import structlog

from acri.aio.operation import Operation
from acri.aio.tasks import settle
from acri.aio.threads import Kind
from acri.model.sandbox import Sandbox
from acri.runtime import persist, sandbox_files
from acri.runtime.container_remove import remove_container
from acri.runtime.node import Node
from acri.runtime.sandbox_stop import stop_pod_sandbox
from acri.store import Entry

__all__ = ["discard", "remove_pod_sandbox"]

log = structlog.get_logger(__name__)


async def remove_pod_sandbox(node: Node, sandbox_id: str) -> None:
    """Remove a pod sandbox with everything in it; one that does not exist is fine (runtime.v1: idempotent)."""
    entry = node.sandboxes.find(sandbox_id)
    if entry is None:
        return
    await node.operations.join(("RemovePodSandbox", entry.value.id), lambda op: _remove(node, op, entry))


async def _remove(node: Node, op: Operation, entry: Entry[Sandbox]) -> None:
    sandbox = entry.value
    await op.step("stop", lambda: stop_pod_sandbox(node, sandbox.id))
    await op.step("containers", lambda: _remove_containers(node, sandbox.id))
    paths = node.paths.sandbox(sandbox.id)
    await op.step("files", lambda: node.threads.run(Kind.TEARDOWN, sandbox_files.remove, node.kernel, paths))
    await op.step("record", lambda: discard(node, sandbox.id))
    log.info("pod sandbox removed", sandbox_id=sandbox.id, pod=sandbox.metadata.name)


async def _remove_containers(node: Node, sandbox_id: str) -> None:
    await settle(*(remove_container(node, entry.value.id) for entry in node.containers_of(sandbox_id)))


async def discard(node: Node, sandbox_id: str) -> None:
    """Delete the record and forget the sandbox."""
    await persist.delete(node, sandbox_id)
    node.sandboxes.remove(sandbox_id)
    node.exec_turns.pop(sandbox_id, None)
