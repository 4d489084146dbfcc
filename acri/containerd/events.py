# SPDX-License-Identifier: Apache-2.0
"""containerd.services.events.v1: what happens, as typed values.

    new ─start─▶ waiting for the marker ─seen─▶ live ─▶ broken: Unavailable | OutcomeUnknown
                   ▲                  │           └─ close ─▶ closed
                   └─ not seen: anew ─┘

containerd does not say when a subscription has begun: whoever subscribes and then lists could miss what happens between
the two. So a marker is published; once the stream delivers it, nothing is missed. If it does not come, it was published
too early: all over again. Filters are OR-ed and the server sends events of every containerd namespace: those of others
are dropped here.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType

from acri import errors
from acri.containerd.calls import Calls
from acri.containerd.deadlines import Deadlines
from acri.containerd.event_types import TOPICS, Event, decode_event
from acri.proto.acri import wkt
from acri.proto.containerd import types as wire
from acri.proto.containerd.services.events import v1
from acri.rpc import ServerStream
from acri.wire import new

__all__ = ["EventStream", "Events"]

_SERVICE = "/containerd.services.events.v1.Events/"
_MARKER_TOPIC = "/acri/subscribed"
_PATIENCE_FIRST_S = 0.05  # the marker comes back within a millisecond, if it does


class Events:
    def __init__(self, calls: Calls, deadlines: Deadlines) -> None:
        self._calls = calls
        self._deadlines = deadlines

    def subscribe(self, *filters: str) -> EventStream:
        """Events of this containerd namespace that match one of `filters`, without end.

        `async with events.subscribe() as stream:` enters when the subscription holds; then list what there is, then
        `async for event in stream`. Without filters: those of tasks, containers and images.

        Raises, from the iteration too: errors.Unavailable (OutcomeUnknown included) when containerd went away. That is
        no exit of anything: subscribe again, then list and compare.
        """
        return EventStream(self._calls, self._deadlines, filters or TOPICS)

    async def publish(self, topic: str, type_url: str, value: bytes) -> None:
        request = new(v1.PublishRequest, topic=topic, event=new(wkt.Any, type_url=type_url, value=value))
        await self._calls.write(_SERVICE + "Publish", request, wkt.Empty, self._deadlines.write)


class EventStream:
    """One subscription; see `Events.subscribe`."""

    def __init__(self, calls: Calls, deadlines: Deadlines, filters: tuple[str, ...]) -> None:
        self._calls = calls
        self._deadlines = deadlines
        self._request = new(v1.SubscribeRequest, filters=[*filters, f'topic=="{_MARKER_TOPIC}"'])
        self._marker = secrets.token_bytes(8)
        self._early: deque[Event] = deque()
        self._started = False
        self._stream = self._open()

    def _open(self) -> ServerStream[wire.Envelope]:
        return self._calls.stream(_SERVICE + "Subscribe", self._request, wire.Envelope)

    async def start(self) -> None:
        """Returns when the subscription holds. Called by `async with` and by the first iteration."""
        if self._started:
            return
        self._started = True
        patience = _PATIENCE_FIRST_S
        try:
            async with asyncio.timeout(self._deadlines.list):
                while not await self._began(patience):
                    self._stream.close()
                    self._early.clear()
                    self._stream = self._open()
                    patience *= 2
        except TimeoutError as exc:
            self.close()
            raise errors.DeadlineExceeded(f"containerd at {self._calls.address} does not deliver events") from exc
        except BaseException:
            self.close()
            raise

    async def _began(self, patience: float) -> bool:
        """Whether the marker came back: not if it was published before containerd listened for us."""
        await self._stream.start()
        event = new(wkt.Any, type_url="acri.Subscribed", value=self._marker)
        request = new(v1.PublishRequest, topic=_MARKER_TOPIC, event=event)
        await self._calls.write(_SERVICE + "Publish", request, wkt.Empty, self._deadlines.read)
        try:
            async with asyncio.timeout(patience) as limit:
                async for envelope in self._stream:
                    packed = envelope.event
                    if envelope.topic == _MARKER_TOPIC and packed is not None and packed.value == self._marker:
                        return True
                    self._keep(envelope)
        except TimeoutError:
            if not limit.expired():  # the outer limit, not ours
                raise
            return False
        raise self._ended()

    def _keep(self, envelope: wire.Envelope) -> None:
        if envelope.namespace == self._calls.namespace and envelope.topic != _MARKER_TOPIC:
            self._early.append(decode_event(envelope))

    def _ended(self) -> errors.Unavailable:
        return errors.Unavailable(f"containerd at {self._calls.address} ended the event stream")

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        await self.start()
        while not self._early:
            try:
                self._keep(await anext(self._stream))
            except StopAsyncIteration:
                raise self._ended() from None
        return self._early.popleft()

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        self.close()

    async def __aenter__(self) -> EventStream:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
