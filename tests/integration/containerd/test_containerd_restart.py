# SPDX-License-Identifier: Apache-2.0
"""containerd goes away and comes back: nothing is taken for an exit, calls work again, and absence has a clear text."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from containerd_helpers import NAMESPACE, container_object, require_tools
from containerd_process import ContainerdProcess

from acri import errors
from acri.containerd.client import Containerd
from acri.containerd.deadlines import Deadlines
from acri.containerd.types import Mount, TaskStatus

WAIT_S = 60.0


@pytest.fixture
def own_containerd() -> Iterator[ContainerdProcess]:
    """One that the test may kill."""
    require_tools()
    with ContainerdProcess() as process:
        yield process
        assert process.shims() == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
async def test_restart_under_the_client(
    own_containerd: ContainerdProcess, unique: str, rootfs: tuple[Mount, ...], how: signal.Signals
) -> None:
    async with Containerd(own_containerd.address, NAMESPACE) as client:
        await client.containers.create(container_object(unique, "sleep", "1000"))
        pid = await client.tasks.create(unique, rootfs)
        await client.tasks.start(unique)
        async with contextlib.AsyncExitStack() as stack:
            events = await stack.enter_async_context(client.events.subscribe())
            waiting = asyncio.ensure_future(client.tasks.wait(unique))
            listening = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(own_containerd.kill, how)
            # SIGTERM: containerd answers what waits with a status of its own; it is no exit either way.
            with pytest.raises(errors.AcriError) as lost:
                await asyncio.wait_for(waiting, WAIT_S)
            assert isinstance(lost.value, errors.Unavailable | errors.Cancelled | errors.UnknownError), lost.value
            with pytest.raises(errors.Unavailable):
                await asyncio.wait_for(listening, WAIT_S)

        starting = asyncio.ensure_future(asyncio.to_thread(own_containerd.start))
        assert (await client.containers.get(unique)).id == unique  # a read waits for containerd to be back
        await starting
        task = await client.tasks.get(unique)
        assert (task.pid, task.status) == (pid, TaskStatus.RUNNING)
        async with client.events.subscribe() as events:
            await client.tasks.kill(unique, signal.SIGKILL)
            assert (await asyncio.wait_for(client.tasks.wait(unique), WAIT_S)).exit_status == 137
            async with asyncio.timeout(WAIT_S):
                assert (await anext(events)).topic == "/tasks/exit"
        await client.tasks.delete(unique)
        await client.containers.delete(unique)


async def test_absent_containerd_is_unavailable_and_named(tmp_path: Path) -> None:
    address = str(tmp_path / "absent.sock")
    async with Containerd(address, deadlines=Deadlines(version=0.3, read=0.3, write=0.3, list=0.3)) as client:
        calls = [
            client.version(),
            client.containers.get("x"),
            client.containers.list(),
            client.containers.delete("x"),
            client.content.read_all("sha256:" + "0" * 64, 1),
            client.tasks.wait("x"),
            client.events.subscribe().start(),
        ]
        for call in calls:
            with pytest.raises(errors.Unavailable, match=address) as failure:
                await call
            assert not isinstance(failure.value, errors.OutcomeUnknown)


async def test_reset_wakes_those_who_wait_and_close_is_final(
    containerd_process: ContainerdProcess, client: Containerd
) -> None:
    async with client.events.subscribe() as events:
        listening = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        client.reset()
        with pytest.raises(errors.Unavailable):
            await asyncio.wait_for(listening, WAIT_S)
    assert (await client.version()).version
    await client.close()
    for call in (client.version(), client.containers.list()):
        with pytest.raises(errors.Unavailable):
            await asyncio.wait_for(call, WAIT_S)


async def test_a_write_whose_answer_was_lost_is_not_repeated(own_containerd: ContainerdProcess, unique: str) -> None:
    """A stopped containerd has the request: only its state can tell what became of it."""
    async with Containerd(own_containerd.address, NAMESPACE) as client:
        await client.version()
        own_containerd.pause()
        creating = asyncio.ensure_future(client.containers.create(container_object(unique, "true")))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(own_containerd.kill)
        with pytest.raises(errors.OutcomeUnknown):
            await asyncio.wait_for(creating, WAIT_S)
        await asyncio.to_thread(own_containerd.start)
        with pytest.raises(errors.NotFound):
            await client.containers.get(unique)
