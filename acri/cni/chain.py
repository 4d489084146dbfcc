# SPDX-License-Identifier: Apache-2.0
"""A chain: the plugins of one network, called one after another (CNI spec 1.1.0, section 3).

ADD goes forward and hands each result on; the last one is the network's. DEL goes backward, each with the whole ADD's
result. The same request for the same sandbox is built here for both, so that DEL carries what ADD carried.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from acri import errors
from acri.cni import config as cni_config
from acri.cni.cache import Entry
from acri.cni.config import NetworkConfigList
from acri.cni.plugin import Binary, Parameters, PluginError, Plugins, Request
from acri.cni.result import Result

__all__ = ["Chain", "Chains", "living_netns"]

_QUICK_S = 10.0
"""For VERSION, STATUS: a plugin answers these from what it knows."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A network's plugins with their executables, or with why there is none, and the attachment they are called for."""

    config: NetworkConfigList
    found: dict[str, Binary | errors.AcriError]
    parameters: Parameters = field(default_factory=Parameters)
    capability_args: dict[str, Any] = field(default_factory=dict)

    def for_entry(self, entry: Entry, netns: str) -> Chain:
        """This chain for the attachment of `entry`, with what ADD was or will be given."""
        parameters = Parameters(entry.sandbox_id, netns, entry.ifname, entry.cni_args)
        return replace(self, parameters=parameters, capability_args=dict(entry.capability_args))

    def missing(self) -> errors.AcriError | None:
        """Why the chain cannot run: the first plugin that has no executable."""
        for plugin in self.config.plugins:
            binary = self.found[plugin.type]
            if isinstance(binary, errors.AcriError):
                return binary
        return None

    def request(self, index: int, version: str) -> Request:
        """The call of one plugin. Raises errors.FailedPrecondition if it is not installed."""
        plugin = self.config.plugins[index]
        binary = self.found[plugin.type]
        if isinstance(binary, errors.AcriError):
            raise binary
        return Request(binary, plugin, self.config.name, version, self.parameters, self.capability_args)


class Chains:
    """Calls chains. `add_timeout` is for a whole ADD; `del_timeout` for each plugin's DEL, since an undo must not be
    short of time because the plugin before it took all of it. Seconds."""

    def __init__(self, plugins: Plugins, *, add_timeout: float, del_timeout: float) -> None:
        self._plugins = plugins
        self._add_timeout = add_timeout
        self._del_timeout = del_timeout
        self._quick = min(add_timeout, _QUICK_S)

    def of(self, config: NetworkConfigList) -> Chain:
        """Find the executables of `config`. Blocking."""
        found: dict[str, Binary | errors.AcriError] = {}
        for kind in {kind for plugin in config.plugins for kind in plugin.binaries}:
            try:
                found[kind] = self._plugins.find(kind)
            except errors.AcriError as error:
                found[kind] = error
        return Chain(config, found)

    async def version(self, chain: Chain, result: Result | None = None) -> str:
        """The spec version to speak; for DEL that of ADD's `result`. Only a file that declares several versions costs
        calls (one for each executable, once). Raises as `Plugins.versions`."""
        config = chain.config
        if len(config.versions) == 1:
            return config.versions[0]
        if result is not None and result.version in config.versions:
            return result.version
        supported = []
        for plugin in config.plugins:
            for kind in plugin.binaries:
                binary = chain.found[kind]
                if isinstance(binary, Binary):
                    request = Request(binary, plugin, config.name, config.versions[0])
                    supported.append(await self._plugins.versions(request, self._quick))
        return cni_config.version_for(config, supported)

    async def add(self, chain: Chain, abandoned: Callable[[], bool], reached: Callable[[Result], None]) -> Result:
        """ADD of every plugin. `reached` hears of each result, for an undo; `abandoned` is asked before each plugin.

        Raises:
            errors.Aborted: it was abandoned. Otherwise as `Plugins.add`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._add_timeout
        version = await self.version(chain)
        result: Result | None = None
        for index in range(len(chain.config.plugins)):
            if abandoned():
                raise errors.Aborted(f'attaching to network "{chain.config.name}" was given up')
            left = max(0.001, deadline - loop.time())
            result = await self._plugins.add(chain.request(index, version), result, left)
            reached(result)
        assert result is not None, "a parsed configuration has a plugin"
        return result

    async def delete(self, chain: Chain, result: Result | None, *, keep_going: bool) -> list[errors.AcriError]:
        """DEL of every plugin, backward, with ADD's result if there was one. Returns the failures: one at most, and
        nothing was called after it, unless it is to `keep_going`."""
        failures: list[errors.AcriError] = []
        try:
            version = await self.version(chain, result)
        except errors.AcriError:
            version = chain.config.versions[0]
        if not cni_config.at_least(version, "0.4.0"):
            result = None  # a plugin of that age does not expect one at DEL
        for index in reversed(range(len(chain.config.plugins))):
            try:
                await self._plugins.delete(chain.request(index, version), result, self._del_timeout)
            except errors.AcriError as error:
                if _already_gone(error, chain.parameters):
                    continue
                failures.append(error)
                if not keep_going:
                    break
        return failures

    async def status(self, chain: Chain) -> None:
        """STATUS of every plugin, if the network speaks spec 1.1.0; raises the first failure."""
        version = await self.version(chain)
        if cni_config.at_least(version, "1.1.0"):
            for index in range(len(chain.config.plugins)):
                await self._plugins.status(chain.request(index, version), self._quick)

    async def collect(self, chain: Chain, valid: Sequence[tuple[str, str]]) -> list[errors.AcriError]:
        """GC of every plugin with the living (sandbox id, ifname) pairs, if the network speaks spec 1.1.0 and allows
        it; returns the failures."""
        failures: list[errors.AcriError] = []
        try:
            version = await self.version(chain)
            if chain.config.disable_gc or not cni_config.at_least(version, "1.1.0"):
                return failures
        except errors.AcriError as error:
            return [error]
        for index in range(len(chain.config.plugins)):
            try:
                await self._plugins.collect(chain.request(index, version), valid, self._del_timeout)
            except errors.AcriError as error:
                failures.append(error)
        return failures


def _already_gone(error: errors.AcriError, parameters: Parameters) -> bool:
    """Some plugins fail a DEL because the namespace is gone, though the spec asks them not to. Without a namespace such
    a failure says that there is nothing left to do (containerd's go-cni reads the same words)."""
    if parameters.netns or not isinstance(error, PluginError):
        return False
    text = error.message.lower()
    return "not found" in text or "no such file or directory" in text


def living_netns(path: str) -> str:
    """`path` if a namespace is there, else "". After a reboot the file of a pin may remain without its mount: plugins
    would fail on it. All namespaces are files of one kernel file system, so they share its device number. Blocking."""
    try:
        return path if path and os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev else ""
    except (OSError, ValueError):
        return ""
