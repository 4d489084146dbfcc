# SPDX-License-Identifier: Apache-2.0
"""ReopenContainerLog: the kubelet has renamed the log file (rotation) or it is missing; go on in a new one."""

from __future__ import annotations

from acri import errors
from acri.model.container import ContainerState
from acri.runtime.node import Node

__all__ = ["reopen_container_log"]


async def reopen_container_log(node: Node, container_id: str) -> None:
    """The new file exists when this returns, and nothing is written to the old one any more.

    Raises:
        errors.NotFound: unknown container.
        errors.FailedPrecondition: it does not run, or the file cannot be opened; the old file is kept then.
    """
    container = node.containers.require(container_id).value
    live = node.live_of(container.id)
    if container.state is not ContainerState.RUNNING or live.log is None:
        raise errors.FailedPrecondition(f"container {container.id} is {container.state.name}: its log is closed")
    await live.log.reopen()
