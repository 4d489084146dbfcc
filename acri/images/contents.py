# SPDX-License-Identifier: Apache-2.0
"""Image blobs in containerd's content store: small ones read whole and written with the labels that keep the others.

Labels that containerd's garbage collector follows (docs/garbage-collection.md there):

    index ──gc.ref.content.m.…──▶ manifest ─┬─gc.ref.content.config──▶ config ──gc.ref.snapshot.NAME──▶ top snapshot
                                            └─gc.ref.content.l.N─────▶ layers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from acri import errors
from acri.containerd.client import Containerd
from acri.containerd.types import GC_REF_CONTENT, GC_REF_SNAPSHOT
from acri.images import manifest
from acri.images.catalog import Content
from acri.images.manifest import Descriptor, Index, Manifest
from acri.images.platforms import Platform
from acri.model.image import ImageConfig

__all__ = ["MAX_NESTING", "Contents", "Parts", "content_labels", "snapshot_label"]

MAX_NESTING = 3
"""Indexes in indexes."""


@dataclass(frozen=True, slots=True)
class Parts:
    """One image on one platform: `path` leads from the target over indexes to the manifest, the last."""

    path: tuple[Descriptor, ...]
    manifest: Manifest
    config: ImageConfig

    def content(self) -> Content:
        """What the catalog keeps of it."""
        # A layer that is in the manifest twice is one blob.
        blobs = {d.digest: d.size for d in (*self.path, self.manifest.config, *self.manifest.layers)}
        chain = manifest.chain_ids(self.config.diff_ids)
        return Content(
            target_digest=self.path[0].digest,
            manifest_digest=self.path[-1].digest,
            image_id=self.manifest.config.digest,
            size=sum(blobs.values()),
            chain_id=chain[-1] if chain else "",
            config=self.config,
        )


class Contents:
    """Reads and writes manifests and configurations."""

    def __init__(self, containerd: Containerd, platform: Platform) -> None:
        self._content = containerd.content
        self._platform = platform

    async def read(self, target: Descriptor) -> Parts:
        """The image that `target` leads to.

        Raises:
            errors.NotFound: a blob is missing: the image is not whole, or not here for this platform.
            errors.ImagePullError: it is no image that acri can run.
        """
        path = [target]
        for _ in range(MAX_NESTING + 1):
            data = await self._content.read_all(path[-1].digest, manifest.MAX_BYTES)
            found = manifest.parse(data, path[-1].media_type)
            if isinstance(found, Manifest):
                config = await self._content.read_all(found.config.digest, manifest.MAX_CONFIG_BYTES)
                return Parts(tuple(path), found, manifest.parse_config(config))
            path.append(manifest.select(found, self._platform))
        raise errors.ImagePullError(f"indexes are nested more than {MAX_NESTING} deep")

    async def find(self, digest: str, limit: int) -> bytes | None:
        """A blob's bytes, None if it is not here."""
        try:
            return await self._content.read_all(digest, limit)
        except errors.NotFound:
            return None

    async def put(self, ref: str, data: bytes, digest: str, labels: Mapping[str, str], lease: str) -> None:
        """Have a small blob in the store, held by `lease`, with these labels (others that it has live on)."""
        try:
            async with self._content.write(ref, total=len(data), expected=digest, lease=lease) as writer:
                if writer.offset < len(data):
                    await writer.write(memoryview(data)[writer.offset :])
                await writer.commit(len(data), labels=labels)
        except errors.AlreadyExists:
            if labels:
                await self._content.update(digest, labels, [f"labels.{key}" for key in labels])


def content_labels(found: Manifest | Index, chosen: Sequence[Descriptor] = ()) -> dict[str, str]:
    """The labels that make a manifest keep its parts, an index those of its manifests that were `chosen`."""
    if isinstance(found, Index):
        # Keys by digest, not by number: another program may have fetched another platform of this index.
        return {f"{GC_REF_CONTENT}.m.{d.digest[-12:]}": d.digest for d in chosen}
    labels = {f"{GC_REF_CONTENT}.l.{n}": d.digest for n, d in enumerate(found.layers)}
    return {f"{GC_REF_CONTENT}.config": found.config.digest, **labels}


def snapshot_label(snapshotter: str, chain_id: str) -> dict[str, str]:
    """The label that makes a configuration keep the unpacked image."""
    return {f"{GC_REF_SNAPSHOT}.{snapshotter}": chain_id} if chain_id else {}
