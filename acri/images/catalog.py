# SPDX-License-Identifier: Apache-2.0
"""What images are here, in memory: an index over containerd's image records, never the truth itself.

    record name ──▶ target digest ──▶ Content (what the blobs say; never changes) ──▶ image id
                                                         image id ──▶ Image with the tags and digests of all its records

Records of several registries with the same configuration are one Image, as a kubelet expects of one id.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from acri import errors
from acri.images import reference
from acri.model.image import Image, ImageConfig

__all__ = ["Catalog", "Content"]


@dataclass(frozen=True, slots=True)
class Content:
    """What a record's target leads to on this platform. `size`: bytes of all its blobs, compressed."""

    target_digest: str
    manifest_digest: str
    image_id: str
    size: int
    chain_id: str
    config: ImageConfig


@dataclass(frozen=True, slots=True)
class _Record:
    content: Content
    pinned: bool


class Catalog:
    """Images by id, id prefix and name."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._names: dict[str, set[str]] = {}
        self._images: dict[str, Image] = {}
        self._contents: dict[str, Content] = {}

    def put(self, name: str, content: Content, *, pinned: bool) -> None:
        """A record `name` leads to `content` now, wherever it led before."""
        before = self._records.get(name)
        self._records[name] = _Record(content, pinned)
        if before is not None and before.content.image_id != content.image_id:
            self._unlink(before.content.image_id, name)
        self._names.setdefault(content.image_id, set()).add(name)
        self._contents[content.target_digest] = content
        self._rebuild(content.image_id)

    def discard(self, name: str) -> None:
        """There is no record `name` any more."""
        record = self._records.pop(name, None)
        if record is not None:
            self._unlink(record.content.image_id, name)
            if not any(other.content.target_digest == record.content.target_digest for other in self._records.values()):
                self._contents.pop(record.content.target_digest, None)

    def content_of_target(self, digest: str) -> Content | None:
        """What a target is known to lead to, so that it need not be read again."""
        return self._contents.get(digest)

    def names(self) -> list[str]:
        """Names of all records."""
        return list(self._records)

    def names_of(self, image_id: str) -> list[str]:
        """Names of all records of an image, its own id last."""
        return sorted(self._names.get(image_id, ()), key=lambda name: (name == image_id, name))

    def list(self) -> Iterable[Image]:
        """All images."""
        return list(self._images.values())

    def get(self, image_id: str) -> Image | None:
        """The image with exactly this id."""
        return self._images.get(image_id)

    def find(self, text: str) -> Image | None:
        """The image that a user means: an id, a tag, a digest or a prefix of an id. None if it is not here.

        Raises:
            errors.InvalidArgument: a prefix of several ids, or neither a reference nor an id.
        """
        if reference.is_image_id(text):
            return self._images.get(text)
        prefix = reference.short_id(text)
        try:
            wanted = reference.parse(text)
        except errors.InvalidArgument:
            if prefix is None:
                raise
        else:
            found = self._by_reference(wanted)
            if found is not None:
                return found
        return self._by_prefix(prefix) if prefix else None

    def _by_reference(self, wanted: reference.Reference) -> Image | None:
        record = self._records.get(wanted.canonical)
        if record is None and wanted.digest:
            # An imported image has only a tag: the same repository and digest mean it all the same.
            record = next((r for name, r in self._records.items() if _is_of(name, r.content, wanted)), None)
        return self._images.get(record.content.image_id) if record else None

    def _by_prefix(self, prefix: str) -> Image | None:
        matches = [image for image_id, image in self._images.items() if image_id.startswith(f"sha256:{prefix}")]
        if len(matches) > 1:
            raise errors.InvalidArgument(f"image id {prefix!r} is ambiguous: give more of it")
        return matches[0] if matches else None

    def _unlink(self, image_id: str, name: str) -> None:
        names = self._names.get(image_id)
        if names is None:
            return
        names.discard(name)
        self._rebuild(image_id)

    def _rebuild(self, image_id: str) -> None:
        names = sorted(self._names.get(image_id, ()))
        if not names:
            self._names.pop(image_id, None)
            self._images.pop(image_id, None)
            return
        parsed = [r for r in map(reference.parse_record_name, names) if r is not None]
        records = [self._records[name] for name in names]
        content = records[0].content
        self._images[image_id] = Image(
            id=image_id,
            repo_tags=tuple(r.canonical for r in parsed if not r.digest),
            repo_digests=tuple(r.canonical for r in parsed if r.digest),
            size=content.size,
            chain_id=content.chain_id,
            config=content.config,
            manifest_digest=content.manifest_digest,
            pinned=any(record.pinned for record in records),
        )


def _is_of(name: str, content: Content, wanted: reference.Reference) -> bool:
    if wanted.digest not in (content.target_digest, content.manifest_digest):
        return False
    record = reference.parse_record_name(name)
    return record is not None and record.name == wanted.name
