# SPDX-License-Identifier: Apache-2.0
"""Shared parts: real FIFOs, real files, the real tee(2)."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from acri.aio import fifo
from acri.aio.tasks import TaskOwner
from acri.aio.threads import Kind, Threads
from acri.host.kernel import LinuxKernel
from acri.logs.pump import ContainerLog, LogKit


@pytest.fixture
async def kit() -> AsyncIterator[LogKit]:
    threads, tasks = Threads(), TaskOwner()
    kit = LogKit(functools.partial(threads.run, Kind.LOG), LinuxKernel().tee, tasks)
    yield kit
    await tasks.close()
    kit.close()
    threads.close()


@pytest.fixture
def fifos(tmp_path: Path) -> Iterator[dict[str, str]]:
    """FIFOs for both streams, with a second read end held, as systemd's fd store does."""
    paths = fifo.make(str(tmp_path / "io"), ["stdout", "stderr"])
    holders = [fifo.open_reader(path) for path in paths.values()]
    yield paths
    for fd in holders:
        os.close(fd)


@pytest.fixture
async def new_log(kit: LogKit, tmp_path: Path) -> AsyncIterator[Callable[[], ContainerLog]]:
    """A maker of `ContainerLog`s over the same log and mark; each is closed at the end."""
    made: list[ContainerLog] = []

    def make() -> ContainerLog:
        made.append(ContainerLog(kit, "c" * 64, log_path=str(tmp_path / "0.log"), mark_path=str(tmp_path / "log.mark")))
        return made[-1]

    yield make
    for log in made:
        await log.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    target = tmp_path / "disk"
    target.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(target)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("cannot mount a tmpfs")
    yield target
    subprocess.run(["umount", "-l", str(target)], check=True)
