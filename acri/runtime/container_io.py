# SPDX-License-Identifier: Apache-2.0
"""A container's FIFOs and log."""

from __future__ import annotations

import os

from acri.aio import fifo
from acri.aio.threads import Kind
from acri.host.failures import host_error
from acri.logs.file import open_error
from acri.logs.format import Stream
from acri.logs.pump import ContainerLog
from acri.model.container import Container
from acri.runtime.node import Node
from acri.runtime.paths import ContainerPaths

__all__ = ["make_fifos", "open_log"]


async def make_fifos(node: Node, container: Container) -> None:
    """Make the container's directories and the FIFOs that its task will open. Idempotent.

    Raises:
        errors.AcriError: the host refused; the text names the path.
    """
    await node.threads.run(Kind.FILE, _make, node.paths.container(container.id), _fifo_names(container))


def _make(paths: ContainerPaths, names: list[str]) -> None:
    try:
        for directory in (paths.root, paths.state):
            os.makedirs(directory, mode=0o711, exist_ok=True)
        fifo.make(paths.io, names)
    except OSError as error:
        raise host_error(f"make a container's directories and FIFOs, {error.filename or paths.io}", error) from error


async def open_log(node: Node, container: Container, *, recovering: bool = False) -> ContainerLog:
    """Open the log file and the reading ends of the FIFOs, before the shim opens its own.

    `recovering`: the task may have written already; a log that cannot be opened is tried again in the background.

    Raises:
        errors.FailedPrecondition, errors.PermissionDenied, errors.ResourceExhausted: the log cannot be opened.
    """
    paths = node.paths.container(container.id)
    if container.log_path and not recovering:
        await node.threads.run(Kind.HOST_FILE, _make_log_directory, container.log_path)
    log = ContainerLog(node.log_kit, container.id, log_path=container.log_path or None, mark_path=paths.log_mark)
    try:
        for stream in _streams(container):
            await log.attach(stream, paths.fifo(stream))
            await node.fifo_keeper.keep(container.id, stream, log.fifo_fd(stream))
        await log.open(recovering=recovering)
    except BaseException:
        await log.close()
        raise
    return log


def _make_log_directory(log_path: str) -> None:
    try:
        os.makedirs(os.path.dirname(log_path), 0o755, exist_ok=True)
    except OSError as error:
        raise open_error(error, log_path) from error


def _fifo_names(container: Container) -> list[str]:
    return [*_streams(container), *(["stdin"] if container.config.stdin else [])]


def _streams(container: Container) -> list[Stream]:
    """A terminal has one output, which counts as stdout."""
    return ["stdout"] if container.config.tty else ["stdout", "stderr"]
