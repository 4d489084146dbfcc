# SPDX-License-Identifier: Apache-2.0
"""What belongs to nobody: directories and pinned namespaces whose containerd object is gone.

A record is written before anything is made and deleted after everything is taken away, so this finds something only
where containerd lost its state, or somebody deleted acri's objects by hand. Ids are taken from acri's own directories,
never from /run/netns, which other programs use too.
"""

from __future__ import annotations

import os

import structlog

from acri.aio.threads import Kind
from acri.host import namespaces
from acri.host.mounts import remove_tree
from acri.runtime.node import Node

__all__ = ["collect_networks", "remove_orphans"]

log = structlog.get_logger(__name__)


async def remove_orphans(node: Node) -> None:
    """Remove what is left of sandboxes and containers that the stores do not know. Run after `recover`."""
    sandboxes = {entry.value.id for entry in node.sandboxes}
    containers = {entry.value.id for entry in node.containers}
    removed = await node.threads.run(Kind.FILE, _remove, node, sandboxes, containers)
    if removed:
        log.warning("removed what was left of unknown objects", ids=removed)


async def collect_networks(node: Node) -> None:
    """CNI DEL for attachments of sandboxes that are gone, and the plugins' own clean-up (CNI 1.1's GC)."""
    for complaint in await node.networks.collect(entry.value.id for entry in node.sandboxes):
        log.warning("network not collected", error=complaint)


def _remove(node: Node, sandboxes: set[str], containers: set[str]) -> list[str]:
    paths = node.paths
    removed = []
    for sandbox_id in _ids(f"{paths.root}/sandboxes", f"{paths.state}/sandboxes", paths.pin_root) - sandboxes:
        own = paths.sandbox(sandbox_id)
        namespaces.remove(node.kernel, own.namespaces)
        for path in (own.namespace_dir, own.state, own.root):
            remove_tree(node.kernel, path)
        removed.append(sandbox_id)
    for container_id in _ids(f"{paths.root}/containers", f"{paths.state}/containers") - containers:
        own_container = paths.container(container_id)
        for path in (own_container.state, own_container.root):
            remove_tree(node.kernel, path)
        removed.append(container_id)
    return removed


def _ids(*directories: str) -> set[str]:
    return {name for directory in directories if os.path.isdir(directory) for name in os.listdir(directory)}
