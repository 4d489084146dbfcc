# SPDX-License-Identifier: Apache-2.0
"""containerd's image records: one for the id, one for the tag or the digest as the whole ecosystem keeps them.

    docker.io/library/x:1          the tag; moves when the tag moves
    docker.io/library/x@sha256:…   the digest of what the tag meant (the index, where there is one)
    sha256:…                       the image id, the configuration's digest

All three point at the same target, so each keeps the image. Records that exist are changed with a field mask: labels of
other programs live on. The labels are containerd's own (`io.cri-containerd.…`), so that its plugin and acri can follow
each other on a node. Changes go through here, and the catalog follows at once: a list after a pull shows the image.
"""

from __future__ import annotations

from collections.abc import Collection

import structlog

from acri import errors
from acri.containerd.client import Containerd
from acri.containerd.types import Descriptor as Target
from acri.containerd.types import ImageObject
from acri.images import reference
from acri.images.catalog import Catalog, Content
from acri.images.contents import Contents
from acri.images.locks import KeyedLocks
from acri.images.manifest import Descriptor
from acri.images.reference import Reference

__all__ = ["Records"]

MANAGED = "io.cri-containerd.image"
PINNED = "io.cri-containerd.pinned"

log = structlog.get_logger(__name__)


class Records:
    """The one place that changes image records.

    Args:
        pinned: references that the kubelet's garbage collection must leave alone, as users write them.
    """

    def __init__(self, containerd: Containerd, catalog: Catalog, contents: Contents, pinned: Collection[str]) -> None:
        self._images = containerd.images
        self._catalog = catalog
        self._contents = contents
        self._pinned = {reference.parse(text).canonical for text in pinned}
        self._locks = KeyedLocks()
        self._changes: dict[str, int] = {}

    async def load(self) -> None:
        """Read all records. One that acri changes meanwhile is newer than what was read, and stays."""
        before = dict(self._changes)
        records = {record.name: record for record in await self._images.list()}
        for name in {*self._catalog.names(), *records}:
            if self._changes.get(name) != before.get(name):
                continue
            if name in records:
                await self._take(records[name])
            else:
                self._catalog.discard(name)

    async def refresh(self, name: str) -> None:
        """Read one record anew: some program has changed it."""
        for _ in range(3):
            before = self._changes.get(name)
            try:
                record = await self._images.get(name)
            except errors.NotFound:
                if self._changes.get(name) == before:
                    self._catalog.discard(name)
                    return
                continue
            if self._changes.get(name) == before:  # else acri itself has changed it meanwhile: look again
                await self._take(record)
                return

    async def write(self, wanted: Reference, target: Descriptor, content: Content, made: list[str]) -> None:
        """Name a whole image: by its id, by digest, and by the tag that was asked for.

        Args:
            made: the names of records that there were not before are added to it, for `withdraw`.
        """
        names = [content.image_id, wanted.with_digest(target.digest).canonical]
        if not wanted.digest:
            names.append(wanted.canonical)
        async with self._locks.hold(content.image_id):
            for name in names:
                if await self._set(name, target, content, pinned=wanted.canonical in self._pinned):
                    made.append(name)

    async def withdraw(self, made: list[str]) -> None:
        """The undo of `write`."""
        while made:
            await self._delete(made[-1], sync=False)
            made.pop()

    async def remove(self, image_id: str) -> None:
        """Take all names of an image away; the last deletion waits until containerd has freed what they held."""
        async with self._locks.hold(image_id):
            while names := self._catalog.names_of(image_id):
                await self._delete(names[0], sync=len(names) == 1)

    async def _take(self, record: ImageObject) -> None:
        """Put a record that was read into the catalog; give its image an id record if it has none."""
        if record.target is None:
            return
        content = self._catalog.content_of_target(record.target.digest)
        target = Descriptor(record.target.media_type, record.target.digest, record.target.size)
        if content is None:
            try:
                content = (await self._contents.read(target)).content()
            except (errors.NotFound, errors.ImagePullError, errors.ResourceExhausted) as error:
                # Not whole, or not for this platform: for the kubelet it is not here, and a pull repairs it.
                log.debug("image record is left out", image=record.name, reason=error.message)
                self._catalog.discard(record.name)
                return
        pinned = record.labels.get(PINNED) == "pinned" or record.name in self._pinned
        self._catalog.put(record.name, content, pinned=pinned)
        if content.image_id not in self._catalog.names_of(content.image_id):
            async with self._locks.hold(content.image_id):
                await self._set(content.image_id, target, content, pinned=pinned)

    async def _delete(self, name: str, *, sync: bool) -> None:
        try:
            await self._images.delete(name, sync=sync)
        except errors.NotFound:
            pass
        self._changed(name)
        self._catalog.discard(name)

    async def _set(self, name: str, target: Descriptor, content: Content, *, pinned: bool) -> bool:
        """Create the record, or change its target and acri's labels on it. True if there was none."""
        labels = {MANAGED: "managed"} | ({PINNED: "pinned"} if pinned else {})
        value = ImageObject(name, Target(target.media_type, target.digest, target.size), labels)
        created = True
        try:
            await self._images.create(value)
        except errors.AlreadyExists:
            created = False
            await self._images.update(value, ["target", *(f"labels.{key}" for key in labels)])
        self._changed(name)
        self._catalog.put(name, content, pinned=pinned)
        return created

    def _changed(self, name: str) -> None:
        self._changes[name] = self._changes.get(name, 0) + 1
