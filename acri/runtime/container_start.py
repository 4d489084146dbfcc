# SPDX-License-Identifier: Apache-2.0
"""StartContainer: log opened, task created, process started.

    created ──▶ log ──▶ task ──▶ started ∥ record ──▶ running
                  └───────┴─ failure ──▶ exited (128, StartError, message), and the call fails

A container whose start failed is EXITED and not CREATED: the kubelet's crash back-off looks at exits only
(doBackOff in pkg/kubelet/kuberuntime/kuberuntime_manager.go). The log file exists when this returns; the kubelet links
to it right after.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from acri import errors
from acri.aio.operation import Operation
from acri.aio.tasks import settle
from acri.model.config import NamespaceMode
from acri.model.container import Container, ContainerState, Exit
from acri.model.sandbox import Phase
from acri.runtime import container_io, persist
from acri.runtime.container_exit import end_task, release
from acri.runtime.node import Live, Node, now_ns
from acri.store import Entry

__all__ = ["start_container"]

log = structlog.get_logger(__name__)

START_FAILED_CODE = 128


async def start_container(node: Node, container_id: str) -> None:
    """Start a created container.

    Raises:
        errors.NotFound: unknown container.
        errors.FailedPrecondition: not in state CREATED, or its sandbox is not READY.
        errors.UnknownError: the runtime could not start it; the text is the runtime's own.
    """
    entry = node.containers.require(container_id)
    await node.operations.join(("StartContainer", entry.value.id), lambda op: _start(node, op, entry))


async def _start(node: Node, op: Operation, entry: Entry[Container]) -> None:
    async with entry.lock:
        _check(node, entry)
        live = node.live_of(entry.value.id)
        try:
            await _start_task(node, op, entry, live)
        except BaseException as error:
            await _record_failure(node, op, entry.value, error)
            if isinstance(
                error, errors.NotFound
            ):  # something of containerd's; to a kubelet it would say "no such container"
                raise errors.UnknownError(error.message) from error
            raise
    container = entry.value
    log.info(
        "container started", container_id=container.id, sandbox_id=container.sandbox_id, name=container.metadata.name
    )


def _check(node: Node, entry: Entry[Container]) -> None:
    container = entry.value
    if node.containers.get(container.id) is not entry:
        raise errors.NotFound(f"container {container.id!r} was removed")
    if container.state is not ContainerState.CREATED:
        raise errors.FailedPrecondition(
            f"container {container.id} is {container.state.name}; only a CREATED container can be started"
        )
    sandbox = node.sandboxes.get(container.sandbox_id)
    if sandbox is None or sandbox.value.phase is not Phase.READY:
        raise errors.FailedPrecondition(f"pod sandbox {container.sandbox_id} of container {container.id} is not READY")
    _check_target(node, container)


def _check_target(node: Node, container: Container) -> None:
    """An ephemeral container joins its target's PID namespace, which exists while the target runs."""
    linux = container.config.linux
    options = linux.security_context.namespace_options if linux and linux.security_context else None
    if options is None or options.pid is not NamespaceMode.TARGET:
        return
    target = node.containers.find(options.target_id)
    if target is None or target.value.state is not ContainerState.RUNNING:
        raise errors.FailedPrecondition(f"target container {options.target_id!r} is not running")


async def _start_task(node: Node, op: Operation, entry: Entry[Container], live: Live) -> None:
    container = entry.value
    live.rootfs = live.rootfs or await op.step(
        "mounts", lambda: node.containerd.snapshots.mounts(container.snapshotter, container.id)
    )
    live.log = await op.step("log", lambda: container_io.open_log(node, container))
    paths = node.paths.container(container.id)
    await op.step(
        "task create",
        lambda: node.containerd.tasks.create(
            container.id,
            rootfs=live.rootfs,
            stdin=paths.fifo("stdin") if container.config.stdin else "",
            stdout=paths.fifo("stdout"),
            stderr="" if container.config.tty else paths.fifo("stderr"),
            terminal=container.config.tty,
        ),
    )
    # Side by side: an exit that follows waits for our lock, and a restarted acri takes a running task for started.
    started = replace(container, started_at_ns=now_ns())
    await op.step(
        "task start",
        lambda: settle(node.containerd.tasks.start(container.id), persist.write_record(node, started)),
    )
    live.rootfs = ()
    node.containers.replace(started)


async def _record_failure(node: Node, op: Operation, container: Container, error: BaseException) -> None:
    """Leave the container EXITED with the reason, and no task.

    Where containerd does not let us, the container is UNKNOWN: StopContainer and every resync ask about such a one, and
    nothing takes it for one that never ran.
    """
    step = op.failed_step
    message = f"{step}: {error}" if isinstance(error, errors.AcriError) else f"{step} failed"
    try:
        await op.step("take back task", lambda: end_task(node, container.id))
        end = Exit(START_FAILED_CODE, now_ns(), "StartError", message)
        await op.step("failed record", lambda: persist.save(node, replace(container, started_at_ns=0, exit=end)))
    except errors.AcriError as second:
        log.error("a failed start is not cleaned up yet", container_id=container.id, error=second.message)
        node.containers.replace(replace(container, unknown=True))
        return
    await release(node, container.id)
