# SPDX-License-Identifier: Apache-2.0
"""The fd store: what acri's own Notifier sends arrives, stays, and reaches a restarted child in order."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from acri.aio.fdstore import FdStore
from acri.aio.notify import Notifier
from acri.aio.tasks import TaskOwner
from acri.aio.threads import Threads
from acri.testing.child import Child


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FdStore]:
    made = FdStore(str(tmp_path / "notify.sock"))
    yield made
    made.close()
    assert not (tmp_path / "notify.sock").exists()


async def settled() -> None:
    await asyncio.sleep(0.02)


def pipe_with(text: bytes) -> int:
    read, write = os.pipe()
    os.write(write, text)
    os.close(write)
    return read


async def test_descriptors_are_kept_until_they_are_given_up(store: FdStore) -> None:
    notifier = Notifier(store.path)
    for name in ("a", "b"):
        fd = pipe_with(name.encode())
        notifier.store(name, fd)
        os.close(fd)
    await settled()
    assert [name for name, _ in store.stored()] == ["a", "b"]
    kept = dict(store.stored())
    assert not os.get_inheritable(kept["a"])
    assert os.read(kept["a"], 10) == b"a"
    notifier.forget("a")
    await settled()
    assert [name for name, _ in store.stored()] == ["b"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kept["a"])


async def test_the_same_again_is_kept_once(store: FdStore) -> None:
    notifier = Notifier(store.path)
    read, write = os.pipe()
    for fd in (read, read, write):  # both ends of a pipe are one file
        notifier.store("pipe", fd)
    await settled()
    assert len(store) == 2
    os.close(read)
    os.close(write)


async def test_what_was_not_stored_is_closed(store: FdStore) -> None:
    messages: list[dict[str, str]] = []
    store._on_message = messages.append
    read, write = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(store.path)
        socket.send_fds(sock, [b"BARRIER=1"], [write])
    os.close(write)
    await settled()
    assert os.read(read, 1) == b""  # sd_notify_barrier(3) waits for just this
    os.close(read)
    Notifier(store.path).ready("here")
    await settled()
    assert messages == [{"BARRIER": "1"}, {"READY": "1", "STATUS": "here"}]
    assert len(store) == 0


async def test_a_full_store_refuses(tmp_path: Path) -> None:
    store = FdStore(str(tmp_path / "small.sock"), limit=1)
    for name in ("a", "b"):
        fd = pipe_with(b"")
        Notifier(store.path).store(name, fd)
        os.close(fd)
    await settled()
    assert [name for name, _ in store.stored()] == ["a"]
    store.close()


PRINT = """
from acri.aio.notify import inherited
import os
print({name: (fd, os.read(fd, 100)) for name, fd in inherited().stored.items()})
"""


async def test_a_child_gets_them_back_in_order(tmp_path: Path) -> None:
    fds = [pipe_with(b"%d" % number) for number in range(20)]
    moved = fcntl.fcntl(fds[0], fcntl.F_DUPFD_CLOEXEC, 200)
    os.close(fds[0])
    fds[0] = moved  # high before low: targets and sources overlap
    threads, tasks = Threads(), TaskOwner()
    child = Child(
        "printer",
        (sys.executable, "-c", PRINT),
        str(tmp_path / "log"),
        threads,
        tasks,
        environment=dict(os.environ),
        inherited=lambda: [(f"name-{number}", fd) for number, fd in enumerate(fds)],
    )
    await child.start()
    assert await child.first_end == 0
    expected = {f"name-{number}": (3 + number, b"%d" % number) for number in range(20)}
    assert (tmp_path / "log").read_text() == f"{expected}\n"
    await child.stop(5)
    await tasks.close()
    threads.close()
    for fd in fds:
        os.close(fd)


async def test_a_child_is_restarted_once_it_has_come_up(tmp_path: Path) -> None:
    threads, tasks = Threads(), TaskOwner()
    child = Child("short", ("/bin/sh", "-c", "echo run"), str(tmp_path / "log"), threads, tasks, environment={})
    child.keep_running = True
    await child.start()
    while child.restarts < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await child.stop(5)
    assert child.pid == 0
    assert (tmp_path / "log").read_text().count("run") >= 2
    await tasks.close()
    threads.close()
