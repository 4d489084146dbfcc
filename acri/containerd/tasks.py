# SPDX-License-Identifier: Apache-2.0
"""containerd.services.tasks.v1: what runs.

create ─▶ CREATED ─start─▶ RUNNING ─exits─▶ STOPPED ─delete─▶ gone      the first process, and each exec, alike:
                                                                        exec ─▶ CREATED ─start─▶ …
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

from acri import errors
from acri.containerd.calls import Calls
from acri.containerd.convert import any_in, any_out, descriptor_in, mounts_out
from acri.containerd.deadlines import Deadlines
from acri.containerd.types import (
    PROCESS_TYPE_URL,
    RESOURCES_TYPE_URL,
    AnyValue,
    Descriptor,
    Mount,
    ProcessInfo,
    TaskExit,
    TaskInfo,
    TaskStatus,
)
from acri.proto.acri import wkt
from acri.proto.containerd.services.tasks import v1
from acri.proto.containerd.v1 import types as task_types
from acri.wire import new
from acri.wire.wellknown import timestamp_ns

__all__ = ["Tasks"]

T = TypeVar("T")

_SERVICE = "/containerd.services.tasks.v1.Tasks/"


class Tasks:
    """Errors: NotFound for what does not run (any more); FailedPrecondition to delete what runs; OutcomeUnknown for a
    shim that died under a call; Unknown with the runtime's own text where runc failed."""

    def __init__(self, calls: Calls, deadlines: Deadlines) -> None:
        self._calls = calls
        self._deadlines = deadlines

    async def create(
        self,
        container_id: str,
        rootfs: Iterable[Mount],
        *,
        stdin: str = "",
        stdout: str = "",
        stderr: str = "",
        terminal: bool = False,
        options: AnyValue | None = None,
        runtime_path: str = "",
        lease: str | None = None,
    ) -> int:
        """Make the container's first process, not yet running; answers its pid.

        Args:
            stdin, stdout, stderr: paths of FIFOs that exist, or "" for none.
            options: replace the container's own runtime options whole.
            runtime_path: the shim's binary (1.7 and later).
        """
        request = new(
            v1.CreateTaskRequest,
            container_id=container_id,
            rootfs=mounts_out(rootfs),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            terminal=terminal,
            options=any_out(options),
            runtime_path=runtime_path,
        )
        limit = self._deadlines.task_create
        reply = await self._write("Create", request, v1.CreateTaskResponse, limit, lease)
        return reply.pid

    async def start(self, container_id: str, exec_id: str = "") -> int:
        """Run the created process; answers its pid."""
        request = new(v1.StartRequest, container_id=container_id, exec_id=exec_id)
        reply = await self._write("Start", request, v1.StartResponse)
        return reply.pid

    async def kill(self, container_id: str, signal: int, exec_id: str = "", all: bool = False) -> None:
        """Send a signal (its number) to one process, or to `all` of the container. NotFound if it has exited."""
        request = new(v1.KillRequest, container_id=container_id, exec_id=exec_id, signal=signal, all=all)
        await self._write("Kill", request, wkt.Empty)

    async def delete(self, container_id: str) -> TaskExit:
        """Delete a task that has stopped, and its shim if it was the last one there.

        After NotFound containerd is asked once more: its first answer may leave the shim behind, the second call shuts
        it down (containerd's own CRI plugin does so, too).
        """
        request = new(v1.DeleteTaskRequest, container_id=container_id)
        try:
            reply = await self._write("Delete", request, v1.DeleteResponse)
        except errors.NotFound:
            reply = await self._write("Delete", request, v1.DeleteResponse)
        return TaskExit(reply.exit_status, timestamp_ns(reply.exited_at), reply.pid)

    async def delete_process(self, container_id: str, exec_id: str) -> TaskExit:
        """Delete an exec that has stopped (or was never started)."""
        request = new(v1.DeleteProcessRequest, container_id=container_id, exec_id=exec_id)
        reply = await self._write("DeleteProcess", request, v1.DeleteResponse)
        return TaskExit(reply.exit_status, timestamp_ns(reply.exited_at), reply.pid)

    async def get(self, container_id: str, exec_id: str = "") -> TaskInfo:
        request = new(v1.GetRequest, container_id=container_id, exec_id=exec_id)
        reply = await self._calls.ask(_SERVICE + "Get", request, v1.GetResponse, self._deadlines.task_read)
        if reply.process is None:
            raise errors.Internal("containerd answered without a process")
        info = _in(reply.process)
        # containerd puts the container's id into `id` (1.6, 1.7: and leaves container_id empty), for execs as well.
        return replace(info, id=exec_id or container_id, container_id=container_id)

    async def list(self) -> builtins.list[TaskInfo]:
        """The first processes of all tasks. A task whose shim does not answer is missing."""
        limit = self._deadlines.list
        reply = await self._calls.ask(_SERVICE + "List", new(v1.ListTasksRequest), v1.ListTasksResponse, limit)
        found = [_in(p) for p in reply.tasks]
        return [replace(t, container_id=t.container_id or t.id) for t in found]

    async def wait(self, container_id: str, exec_id: str = "") -> TaskExit:
        """Answers when the process has exited, at once if it has; no deadline.

        Unavailable and OutcomeUnknown say that containerd went away. They are no exit.
        """
        request = new(v1.WaitRequest, container_id=container_id, exec_id=exec_id)
        reply = await self._calls.wait(_SERVICE + "Wait", request, v1.WaitResponse)
        return TaskExit(reply.exit_status, timestamp_ns(reply.exited_at))

    async def exec(
        self,
        container_id: str,
        exec_id: str,
        spec_json: bytes,
        *,
        stdin: str = "",
        stdout: str = "",
        stderr: str = "",
        terminal: bool = False,
    ) -> None:
        """Make another process in a running container; `start` runs it.

        Args:
            spec_json: the OCI runtime spec's `process`.
            exec_id: unique in the container, at most 76 letters, digits and `-_.`.
        """
        request = new(
            v1.ExecProcessRequest,
            container_id=container_id,
            exec_id=exec_id,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            terminal=terminal,
            spec=new(wkt.Any, type_url=PROCESS_TYPE_URL, value=spec_json),
        )
        await self._write("Exec", request, wkt.Empty)

    async def resize_pty(self, container_id: str, exec_id: str, width: int, height: int) -> None:
        """Columns and rows."""
        request = new(v1.ResizePtyRequest, container_id=container_id, exec_id=exec_id, width=width, height=height)
        await self._write("ResizePty", request, wkt.Empty)

    async def close_io(self, container_id: str, exec_id: str = "", *, stdin: bool = True) -> None:
        """The shim closes its own end of stdin: the process sees end of file once every other writer has gone."""
        request = new(v1.CloseIoRequest, container_id=container_id, exec_id=exec_id, stdin=stdin)
        await self._write("CloseIO", request, wkt.Empty)

    async def pause(self, container_id: str) -> None:
        request = new(v1.PauseTaskRequest, container_id=container_id)
        await self._write("Pause", request, wkt.Empty)

    async def resume(self, container_id: str) -> None:
        request = new(v1.ResumeTaskRequest, container_id=container_id)
        await self._write("Resume", request, wkt.Empty)

    async def list_pids(self, container_id: str) -> tuple[ProcessInfo, ...]:
        request = new(v1.ListPidsRequest, container_id=container_id)
        reply = await self._calls.ask(_SERVICE + "ListPids", request, v1.ListPidsResponse, self._deadlines.task_read)
        return tuple(ProcessInfo(p.pid, any_in(p.info)) for p in reply.processes)

    async def update(self, container_id: str, resources_json: bytes) -> None:
        """New cgroup limits: `linux.resources` of the OCI runtime spec, whole."""
        resources = new(wkt.Any, type_url=RESOURCES_TYPE_URL, value=resources_json)
        request = new(v1.UpdateTaskRequest, container_id=container_id, resources=resources)
        await self._write("Update", request, wkt.Empty)

    async def metrics(self, *filters: str) -> dict[str, AnyValue]:
        """Container id → its cgroup figures (io.containerd.cgroups.v1.Metrics or v2). `filters`: `id==ID`."""
        request = new(v1.MetricsRequest, filters=builtins.list(filters))
        reply = await self._calls.ask(_SERVICE + "Metrics", request, v1.MetricsResponse, self._deadlines.list)
        return {m.id: AnyValue(m.data.type_url, m.data.value) for m in reply.metrics if m.data is not None}

    async def checkpoint(
        self, container_id: str, options: AnyValue | None = None, *, lease: str | None = None
    ) -> tuple[Descriptor, ...]:
        """Write a checkpoint (CRIU) into the content store, under a lease."""
        request = new(v1.CheckpointTaskRequest, container_id=container_id, options=any_out(options))
        limit = self._deadlines.checkpoint
        reply = await self._write("Checkpoint", request, v1.CheckpointTaskResponse, limit, lease)
        return tuple(d for d in map(descriptor_in, reply.descriptors) if d is not None)

    async def _write(
        self, name: str, request: Any, reply: type[T], timeout: float | None = None, lease: str | None = None
    ) -> T:
        """A call that the shim carries out. Two of its failures come as UNKNOWN and are told by their text only."""
        try:
            return await self._calls.write(_SERVICE + name, request, reply, timeout or self._deadlines.task, lease)
        except errors.UnknownError as error:
            if "ttrpc: closed" in error.message:
                raise errors.OutcomeUnknown(f"the shim went away: {error.message}") from error
            if "cannot delete a running process" in error.message:
                raise errors.FailedPrecondition(error.message) from error
            raise


def _in(p: task_types.Process) -> TaskInfo:
    return TaskInfo(
        id=p.id,
        container_id=p.container_id,
        pid=p.pid,
        status=TaskStatus(int(p.status)),
        exit_status=p.exit_status,
        exited_at_ns=timestamp_ns(p.exited_at),
        stdin=p.stdin,
        stdout=p.stdout,
        stderr=p.stderr,
        terminal=p.terminal,
    )
