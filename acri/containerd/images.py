# SPDX-License-Identifier: Apache-2.0
"""containerd.services.images.v1: names for blobs."""

from __future__ import annotations

import builtins
from collections.abc import Iterable

from acri import errors
from acri.containerd.calls import Calls
from acri.containerd.convert import descriptor_in, descriptor_out, mask
from acri.containerd.deadlines import Deadlines
from acri.containerd.types import ImageObject
from acri.proto.acri import wkt
from acri.proto.containerd import types as wire
from acri.proto.containerd.services.images import v1
from acri.wire import new
from acri.wire.wellknown import timestamp_ns

__all__ = ["Images"]

_SERVICE = "/containerd.services.images.v1.Images/"


class Images:
    """Errors: NotFound for an unknown name, AlreadyExists at create. An image keeps its blobs from the collector."""

    def __init__(self, calls: Calls, deadlines: Deadlines) -> None:
        self._calls = calls
        self._deadlines = deadlines

    async def get(self, name: str) -> ImageObject:
        request = new(v1.GetImageRequest, name=name)
        reply = await self._calls.read(_SERVICE + "Get", request, v1.GetImageResponse, self._deadlines.read)
        return _in(reply.image)

    async def list(self, *filters: str) -> builtins.list[ImageObject]:
        """All images of this containerd namespace, or those that match one of `filters` (`name==…`)."""
        request = new(v1.ListImagesRequest, filters=builtins.list(filters))
        reply = await self._calls.read(_SERVICE + "List", request, v1.ListImagesResponse, self._deadlines.list)
        return [_in(image) for image in reply.images]

    async def create(self, value: ImageObject, *, lease: str | None = None) -> ImageObject:
        request = new(v1.CreateImageRequest, image=_out(value))
        limit = self._deadlines.write
        reply = await self._calls.write(_SERVICE + "Create", request, v1.CreateImageResponse, limit, lease)
        return _in(reply.image)

    async def update(
        self, value: ImageObject, fieldpaths: Iterable[str] = (), *, lease: str | None = None
    ) -> ImageObject:
        """Replace `target`, `labels` or single `labels.KEY`; other labels live on. Without paths: all of them."""
        request = new(v1.UpdateImageRequest, image=_out(value), update_mask=mask(fieldpaths))
        limit = self._deadlines.write
        reply = await self._calls.write(_SERVICE + "Update", request, v1.UpdateImageResponse, limit, lease)
        return _in(reply.image)

    async def delete(self, name: str, *, sync: bool = False) -> None:
        """`sync`: wait for the garbage collection that this makes possible."""
        request = new(v1.DeleteImageRequest, name=name, sync=sync)
        limit = self._deadlines.collect if sync else self._deadlines.write
        await self._calls.write(_SERVICE + "Delete", request, wkt.Empty, limit)


def _in(image: v1.Image | None) -> ImageObject:
    if image is None:
        raise errors.Internal("containerd answered without an image")
    return ImageObject(
        name=image.name,
        target=descriptor_in(image.target),
        labels=image.labels,
        created_at_ns=timestamp_ns(image.created_at),
        updated_at_ns=timestamp_ns(image.updated_at),
    )


def _out(value: ImageObject) -> v1.Image:
    # Never without a target: containerd 1.7 looks into it unasked and ends with a panic.
    target = descriptor_out(value.target) or new(wire.Descriptor)
    return new(v1.Image, name=value.name, labels=dict(value.labels), target=target)
