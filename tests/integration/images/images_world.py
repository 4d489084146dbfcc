# SPDX-License-Identifier: Apache-2.0
"""What a test of the images room works with: an ImageService on a containerd namespace of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from acri.aio.operation import Operations
from acri.containerd.client import Containerd
from acri.images.service import ImageService

__all__ = ["World"]


@dataclass
class World:
    """An ImageService over a containerd namespace of its own, and the means to look behind it."""

    containerd: Containerd
    operations: Operations
    images: ImageService
    again: Callable[..., ImageService]
    """Another service over the same containerd, as after a restart."""

    async def names(self) -> set[str]:
        return {record.name for record in await self.containerd.images.list()}

    async def leftovers(self) -> list[Any]:
        """What a pull must never leave: leases, writes under way."""
        return [*await self.containerd.leases.list(), *await self.containerd.content.statuses()]

    async def everything(self) -> list[Any]:
        c = self.containerd
        parts = [await c.images.list(), await c.content.list(), await c.snapshots.list("overlayfs")]
        return [item for part in parts for item in part] + await self.leftovers()

    async def collect(self) -> None:
        """Make containerd collect garbage now."""
        await self.containerd.leases.create("collect")
        await self.containerd.leases.delete("collect", sync=True)
