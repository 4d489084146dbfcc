# SPDX-License-Identifier: Apache-2.0
"""What every call to containerd has in common: namespace, lease, deadline, and which of them may be repeated.

    read      the database and memory of containerd   repeated whatever broke, while its deadline lasts
    ask       of a shim, through containerd           repeated only if it was not run: an answer UNAVAILABLE means that
                                                      the shim is gone, and asking again would only take longer
    write                                             repeated only if it was not run
    listed    a read whose answer is a stream         all or nothing, repeated as a read

containerd reads the namespace and the lease from metadata. Content goes over a connection of its own: bulk data would
delay the short calls behind it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from acri import errors
from acri.rpc import BidiStream, Channel, Retry, ServerStream
from acri.wire import WireCodec

__all__ = ["Calls"]

T = TypeVar("T")
Q = TypeVar("Q")

_PAUSE_FIRST_S = 0.05
_PAUSE_MAX_S = 1.0


class Calls:
    """The two connections, and the metadata of one containerd namespace."""

    def __init__(self, address: str, namespace: str) -> None:
        codec = WireCodec()
        self.address = address
        self.namespace = namespace
        self._main = Channel(address, codec=codec)
        self._bulk = Channel(address, codec=codec)
        self._closed = False

    def _metadata(self, lease: str | None) -> dict[str, str]:
        metadata = {"containerd-namespace": self.namespace}
        if lease is not None:
            metadata["containerd-lease"] = lease
        return metadata

    async def read(self, path: str, request: Any, reply: type[T], timeout: float) -> T:
        return await self._unary(path, request, reply, timeout, Retry.IDEMPOTENT)

    async def ask(self, path: str, request: Any, reply: type[T], timeout: float) -> T:
        return await self._unary(path, request, reply, timeout, Retry.UNSENT)

    async def write(self, path: str, request: Any, reply: type[T], timeout: float, lease: str | None = None) -> T:
        return await self._unary(path, request, reply, timeout, Retry.UNSENT, lease)

    async def wait(self, path: str, request: Any, reply: type[T]) -> T:
        """A call that answers when something happens: no deadline, no retry."""
        metadata = self._metadata(None)
        return await self._main.unary(path, request, reply, metadata=metadata, timeout=None, retry=Retry.NEVER)

    async def _unary(
        self, path: str, request: Any, reply: type[T], timeout: float, retry: Retry, lease: str | None = None
    ) -> T:
        metadata = self._metadata(lease)
        return await self._main.unary(path, request, reply, metadata=metadata, timeout=timeout, retry=retry)

    async def listed(self, path: str, request: Any, reply: type[T], timeout: float) -> list[T]:
        """All messages of a stream that ends by itself."""
        deadline = time.monotonic() + timeout
        pause = _PAUSE_FIRST_S
        while True:
            left = max(0.001, deadline - time.monotonic())
            try:
                async with self.stream(path, request, reply, timeout=left) as replies:
                    return [message async for message in replies]
            except errors.Unavailable:
                if self._closed or time.monotonic() + pause >= deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_MAX_S)

    def stream(
        self, path: str, request: Any, reply: type[T], *, timeout: float | None = None, bulk: bool = False
    ) -> ServerStream[T]:
        channel = self._bulk if bulk else self._main
        return channel.server_stream(path, request, reply, metadata=self._metadata(None), timeout=timeout)

    def both_ways(
        self, path: str, request: type[Q], reply: type[T], *, lease: str | None
    ) -> AbstractAsyncContextManager[BidiStream[Q, T]]:
        """On the connection for content; no deadline."""
        return self._bulk.bidi(path, request, reply, metadata=self._metadata(lease))

    def reset(self) -> None:
        """Break every call and both connections; the next call connects anew."""
        self._main.reset()
        self._bulk.reset()

    def close(self) -> None:
        """Break every call and both connections for good."""
        self._closed = True
        self._main.close()
        self._bulk.close()
