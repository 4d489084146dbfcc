# SPDX-License-Identifier: Apache-2.0
"""containerd.services.snapshots.v1: root file systems in layers.

    prepare(key, parent) ─▶ ACTIVE, writable ─commit(name)─▶ COMMITTED, a parent for others
    view(key, parent)    ─▶ VIEW, read-only

Only a lease, a label or a container record keeps a snapshot from the garbage collector.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping

from acri import errors
from acri.containerd.calls import Calls
from acri.containerd.convert import mask, mounts_in
from acri.containerd.deadlines import Deadlines
from acri.containerd.types import Mount, SnapshotInfo, SnapshotKind, Usage
from acri.proto.acri import wkt
from acri.proto.containerd.services.snapshots import v1
from acri.wire import new
from acri.wire.wellknown import timestamp_ns

__all__ = ["Snapshots"]

_SERVICE = "/containerd.services.snapshots.v1.Snapshots/"


class Snapshots:
    """The first argument is always the snapshotter, such as "overlayfs"; an unknown one is InvalidArgument.

    Errors: NotFound for an unknown key or parent, AlreadyExists, FailedPrecondition to remove what has children.
    """

    def __init__(self, calls: Calls, deadlines: Deadlines) -> None:
        self._calls = calls
        self._deadlines = deadlines

    async def stat(self, snapshotter: str, key: str) -> SnapshotInfo:
        request = new(v1.StatSnapshotRequest, snapshotter=snapshotter, key=key)
        reply = await self._calls.read(_SERVICE + "Stat", request, v1.StatSnapshotResponse, self._deadlines.read)
        return _in(reply.info)

    async def prepare(
        self,
        snapshotter: str,
        key: str,
        parent: str = "",
        labels: Mapping[str, str] | None = None,
        *,
        lease: str | None = None,
    ) -> tuple[Mount, ...]:
        """A writable snapshot over `parent` ("" for an empty one); answers what to mount."""
        request = new(
            v1.PrepareSnapshotRequest, snapshotter=snapshotter, key=key, parent=parent, labels=dict(labels or {})
        )
        limit = self._deadlines.snapshot
        reply = await self._calls.write(_SERVICE + "Prepare", request, v1.PrepareSnapshotResponse, limit, lease)
        return mounts_in(reply.mounts)

    async def view(
        self,
        snapshotter: str,
        key: str,
        parent: str = "",
        labels: Mapping[str, str] | None = None,
        *,
        lease: str | None = None,
    ) -> tuple[Mount, ...]:
        """A read-only snapshot of `parent`; answers what to mount."""
        request = new(
            v1.ViewSnapshotRequest, snapshotter=snapshotter, key=key, parent=parent, labels=dict(labels or {})
        )
        limit = self._deadlines.snapshot
        reply = await self._calls.write(_SERVICE + "View", request, v1.ViewSnapshotResponse, limit, lease)
        return mounts_in(reply.mounts)

    async def mounts(self, snapshotter: str, key: str) -> tuple[Mount, ...]:
        """What to mount of an active snapshot or a view."""
        request = new(v1.MountsRequest, snapshotter=snapshotter, key=key)
        reply = await self._calls.read(_SERVICE + "Mounts", request, v1.MountsResponse, self._deadlines.read)
        return mounts_in(reply.mounts)

    async def commit(
        self,
        snapshotter: str,
        name: str,
        key: str,
        labels: Mapping[str, str] | None = None,
        *,
        lease: str | None = None,
    ) -> None:
        """Make the active snapshot `key` a committed one called `name`; the key is gone then."""
        request = new(v1.CommitSnapshotRequest, snapshotter=snapshotter, name=name, key=key, labels=dict(labels or {}))
        await self._calls.write(_SERVICE + "Commit", request, wkt.Empty, self._deadlines.snapshot, lease)

    async def remove(self, snapshotter: str, key: str) -> None:
        request = new(v1.RemoveSnapshotRequest, snapshotter=snapshotter, key=key)
        await self._calls.write(_SERVICE + "Remove", request, wkt.Empty, self._deadlines.snapshot)

    async def list(self, snapshotter: str, *filters: str) -> builtins.list[SnapshotInfo]:
        """All snapshots of this containerd namespace, or those that match one of `filters` (`labels.foo==bar`)."""
        request = new(v1.ListSnapshotsRequest, snapshotter=snapshotter, filters=builtins.list(filters))
        limit = self._deadlines.list
        parts = await self._calls.listed(_SERVICE + "List", request, v1.ListSnapshotsResponse, limit)
        return [_in(info) for part in parts for info in part.info]

    async def usage(self, snapshotter: str, key: str) -> Usage:
        """Of an active snapshot this walks its files: expensive. Of a committed one it was counted at commit."""
        request = new(v1.UsageRequest, snapshotter=snapshotter, key=key)
        reply = await self._calls.read(_SERVICE + "Usage", request, v1.UsageResponse, self._deadlines.snapshot)
        return Usage(reply.size, reply.inodes)

    async def update(
        self, snapshotter: str, key: str, labels: Mapping[str, str], fieldpaths: Iterable[str] = ("labels",)
    ) -> SnapshotInfo:
        """Change labels: all of them, or those of `fieldpaths` (`labels.KEY`)."""
        info = new(v1.Info, name=key, labels=dict(labels))
        request = new(v1.UpdateSnapshotRequest, snapshotter=snapshotter, info=info, update_mask=mask(fieldpaths))
        reply = await self._calls.write(_SERVICE + "Update", request, v1.UpdateSnapshotResponse, self._deadlines.write)
        return _in(reply.info)


def _in(info: v1.Info | None) -> SnapshotInfo:
    if info is None:
        raise errors.Internal("containerd answered without a snapshot")
    return SnapshotInfo(
        name=info.name,
        parent=info.parent,
        kind=SnapshotKind(int(info.kind)),
        labels=info.labels,
        created_at_ns=timestamp_ns(info.created_at),
        updated_at_ns=timestamp_ns(info.updated_at),
    )
