# SPDX-License-Identifier: Apache-2.0
"""One blob on its way into containerd.

open ─write…─▶ open ─commit─▶ committed          every message is answered; a few may be under way at once
       └─truncate─▶ open, empty
any error ─▶ the stream is over; what containerd has stays under the ref (Content.abort removes it)
"""

from __future__ import annotations

from collections.abc import Mapping

from acri import errors
from acri.proto.containerd.services.content import v1
from acri.rpc import BidiStream
from acri.wire import new

__all__ = ["MESSAGE_BYTES", "ContentWriter"]

MESSAGE_BYTES = 1 << 20
"""Larger messages hold the event loop for longer and are no faster (measured)."""

_UNDER_WAY = 4
"""Messages that may be unanswered: containerd writes one to disk while the next ones travel."""


class ContentWriter:
    """Made by `Content.write`. `offset`: bytes handed over so far; after `status`, bytes that containerd has."""

    def __init__(
        self, stream: BidiStream[v1.WriteContentRequest, v1.WriteContentResponse], ref: str, total: int, expected: str
    ) -> None:
        self._stream = stream
        self._ref = ref
        self._total = total
        self._expected = expected
        self._unanswered = 0
        self.offset = 0

    async def status(self) -> int:
        """Bytes that containerd has of this blob."""
        await self._settle(0)
        await self._send(v1.WriteAction.STAT, b"")
        self.offset = (await self._answer()).offset
        return self.offset

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append. Errors of earlier writes may be raised here."""
        view = memoryview(data)
        for start in range(0, len(view), MESSAGE_BYTES):
            piece = bytes(view[start : start + MESSAGE_BYTES])
            await self._settle(_UNDER_WAY - 1)
            await self._send(v1.WriteAction.WRITE, piece)
            self.offset += len(piece)

    async def truncate(self) -> None:
        """Start over: forget what is there. (containerd can go back to the beginning only.)"""
        await self._settle(0)
        self.offset = 0
        await self._send(v1.WriteAction.WRITE, b"")
        await self._answer()

    async def commit(self, size: int = 0, digest: str = "", labels: Mapping[str, str] | None = None) -> str:
        """End the write; answers the digest.

        Args:
            size: what the blob must have, bytes; 0 checks nothing.
            digest: what it must be; "" takes the `expected` of the beginning.
            labels: of the blob. Without one that keeps it, or a lease, it goes with the next garbage collection.

        Raises:
            errors.FailedPrecondition: size or digest differ.
            errors.AlreadyExists: the blob came in another way meanwhile.
        """
        await self._settle(0)
        request = new(
            v1.WriteContentRequest,
            action=v1.WriteAction(v1.WriteAction.COMMIT),
            ref=self._ref,
            total=size,
            expected=digest or self._expected,
            offset=self.offset,
            labels=dict(labels or {}),
        )
        await self._stream.send(request, end=True)
        self._unanswered += 1
        return (await self._answer()).digest

    async def _send(self, action: int, data: bytes) -> None:
        # A later message may repeat ref, total and expected; it may not change them.
        request = new(
            v1.WriteContentRequest,
            action=v1.WriteAction(action),
            ref=self._ref,
            total=self._total,
            expected=self._expected,
            offset=self.offset,
            data=data,
        )
        await self._stream.send(request)
        self._unanswered += 1

    async def _settle(self, most: int) -> None:
        """Take answers until at most so many are missing."""
        while self._unanswered > most:
            await self._answer()

    async def _answer(self) -> v1.WriteContentResponse:
        reply = await self._stream.recv()
        if reply is None:
            raise errors.Internal(f"containerd ended the write of {self._ref} without an answer")
        self._unanswered -= 1
        return reply
