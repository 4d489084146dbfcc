# SPDX-License-Identifier: Apache-2.0
"""A container's FIFOs and log."""

from __future__ import annotations

import os

from acri.aio import fifo
from acri.aio.threads import Kind
from acri.logs.pump import ContainerLog
from acri.model.container import Container
from acri.runtime.node import Node

__all__ = ["make_fifos", "open_log"]


async def make_fifos(node: Node, container: Container) -> None:
    """Make the container's directories and the FIFOs that its task will open."""
    paths = node.paths.container(container.id)
    names = ["stdout"]
    if container.config.stdin:
        names.append("stdin")
    if not container.config.tty:
        names.append("stderr")

    def make() -> None:
        os.makedirs(paths.root, mode=0o711, exist_ok=True)
        os.makedirs(paths.log_marks, mode=0o700, exist_ok=True)
        fifo.make_fifos(paths.io, names)

    await node.threads.run(Kind.FILE, make)


async def open_log(node: Node, container: Container, *, fresh: bool) -> ContainerLog:
    """Open the log and the reading ends of the FIFOs; `fresh`: before the task exists, so no mark of an earlier acri counts."""
    raise NotImplementedError
