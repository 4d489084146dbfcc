# SPDX-License-Identifier: Apache-2.0
"""containerd.services.containers.v1: container records."""

from __future__ import annotations

from collections.abc import Iterable

from acri import errors
from acri.containerd.calls import Calls
from acri.containerd.convert import any_in, any_out, mask
from acri.containerd.deadlines import Deadlines
from acri.containerd.types import AnyValue, ContainerObject
from acri.proto.acri import wkt
from acri.proto.containerd.services.containers import v1
from acri.wire import new
from acri.wire.wellknown import timestamp_ns

__all__ = ["Containers"]

_SERVICE = "/containerd.services.containers.v1.Containers/"


class Containers:
    """Errors: NotFound for an unknown id, AlreadyExists at create, InvalidArgument for what containerd refuses."""

    def __init__(self, calls: Calls, deadlines: Deadlines) -> None:
        self._calls = calls
        self._deadlines = deadlines

    async def get(self, container_id: str) -> ContainerObject:
        request = new(v1.GetContainerRequest, id=container_id)
        reply = await self._calls.read(_SERVICE + "Get", request, v1.GetContainerResponse, self._deadlines.read)
        return _in(_present(reply.container))

    async def list(self, *filters: str) -> list[ContainerObject]:
        """All records, or those that match one of `filters` (containerd's syntax: `labels."io.acri.kind"==sandbox`).

        Streamed where containerd can: one message of 16 MiB holds only some hundred records with their specs.
        """
        request = new(v1.ListContainersRequest, filters=list(filters))
        limit = self._deadlines.list
        try:
            parts = await self._calls.listed(_SERVICE + "ListStream", request, v1.ListContainerMessage, limit)
        except errors.Unimplemented:
            reply = await self._calls.read(_SERVICE + "List", request, v1.ListContainersResponse, limit)
            return [_in(c) for c in reply.containers]
        return [_in(_present(part.container)) for part in parts]

    async def create(self, value: ContainerObject, *, lease: str | None = None) -> ContainerObject:
        """Needs `spec` and `runtime_name`. Label keys and values: at most 4,096 bytes together."""
        request = new(v1.CreateContainerRequest, container=_out(value))
        limit = self._deadlines.write
        reply = await self._calls.write(_SERVICE + "Create", request, v1.CreateContainerResponse, limit, lease)
        return _in(_present(reply.container))

    async def update(
        self, value: ContainerObject, fieldpaths: Iterable[str] = (), *, lease: str | None = None
    ) -> ContainerObject:
        """Replace the fields that `fieldpaths` name: labels, spec, extensions, image, snapshot_key, runtime, or one
        entry, as `labels.KEY` or `extensions.KEY`; one that `value` has not is removed. Without paths: all that may
        change."""
        request = new(v1.UpdateContainerRequest, container=_out(value), update_mask=mask(fieldpaths))
        limit = self._deadlines.write
        reply = await self._calls.write(_SERVICE + "Update", request, v1.UpdateContainerResponse, limit, lease)
        return _in(_present(reply.container))

    async def delete(self, container_id: str) -> None:
        """The record only; its task and its snapshot stay."""
        request = new(v1.DeleteContainerRequest, id=container_id)
        await self._calls.write(_SERVICE + "Delete", request, wkt.Empty, self._deadlines.write)


def _present(container: v1.Container | None) -> v1.Container:
    if container is None:
        raise errors.Internal("containerd answered without a container")
    return container


def _in(c: v1.Container) -> ContainerObject:
    runtime = c.runtime
    return ContainerObject(
        id=c.id,
        labels=c.labels,
        image=c.image,
        runtime_name=runtime.name if runtime is not None else "",
        runtime_options=any_in(runtime.options) if runtime is not None else None,
        spec=any_in(c.spec),
        snapshotter=c.snapshotter,
        snapshot_key=c.snapshot_key,
        created_at_ns=timestamp_ns(c.created_at),
        updated_at_ns=timestamp_ns(c.updated_at),
        extensions={key: AnyValue(value.type_url, value.value) for key, value in c.extensions.items()},
    )


def _out(value: ContainerObject) -> v1.Container:
    runtime = None
    if value.runtime_name:
        runtime = new(v1.ContainerRuntime, name=value.runtime_name, options=any_out(value.runtime_options))
    return new(
        v1.Container,
        id=value.id,
        labels=dict(value.labels),
        image=value.image,
        runtime=runtime,
        spec=any_out(value.spec),
        snapshotter=value.snapshotter,
        snapshot_key=value.snapshot_key,
        extensions={key: new(wkt.Any, type_url=v.type_url, value=v.value) for key, v in value.extensions.items()},
    )
