# SPDX-License-Identifier: Apache-2.0
"""containerd.services.content.v1: blobs by digest. `ContentWriter` (content_writer.py) puts them in."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager

from acri import errors
from acri.containerd.calls import Calls
from acri.containerd.content_writer import ContentWriter
from acri.containerd.convert import mask
from acri.containerd.deadlines import Deadlines
from acri.containerd.types import ContentInfo, ContentStatus
from acri.proto.acri import wkt
from acri.proto.containerd.services.content import v1
from acri.wire import new
from acri.wire.wellknown import timestamp_ns

__all__ = ["Content"]

_SERVICE = "/containerd.services.content.v1.Content/"


class Content:
    """Errors: NotFound for an unknown digest or ref, AlreadyExists to write what is there."""

    def __init__(self, calls: Calls, deadlines: Deadlines) -> None:
        self._calls = calls
        self._deadlines = deadlines

    async def info(self, digest: str) -> ContentInfo:
        request = new(v1.InfoRequest, digest=digest)
        reply = await self._calls.read(_SERVICE + "Info", request, v1.InfoResponse, self._deadlines.read)
        return _in(reply.info)

    async def list(self, *filters: str) -> builtins.list[ContentInfo]:
        """All blobs of this containerd namespace, or those that match one of `filters`."""
        request = new(v1.ListContentRequest, filters=builtins.list(filters))
        limit = self._deadlines.list
        parts = await self._calls.listed(_SERVICE + "List", request, v1.ListContentResponse, limit)
        return [_in(info) for part in parts for info in part.info]

    async def update(
        self, digest: str, labels: Mapping[str, str], fieldpaths: Iterable[str] = ("labels",)
    ) -> ContentInfo:
        """Change labels: all of them, or those of `fieldpaths` (`labels.KEY`; one not in `labels` is removed)."""
        info = new(v1.Info, digest=digest, labels=dict(labels))
        request = new(v1.UpdateRequest, info=info, update_mask=mask(fieldpaths))
        reply = await self._calls.write(_SERVICE + "Update", request, v1.UpdateResponse, self._deadlines.write)
        return _in(reply.info)

    async def delete(self, digest: str) -> None:
        request = new(v1.DeleteContentRequest, digest=digest)
        await self._calls.write(_SERVICE + "Delete", request, wkt.Empty, self._deadlines.write)

    async def read(self, digest: str, offset: int = 0, size: int = 0) -> AsyncIterator[bytes]:
        """The blob's bytes from `offset`, `size` of them (0: all that follow), in pieces of containerd's choice.

        An async generator: close it (`contextlib.aclosing`) if you leave before its end. No deadline.
        """
        request = new(v1.ReadContentRequest, digest=digest, offset=offset, size=size)
        async with self._calls.stream(_SERVICE + "Read", request, v1.ReadContentResponse, bulk=True) as parts:
            async for part in parts:
                if part.data:
                    yield part.data

    async def read_all(self, digest: str, limit: int) -> bytes:
        """The whole blob.

        Raises:
            errors.ResourceExhausted: it has more than `limit` bytes.
        """
        pieces: builtins.list[bytes] = []
        length = 0
        async with aclosing(self.read(digest)) as parts:  # type: ignore[type-var]
            async for part in parts:
                length += len(part)
                if length > limit:
                    raise errors.ResourceExhausted(f"content {digest} has more than {limit} bytes")
                pieces.append(part)
        return b"".join(pieces)

    @asynccontextmanager
    async def write(
        self, ref: str, *, total: int = 0, expected: str = "", lease: str | None = None
    ) -> AsyncIterator[ContentWriter]:
        """Begin to write a blob, or go on with one: `writer.offset` says how much is there.

        Leaving the block without `commit` keeps what was written for the next write under the same `ref`; `abort`
        throws it away.

        Args:
            ref: names this write in the containerd namespace.
            total: bytes, 0 if not known.
            expected: the digest, "" if not known.
            lease: keeps the blob, and the write, from the garbage collector.

        Raises:
            errors.AlreadyExists: the expected blob is there already (and `lease` now holds it, too).
            errors.OutcomeUnknown: somebody else writes under this `ref` now.
        """
        path = _SERVICE + "Write"
        async with self._calls.both_ways(path, v1.WriteContentRequest, v1.WriteContentResponse, lease=lease) as stream:
            writer = ContentWriter(stream, ref, total, expected)
            await writer.status()
            yield writer

    async def abort(self, ref: str) -> None:
        """Throw away what was written under `ref` so far."""
        await self._calls.write(_SERVICE + "Abort", new(v1.AbortRequest, ref=ref), wkt.Empty, self._deadlines.write)

    async def status(self, ref: str) -> ContentStatus:
        request = new(v1.StatusRequest, ref=ref)
        reply = await self._calls.read(_SERVICE + "Status", request, v1.StatusResponse, self._deadlines.read)
        if reply.status is None:
            raise errors.Internal("containerd answered without a status")
        return _status_in(reply.status)

    async def statuses(self, *filters: str) -> builtins.list[ContentStatus]:
        """All writes under way, or those that match one of `filters` (`ref==…`)."""
        request = new(v1.ListStatusesRequest, filters=builtins.list(filters))
        limit = self._deadlines.read
        reply = await self._calls.read(_SERVICE + "ListStatuses", request, v1.ListStatusesResponse, limit)
        return [_status_in(s) for s in reply.statuses]


def _in(info: v1.Info | None) -> ContentInfo:
    if info is None:
        raise errors.Internal("containerd answered without a blob's description")
    created, updated = timestamp_ns(info.created_at), timestamp_ns(info.updated_at)
    return ContentInfo(info.digest, info.size, info.labels, created, updated)


def _status_in(s: v1.Status) -> ContentStatus:
    return ContentStatus(s.ref, s.offset, s.total, s.expected, timestamp_ns(s.started_at), timestamp_ns(s.updated_at))
