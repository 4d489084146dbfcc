# SPDX-License-Identifier: Apache-2.0
"""containerd.services.namespaces.v1: containerd's own namespaces. One is made by the first use of its name, too."""

from __future__ import annotations

import builtins
from collections.abc import Mapping

from acri import errors
from acri.containerd.calls import Calls
from acri.containerd.deadlines import Deadlines
from acri.containerd.types import NamespaceInfo
from acri.proto.acri import wkt
from acri.proto.containerd.services.namespaces import v1
from acri.wire import new

__all__ = ["Namespaces"]

_SERVICE = "/containerd.services.namespaces.v1.Namespaces/"


class Namespaces:
    """Errors: NotFound, AlreadyExists, FailedPrecondition to delete one that is not empty."""

    def __init__(self, calls: Calls, deadlines: Deadlines) -> None:
        self._calls = calls
        self._deadlines = deadlines

    async def get(self, name: str) -> NamespaceInfo:
        """One that does not exist is answered without labels (1.6), or is NotFound."""
        request = new(v1.GetNamespaceRequest, name=name)
        reply = await self._calls.read(_SERVICE + "Get", request, v1.GetNamespaceResponse, self._deadlines.read)
        if reply.namespace is None:
            raise errors.Internal("containerd answered without a namespace")
        return NamespaceInfo(reply.namespace.name, reply.namespace.labels)

    async def list(self) -> builtins.list[NamespaceInfo]:
        request = new(v1.ListNamespacesRequest)
        reply = await self._calls.read(_SERVICE + "List", request, v1.ListNamespacesResponse, self._deadlines.list)
        return [NamespaceInfo(n.name, n.labels) for n in reply.namespaces]

    async def create(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        namespace = new(v1.Namespace, name=name, labels=dict(labels or {}))
        request = new(v1.CreateNamespaceRequest, namespace=namespace)
        limit = self._deadlines.write
        await self._calls.write(_SERVICE + "Create", request, v1.CreateNamespaceResponse, limit)

    async def delete(self, name: str) -> None:
        request = new(v1.DeleteNamespaceRequest, name=name)
        await self._calls.write(_SERVICE + "Delete", request, wkt.Empty, self._deadlines.write)
