# SPDX-License-Identifier: Apache-2.0
"""The subscription outlives whatever its listeners do; state is re-read after each gap, never twice at once.

The events come from a queue: what is tested is this end, containerd's is in tests/integration.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from acri import errors
from acri.aio.tasks import TaskOwner
from acri.containerd.event_types import Event, TaskStarted
from acri.events import stream
from acri.events.stream import EventStream

BROKEN = object()


class Feed:
    """Where events come from: subscriptions that hold at once, each until `BROKEN` or an exception is in its queue."""

    def __init__(self) -> None:
        self.subscriptions = 0
        self.queue: asyncio.Queue[object] = asyncio.Queue()
        self.refusals: list[BaseException] = []
        self.events = self

    @asynccontextmanager
    async def subscribe(self, *filters: str) -> AsyncIterator[AsyncIterator[object]]:
        assert filters == ('topic=="/tasks/start"',)
        if self.refusals:
            raise self.refusals.pop(0)
        self.subscriptions += 1
        yield self._events()

    async def _events(self) -> AsyncIterator[object]:
        while (item := await self.queue.get()) is not BROKEN:
            if isinstance(item, BaseException):
                raise item
            yield item

    def put(self, number: int) -> None:
        self.queue.put_nowait(event(number))


def event(number: int) -> Event:
    return Event("/tasks/start", "k8s.io", number, TaskStarted("c", number))


class Listener:
    """Counts; a step at a time can be waited for."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.gaps = 0
        self.at_once = 0
        self.most_at_once = 0
        self.failures: list[BaseException] = []
        self.hold: asyncio.Event | None = None

    def on_event(self, event: Event) -> None:
        assert isinstance(event.event, TaskStarted)
        self.seen.append(event.event.pid)
        if event.event.pid < 0:
            raise KeyError("a bug")

    async def on_gap(self) -> None:
        self.gaps += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.hold is not None:
                await self.hold.wait()
            if self.failures:
                raise self.failures.pop(0)
        finally:
            self.at_once -= 1


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@asynccontextmanager
async def running(feed: Feed, listener: Listener, resync_every_s: float = 3600.0) -> AsyncIterator[asyncio.Task[None]]:
    owner = TaskOwner()
    events = EventStream(
        feed,  # type: ignore[arg-type]
        owner,
        topics=("/tasks/start",),
        on_event=listener.on_event,
        on_gap=listener.on_gap,
        resync_every_s=resync_every_s,
    )
    task = owner.spawn(events.run(), name="events")
    try:
        yield task
    finally:
        await owner.close()


async def test_an_event_that_fails_costs_only_itself() -> None:
    feed, listener = Feed(), Listener()
    with capture_logs() as logs:
        async with running(feed, listener):
            for number in (1, -1, 2):
                feed.put(number)
            await until(lambda: listener.seen == [1, -1, 2])
    assert feed.subscriptions == 1
    [entry] = [entry for entry in logs if entry["event"] == "event not dealt with"]
    assert entry["exc_info"]
    assert entry["topic"] == "/tasks/start"


@pytest.mark.parametrize(
    "ending", [BROKEN, errors.Unavailable("containerd went away"), RuntimeError("a bug"), ValueError("undecodable")]
)
async def test_whatever_ends_the_stream_it_is_made_anew_and_the_state_re_read(ending: object) -> None:
    feed, listener = Feed(), Listener()
    feed.refusals = [errors.Unavailable("not yet"), OSError("a bug")]
    async with running(feed, listener) as task:
        await until(lambda: listener.gaps == 1)
        feed.queue.put_nowait(ending)
        await until(lambda: listener.gaps == 2)
        feed.put(1)
        await until(lambda: listener.seen == [1])
        assert not task.done()
    assert feed.subscriptions == 2


@pytest.mark.parametrize("failure", [errors.Unavailable("busy"), RuntimeError("a bug")])
async def test_a_failed_re_reading_is_tried_again(failure: BaseException) -> None:
    feed, listener = Feed(), Listener()
    listener.failures = [failure, failure, failure]
    async with running(feed, listener):
        await until(lambda: listener.gaps == 4 and listener.at_once == 0)
        assert listener.failures == []
    assert feed.subscriptions == 1


async def test_the_state_is_re_read_while_the_subscription_holds() -> None:
    feed, listener = Feed(), Listener()
    async with running(feed, listener, resync_every_s=0.01):
        await until(lambda: listener.gaps >= 5)
    assert feed.subscriptions == 1
    assert listener.most_at_once == 1


async def test_gaps_during_a_re_reading_are_one_more_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BACKOFF_FIRST_S", 0.001)
    feed, listener = Feed(), Listener()
    listener.hold = asyncio.Event()
    async with running(feed, listener):
        await until(lambda: listener.at_once == 1)
        for subscriptions in (2, 3):
            feed.queue.put_nowait(BROKEN)
            await until(lambda wanted=subscriptions: feed.subscriptions == wanted)
        assert listener.gaps == 1
        listener.hold.set()
        await until(lambda: listener.gaps == 2 and listener.at_once == 0)
    assert (listener.gaps, listener.most_at_once) == (2, 1)


async def test_cancelling_ends_both_loops() -> None:
    feed, listener = Feed(), Listener()
    owner = TaskOwner()
    events = EventStream(feed, owner, topics=("/tasks/start",), on_event=listener.on_event, on_gap=listener.on_gap)  # type: ignore[arg-type]
    task = owner.spawn(events.run(), name="events")
    await until(lambda: listener.gaps == 1)
    task.cancel()
    await until(lambda: {t.get_name() for t in asyncio.all_tasks()}.isdisjoint({"events", "resync"}))
