# SPDX-License-Identifier: Apache-2.0
"""A client of a CRI socket, as a kubelet is one: calls by name, each one timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from acri import errors
from acri.proto.runtime import v1 as cri
from acri.rpc.channel import Channel, Retry
from acri.wire import WireCodec, new

__all__ = ["CriClient", "Timing"]


_REMOVED_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Timing:
    """One call and the seconds it took."""

    rpc: str
    seconds: float


class CriClient:
    """Make it inside the running loop; `close` it, or use it as `async with`.

    Calls raise what `acri.rpc.channel.Channel` raises. `timings` keeps one entry per answered call, in order.
    """

    def __init__(self, socket: str) -> None:
        self._channel = Channel(
            socket, codec=WireCodec(), peer="acri", remedy="see acri's own log for why it does not answer"
        )
        self.timings: list[Timing] = []

    async def call(self, rpc: str, /, *, deadline_s: float = 60.0, retry: Retry = Retry.NEVER, **fields: Any) -> Any:
        """Call `rpc` ("RunPodSandbox") with a request of these fields; the reply message."""
        service = next(
            name for name in ("RuntimeService", "ImageService") if f"/runtime.v1.{name}/{rpc}" in cri.METHODS
        )
        path = f"/runtime.v1.{service}/{rpc}"
        method = cri.METHODS[path]
        request: Callable[..., Any] = method.request
        began = time.monotonic()
        reply: Any = await self._channel.unary(
            path, new(request, **fields), method.reply, timeout=deadline_s, retry=retry
        )
        self.timings.append(Timing(rpc, time.monotonic() - began))
        return reply

    async def remove_all_pods(self, deadline_s: float = 60.0) -> list[str]:
        """Stop and remove every pod sandbox, a few at a time; a line for each that could not be removed.

        Raises:
            errors.AcriError: they cannot even be listed.
        """
        reply = await self.call("ListPodSandbox", deadline_s=deadline_s, retry=Retry.IDEMPOTENT)
        turn = asyncio.Semaphore(_REMOVED_AT_ONCE)
        failures: list[str] = []

        async def remove(pod_sandbox_id: str) -> None:
            async with turn:
                try:
                    for rpc in ("StopPodSandbox", "RemovePodSandbox"):  # both may be repeated
                        await self.call(
                            rpc, deadline_s=deadline_s, retry=Retry.IDEMPOTENT, pod_sandbox_id=pod_sandbox_id
                        )
                except errors.AcriError as error:
                    failures.append(f"pod sandbox {pod_sandbox_id}: {error.message}")

        await asyncio.gather(*(remove(item.id) for item in reply.items))
        return failures

    def close(self) -> None:
        self._channel.close()

    async def __aenter__(self) -> CriClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
