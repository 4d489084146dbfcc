# SPDX-License-Identifier: Apache-2.0
"""A start, pods, an end: alone, deep down, two at once, in a hurry."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from up_process import UpProcess, eventually, run_container

from acri.testing import process_table, sweep


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_ends_with_its_pods(ups: list[UpProcess], tmp_path: Path, certs_dir: str, number: int) -> None:
    up = UpProcess(tmp_path / "up", "--certs-dir", certs_dir)
    ups.append(up)
    await up.start()
    async with up.client() as client:
        for name in ("one", "two"):
            await run_container(client, tmp_path, "sleep", "1000", name=name)
    assert len([found for found in process_table.find(up.place) if found.kind == "shim"]) == 2
    assert await up.stop(number) == 0
    assert sweep.leftovers(up.place) == []
    assert "left behind" not in up.errors.read_text()
    assert not os.path.exists(up.place.record)


async def test_images_outlive_a_restart(ups: list[UpProcess], tmp_path: Path, certs_dir: str) -> None:
    up = UpProcess(tmp_path / "up", "--certs-dir", certs_dir)
    ups.append(up)
    await up.start()
    async with up.client() as client:
        await run_container(client, tmp_path, "true")
    assert await up.stop() == 0
    await up.start()
    async with up.client() as client:
        assert len((await client.call("ListImages")).images) == 1
        assert (await client.call("ListPodSandbox")).items == []
    assert await up.stop() == 0


async def test_a_deep_directory(ups: list[UpProcess], tmp_path: Path, certs_dir: str) -> None:
    up = UpProcess(tmp_path / ("deep-" + "x" * 100) / ("deeper ü" + "y" * 60) / "up", "--certs-dir", certs_dir)
    ups.append(up)
    await up.start()
    assert len(up.address.removeprefix("unix://")) <= 107
    async with up.client() as client:
        _, container_id, _ = await run_container(client, tmp_path, "sleep", "1000")
        reply = await client.call("ExecSync", container_id=container_id, cmd=["echo", "here"], timeout=10)
        assert reply.stdout == b"here\n"
    assert await up.stop() == 0
    assert sweep.leftovers(up.place) == []
    assert not os.path.lexists(up.place.link)


async def test_two_at_once(ups: list[UpProcess], tmp_path: Path, certs_dir: str) -> None:
    ups += [UpProcess(tmp_path / name, "--certs-dir", certs_dir) for name in ("one", "two")]
    await asyncio.gather(*(up.start() for up in ups))
    addresses = []
    for up in ups:
        async with up.client() as client:
            _, container_id, address = await run_container(client, tmp_path, "sleep", "1000", name=up.place.tag)
            addresses.append(address)
            assert len((await client.call("ListContainers")).containers) == 1
    assert len({address.rpartition(".")[0] for address in addresses}) == 2
    assert await ups[0].stop() == 0
    async with ups[1].client() as client:
        reply = await client.call("ExecSync", container_id=container_id, cmd=["hostname", "-i"], timeout=10)
        assert reply.exit_code == 0
    assert await ups[1].stop() == 0


async def test_a_second_signal_kills_the_pods(ups: list[UpProcess], tmp_path: Path, certs_dir: str) -> None:
    up = UpProcess(tmp_path / "up", "--certs-dir", certs_dir)
    ups.append(up)
    await up.start()
    async with up.client() as client:
        await run_container(client, tmp_path, "sleep", "1000")
    os.kill(up.child("containerd"), signal.SIGSTOP)  # nothing can be removed in order now
    assert up.process is not None
    up.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.5)
    assert await up.stop() == 1
    assert [line for line in sweep.leftovers(up.place) if not line.startswith("address")] == []
    await up.start()
    assert sweep.addresses(up.place) == []
    assert await up.stop() == 0


async def test_it_can_be_ended_while_it_starts(ups: list[UpProcess], tmp_path: Path) -> None:
    for moment in (0.3, 0.6, 0.9):
        up = UpProcess(tmp_path / f"up-{moment}")
        ups.append(up)
        process = up.spawn()
        await eventually(lambda up=up: os.path.exists(up.place.below("lock")))
        await asyncio.sleep(moment - 0.3)
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, 60) == 0, up.errors.read_text()
        assert process_table.find(up.place) == []
