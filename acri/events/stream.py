# SPDX-License-Identifier: Apache-2.0
"""One subscription to containerd's events, held for as long as acri runs.

    connecting ──subscription holds──▶ gap, then events ──stream broke──▶ connecting (back-off 50 ms … 2 s)

    in step ──gap, or a minute passed──▶ on_gap() ──done──▶ in step
                                           ▲   └──failed──▶ again (back-off 50 ms … 30 s, or at the next gap)

Events between a break and the next subscription are lost for good, so `on_gap` re-reads the state each time one holds,
and once a minute besides: containerd drops events for a reader that is too slow, and tells nobody. It never runs twice
at once. A broken stream is never taken for an exit of anything.

Nothing ends the two loops but their cancellation: one event that cannot be dealt with, or a bug, costs that event or
that connection.
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
RESYNC_BACKOFF_MOST_S = 30.0


class EventStream:
    """Delivers events in order to `on_event`; awaits `on_gap` after each (re)connection.

    Args:
        topics: containerd's topics, such as "/tasks/exit".
        on_event: what it raises is logged, and the next event comes.
        on_gap: re-reads what events would have told; beside the events, which do not wait for it.
        resync_every_s: seconds after which `on_gap` is called anyway while the subscription holds.
    """

    def __init__(
        self,
        containerd: Containerd,
        tasks: TaskOwner,
        *,
        topics: tuple[str, ...],
        on_event: Callable[[Event], None],
        on_gap: Callable[[], Awaitable[None]],
        resync_every_s: float = 60.0,
    ) -> None:
        self._containerd = containerd
        self._tasks = tasks
        self._topics = topics
        self._on_event = on_event
        self._on_gap = on_gap
        self._resync_every_s = resync_every_s
        self._gap = asyncio.Event()
        self.subscribed = asyncio.Event()
        """Set while events arrive."""

    async def run(self) -> None:
        """Hold the subscription and stay in step until cancelled."""
        resync = self._tasks.spawn(self._stay_in_step(), name="resync")
        pause = BACKOFF_FIRST_S
        try:
            while True:
                try:
                    await self._hold()
                    log.warning("event stream ended", retry_in_s=pause)
                except errors.AcriError as error:
                    log.warning("event stream broke", error=error.message, retry_in_s=pause)
                except Exception:
                    log.exception("event stream failed", retry_in_s=pause)
                if self.subscribed.is_set():
                    pause = BACKOFF_FIRST_S
                self.subscribed.clear()
                await asyncio.sleep(pause)
                pause = min(pause * 2, BACKOFF_MOST_S)
        finally:
            resync.cancel()

    async def _hold(self) -> None:
        async with self._containerd.events.subscribe(*(f'topic=="{topic}"' for topic in self._topics)) as events:
            self.subscribed.set()
            self._gap.set()
            async for event in events:
                try:
                    self._on_event(event)
                except Exception:
                    log.exception("event not dealt with", topic=event.topic)

    async def _stay_in_step(self) -> None:
        wait, pause = self._resync_every_s, BACKOFF_FIRST_S
        while True:
            if await self._gap_within(wait):
                pause = BACKOFF_FIRST_S
            elif not self.subscribed.is_set():  # there is nobody to ask; the next subscription is a gap
                wait = self._resync_every_s
                continue
            try:
                await self._on_gap()
            except Exception as error:
                wait, pause = pause, min(pause * 2, RESYNC_BACKOFF_MOST_S)
                if isinstance(error, errors.AcriError):
                    log.warning("state not read after a gap in the events", error=error.message, retry_in_s=wait)
                else:
                    log.exception("state not read after a gap in the events", retry_in_s=wait)
            else:
                wait, pause = self._resync_every_s, BACKOFF_FIRST_S

    async def _gap_within(self, seconds: float) -> bool:
        """Wait for a gap, but no longer than `seconds`; whether there was one."""
        try:
            async with asyncio.timeout(seconds):
                await self._gap.wait()
        except TimeoutError:
            return False
        self._gap.clear()
        return True
