# SPDX-License-Identifier: Apache-2.0
"""Layers into snapshots, through containerd's snapshots and diff services.

    per layer, bottom first:   prepare(extract-… on its parent) ─▶ diff.apply ─▶ diff id right? ─▶ commit(chain id)
                                  └─ the chain id is there already ─▶ leased, next

The snapshot of a chain id holds that layer and all below, so a snapshot that is there says that those below are, too.
Two pulls that want the same chain id do it once. An extract snapshot that is given up goes with the pull's lease.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence

from acri import errors
from acri.containerd.client import Containerd
from acri.containerd.types import UNCOMPRESSED, LeaseResource
from acri.containerd.types import Descriptor as Blob
from acri.images.locks import KeyedLocks
from acri.images.manifest import Descriptor, chain_ids

__all__ = ["Unpacker"]

_SNAPSHOT_REF = "containerd.io/snapshot.ref"


class Unpacker:
    """Unpacks for all pulls of the daemon."""

    def __init__(self, containerd: Containerd) -> None:
        self._containerd = containerd
        self._locks = KeyedLocks()

    async def present(self, snapshotter: str, diff_ids: Sequence[str]) -> int:
        """How many layers, from the bottom, are unpacked already. A few looks, however many layers there are."""
        chain = chain_ids(diff_ids)
        low, high = 0, len(chain)
        if high and await self._exists(snapshotter, chain[-1]):  # the usual case of an image pulled again
            return high
        while low < high:
            middle = (low + high) // 2
            if await self._exists(snapshotter, chain[middle]):
                low = middle + 1
            else:
                high = middle
        return low

    async def unpack(
        self,
        snapshotter: str,
        layers: Sequence[Descriptor],
        diff_ids: Sequence[str],
        *,
        start: int,
        lease: str,
        ready: Callable[[int], Awaitable[object]],
    ) -> None:
        """Have the snapshots of all chain ids, held by `lease`.

        Args:
            start: how many layers are unpacked already (`present`).
            ready: waits until layer N is in the content store.

        Raises:
            errors.ImagePullError: a layer is not what the configuration says.
            errors.AcriError: containerd cannot unpack it.
        """
        chain = chain_ids(diff_ids)
        if start:
            await self._hold(snapshotter, chain[start - 1], lease)  # a snapshot keeps those below
        for at in range(start, len(chain)):
            await ready(at)
            async with self._locks.hold((snapshotter, chain[at])):
                parent = chain[at - 1] if at else ""
                await self._layer(snapshotter, layers[at], diff_ids[at], chain[at], parent, lease)
        unpacked = {layers[at].digest: diff_ids[at] for at in range(start, len(chain))}
        await asyncio.gather(*(self._mark_unpacked(digest, diff_id) for digest, diff_id in unpacked.items()))

    async def _layer(
        self, snapshotter: str, layer: Descriptor, diff_id: str, chain_id: str, parent: str, lease: str
    ) -> None:
        snapshots = self._containerd.snapshots
        key = f"extract-acri-{secrets.token_hex(6)} {chain_id}"
        labels = {_SNAPSHOT_REF: chain_id}  # makes containerd refuse to prepare what is there already
        try:
            mounts = await snapshots.prepare(snapshotter, key, parent, labels, lease=lease)
        except errors.AlreadyExists:  # another pull was faster, or a snapshotter has it elsewhere
            await self._hold(snapshotter, chain_id, lease)
            return
        blob = Blob(layer.media_type, layer.digest, layer.size)
        try:
            applied = await self._containerd.diff.apply(blob, mounts, lease=lease)
            if applied.digest != diff_id:
                raise errors.ImagePullError(
                    f"layer {layer.digest} unpacks to {applied.digest}, but its image's configuration says {diff_id}"
                )
            await snapshots.commit(snapshotter, chain_id, key, labels, lease=lease)
        except errors.AlreadyExists:
            await snapshots.remove(snapshotter, key)
            await self._hold(snapshotter, chain_id, lease)
        except errors.AcriError:
            await self._discard(snapshotter, key)
            raise

    async def _mark_unpacked(self, digest: str, diff_id: str) -> None:
        """What containerd's own tools look for. Only now: the configuration's word was not yet proven before."""
        try:
            await self._containerd.content.update(digest, {UNCOMPRESSED: diff_id}, [f"labels.{UNCOMPRESSED}"])
        except errors.NotFound:
            pass

    async def _exists(self, snapshotter: str, chain_id: str) -> bool:
        try:
            await self._containerd.snapshots.stat(snapshotter, chain_id)
        except errors.NotFound:
            return False
        return True

    async def _hold(self, snapshotter: str, chain_id: str, lease: str) -> None:
        await self._containerd.leases.add_resource(lease, LeaseResource(chain_id, f"snapshots/{snapshotter}"))

    async def _discard(self, snapshotter: str, key: str) -> None:
        try:
            await self._containerd.snapshots.remove(snapshotter, key)
        except errors.AcriError:
            pass  # it is leased: it goes with the lease
