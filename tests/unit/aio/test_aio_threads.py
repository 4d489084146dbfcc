# SPDX-License-Identifier: Apache-2.0
"""Thread pools, fresh threads and programs."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from pathlib import Path

import pytest

from acri import errors
from acri.aio.process import Processes
from acri.aio.tasks import TaskOwner, settle
from acri.aio.threads import Kind, Threads

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture
def threads():
    pool = Threads()
    yield pool
    pool.close()


async def test_a_pool_carries_context_and_results(threads: Threads):
    variable.set("here")
    assert await threads.run(Kind.FILE, variable.get) == "here"
    assert await threads.fresh(variable.get) == "here"


async def test_a_fresh_thread_is_not_used_twice(threads: Threads):
    idents = {(await threads.fresh(threading.current_thread)).name for _ in range(3)}
    assert idents == {"acri-fresh"}
    first, second = await threads.fresh(threading.current_thread), await threads.fresh(threading.current_thread)
    assert first is not second


async def test_errors_come_back(threads: Threads):
    for run in (lambda fn: threads.run(Kind.FILE, fn), threads.fresh):
        with pytest.raises(ZeroDivisionError):
            await run(lambda: 1 // 0)


async def test_one_kind_full_of_hanging_work_does_not_hold_up_another(threads: Threads):
    release = threading.Event()
    hanging = [asyncio.ensure_future(threads.run(Kind.HOST_FILE, release.wait)) for _ in range(Kind.HOST_FILE.size + 2)]
    await asyncio.sleep(0)
    assert await threads.run(Kind.FILE, os.getpid) == os.getpid()
    release.set()
    await asyncio.gather(*hanging)


async def test_a_cancelled_caller_waits_for_its_thread(threads: Threads):
    """What the caller does next may undo what the thread does."""
    release, ended = threading.Event(), threading.Event()

    def work() -> None:
        release.wait()
        ended.set()

    for run in (threads.fresh, lambda fn: threads.run(Kind.FILE, fn)):
        release.clear()
        ended.clear()
        waiter = asyncio.ensure_future(run(work))
        await asyncio.sleep(0.01)
        waiter.cancel()
        await asyncio.sleep(0.01)
        assert not waiter.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert ended.is_set()


async def test_a_program_gets_its_input_and_gives_its_output(threads: Threads):
    done = await Processes(threads).run(["/bin/sh", "-c", "cat; echo no >&2; exit 3"], stdin=b"in", timeout=10)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"in", b"no\n")


async def test_a_program_that_hangs_is_killed_with_its_children(threads: Threads, tmp_path: Path):
    pid_file = tmp_path / "pid"
    script = f"sleep 1000 & echo $! > {pid_file}; wait"
    with pytest.raises(errors.DeadlineExceeded, match=r"/bin/sh did not end within 0\.5 s"):
        await Processes(threads).run(["/bin/sh", "-c", script], timeout=0.5)
    child = int(pid_file.read_text())
    for _ in range(100):
        try:
            if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                break
        except (FileNotFoundError, ProcessLookupError):
            break
        await asyncio.sleep(0.02)
    else:
        pytest.fail(f"child {child} lives")


async def test_a_missing_program_is_named(threads: Threads):
    with pytest.raises(FileNotFoundError, match="/no/such/program"):
        await Processes(threads).run(["/no/such/program"], timeout=1)


async def test_a_task_owner_ends_its_tasks():
    owner, ended = TaskOwner(), asyncio.Event()

    async def background() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    owner.spawn(background(), name="background")
    await asyncio.sleep(0)
    await owner.close()
    assert ended.is_set()


async def test_settle_waits_for_all_before_it_raises():
    go, ended = asyncio.Event(), []

    async def slow() -> None:
        await go.wait()
        ended.append("slow")

    async def fails() -> None:
        raise errors.UnknownError("no")

    settling = asyncio.ensure_future(settle(fails(), slow()))
    await asyncio.sleep(0.01)
    assert not settling.done()
    go.set()
    with pytest.raises(errors.UnknownError):
        await settling
    assert ended == ["slow"]
    assert await settle(asyncio.sleep(0, 1), asyncio.sleep(0, 2)) == (1, 2)
