# SPDX-License-Identifier: Apache-2.0
"""containerd.services.diff.v1: layer blobs onto mounted trees, and back."""

from __future__ import annotations

from collections.abc import Iterable

from acri import errors
from acri.containerd.calls import Calls
from acri.containerd.convert import descriptor_in, descriptor_out, mounts_out
from acri.containerd.deadlines import Deadlines
from acri.containerd.types import Descriptor, Mount
from acri.proto.containerd.services.diff import v1
from acri.wire import new

__all__ = ["Diff"]

_SERVICE = "/containerd.services.diff.v1.Diff/"


class Diff:
    def __init__(self, calls: Calls, deadlines: Deadlines) -> None:
        self._calls = calls
        self._deadlines = deadlines

    async def apply(
        self, layer: Descriptor, mounts: Iterable[Mount], *, sync: bool = False, lease: str | None = None
    ) -> Descriptor:
        """Unpack the layer (its blob is in the content store) onto the mounts of an active snapshot.

        Answers the descriptor of the uncompressed tar: its digest is the layer's diff id.

        Args:
            sync: flush the file system before answering (late 1.7 and later).
        """
        request = new(v1.ApplyRequest, diff=descriptor_out(layer), mounts=mounts_out(mounts), sync_fs=sync)
        limit = self._deadlines.apply
        reply = await self._calls.write(_SERVICE + "Apply", request, v1.ApplyResponse, limit, lease)
        return _required(descriptor_in(reply.applied))

    async def diff(
        self,
        lower: Iterable[Mount],
        upper: Iterable[Mount],
        *,
        media_type: str = "application/vnd.oci.image.layer.v1.tar+gzip",
        ref: str = "",
        lease: str | None = None,
    ) -> Descriptor:
        """Write what `upper` has over `lower` as a layer blob."""
        request = new(v1.DiffRequest, left=mounts_out(lower), right=mounts_out(upper), media_type=media_type, ref=ref)
        limit = self._deadlines.apply
        reply = await self._calls.write(_SERVICE + "Diff", request, v1.DiffResponse, limit, lease)
        return _required(descriptor_in(reply.diff))


def _required(value: Descriptor | None) -> Descriptor:
    if value is None:
        raise errors.Internal("containerd answered without a descriptor")
    return value
