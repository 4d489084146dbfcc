# SPDX-License-Identifier: Apache-2.0
"""One subscription to containerd's events, held for as long as acri runs.

    connecting ──subscription holds──▶ on_gap(), then events ──stream broke──▶ connecting (back-off 50 ms … 2 s)

Events between a break and the next subscription are lost for good, so `on_gap` re-reads the state each time one holds.
A broken stream is never taken for an exit (easily-missed.md 1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from acri import errors
from acri.aio.tasks import TaskOwner
from acri.containerd.client import Containerd
from acri.containerd.event_types import Event

__all__ = ["EventStream"]

log = structlog.get_logger(__name__)

BACKOFF_FIRST_S, BACKOFF_MOST_S = 0.05, 2.0


class EventStream:
    """Delivers events in order to `on_event`; awaits `on_gap` after each (re)connection."""

    def __init__(
        self,
        containerd: Containerd,
        tasks: TaskOwner,
        *,
        topics: tuple[str, ...],
        on_event: Callable[[Event], None],
        on_gap: Callable[[], Awaitable[None]],
    ) -> None:
        self._containerd = containerd
        self._tasks = tasks
        self._topics = topics
        self._on_event = on_event
        self._on_gap = on_gap
        self.subscribed = asyncio.Event()
        """Set while events arrive."""

    async def run(self) -> None:
        """Hold the subscription until cancelled."""
        pause = BACKOFF_FIRST_S
        while True:
            try:
                await self._hold()
                log.warning("event stream ended", retry_in_s=pause)
            except errors.AcriError as error:
                log.warning("event stream broke", error=error.message, retry_in_s=pause)
            if self.subscribed.is_set():
                pause = BACKOFF_FIRST_S
            self.subscribed.clear()
            await asyncio.sleep(pause)
            pause = min(pause * 2, BACKOFF_MOST_S)

    async def _hold(self) -> None:
        async with self._containerd.events.subscribe(*(f'topic=="{topic}"' for topic in self._topics)) as events:
            self.subscribed.set()
            # Beside the events, not before them: they are not to wait for a slow containerd.
            self._tasks.spawn(self._after_gap(), name="after event gap")
            async for event in events:
                self._on_event(event)

    async def _after_gap(self) -> None:
        try:
            await self._on_gap()
        except errors.AcriError as error:  # containerd went away again: the next connection comes here again
            log.warning("state not read after a gap in the events", error=error.message)
