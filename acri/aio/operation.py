# SPDX-License-Identifier: Apache-2.0
"""Operations: every mutation is a detached sequence of named steps, each with its undo.

    running ──all steps done──▶ done
       │
       └─a step fails─▶ undoing ──every undo done──▶ failed
                           └─────an undo kept failing▶ failed, `leftovers` names what is still there

* An operation is a task of its own. Who waits for it may leave (deadline, disconnect): the work goes on, or is undone.
* A request that names the same key while the operation runs joins it and gets its result: a retry is not refused.
* A step's undo is armed *before* the step runs, because half a step leaves things behind too (a CNI ADD that failed
  has allocated an address). Undos are therefore idempotent and work when nothing was done. They run in reverse order.
* The step an operation is in, and since when, is always known: `describe()`, the log line every 30 s, and the error
  that a waiting caller gets when its deadline passes all read it from there.
* `Operations.on_step` is where tests and fault injection interrupt: it is awaited before and after each step.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import structlog

from acri import errors
from acri.aio import deadline
from acri.aio.tasks import TaskOwner

__all__ = ["Operation", "Operations"]

T = TypeVar("T")
Key = tuple[str, Hashable]
"""What is done (`RunPodSandbox`) and to what (an id, or the parts of a name)."""
Undo = Callable[[], Awaitable[object]]
OnStep = Callable[["Operation", str, Literal["before", "after"]], Awaitable[None]]

log = structlog.get_logger(__name__)

SLOW_STEP_S = 30.0
UNDO_TRIES = 3
UNDO_TIMEOUT_S = 60.0
# The caller's own deadline fires on its side; an answer a little earlier can still say what took the time.
ANSWER_BEFORE_S = 0.2


@dataclass(slots=True)
class _Armed:
    name: str
    undo: Undo


class Operation:
    """One running mutation. Handed to its function, which runs each part of the work by `step`."""

    def __init__(self, key: Key, on_step: OnStep | None = None) -> None:
        self.key = key
        self.leftovers: list[str] = []
        self.abandoned = False
        """Nobody waits for it any more, and it is being undone."""
        self.failed_step = ""
        self._active: dict[str, float] = {"start": time.monotonic()}
        """Steps that run now, oldest first, and since when."""
        self._undos: list[_Armed] = []
        self._on_step = on_step

    async def step(self, name: str, work: Callable[[], Awaitable[T]], *, undo: Undo | None = None) -> T:
        """Run `work` as the step `name`; `undo` takes it back, in whole or in part, if this or a later step fails."""
        self._active.pop("start", None)
        self._active[name] = time.monotonic()
        if undo is not None:
            self._undos.append(_Armed(name, undo))
        try:
            if self._on_step is not None:
                await self._on_step(self, name, "before")
            result = await work()
            if self._on_step is not None:
                await self._on_step(self, name, "after")
            return result
        except BaseException:
            self.failed_step = self.failed_step or name
            raise
        finally:
            del self._active[name]

    @property
    def current_step(self) -> str:
        """The step that runs, of several side by side the oldest; the last one's end is the next one's beginning."""
        return next(iter(self._active), "between steps")

    def commit(self) -> None:
        """The object is made: a later failure no longer takes it back."""
        self._undos.clear()

    def describe(self) -> str:
        """`RunPodSandbox: cni add, 118 s`."""
        now = time.monotonic()
        step, since = next(iter(self._active.items()), ("between steps", now))
        return f"{self.key[0]}: {step}, {now - since:.1f} s"

    async def roll_back(self) -> None:
        """Run the armed undos in reverse order. What keeps failing is named in `leftovers`; the others still run."""
        while self._undos:
            armed = self._undos.pop()
            name = f"undo {armed.name}"
            self._active[name] = time.monotonic()
            await self._undo(armed)
            del self._active[name]

    async def _undo(self, armed: _Armed) -> None:
        for attempt in range(1, UNDO_TRIES + 1):
            try:
                async with asyncio.timeout(UNDO_TIMEOUT_S):
                    await armed.undo()
                return
            except Exception as error:
                log.warning("undo failed", operation=self.key[0], step=armed.name, attempt=attempt, error=str(error))
            if attempt < UNDO_TRIES:
                await asyncio.sleep(0.1 * attempt**2)
        self.leftovers.append(armed.name)


_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("acri_inside_operation", default=False)
"""Set in the tasks of operations: what they join belongs to them, and is not new work."""


@dataclass(slots=True)
class _Running(Generic[T]):
    operation: Operation
    task: asyncio.Task[T]
    request: object
    waiters: int = 0


class Operations:
    """The operations that run now, by key. One instance per daemon."""

    def __init__(self) -> None:
        self.on_step: OnStep | None = None
        self._running: dict[Key, _Running[Any]] = {}
        self._owner = TaskOwner()
        self._undoing = TaskOwner()
        self._closing = False

    def find(self, key: Key) -> Operation | None:
        """The operation that runs under `key` now."""
        running = self._running.get(key)
        return running.operation if running else None

    def running(self) -> list[Operation]:
        """All operations that run now, oldest first."""
        return [running.operation for running in self._running.values()]

    async def join(
        self,
        key: Key,
        work: Callable[[Operation], Awaitable[T]],
        *,
        request: object = None,
        cancel_when_abandoned: bool = False,
    ) -> T:
        """Wait for the operation under `key`, starting it with `work` if none runs.

        Args:
            request: what is asked for. One that asks for something else under the same key waits until this operation
                has ended, and then runs its own.
            cancel_when_abandoned: cancelling a caller ends only its wait; with this, the last one's leaving gives the
                operation up and undoes it. For work that nobody's state depends on (a pull).

        Raises:
            errors.DeadlineExceeded: the request's deadline (`aio.deadline`) is about to pass.
            errors.Aborted: acri is shutting down.
            Whatever `work` raises, after everything it did was undone.
        """
        while (running := self._running.get(key)) is not None and (
            running.operation.abandoned or running.request != request
        ):
            await self._ended(running, "another request has its turn first")
        if running is None:
            if self._closing and not _inside.get():
                raise errors.Unavailable(f"{key[0]}: acri is shutting down; try again when it is back")
            running = self._start(key, work, request)
        else:
            log.info("joined a running operation", operation=key[0], subject=key[1], step=running.operation.describe())
        running.waiters += 1
        try:
            await self._ended(running, "it is given up" if cancel_when_abandoned else "it goes on")
            if running.task.cancelled():
                raise errors.Aborted(f"{key[0]}: given up because acri is shutting down")
            result: T = running.task.result()
            return result
        finally:
            running.waiters -= 1
            if cancel_when_abandoned and not running.waiters and not running.task.done():
                running.operation.abandoned = True
                running.task.cancel()

    def _start(self, key: Key, work: Callable[[Operation], Awaitable[T]], request: object) -> _Running[T]:
        operation = Operation(key, self.on_step)
        context = contextvars.copy_context()
        context.run(deadline.current.set, None)
        context.run(_inside.set, True)
        coro = self._run(operation, work)
        task: asyncio.Task[T] = context.run(self._owner.spawn, coro, name=f"{key[0]} {key[1]}", quiet=True)
        running = self._running[key] = _Running(operation, task, request)
        return running

    async def _run(self, operation: Operation, work: Callable[[Operation], Awaitable[T]]) -> T:
        timer = _SlowTimer(operation)
        try:
            return await work(operation)
        except BaseException as error:
            await self._undo(operation)
            log.info(
                "operation failed",
                operation=operation.key[0],
                subject=operation.key[1],
                step=operation.failed_step,
                error=str(error) or type(error).__name__,
                leftovers=operation.leftovers or None,
            )
            raise
        finally:
            timer.cancel()
            del self._running[operation.key]

    async def _undo(self, operation: Operation) -> None:
        """Roll back in a task that nobody cancels: half an undo is what this whole mechanism is to prevent."""
        undoing = self._undoing.spawn(operation.roll_back(), name=f"undo {operation.key[0]} {operation.key[1]}")
        while not undoing.done():
            try:
                await asyncio.wait({undoing})
            except asyncio.CancelledError:  # each undo has a time limit of its own
                continue

    async def _ended(self, running: _Running[Any], afterwards: str) -> None:
        """Wait for the end of an operation, but not longer than the caller may."""
        left = deadline.remaining()
        timeout = None if left is None else max(left - ANSWER_BEFORE_S, left * 0.9)
        done, _ = await asyncio.wait({running.task}, timeout=timeout)
        if not done:
            raise errors.DeadlineExceeded(f"{running.operation.describe()}; {afterwards}")

    async def drain(self, grace_s: float) -> None:
        """Take no new operations and wait up to `grace_s` seconds for those that run; the rest is undone.

        Operations that running ones begin belong to them and are waited for, too.
        """
        self._closing = True
        try:
            async with asyncio.timeout(grace_s):
                while self._running:
                    await asyncio.wait({running.task for running in self._running.values()})
        except TimeoutError:
            log.warning("operations are given up", running=[operation.describe() for operation in self.running()])
        await self._owner.close()


class _SlowTimer:
    """Logs where an operation stands, every `SLOW_STEP_S` until it is cancelled."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self._arm()

    def _arm(self) -> None:
        self._handle = asyncio.get_running_loop().call_later(SLOW_STEP_S, self._tell)

    def _tell(self) -> None:
        operation = self._operation
        log.warning("operation is slow", operation=operation.key[0], subject=operation.key[1], at=operation.describe())
        self._arm()

    def cancel(self) -> None:
        self._handle.cancel()
