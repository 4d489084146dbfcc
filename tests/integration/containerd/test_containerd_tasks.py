# SPDX-License-Identifier: Apache-2.0
"""What containerd runs: a busybox container from create to delete, execs, exit codes, output, events."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from containerd_helpers import NAMESPACE, container_object, fill_rootfs, process_json
from containerd_process import ContainerdProcess

from acri import errors
from acri.containerd.client import Containerd
from acri.containerd.event_types import (
    ContainerChanged,
    Event,
    EventValue,
    TaskCreated,
    TaskDeleted,
    TaskExecAdded,
    TaskExecStarted,
    TaskExited,
    TaskStarted,
)
from acri.containerd.events import EventStream
from acri.containerd.types import Descriptor, ImageObject, Mount, TaskStatus, runc_options

WAIT_S = 30.0


@asynccontextmanager
async def container(client: Containerd, container_id: str, *args: str) -> AsyncIterator[None]:
    """A container record for the block; whatever runs of it afterwards is killed and deleted."""
    await client.containers.create(container_object(container_id, *args))
    try:
        yield
    finally:
        try:
            await client.tasks.kill(container_id, signal.SIGKILL, all=True)
        except errors.AcriError:
            pass
        try:
            await client.tasks.wait(container_id)
            await client.tasks.delete(container_id)
        except errors.NotFound:
            pass
        await client.containers.delete(container_id)


async def seen(stream: EventStream, container_id: str, last: type) -> list[EventValue]:
    """The task events of one container up to the first of type `last`."""
    found: list[EventValue] = []
    async with asyncio.timeout(WAIT_S):
        async for event in stream:
            assert event.namespace == NAMESPACE
            if getattr(event.event, "container_id", None) == container_id and event.event is not None:
                found.append(event.event)
                if isinstance(event.event, last):
                    return found
    raise AssertionError("the stream ended")


async def test_life_of_a_task(client: Containerd, unique: str, rootfs: tuple[Mount, ...]) -> None:
    before = time.time_ns()
    async with client.events.subscribe() as events, container(client, unique, "sleep", "1000"):
        pid = await client.tasks.create(unique, rootfs, options=runc_options())
        info = await client.tasks.get(unique)
        assert (info.id, info.container_id, info.pid, info.status) == (unique, unique, pid, TaskStatus.CREATED)
        assert info.exited_at_ns == 0
        with pytest.raises(errors.AlreadyExists):
            await client.tasks.create(unique, rootfs)
        assert await client.tasks.start(unique) == pid
        assert (await client.tasks.get(unique)).status is TaskStatus.RUNNING
        listed = {task.container_id: task for task in await client.tasks.list()}
        assert listed[unique].pid == pid
        assert [p.pid for p in await client.tasks.list_pids(unique)] == [pid]
        assert unique in await client.tasks.metrics(f"id=={unique}")
        await client.tasks.update(unique, json.dumps({"cpu": {"shares": 512}}).encode())
        with pytest.raises(errors.FailedPrecondition):
            await client.tasks.delete(unique)

        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(client.tasks.wait(unique))
            await asyncio.sleep(0)
            await client.tasks.kill(unique, signal.SIGKILL)
        exited = waiting.result()
        assert exited.exit_status == 128 + signal.SIGKILL
        assert before < exited.exited_at_ns < time.time_ns()
        assert (await client.tasks.get(unique)).status is TaskStatus.STOPPED
        with pytest.raises(errors.NotFound):
            await client.tasks.kill(unique, signal.SIGKILL)
        deleted = await client.tasks.delete(unique)
        assert (deleted.exit_status, deleted.pid) == (137, pid)
        for call in (client.tasks.delete, client.tasks.get, client.tasks.wait, client.tasks.start):
            with pytest.raises(errors.NotFound):
                await call(unique)

        happened = await seen(events, unique, TaskDeleted)
        kinds = [ContainerChanged, TaskCreated, TaskStarted, TaskExited, TaskDeleted]
        assert [type(event) for event in happened] == kinds
        assert happened[3] == TaskExited(unique, "", pid, 137, exited.exited_at_ns)


async def test_exit_code_and_output_through_fifos(
    client: Containerd, unique: str, rootfs: tuple[Mount, ...], tmp_path: Path
) -> None:
    paths = {name: str(tmp_path / name) for name in ("stdin", "stdout", "stderr")}
    for path in paths.values():
        os.mkfifo(path)
    readers = {name: os.open(paths[name], os.O_RDONLY | os.O_NONBLOCK) for name in ("stdout", "stderr")}
    try:
        async with container(client, unique, "sh", "-c", "cat; echo oops >&2; exit 7"):
            # The shim opens its end of stdin at create: a writer must not wait for it on the loop.
            await client.tasks.create(unique, rootfs, **paths)
            writer = os.open(paths["stdin"], os.O_WRONLY | os.O_NONBLOCK)
            await client.tasks.start(unique)
            os.write(writer, b"through stdin\n")
            os.close(writer)
            await client.tasks.close_io(unique)
            assert (await asyncio.wait_for(client.tasks.wait(unique), WAIT_S)).exit_status == 7
            assert (await client.tasks.delete(unique)).exit_status == 7
            assert os.read(readers["stdout"], 100) == b"through stdin\n"
            assert os.read(readers["stderr"], 100) == b"oops\n"
    finally:
        for fd in readers.values():
            os.close(fd)


async def test_execs(client: Containerd, unique: str, rootfs: tuple[Mount, ...]) -> None:
    async with client.events.subscribe() as events, container(client, unique, "sleep", "1000"):
        await client.tasks.create(unique, rootfs)
        await client.tasks.start(unique)

        spec = json.dumps(process_json("sh", "-c", "exit 42")).encode()
        await client.tasks.exec(unique, "e1", spec)
        with pytest.raises(errors.AlreadyExists):
            await client.tasks.exec(unique, "e1", spec)
        assert (await client.tasks.get(unique, "e1")).status is TaskStatus.CREATED
        pid = await client.tasks.start(unique, "e1")
        assert (await asyncio.wait_for(client.tasks.wait(unique, "e1"), WAIT_S)).exit_status == 42
        assert (await client.tasks.delete_process(unique, "e1")).exit_status == 42
        with pytest.raises(errors.NotFound):
            await client.tasks.delete_process(unique, "e1")
        happened = await seen(events, unique, TaskExited)
        assert TaskExecAdded(unique, "e1") in happened
        assert TaskExecStarted(unique, "e1", pid) in happened
        last = happened[-1]
        assert isinstance(last, TaskExited)
        assert (last.exec_id, last.exit_status) == ("e1", 42)

        await client.tasks.exec(unique, "e2", json.dumps(process_json("sleep", "1000")).encode(), terminal=False)
        await client.tasks.start(unique, "e2")
        await client.tasks.kill(unique, signal.SIGTERM, exec_id="e2")
        assert (await asyncio.wait_for(client.tasks.wait(unique, "e2"), WAIT_S)).exit_status == 128 + signal.SIGTERM
        await client.tasks.delete_process(unique, "e2")

        await client.tasks.exec(unique, "e3", json.dumps(process_json("no-such-program")).encode())
        with pytest.raises(errors.AcriError) as refused:
            await client.tasks.start(unique, "e3")
        assert "no-such-program" in str(refused.value)
        await client.tasks.delete_process(unique, "e3")


async def test_a_task_on_a_prepared_snapshot(client: Containerd, unique: str, tmp_path: Path) -> None:
    async with client.leases.lease(expire_s=300) as lease:
        [layer] = await client.snapshots.prepare("overlayfs", f"{unique}-fill", lease=lease)
        fill_rootfs(Path(layer.source))
        await client.snapshots.commit("overlayfs", f"{unique}-base", f"{unique}-fill", lease=lease)
        mounts = await client.snapshots.prepare("overlayfs", unique, f"{unique}-base", lease=lease)
        assert mounts[0].type == "overlay"
        async with container(client, unique, "sh", "-c", "echo changed > /tmp/file; exit 3"):
            await client.tasks.create(unique, mounts)
            await client.tasks.start(unique)
            assert (await asyncio.wait_for(client.tasks.wait(unique), WAIT_S)).exit_status == 3
            await client.tasks.delete(unique)
        assert (await client.snapshots.usage("overlayfs", unique)).size > 0
        await client.snapshots.remove("overlayfs", unique)
        await client.snapshots.remove("overlayfs", f"{unique}-base")
    shutil.rmtree(tmp_path, ignore_errors=True)


async def test_what_runc_refuses_is_told_in_its_words(
    client: Containerd, unique: str, rootfs: tuple[Mount, ...]
) -> None:
    async with container(client, unique, "no-such-program"):
        with pytest.raises(errors.AcriError) as refused:
            await client.tasks.create(unique, rootfs)
        assert "no-such-program" in str(refused.value)
        with pytest.raises(errors.NotFound):
            await client.tasks.get(unique)


async def test_events_of_other_namespaces_are_dropped(
    client: Containerd, containerd_process: ContainerdProcess, unique: str
) -> None:
    async with (
        Containerd(containerd_process.address, f"{NAMESPACE}-other") as other,
        client.events.subscribe() as events,
    ):
        await other.containers.create(container_object(f"{unique}-o", "true"))
        await other.containers.delete(f"{unique}-o")
        await client.containers.create(container_object(unique, "true"))
        async with asyncio.timeout(WAIT_S):
            first = await anext(events)
        assert first.event == ContainerChanged(unique, "create")
        await client.containers.delete(unique)


async def test_events_of_images_and_of_unknown_kinds(client: Containerd, unique: str) -> None:
    async with client.events.subscribe('topic=="/test/thing"', 'topic~="^/images/"') as events:
        await client.events.publish("/test/thing", "test.Thing", b"\xff")
        async with client.leases.lease(expire_s=60) as lease:
            async with client.content.write(unique, lease=lease) as writer:
                await writer.write(unique.encode())
                digest = await writer.commit()
            info = await client.content.info(digest)
            target = Descriptor("application/octet-stream", digest, info.size)
            await client.images.create(ImageObject(f"x/{unique}", target))
            await client.images.delete(f"x/{unique}", sync=True)
        async with asyncio.timeout(WAIT_S):
            got: list[Event] = [await anext(events) for _ in range(3)]
        assert [event.topic for event in got] == ["/test/thing", "/images/create", "/images/delete"]
        assert got[0].event is None
        assert [getattr(event.event, "name", "") for event in got[1:]] == [f"x/{unique}", f"x/{unique}"]
