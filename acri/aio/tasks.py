# SPDX-License-Identifier: Apache-2.0
"""Background tasks with an owner.

The event loop keeps only weak references to tasks, and an exception in a task that nobody awaits is reported when the
garbage collector comes by. A `TaskOwner` holds its tasks, names them, logs their failures at once and ends them in
order when it closes.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar, overload

import structlog

__all__ = ["TaskOwner", "settle"]

T = TypeVar("T")
U = TypeVar("U")

log = structlog.get_logger(__name__)


class TaskOwner:
    """Owns background tasks of one component."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, coro: Coroutine[Any, Any, T], *, name: str, quiet: bool = False) -> asyncio.Task[T]:
        """Start `coro` as a task of this owner. Its failure is logged; `quiet` where somebody awaits it."""
        task = asyncio.get_running_loop().create_task(coro, name=name)
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._done, quiet))
        return task

    def _done(self, quiet: bool, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()  # asking for it also tells asyncio that it was seen
        if error is not None and not quiet:
            log.error("background task failed", task=task.get_name(), exc_info=error)

    async def close(self) -> None:
        """Cancel what still runs and wait until it has ended."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


@overload
async def settle(first: Awaitable[T], second: Awaitable[U], /) -> tuple[T, U]: ...
@overload
async def settle(*awaitables: Awaitable[T]) -> tuple[T, ...]: ...
async def settle(*awaitables: Awaitable[Any]) -> tuple[Any, ...]:
    """Run side by side, wait until *all* have ended, then raise the first error or answer all results in order.

    `asyncio.gather` raises at once and leaves the others running behind the caller, which may already be undoing what
    they do. Cancelling the caller cancels all.
    """
    results = await asyncio.gather(*awaitables, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return tuple(results)
