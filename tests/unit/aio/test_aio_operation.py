# SPDX-License-Identifier: Apache-2.0
"""Operations: steps, undo, joining, deadlines. No clock is judged: events say when things happen."""

from __future__ import annotations

import asyncio
import time

import pytest

from acri import errors
from acri.aio import deadline
from acri.aio.operation import Operation, Operations

KEY = ("RunPodSandbox", "web")


class Recorder:
    """Steps and undos that write down what was done, and fail where told."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fail_at = ""
        self.undo_failures: dict[str, int] = {}

    async def do(self, name: str) -> str:
        self.done.append(name)
        if name == self.fail_at:
            raise errors.UnknownError(f"{name} failed")
        return name

    async def undo(self, name: str) -> None:
        self.done.append(f"undo {name}")
        if self.undo_failures.get(name, 0) > 0:
            self.undo_failures[name] -= 1
            raise OSError("busy")

    async def work(self, op: Operation) -> str:
        for name in ("record", "namespaces", "network"):
            await op.step(name, lambda name=name: self.do(name), undo=lambda name=name: self.undo(name))
        return "id"


async def test_steps_run_in_order_and_nothing_is_undone_on_success():
    operations, recorder = Operations(), Recorder()
    assert await operations.join(KEY, recorder.work) == "id"
    assert recorder.done == ["record", "namespaces", "network"]
    assert operations.running() == []


@pytest.mark.parametrize("failing", ["record", "namespaces", "network"])
async def test_a_failed_step_is_undone_too_and_the_others_in_reverse(failing: str):
    operations, recorder = Operations(), Recorder()
    recorder.fail_at = failing
    with pytest.raises(errors.UnknownError, match=f"{failing} failed"):
        await operations.join(KEY, recorder.work)
    began = [name for name in recorder.done if not name.startswith("undo")]
    assert recorder.done == began + [f"undo {name}" for name in reversed(began)]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["record", "namespaces", "network"])
async def test_interrupting_at_every_step_undoes_what_was_begun(step: str, when: str):
    operations, recorder = Operations(), Recorder()

    async def interrupt(_op: Operation, name: str, at: str) -> None:
        if (name, at) == (step, when):
            raise errors.Aborted("interrupted")

    operations.on_step = interrupt
    with pytest.raises(errors.Aborted):
        await operations.join(KEY, recorder.work)
    undone = [name.removeprefix("undo ") for name in recorder.done if name.startswith("undo")]
    order = ["record", "namespaces", "network"]
    assert undone == list(reversed(order[: order.index(step) + 1]))


async def test_an_undo_is_tried_again_and_what_keeps_failing_is_named():
    operations, recorder = Operations(), Recorder()
    recorder.fail_at = "network"
    recorder.undo_failures = {"namespaces": 2, "network": 99}
    seen: list[Operation] = []

    async def work(op: Operation) -> str:
        seen.append(op)
        return await recorder.work(op)

    with pytest.raises(errors.UnknownError):
        await operations.join(KEY, work)
    assert seen[0].leftovers == ["network"]
    assert recorder.done.count("undo namespaces") == 3
    assert recorder.done[-1] == "undo record"


async def test_after_commit_a_failure_takes_nothing_back():
    operations, recorder = Operations(), Recorder()

    async def work(op: Operation) -> str:
        await recorder.work(op)
        op.commit()
        raise errors.UnknownError("late")

    with pytest.raises(errors.UnknownError, match="late"):
        await operations.join(KEY, work)
    assert recorder.done == ["record", "namespaces", "network"]


async def test_requests_for_the_same_key_share_one_run():
    operations = Operations()
    go, runs = asyncio.Event(), 0

    async def work(op: Operation) -> str:
        nonlocal runs
        runs += 1
        await go.wait()
        return "id"

    waiters = [asyncio.ensure_future(operations.join(KEY, work)) for _ in range(5)]
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.gather(*waiters) == ["id"] * 5
    assert runs == 1


async def test_all_waiters_get_the_error_and_the_next_request_runs_anew():
    operations = Operations()
    go = asyncio.Event()

    async def fails(op: Operation) -> str:
        await go.wait()
        raise errors.FailedPrecondition("no")

    waiters = [asyncio.ensure_future(operations.join(KEY, fails)) for _ in range(3)]
    await asyncio.sleep(0)
    go.set()
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert all(isinstance(result, errors.FailedPrecondition) for result in results)

    async def works(op: Operation) -> str:
        return "ok"

    assert await operations.join(KEY, works) == "ok"


async def test_a_caller_that_leaves_does_not_stop_the_work():
    operations = Operations()
    go, finished = asyncio.Event(), asyncio.Event()

    async def work(op: Operation) -> str:
        await go.wait()
        finished.set()
        return "id"

    waiter = asyncio.ensure_future(operations.join(KEY, work))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert operations.find(KEY) is not None
    joined = asyncio.ensure_future(operations.join(KEY, work))
    await asyncio.sleep(0)
    go.set()
    assert await joined == "id"
    assert finished.is_set()


async def test_a_deadline_tells_the_step_and_leaves_the_work_running():
    operations = Operations()
    go = asyncio.Event()

    async def work(op: Operation) -> str:
        assert deadline.remaining() is None, "an operation has no deadline of its own"
        return await op.step("cni add", lambda: _wait(go))

    token = deadline.current.set(time.monotonic() + 0.01)
    try:
        with pytest.raises(errors.DeadlineExceeded, match=r"RunPodSandbox: cni add, \d+\.\d s"):
            await operations.join(KEY, work)
    finally:
        deadline.current.reset(token)
    running = operations.find(KEY)
    assert running is not None
    assert running.current_step == "cni add"
    go.set()
    assert await operations.join(KEY, work) == "waited"


async def _wait(event: asyncio.Event) -> str:
    await event.wait()
    return "waited"


async def test_drain_undoes_what_does_not_end_in_time_and_refuses_what_is_new():
    operations, recorder = Operations(), Recorder()
    never = asyncio.Event()

    async def work(op: Operation) -> str:
        await recorder.work(op)
        return await op.step("hangs", lambda: _wait(never))

    waiter = asyncio.ensure_future(operations.join(KEY, work))
    await asyncio.sleep(0.01)
    await operations.drain(0.01)
    with pytest.raises(errors.Aborted):
        await waiter
    assert recorder.done[-3:] == ["undo network", "undo namespaces", "undo record"]
    with pytest.raises(errors.Unavailable):
        await operations.join(KEY, recorder.work)


async def test_an_abandoned_operation_is_undone_where_it_was_asked_for():
    operations, recorder = Operations(), Recorder()
    never = asyncio.Event()

    async def pulls(op: Operation) -> str:
        await op.step("blobs", lambda: recorder.do("blobs"), undo=lambda: recorder.undo("blobs"))
        return await op.step("stalls", lambda: _wait(never))

    waiters = [
        asyncio.ensure_future(operations.join(KEY, pulls, cancel_when_abandoned=True)),
        asyncio.ensure_future(operations.join(KEY, pulls, cancel_when_abandoned=True)),
    ]
    await asyncio.sleep(0.01)
    waiters[0].cancel()
    await asyncio.sleep(0.01)
    assert recorder.done == ["blobs"], "somebody still waits"
    waiters[1].cancel()
    await asyncio.wait(waiters)

    async def works(op: Operation) -> str:
        return "anew"

    assert await operations.join(KEY, works) == "anew", "a request does not join what is being given up"
    assert recorder.done == ["blobs", "undo blobs"]


async def test_a_second_cancellation_does_not_cut_an_undo_short():
    operations, undone = Operations(), []
    undoing, go = asyncio.Event(), asyncio.Event()

    async def slow_undo(name: str) -> None:
        undoing.set()
        await go.wait()
        undone.append(name)

    async def work(op: Operation) -> str:
        await op.step("first", lambda: asyncio.sleep(0), undo=lambda: slow_undo("first"))
        await op.step("second", lambda: asyncio.sleep(0), undo=lambda: slow_undo("second"))
        raise errors.UnknownError("no")

    waiter = asyncio.ensure_future(operations.join(KEY, work))
    await undoing.wait()
    draining = asyncio.ensure_future(operations.drain(0))
    await asyncio.sleep(0.01)
    go.set()
    await draining
    assert undone == ["second", "first"]
    with pytest.raises(errors.UnknownError):
        await waiter


async def test_another_request_under_the_same_key_is_not_answered_with_this_ones_result():
    operations = Operations()
    go = asyncio.Event()

    async def slow(op: Operation) -> str:
        await go.wait()
        return "first"

    async def other(op: Operation) -> str:
        return "second"

    first = asyncio.ensure_future(operations.join(KEY, slow, request="a"))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(operations.join(KEY, other, request="b"))
    same = asyncio.ensure_future(operations.join(KEY, slow, request="a"))
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.gather(first, second, same) == ["first", "second", "first"]


async def test_of_steps_side_by_side_the_oldest_is_told():
    operations = Operations()
    go = asyncio.Event()

    async def work(op: Operation) -> str:
        await asyncio.gather(op.step("slow", lambda: _wait(go)), op.step("quick", lambda: asyncio.sleep(0)))
        return "done"

    waiter = asyncio.ensure_future(operations.join(KEY, work))
    await asyncio.sleep(0.01)
    running = operations.find(KEY)
    assert running is not None
    assert running.current_step == "slow"
    go.set()
    await waiter


async def test_while_draining_an_operation_may_begin_what_belongs_to_it():
    operations = Operations()
    go = asyncio.Event()

    async def inner(op: Operation) -> str:
        return "inner"

    async def outer(op: Operation) -> str:
        await go.wait()
        return await operations.join(("StopContainer", "c"), inner)

    waiter = asyncio.ensure_future(operations.join(KEY, outer))
    await asyncio.sleep(0)
    draining = asyncio.ensure_future(operations.drain(5))
    await asyncio.sleep(0)
    go.set()
    assert await waiter == "inner"
    await draining
