# SPDX-License-Identifier: Apache-2.0
"""Looking into a FIFO without taking from it, and taking exactly what was looked at.

tee(2) duplicates a pipe's pages into another pipe, here a scratch one that is read out at once. Scratches are shared by
all containers: as many exist as log threads copy at the same time.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Protocol

from acri.aio import fifo

__all__ = ["Scratch", "ScratchPool", "Tee"]


class Tee(Protocol):
    """tee(2), never blocking: bytes duplicated; 0 if the FIFO is empty and has no writer. Raises BlockingIOError."""

    def __call__(self, source: int, target: int, count: int, /) -> int: ...


class Scratch:
    """A pipe to tee into, and a buffer for what is dropped."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        fifo.enlarge(self._writer, fifo.WANTED_PIPE_SIZE)
        self._waste = bytearray()
        self.clean = True  # nothing of one container may ever reach the log of another

    def peek(self, source: int, count: int, tee: Tee) -> bytes:
        """Up to `count` bytes that stay in the FIFO; empty if it has no writer. Raises BlockingIOError, OSError."""
        count = tee(source, self._writer, count)
        self.clean = False
        data = os.read(self._reader, count) if count else b""
        while len(data) < count:
            data += os.read(self._reader, count - len(data))
        self.clean = True
        return data

    def drop(self, source: int, count: int, last: memoryview) -> int:
        """Take `count` bytes out of the FIFO, the last one into `last`, in one system call; bytes taken."""
        if len(self._waste) < count:
            self._waste = bytearray(count)
        with memoryview(self._waste) as waste:
            return os.readv(source, [waste[: count - 1], last])

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


class ScratchPool:
    """One instance per daemon."""

    def __init__(self) -> None:
        self._free: deque[Scratch] = deque()

    def take(self) -> Scratch:
        try:
            return self._free.pop()
        except IndexError:
            return Scratch()

    def give(self, scratch: Scratch) -> None:
        if scratch.clean:
            self._free.append(scratch)
        else:
            scratch.close()

    def close(self) -> None:
        while self._free:
            self._free.pop().close()
