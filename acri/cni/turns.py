# SPDX-License-Identifier: Apache-2.0
"""Who may work on what: one at a time for each attachment, nobody while the plugins collect garbage.

    idle ──take(key)──▶ working (any number, one for each key) ──last one leaves──▶ idle
    idle ──alone()────▶ collecting (takers wait) ─────────────────────────────────▶ idle

There is no lock across attachments: a hung plugin holds up its own pod only. Collecting therefore never waits for the
workers; it takes place when there are none (CNI spec, "Lifecycle & Ordering": GC excludes ADD and DEL).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

__all__ = ["Turns"]


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Turns:
    """Turns by key; a key costs memory only while somebody uses it."""

    def __init__(self) -> None:
        self._turns: dict[Hashable, _Turn] = {}
        self._open = asyncio.Event()
        self._open.set()

    @property
    def idle(self) -> bool:
        """Nobody works, waits for a turn, or collects."""
        return not self._turns and self._open.is_set()

    @asynccontextmanager
    async def take(self, key: Hashable) -> AsyncIterator[None]:
        """Wait for one's turn at `key`."""
        while not self._open.is_set():
            await self._open.wait()
        turn = self._turns.setdefault(key, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[key]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep others out; only when `idle`."""
        assert self.idle
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()
