# SPDX-License-Identifier: Apache-2.0
"""ExecSync: run a program in a running container and collect its output.

    fifos ─▶ exec ─▶ start ─▶ exit ─▶ output drained (bounded) ─▶ process deleted
                        └─ timeout ─▶ SIGKILL ─▶ DEADLINE_EXCEEDED

The kubelet's exec probes run on this: a timeout must be DEADLINE_EXCEEDED, any other error is "probe errored" and is
thrown away (pkg/kubelet/prober/prober.go). A child that keeps stdout open does not hold the answer: output is drained
for a bounded time after the program itself has ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from acri import errors
from acri.aio import fifo
from acri.aio.threads import Kind
from acri.host.failures import host_error
from acri.model.container import Container, ContainerState
from acri.oci.process import exec_process
from acri.runtime.node import Node

__all__ = ["ExecResult", "exec_sync"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

KILL_PATIENCE_S = 10.0
_SIGKILL = 9
_DELETE_TRIES = 3


@dataclass(frozen=True, slots=True)
class ExecResult:
    """A program that has ended: its output, cut at the limit, and its exit code (0–255)."""

    stdout: bytes
    stderr: bytes
    exit_code: int


async def exec_sync(node: Node, container_id: str, command: tuple[str, ...], timeout: float) -> ExecResult:
    """Run `command` with the container's own environment, user and privileges, without stdin or terminal.

    `timeout` in seconds, 0 for none. Cancelling the caller kills the program.

    Raises:
        errors.NotFound: unknown container.
        errors.InvalidArgument: empty command.
        errors.FailedPrecondition: the container does not run.
        errors.DeadlineExceeded: the program ran longer than `timeout` and was killed.
        errors.UnknownError: the runtime could not start it (no such program, say).
    """
    container = node.containers.require(container_id).value
    if not command:
        raise errors.InvalidArgument("ExecSync: the command is empty")
    if container.state is not ContainerState.RUNNING:
        raise errors.FailedPrecondition(f"container {container.id} is {container.state.name}, not RUNNING")
    execution = _Exec(node, container, command, timeout or None)
    running = node.tasks.spawn(execution.run(), name=f"exec in {container.id}", quiet=True)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        execution.abandon()
        raise


class _Exec:
    """One exec from its FIFOs to its clean-up. It runs detached: who waits may leave, but nothing is left of it."""

    def __init__(self, node: Node, container: Container, command: tuple[str, ...], timeout: float | None) -> None:
        self._node = node
        self._tasks = node.containerd.tasks
        self._container = container
        self._command = command
        self._timeout = timeout
        self._id = secrets.token_hex(16)
        self._io = node.paths.container(container.id).io
        self._names = [f"exec-{self._id}-stdout", f"exec-{self._id}-stderr"]
        self._abandoned = asyncio.Event()

    def abandon(self) -> None:
        """Nobody wants the result any more: kill the program."""
        self._abandoned.set()

    async def run(self) -> ExecResult:
        deadline = None if self._timeout is None else asyncio.get_running_loop().time() + self._timeout
        process = exec_process(await self._container_process(), self._command, terminal=False)
        fds = await self._node.threads.run(Kind.FILE, self._open)
        try:
            async with asyncio.timeout_at(deadline):
                await self._tasks.exec(
                    self._container.id,
                    self._id,
                    json.dumps(process).encode(),
                    stdin="",
                    stdout=f"{self._io}/{self._names[0]}",
                    stderr=f"{self._io}/{self._names[1]}",
                    terminal=False,
                )
            return await self._collect(fds, deadline)
        except TimeoutError:
            raise errors.DeadlineExceeded(
                f"command {self._command[0]!r} in container {self._container.id} timed out after {self._timeout:g} s"
            ) from None
        finally:
            for fd in fds:
                os.close(fd)
            await self._end_process()
            await self._node.threads.run(Kind.FILE, self._remove_fifos)

    async def _collect(self, fds: list[int], deadline: float | None) -> ExecResult:
        """Start it and wait for its end, reading both streams all the while: a full pipe would stop it."""
        settings = self._node.settings.runtime
        end = self._spawn(self._tasks.wait(self._container.id, self._id), "wait")
        gone = self._spawn(self._abandoned.wait(), "caller")
        limit = settings.exec_output_limit
        collected = [fifo.collect(fd, exited=end, drain_s=settings.drain_timeout, limit=limit) for fd in fds]
        streams = [self._spawn(stream, "output") for stream in collected]
        try:
            async with asyncio.timeout_at(deadline):
                async with self._node.exec_turn(self._container.sandbox_id):
                    await self._tasks.start(self._container.id, self._id)
                await asyncio.wait({end, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not end.done():
                raise errors.Cancelled("the caller of ExecSync went away")
            code = end.result().exit_status & 0xFF
            stdout, stderr = [await stream for stream in streams]
        finally:
            unfinished = [task for task in (end, gone, *streams) if not task.done()]
            for task in unfinished:
                task.cancel()
            if unfinished:  # the descriptors are closed next: nobody may still read them
                await asyncio.wait(unfinished)
        # Half of the room is each stream's own; what one leaves of its half the other may have.
        half = limit // 2
        kept = stdout.data[: max(half, limit - len(stderr.data))]
        return ExecResult(kept, stderr.data[: max(half, limit - len(kept))], code)

    def _spawn(self, work: Coroutine[Any, Any, T], what: str) -> asyncio.Task[T]:
        return self._node.tasks.spawn(work, name=f"exec {self._id} {what}", quiet=True)

    async def _container_process(self) -> dict[str, Any]:
        """The `process` of the container's spec: what an exec inherits. Kept in memory: probes exec all the time."""
        live = self._node.live_of(self._container.id)
        if not live.process:
            stored = await self._node.containerd.containers.get(self._container.id)
            if stored.spec is None:
                raise errors.Internal(f"containerd's object of container {self._container.id} has no spec")
            live.process = json.dumps(json.loads(stored.spec.value)["process"]).encode()
        process: dict[str, Any] = json.loads(live.process)
        return process

    def _open(self) -> list[int]:
        """Make the FIFOs, in the directory that goes with the container, and open them for reading."""
        fds: list[int] = []
        try:
            for name in self._names:
                path = f"{self._io}/{name}"
                os.mkfifo(path, 0o600)
                fds.append(fifo.open_reader(path))
        except BaseException as error:
            for fd in fds:
                os.close(fd)
            self._remove_fifos()
            if isinstance(error, OSError):
                raise host_error(f"make the FIFOs of an exec in {self._io}", error) from error
            raise
        return fds

    def _remove_fifos(self) -> None:
        for name in self._names:
            try:
                os.unlink(f"{self._io}/{name}")
            except FileNotFoundError:
                pass

    async def _end_process(self) -> None:
        """Delete the exec's process, killing it first where it still runs. It may never have been made."""
        for _ in range(_DELETE_TRIES):
            try:
                await self._tasks.delete_process(self._container.id, self._id)
                return
            except errors.NotFound:
                return
            except errors.AcriError:  # it still runs
                try:
                    await self._tasks.kill(self._container.id, _SIGKILL, exec_id=self._id)
                    async with asyncio.timeout(KILL_PATIENCE_S):
                        await self._tasks.wait(self._container.id, self._id)
                except errors.NotFound:
                    continue
                except (errors.AcriError, TimeoutError) as error:
                    log.warning("exec not killed yet", container_id=self._container.id, exec=self._id, error=str(error))
        log.warning("process of an exec is left", container_id=self._container.id, exec=self._id)
