# SPDX-License-Identifier: Apache-2.0
"""Parts that several services share, between the wire and `types`."""

from __future__ import annotations

from collections.abc import Iterable

from acri.containerd.types import AnyValue, Descriptor, Mount
from acri.proto.acri import wkt
from acri.proto.containerd import types as wire
from acri.wire import new

__all__ = ["any_in", "any_out", "descriptor_in", "descriptor_out", "mask", "mounts_in", "mounts_out"]


def any_out(value: AnyValue | None) -> wkt.Any | None:
    return None if value is None else new(wkt.Any, type_url=value.type_url, value=value.value)


def any_in(value: wkt.Any | None) -> AnyValue | None:
    return None if value is None else AnyValue(value.type_url, value.value)


def mounts_out(mounts: Iterable[Mount]) -> list[wire.Mount]:
    return [new(wire.Mount, type=m.type, source=m.source, target=m.target, options=list(m.options)) for m in mounts]


def mounts_in(mounts: Iterable[wire.Mount]) -> tuple[Mount, ...]:
    return tuple(Mount(m.type, m.source, m.target, tuple(m.options)) for m in mounts)


def descriptor_out(value: Descriptor | None) -> wire.Descriptor | None:
    if value is None:
        return None
    annotations = dict(value.annotations)
    return new(
        wire.Descriptor, media_type=value.media_type, digest=value.digest, size=value.size, annotations=annotations
    )


def descriptor_in(value: wire.Descriptor | None) -> Descriptor | None:
    return None if value is None else Descriptor(value.media_type, value.digest, value.size, value.annotations)


def mask(paths: Iterable[str]) -> wkt.FieldMask | None:
    """A field mask; None (replace all that may change) for no paths."""
    listed = list(paths)
    return new(wkt.FieldMask, paths=listed) if listed else None
