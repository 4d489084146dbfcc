# SPDX-License-Identifier: Apache-2.0
"""What belongs to nobody: directories, namespaces, holders, addresses and shims whose containerd object is gone.

A record is written before anything is made and deleted after everything is taken away, so there is something to find
only where containerd lost its state, somebody deleted acri's objects by hand, or a call to containerd was cut off when
acri was killed (its shim may be left). Ids are taken from acri's own directories, never from /run/netns, which other
programs use too.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Collection, Iterable

import structlog

from acri import errors
from acri.aio.threads import Kind
from acri.host import holder, namespaces, shims
from acri.host.mounts import remove_tree
from acri.runtime.node import Node

__all__ = ["collect_networks", "collect_shims", "remove_orphans"]

log = structlog.get_logger(__name__)

_ID = re.compile(r"[0-9a-f]{64}")
SHIM_SETTLES_S = 15.0
"""containerd itself gives a shim whose start was cut off 5 s, then forgets it."""


async def remove_orphans(node: Node, known: Collection[str]) -> None:
    """Remove what is left of sandboxes and containers that have no object in containerd.

    Args:
        known: ids of all of acri's objects there, readable or not.
    """
    removed = await node.threads.run(Kind.TEARDOWN, _remove, node, known)
    if removed:
        log.warning("removed what was left of unknown objects", ids=removed)


async def collect_networks(node: Node, known: Iterable[str]) -> None:
    """CNI DEL for attachments of sandboxes that are gone, and the plugins' own clean-up (CNI 1.1's GC)."""
    for complaint in await node.networks.collect(known):
        log.warning("network not collected", error=complaint)


async def collect_shims(node: Node) -> None:
    """End shims of acri's that nothing runs under and containerd has forgotten.

    A shim bears the id of the first container that it served and may have outlived that one; then it has children.
    """
    await asyncio.sleep(SHIM_SETTLES_S)
    settings = node.settings.containerd
    suspects = await node.threads.run(Kind.FILE, shims.idle, settings.address, settings.namespace)
    for shim in suspects:
        try:
            await node.containerd.tasks.get(shim.container_id)
        except errors.NotFound:
            log.warning("ending a shim that containerd has forgotten", pid=shim.pid, container_id=shim.container_id)
            await node.threads.run(Kind.TEARDOWN, shims.end, node.kernel, shim)
        except errors.AcriError as error:
            log.warning("shim not looked after", pid=shim.pid, error=error.message)


def _remove(node: Node, known: Collection[str]) -> list[str]:
    paths = node.paths
    removed = []
    for sandbox_id in _ids(f"{paths.root}/sandboxes", f"{paths.state}/sandboxes", paths.pin_root) - set(known):
        own = paths.sandbox(sandbox_id)
        try:
            stray = holder.find(sandbox_id)
            if stray is not None:
                holder.stop(node.kernel, stray)
            namespaces.remove(node.kernel, own.namespaces)
            for path in (own.namespace_dir, own.state, own.root):
                remove_tree(node.kernel, path)
        except errors.AcriError as error:
            log.error("leftover of a pod sandbox stays", sandbox_id=sandbox_id, error=error.message)
        removed.append(sandbox_id)
    for container_id in _ids(f"{paths.root}/containers", f"{paths.state}/containers") - set(known):
        own_container = paths.container(container_id)
        try:
            for path in (own_container.state, own_container.root):
                remove_tree(node.kernel, path)
        except errors.AcriError as error:
            log.error("leftover of a container stays", container_id=container_id, error=error.message)
        removed.append(container_id)
    return removed


def _ids(*directories: str) -> set[str]:
    """Names in acri's own directories that are ids; anything else there is not acri's."""
    names = {name for directory in directories if os.path.isdir(directory) for name in os.listdir(directory)}
    return {name for name in names if _ID.fullmatch(name)}
