# SPDX-License-Identifier: Apache-2.0
"""containerd's events, handed to whom they concern. Nothing here waits: an event's work is a task of its own."""

from __future__ import annotations

import asyncio

import structlog

from acri import errors
from acri.containerd.event_types import Event, ImageChanged, TaskExited, TaskOom
from acri.runtime.container_exit import handle_exit
from acri.runtime.node import Node

__all__ = ["TOPICS", "dispatch"]

log = structlog.get_logger(__name__)

RETRY_FIRST_S, RETRY_MOST_S = 1.0, 60.0

TOPICS = ("/tasks/exit", "/tasks/oom", "/images/create", "/images/update", "/images/delete")

_RETRY_FIRST_S = 0.5
_RETRY_MAX_S = 30.0


def dispatch(node: Node, event: Event) -> None:
    """Act on one event of acri's namespace; others never get here."""
    match event.event:
        case TaskExited(exec_id="") as exited:  # an exec's end concerns only who waits for it
            node.tasks.spawn(_exited(node, exited), name=f"exit of {exited.container_id}")
        case TaskOom(container_id) if container_id in node.live:
            node.live[container_id].oom_killed = True
        case ImageChanged(name):
            node.tasks.spawn(node.images.refresh(name), name=f"refresh image {name}")


async def _exited(node: Node, event: TaskExited) -> None:
    """Handle an exit, as often as it takes: containerd may be away, or its disk full."""
    pause = RETRY_FIRST_S
    while True:
        try:
            await handle_exit(node, event.container_id, event.exit_status, event.exited_at_ns)
            return
        except errors.AcriError as error:
            log.error("exit not handled yet", container_id=event.container_id, error=error.message, retry_in_s=pause)
        await asyncio.sleep(pause)
        pause = min(pause * 2, RETRY_MOST_S)
