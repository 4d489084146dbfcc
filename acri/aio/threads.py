# SPDX-License-Identifier: Apache-2.0
"""Threads: small pools by kind of work, and fresh ones for work that changes the thread.

Work that can hang (a mount, a program, a file on a dead NFS server) must not take the threads that other pods need, so
each kind has a pool of its own. `unshare` and `setns` change the calling thread for good: such a job gets a thread of
its own that ends with it (unshare(2), setns(2)). Context variables travel along, so log lines keep their ids.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import ParamSpec, TypeVar

__all__ = ["Kind", "Threads"]

CANCELLED_WAIT_S = 60.0

P = ParamSpec("P")
T = TypeVar("T")


class Kind(Enum):
    """Kinds of blocking work, each with the most threads that may be in it at once."""

    FILE = "file", 4
    """Small files of acri's own, procfs, cgroupfs."""
    HOST_FILE = "host-file", 16
    """Paths that a pod names: they may lie on a file system that hangs."""
    TEARDOWN = "teardown", 32
    """Ending processes and removing what a pod had: each waits for the kernel, and some of them for long."""
    LOG = "log", 2
    """Formatting and appending container logs."""
    PROCESS = "process", 64
    """Waiting for a short-lived program (a CNI plugin)."""
    DATA = "data", 2
    """Hashing and decompressing: bounded by cores, not by waiting."""

    def __init__(self, label: str, size: int) -> None:
        self.label = label
        self.size = size


class Threads:
    """Pools made when first used. One instance per daemon; closed last."""

    def __init__(self) -> None:
        self._pools: dict[Kind, ThreadPoolExecutor] = {}

    async def run(self, kind: Kind, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` in the pool of `kind`.

        A thread cannot be stopped, so a cancelled caller waits for it before the cancellation goes on: what comes next
        may be the undoing of what `fn` does. It waits `CANCELLED_WAIT_S` at most.
        """
        pool = self._pools.get(kind)
        if pool is None:
            pool = self._pools[kind] = ThreadPoolExecutor(kind.size, thread_name_prefix=f"acri-{kind.label}")
        context = contextvars.copy_context()
        return await _to_its_end(
            asyncio.get_running_loop().run_in_executor(pool, lambda: context.run(fn, *args, **kwargs))
        )

    async def fresh(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` in a new thread that ends with it (0.05 ms): for what changes the thread. Cancelled as `run`."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()

        def settle(result: T | None, error: BaseException | None) -> None:
            if done.done():  # the caller left
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            result: T | None = None
            failure: BaseException | None = None
            try:
                result = context.run(fn, *args, **kwargs)
            except BaseException as error:
                failure = error
            try:
                loop.call_soon_threadsafe(settle, result, failure)
            except RuntimeError:  # the loop was closed meanwhile: nobody is left to hear of it
                pass

        threading.Thread(target=work, name="acri-fresh", daemon=True).start()
        return await _to_its_end(done)

    def close(self) -> None:
        """Take no more work. Python itself waits at its end for threads that hang; `cli.serve` does not let it."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        self._pools.clear()


async def _to_its_end(future: asyncio.Future[T]) -> T:
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not future.done():
            await asyncio.wait({future}, timeout=CANCELLED_WAIT_S)
        if future.done() and not future.cancelled():
            future.exception()  # nobody is left to hear of it
        raise
