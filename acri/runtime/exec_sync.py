# SPDX-License-Identifier: Apache-2.0
"""ExecSync: run a program in a running container and collect its output.

    fifos ─▶ exec ─▶ start ─▶ exit ─▶ output drained (bounded) ─▶ process deleted
                        └─ timeout ─▶ SIGKILL ─▶ DEADLINE_EXCEEDED

The kubelet's exec probes run on this: a timeout must be DEADLINE_EXCEEDED, any other error is "probe errored" and is
thrown away (kubelet-cri.md 3.6). A child that keeps stdout open does not hold the answer: output is drained for a
bounded time after the program itself has ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from dataclasses import dataclass
from typing import Any

import structlog

from acri import errors
from acri.aio import fifo
from acri.aio.threads import Kind
from acri.model.container import Container, ContainerState
from acri.oci.process import exec_process
from acri.runtime.node import Node

__all__ = ["ExecResult", "exec_sync"]

log = structlog.get_logger(__name__)

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
    return await _Exec(node, container, command).run(timeout or None)


class _Exec:
    """One exec from its FIFOs to its clean-up."""

    def __init__(self, node: Node, container: Container, command: tuple[str, ...]) -> None:
        self._node = node
        self._tasks = node.containerd.tasks
        self._container = container
        self._command = command
        self._id = secrets.token_hex(16)
        self._io = node.paths.container(container.id).io
        self._names = [f"exec-{self._id}-stdout", f"exec-{self._id}-stderr"]

    async def run(self, timeout: float | None) -> ExecResult:
        process = exec_process(await self._container_process(), self._command, terminal=False)
        fds = await self._node.threads.run(Kind.FILE, self._open)
        made = False
        try:
            await self._tasks.exec(
                self._container.id,
                self._id,
                json.dumps(process).encode(),
                stdin="",
                stdout=f"{self._io}/{self._names[0]}",
                stderr=f"{self._io}/{self._names[1]}",
                terminal=False,
            )
            made = True
            return await self._collect(fds, timeout)
        finally:
            for fd in fds:
                os.close(fd)
            # Detached: a caller that leaves must not leave the program or its FIFOs behind.
            clean_up = self._node.tasks.spawn(self._clean_up(made), name=f"exec {self._id} clean-up")
            await asyncio.shield(clean_up)

    async def _collect(self, fds: list[int], timeout: float | None) -> ExecResult:
        """Start it and wait for its end, reading both streams all the while: a full pipe would stop it."""
        spawn = self._node.tasks.spawn
        end = spawn(self._tasks.wait(self._container.id, self._id), name=f"exec {self._id} wait", quiet=True)
        drain_s = self._node.settings.runtime.drain_timeout
        limit = self._node.settings.runtime.exec_output_limit // 2
        streams = [
            spawn(
                fifo.collect(fd, exited=end, drain_s=drain_s, limit=limit), name=f"exec {self._id} output", quiet=True
            )
            for fd in fds
        ]
        try:
            async with self._node.exec_turn(self._container.sandbox_id):
                await self._tasks.start(self._container.id, self._id)
            async with asyncio.timeout(timeout):
                code = (await asyncio.shield(end)).exit_status & 0xFF
            stdout, stderr = [await stream for stream in streams]
        except TimeoutError:
            raise errors.DeadlineExceeded(
                f"command {self._command[0]!r} in container {self._container.id} timed out after {timeout:g} s"
            ) from None
        finally:
            unfinished = [task for task in (end, *streams) if not task.done()]
            for task in unfinished:
                task.cancel()
            if unfinished:  # the descriptors are closed next: nobody may still read them
                await asyncio.wait(unfinished)
        return ExecResult(stdout.data, stderr.data, code)

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
        paths = fifo.make(self._io, self._names)
        fds: list[int] = []
        try:
            for name in self._names:
                fds.append(fifo.open_reader(paths[name]))
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return fds

    async def _clean_up(self, made: bool) -> None:
        if made:
            await self._end_process()
        await self._node.threads.run(Kind.FILE, self._remove_fifos)

    def _remove_fifos(self) -> None:
        for name in self._names:
            try:
                os.unlink(f"{self._io}/{name}")
            except FileNotFoundError:
                pass

    async def _end_process(self) -> None:
        """Delete the exec's process, killing it first where it still runs."""
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
                except (errors.AcriError, TimeoutError) as error:
                    log.warning("exec not killed yet", container_id=self._container.id, exec=self._id, error=str(error))
        log.warning("process of an exec is left", container_id=self._container.id, exec=self._id)
