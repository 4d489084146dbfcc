# SPDX-License-Identifier: Apache-2.0
"""What images and containers take on disk (ImageFsInfo): asked of containerd, which keeps count; no tree is walked.

The sum of all snapshots (layers and containers' own) and of all blobs. A committed snapshot never changes: it is asked
about once. A writable one is measured by containerd walking it, so its figure is kept for `_ACTIVE_AGE_S`; the sum for
`_AGE_S`. A kubelet decides by statfs of the mount point, not by these numbers (cri_stats_provider.go there), but dies
without them and without an existing directory.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path

from acri import errors
from acri.aio.threads import Kind, Threads
from acri.containerd.client import Containerd
from acri.containerd.types import SnapshotKind, Usage

__all__ = ["FsInfo", "FsUsage"]

_AGE_S = 10.0
_ACTIVE_AGE_S = 30.0
_AT_ONCE = 4
_DEFAULT_ROOT = "/var/lib/containerd"


@dataclass(frozen=True, slots=True)
class FsInfo:
    """`timestamp_ns`: when it was measured; `mountpoint`: an existing directory on the file system in question."""

    timestamp_ns: int
    mountpoint: str
    used_bytes: int
    inodes_used: int


class FsUsage:
    """Measures one snapshotter's file system."""

    def __init__(self, containerd: Containerd, threads: Threads, snapshotter: str) -> None:
        self._containerd = containerd
        self._threads = threads
        self._snapshotter = snapshotter
        self._lock = asyncio.Lock()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._info: FsInfo | None = None
        self._measured = 0.0
        self._mountpoint = ""
        self._known: dict[str, tuple[Usage, float]] = {}

    async def get(self) -> FsInfo:
        """At most `_AGE_S` old. Raises `errors.Unavailable` where containerd does not answer."""
        async with self._lock:  # who comes meanwhile gets the same answer
            if self._info is None or time.monotonic() - self._measured > _AGE_S:
                self._info = await self._measure()
                self._measured = time.monotonic()
            return self._info

    async def _measure(self) -> FsInfo:
        if not self._mountpoint:
            self._mountpoint = await self._find_mountpoint()
        snapshots = await self._containerd.snapshots.list(self._snapshotter)
        known = self._known
        self._known = {s.name: known[s.name] for s in snapshots if s.name in known}
        kinds = {s.name: s.kind for s in snapshots}
        await asyncio.gather(*(self._ask(name, kind) for name, kind in kinds.items() if self._is_stale(name, kind)))
        usages = [usage for usage, _ in self._known.values()]
        blobs = await self._containerd.content.list()
        return FsInfo(
            timestamp_ns=time.time_ns(),
            mountpoint=self._mountpoint,
            used_bytes=sum(usage.size for usage in usages) + sum(blob.size for blob in blobs),
            inodes_used=sum(usage.inodes for usage in usages) + len(blobs),
        )

    def _is_stale(self, name: str, kind: SnapshotKind) -> bool:
        kept = self._known.get(name)
        if kept is None:
            return True
        return kind is SnapshotKind.ACTIVE and time.monotonic() - kept[1] > _ACTIVE_AGE_S

    async def _ask(self, name: str, kind: SnapshotKind) -> None:
        async with self._slots:
            try:
                usage = await self._containerd.snapshots.usage(self._snapshotter, name)
            except (errors.NotFound, errors.UnknownError):  # removed meanwhile, or while containerd walked it
                self._known.pop(name, None)
                return
        self._known[name] = (usage, time.monotonic())

    async def _find_mountpoint(self) -> str:
        """The snapshotter's own directory, as containerd tells, else the nearest that exists."""
        candidates: list[str] = []
        for plugin in await self._containerd.introspection.plugins():
            if plugin.type == "io.containerd.snapshotter.v1" and plugin.id == self._snapshotter:
                candidates.insert(0, plugin.exports.get("root", ""))
            elif plugin.type == "io.containerd.content.v1":
                candidates.append(plugin.exports.get("root", ""))
        candidates.append(f"{_DEFAULT_ROOT}/io.containerd.snapshotter.v1.{self._snapshotter}")
        return await self._threads.run(Kind.FILE, _first_directory, candidates)


def _first_directory(candidates: list[str]) -> str:
    for candidate in filter(None, candidates):
        if os.path.isdir(candidate):
            return candidate
    # containerd on another machine's file system, or removed: a parent is on the same device, and exists.
    return str(next(path for path in Path(candidates[-1]).parents if path.is_dir()))
