# SPDX-License-Identifier: Apache-2.0
"""containerd.services.introspection.v1 and .version.v1: who answers, and what it can do."""

from __future__ import annotations

import builtins
from typing import Any

from acri import errors
from acri.containerd.calls import Calls
from acri.containerd.deadlines import Deadlines
from acri.containerd.types import AnyValue, PluginInfo, ServerInfo, VersionInfo
from acri.proto.acri import wkt
from acri.proto.containerd import types as wire
from acri.proto.containerd.services.introspection import v1
from acri.proto.containerd.services.version import v1 as version_v1
from acri.wire import WireError, decode, encode, new

__all__ = ["Introspection"]

_SERVICE = "/containerd.services.introspection.v1.Introspection/"
_RUNTIME_REQUEST = "containerd.types.RuntimeRequest"


class Introspection:
    def __init__(self, calls: Calls, deadlines: Deadlines) -> None:
        self._calls = calls
        self._deadlines = deadlines

    async def version(self) -> VersionInfo:
        path = "/containerd.services.version.v1.Version/Version"
        reply = await self._calls.read(path, new(wkt.Empty), version_v1.VersionResponse, self._deadlines.version)
        return VersionInfo(reply.version, reply.revision)

    async def plugins(self, *filters: str) -> builtins.list[PluginInfo]:
        """What is loaded, or what matches one of `filters` (`type==io.containerd.snapshotter.v1,id==overlayfs`)."""
        request = new(v1.PluginsRequest, filters=list(filters))
        reply = await self._calls.read(_SERVICE + "Plugins", request, v1.PluginsResponse, self._deadlines.read)
        return [_plugin(p) for p in reply.plugins]

    async def server(self) -> ServerInfo:
        path, limit = _SERVICE + "Server", self._deadlines.read
        reply = await self._calls.read(path, new(wkt.Empty), v1.ServerResponse, limit)
        warnings: list[Any] = [*reply.deprecations]  # mypy takes the class for the built-in of the same name
        return ServerInfo(reply.uuid, reply.pid, {w.id: w.message for w in warnings})

    async def runtime_features(self, runtime: str, options: AnyValue | None = None) -> bytes | None:
        """What `runc features` says, JSON; None where the shim does not say. Needs containerd 2.0.

        Args:
            runtime: the shim's type ("io.containerd.runc.v2") or the path of its binary.

        Raises:
            errors.Unimplemented: containerd is older (1.6, 1.7).
        """
        wanted = new(wire.RuntimeRequest, runtime_path=runtime)
        if options is not None:
            wanted.options = new(wkt.Any, type_url=options.type_url, value=options.value)
        packed = new(wkt.Any, type_url=_RUNTIME_REQUEST, value=encode(wanted))
        request = new(v1.PluginInfoRequest, type="io.containerd.runtime.v2", id="task", options=packed)
        limit = self._deadlines.task
        reply = await self._calls.ask(_SERVICE + "PluginInfo", request, v1.PluginInfoResponse, limit)
        if reply.extra is None:
            return None
        try:
            features = decode(wire.RuntimeInfo, reply.extra.value).features
        except WireError as error:
            raise errors.Internal(f"containerd's description of the runtime cannot be read: {error}") from error
        return None if features is None else features.value


def _plugin(p: v1.Plugin) -> PluginInfo:
    platforms = tuple("/".join(filter(None, (x.os, x.architecture, x.variant))) for x in p.platforms)
    error = p.init_err.message if p.init_err is not None else ""
    return PluginInfo(p.type, p.id, platforms, p.exports, tuple(p.capabilities), error)
