# SPDX-License-Identifier: Apache-2.0
"""What is killed: a child, which comes back; `acri up` itself, whose leftovers the next one removes."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from up_process import UpProcess, eventually, run_container

from acri.proto.runtime import v1 as cri
from acri.rpc.channel import Retry
from acri.testing import process_table, sweep

RUNNING = cri.ContainerState.CONTAINER_RUNNING
EXITED = cri.ContainerState.CONTAINER_EXITED
COUNT = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; sleep 0.01; done"


async def test_acri_is_restarted_and_no_line_is_lost(ups: list[UpProcess], tmp_path: Path, certs_dir: str) -> None:
    up = UpProcess(tmp_path / "up", "--certs-dir", certs_dir)
    ups.append(up)
    await up.start()
    async with up.client() as client:
        _, container_id, _ = await run_container(client, tmp_path, "sh", "-c", COUNT)
        for _ in range(2):
            old = up.kill_child("acri")
            await eventually(lambda old=old: up.child("acri") not in (0, old))
            await asyncio.sleep(0.5)
        up.kill_child("acri")

        async def status() -> cri.ContainerStatus:
            return (await client.call("ContainerStatus", container_id=container_id, retry=Retry.IDEMPOTENT)).status

        while (found := await status()).state == RUNNING:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert (found.state, found.exit_code) == (EXITED, 0)
    lines = (tmp_path / "pod.log").read_text().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == [str(number + 1) for number in range(300)]
    assert await up.stop() == 0


async def test_containerd_is_restarted_and_containers_run_on(
    ups: list[UpProcess], tmp_path: Path, certs_dir: str
) -> None:
    up = UpProcess(tmp_path / "up", "--certs-dir", certs_dir)
    ups.append(up)
    await up.start()
    async with up.client() as client:
        _, container_id, _ = await run_container(client, tmp_path, "sleep", "1000")
        old = up.kill_child("containerd")
        await eventually(lambda: up.child("containerd") not in (0, old))
        acri = up.child("acri")
        reply = await client.call("ExecSync", container_id=container_id, cmd=["echo", "still here"], timeout=20)
        assert reply.stdout == b"still here\n"
        status = (await client.call("ContainerStatus", container_id=container_id)).status
        assert (status.state, up.child("acri")) == (RUNNING, acri)
    assert await up.stop() == 0


@pytest.mark.parametrize("also", [(), ("acri", "containerd"), ("acri", "containerd", "shim")])
async def test_the_next_one_cleans_up(
    ups: list[UpProcess], tmp_path: Path, certs_dir: str, also: tuple[str, ...]
) -> None:
    up = UpProcess(tmp_path / "up", "--certs-dir", certs_dir)
    ups.append(up)
    await up.start()
    async with up.client() as client:
        await run_container(client, tmp_path, "sleep", "1000")
    assert up.process is not None
    up.process.kill()
    up.process.wait()
    for kind in also:
        if up.child(kind):  # the children end by themselves when their parent does
            up.kill_child(kind)
    before = {(found.pid, found.start_time) for found in process_table.find(up.place)}
    assert before
    await up.start()
    running = {(found.pid, found.start_time) for found in process_table.find(up.place)}
    assert not running & before
    assert sweep.addresses(up.place) == []
    async with up.client() as client:
        assert (await client.call("ListPodSandbox")).items == []
        _, _, address = await run_container(client, tmp_path, "sleep", "1000")
        assert address
    assert await up.stop(signal.SIGINT) == 0
    assert sweep.leftovers(up.place) == []


async def test_children_do_not_outlive_their_parent(ups: list[UpProcess], tmp_path: Path) -> None:
    up = UpProcess(tmp_path / "up")
    ups.append(up)
    await up.start()
    assert up.process is not None
    up.process.kill()
    up.process.wait()
    await eventually(lambda: not process_table.find(up.place))
