# SPDX-License-Identifier: Apache-2.0
"""FIFO helpers: end of file, bounded collecting, stdin."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from acri.aio import fifo


@pytest.fixture
def path(tmp_path: Path) -> str:
    return fifo.make(str(tmp_path / "exec"), ["stdout"])["stdout"]


@pytest.fixture
def reader(path: str) -> Iterator[int]:
    fd = fifo.open_reader(path)
    yield fd
    os.close(fd)


def shell(command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/sh", "-c", command])


def exited(now: bool = False) -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if now:
        future.set_result(None)
    return future


def test_make_and_remove(tmp_path: Path) -> None:
    base = str(tmp_path / "io" / "x")
    paths = fifo.make(base, ["stdin", "stdout"])
    assert fifo.make(base, ["stdin", "stdout"]) == paths
    assert stat.S_IMODE(os.stat(base).st_mode) == 0o700
    assert all(os.stat(p).st_mode == stat.S_IFIFO | 0o600 for p in paths.values())
    fifo.remove(base, ["stdin"])
    assert os.listdir(base) == ["stdout"]
    fifo.remove(base, ["stdin", "stdout"])
    fifo.remove(base, ["stdin", "stdout"])
    assert not os.path.exists(base)
    os.makedirs(base)
    open(base + "/stdin", "w").close()
    with pytest.raises(FileExistsError):
        fifo.make(base, ["stdin"])
    with pytest.raises(OSError, match="not a FIFO"):
        fifo.open_reader(base + "/stdin")


def test_open_and_hang_up(path: str) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        fifo.open_writer(path)
    assert caught.value.errno == errno.ENXIO
    reader = fifo.open_reader(path)
    assert fifo.enlarge(reader) >= 64 * 1024
    assert os.read(reader, 1) == b""
    assert not fifo.hung_up(reader)
    writer = fifo.open_writer(path)
    os.write(writer, b"x")
    assert not fifo.hung_up(reader)
    os.close(writer)
    assert fifo.hung_up(reader)
    late = fifo.open_reader(path)
    assert os.read(late, 2) == b"x"
    assert not fifo.hung_up(late)
    os.close(late)
    os.close(reader)


async def test_collect_to_the_end(path: str, reader: int) -> None:
    task = asyncio.ensure_future(fifo.collect(reader, exited=exited(), drain_s=1))
    await asyncio.sleep(0.02)
    assert not task.done()  # no writer yet is not the end
    process = shell(f"exec seq 200000 >{path}")
    got = await asyncio.wait_for(task, 30)
    assert got.data == b"".join(b"%d\n" % i for i in range(1, 200001))
    assert (got.dropped, got.ended) == (0, True)
    await asyncio.to_thread(process.wait)


async def test_collect_drops_beyond_its_limit(path: str, reader: int) -> None:
    process = shell(f"exec head -c 3000000 /dev/zero >{path}")
    got = await asyncio.wait_for(fifo.collect(reader, exited=exited(), drain_s=1, limit=100_000), 30)
    assert (len(got.data), got.dropped, got.ended) == (100_000, 2_900_000, True)
    assert await asyncio.to_thread(process.wait) == 0


async def test_collect_of_a_process_that_never_wrote(reader: int) -> None:
    assert await fifo.collect(reader, exited=exited(now=True), drain_s=5) == fifo.Collected(b"", 0, True)


async def test_collect_does_not_wait_for_a_background_child(path: str, reader: int) -> None:
    gone = exited()
    task = asyncio.ensure_future(fifo.collect(reader, exited=gone, drain_s=0.1))
    writer = await asyncio.to_thread(os.open, path, os.O_WRONLY)
    os.write(writer, b"said before")
    await asyncio.sleep(0.02)
    gone.set_result(None)
    got = await asyncio.wait_for(task, 10)
    assert (got.data, got.ended) == (b"said before", False)
    os.close(writer)


async def test_collect_of_a_chatty_background_child_ends(path: str, reader: int) -> None:
    process = shell(f"exec yes >{path}")
    try:
        gone = exited()
        task = asyncio.ensure_future(fifo.collect(reader, exited=gone, drain_s=0.05))
        await asyncio.sleep(0.2)
        gone.set_result(None)
        got = await asyncio.wait_for(task, 20)
        assert not got.ended
        assert got.data.startswith(b"y\ny\n")
    finally:
        process.kill()
        process.wait()


async def test_stdin(path: str) -> None:
    with pytest.raises(TimeoutError):
        await fifo.StdinWriter.open(path, 0.05)
    task = asyncio.ensure_future(fifo.StdinWriter.open(path, 10))
    await asyncio.sleep(0.01)
    reader = fifo.open_reader(path)
    writer = await task
    data = os.urandom(300_000)
    sending = asyncio.ensure_future(writer.write(data))
    received = b""
    while len(received) < len(data):
        await asyncio.sleep(0)
        try:
            received += os.read(reader, 65_536)
        except BlockingIOError:
            continue
    await sending
    assert received == data
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        await writer.write(b"x")
    writer.close()
    writer.close()
