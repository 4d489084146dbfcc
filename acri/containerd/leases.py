# SPDX-License-Identifier: Apache-2.0
"""containerd.services.leases.v1: what the garbage collector must not touch yet.

Whatever is made with `lease=ID` stays until the lease is deleted or expires. A lease without an expiry outlives a
crashed acri; `lease` therefore sets one always.
"""

from __future__ import annotations

import builtins
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import structlog

from acri import errors
from acri.containerd.calls import Calls
from acri.containerd.deadlines import Deadlines
from acri.containerd.types import GC_EXPIRE, LeaseInfo, LeaseResource
from acri.proto.acri import wkt
from acri.proto.containerd.services.leases import v1
from acri.wire import new
from acri.wire.wellknown import timestamp_ns

__all__ = ["Leases", "expiry"]

_SERVICE = "/containerd.services.leases.v1.Leases/"

log = structlog.get_logger(__name__)


def expiry(seconds: float) -> str:
    """The value of `containerd.io/gc.expire` for so many seconds from now: RFC 3339, UTC, whole seconds."""
    return datetime.fromtimestamp(int(time.time() + seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Leases:
    """Errors: NotFound, AlreadyExists."""

    def __init__(self, calls: Calls, deadlines: Deadlines) -> None:
        self._calls = calls
        self._deadlines = deadlines

    async def create(
        self, lease_id: str, labels: Mapping[str, str] | None = None, *, expire_s: float | None = None
    ) -> LeaseInfo:
        """`expire_s`: seconds from now after which it ends by itself; None: never."""
        wanted = dict(labels or {})
        if expire_s is not None:
            wanted[GC_EXPIRE] = expiry(expire_s)
        request = new(v1.CreateRequest, id=lease_id, labels=wanted)
        reply = await self._calls.write(_SERVICE + "Create", request, v1.CreateResponse, self._deadlines.write)
        if reply.lease is None:
            raise errors.Internal("containerd answered without a lease")
        return _in(reply.lease)

    async def delete(self, lease_id: str, *, sync: bool = False) -> None:
        """`sync`: wait for the garbage collection that this makes possible."""
        request = new(v1.DeleteRequest, id=lease_id, sync=sync)
        limit = self._deadlines.collect if sync else self._deadlines.write
        await self._calls.write(_SERVICE + "Delete", request, wkt.Empty, limit)

    async def list(self, *filters: str) -> builtins.list[LeaseInfo]:
        """All leases of this containerd namespace, or those that match one of `filters`."""
        request = new(v1.ListRequest, filters=builtins.list(filters))
        reply = await self._calls.read(_SERVICE + "List", request, v1.ListResponse, self._deadlines.list)
        return [_in(lease) for lease in reply.leases]

    async def add_resource(self, lease_id: str, resource: LeaseResource) -> None:
        held = new(v1.Resource, id=resource.id, type=resource.type)
        request = new(v1.AddResourceRequest, id=lease_id, resource=held)
        await self._calls.write(_SERVICE + "AddResource", request, wkt.Empty, self._deadlines.write)

    async def delete_resource(self, lease_id: str, resource: LeaseResource) -> None:
        held = new(v1.Resource, id=resource.id, type=resource.type)
        request = new(v1.DeleteResourceRequest, id=lease_id, resource=held)
        await self._calls.write(_SERVICE + "DeleteResource", request, wkt.Empty, self._deadlines.write)

    async def resources(self, lease_id: str) -> tuple[LeaseResource, ...]:
        """What the lease holds."""
        request = new(v1.ListResourcesRequest, id=lease_id)
        limit = self._deadlines.read
        reply = await self._calls.read(_SERVICE + "ListResources", request, v1.ListResourcesResponse, limit)
        return tuple(LeaseResource(r.id, r.type) for r in reply.resources)

    @asynccontextmanager
    async def lease(self, lease_id: str | None = None, *, expire_s: float = 24 * 3600.0) -> AsyncIterator[str]:
        """A lease for the block, deleted after it; gives its id. One that is there already is used (and deleted).

        If it cannot be deleted, that is logged: it then ends by itself.
        """
        name = lease_id or f"acri-{secrets.token_hex(8)}"
        try:
            await self.create(name, expire_s=expire_s)
        except errors.AlreadyExists:
            if lease_id is None:
                raise
        try:
            yield name
        finally:
            try:
                await self.delete(name)
            except errors.NotFound:
                pass
            except errors.AcriError as error:
                log.warning("lease left to expire", lease=name, expire_s=expire_s, error=error.message)


def _in(lease: v1.Lease) -> LeaseInfo:
    return LeaseInfo(lease.id, timestamp_ns(lease.created_at), lease.labels)
