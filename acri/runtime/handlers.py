# SPDX-License-Identifier: Apache-2.0
"""Runtime handlers: what a RuntimeClass's `handler` names, from `[runtime.handlers.NAME]`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from acri import errors
from acri.config import HandlerSettings, Settings
from acri.containerd.types import AnyValue, runc_options

__all__ = ["Handler", "Handlers"]

_RUNC_SHIM = "io.containerd.runc.v2"


@dataclass(frozen=True, slots=True)
class Handler:
    """One handler: its settings, and the options that containerd hands to its shim."""

    name: str
    settings: HandlerSettings
    options: AnyValue | None


class Handlers:
    """All configured handlers by name; the empty name is the default one."""

    def __init__(self, settings: Settings, *, systemd_cgroup: bool) -> None:
        self._handlers = {
            name: Handler(name, handler, _options(handler, systemd_cgroup))
            for name, handler in settings.runtime.handlers.items()
        }
        self.default = self._handlers[settings.runtime.default_handler]

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._handlers.values())

    def require(self, name: str) -> Handler:
        """The handler that a pod names; the empty name is the default.

        Raises:
            errors.InvalidArgument: not configured.
        """
        if not name:
            return self.default
        try:
            return self._handlers[name]
        except KeyError:
            raise errors.InvalidArgument(
                f"runtime handler {name!r} is not configured; known: {', '.join(sorted(self._handlers))} "
                f"([runtime.handlers.{name}] in acri's configuration would add it)"
            ) from None


def _options(handler: HandlerSettings, systemd_cgroup: bool) -> AnyValue | None:
    """Options of the runc shim. Other shims read a configuration of their own."""
    if handler.type != _RUNC_SHIM:
        return None
    return runc_options(binary_name=handler.binary, systemd_cgroup=systemd_cgroup)
