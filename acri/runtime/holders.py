# SPDX-License-Identifier: Apache-2.0
"""Watching the holders of shared PID namespaces: when one dies, the kernel has killed the whole pod.

A pidfd becomes readable when its process ends; the loop watches it, so an idle pod costs a descriptor. The sandbox is
NOTREADY from then on, and the kubelet makes a new one.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import structlog

from acri import errors
from acri.host import holder as host_holder
from acri.model.sandbox import Phase, Sandbox
from acri.runtime import persist
from acri.runtime.node import Node

__all__ = ["unwatch", "watch", "watch_all"]

log = structlog.get_logger(__name__)


def watch_all(node: Node) -> None:
    """Watch the holders of all READY sandboxes."""
    for entry in node.sandboxes:
        watch(node, entry.value)


def watch(node: Node, sandbox: Sandbox) -> None:
    """Watch a READY sandbox's holder, if it has one and is not watched yet."""
    if sandbox.holder is None or sandbox.phase is not Phase.READY or sandbox.id in node.holder_fds:
        return
    try:
        fd = host_holder.pidfd(node.kernel, sandbox.holder)
    except errors.NotFound:
        node.tasks.spawn(_died(node, sandbox.id), name=f"holder of {sandbox.id}")
        return
    except errors.AcriError as error:
        log.error("holder is not watched", sandbox_id=sandbox.id, error=error.message)
        return
    node.holder_fds[sandbox.id] = fd
    asyncio.get_running_loop().add_reader(fd, _readable, node, sandbox.id)


def unwatch(node: Node, sandbox_id: str) -> None:
    """Stop watching: its end is about to be wanted."""
    fd = node.holder_fds.pop(sandbox_id, None)
    if fd is not None:
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)


def _readable(node: Node, sandbox_id: str) -> None:
    host_holder.reap(node.holder_fds[sandbox_id])
    unwatch(node, sandbox_id)
    node.tasks.spawn(_died(node, sandbox_id), name=f"holder of {sandbox_id}")


async def _died(node: Node, sandbox_id: str) -> None:
    entry = node.sandboxes.get(sandbox_id)
    if entry is None:
        return
    async with entry.lock:
        if entry.value.phase is not Phase.READY:
            return
        log.warning("the pod's PID 1 died; the pod sandbox is not ready", sandbox_id=sandbox_id)
        stopped = replace(entry.value, phase=Phase.STOPPED)
        node.sandboxes.replace(stopped)
        try:
            await persist.save(node, stopped)
        except errors.AcriError as error:  # the next start finds the holder dead and comes to the same
            log.error("record not written", sandbox_id=sandbox_id, error=error.message)
