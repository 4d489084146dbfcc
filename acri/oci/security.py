# SPDX-License-Identifier: Apache-2.0
"""What a container may do: capabilities, privileged, masked paths, AppArmor, SELinux labels' form.

References:
    CRI, LinuxContainerSecurityContext and Capability; capabilities(7).
    Default set: the fourteen of Docker and containerd, which images have come to expect.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from acri import errors
from acri.host.capabilities import NAMES
from acri.host.facts import HostFacts
from acri.model.config import (
    Capability,
    ContainerConfig,
    LinuxContainerSecurityContext,
    SecurityProfile,
    SecurityProfileType,
    SELinuxOption,
)
from acri.model.sandbox import Sandbox
from acri.oci import paths

__all__ = [
    "DEFAULT_CAPABILITIES",
    "Capabilities",
    "apparmor_profile",
    "capabilities",
    "check_privileged",
    "check_selinux_options",
    "hidden_paths",
    "security_context",
]

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
)

_NO_CONTEXT = LinuxContainerSecurityContext()
_KNOWN = frozenset(NAMES)
_SELINUX_LEVEL = re.compile(r"s\d(-s\d)?(:c\d{1,4}(\.c\d{1,4})?(,c\d{1,4}(\.c\d{1,4})?)*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Full names in the order of their bits. `allowed` is bounding, effective and permitted alike."""

    allowed: tuple[str, ...]
    ambient: tuple[str, ...] = ()

    def spec(self) -> dict[str, list[str]]:
        """`process.capabilities`.

        Inheritable is empty but for what ambient needs: a non-empty one lets a program with inheritable file
        capabilities gain them (the class of CVE-2022-24769).
        """
        return {
            "bounding": list(self.allowed),
            "effective": list(self.allowed),
            "permitted": list(self.allowed),
            "inheritable": list(self.ambient),
            "ambient": list(self.ambient),
        }


def security_context(config: ContainerConfig) -> LinuxContainerSecurityContext:
    """The container's context; CRI's zero values where none was sent."""
    return (config.linux.security_context if config.linux else None) or _NO_CONTEXT


def check_privileged(sandbox: Sandbox, context: LinuxContainerSecurityContext) -> None:
    """Raises InvalidArgument for a privileged container in a pod that is not."""
    if context.privileged and not sandbox.privileged:
        raise errors.InvalidArgument(
            f"no privileged container is allowed in sandbox {sandbox.id}: the pod itself is not privileged"
        )


def capabilities(context: LinuxContainerSecurityContext, available: tuple[str, ...]) -> Capabilities:
    """What the container gets: the defaults, then add ALL, drop ALL, single adds, single drops, in that order.

    `available` is what the host can give (`HostFacts.bounding`), and what ALL and privileged mean. A default that the
    host cannot give is left out; one that was asked for by name is an error.

    Raises:
        InvalidArgument: a name that is no capability.
        PermissionDenied: the host cannot give an added one.
    """
    if context.privileged:
        return Capabilities(available)
    wish = context.capabilities or Capability()
    add, drop, ambient = (
        _names(names) for names in (wish.add_capabilities, wish.drop_capabilities, wish.add_ambient_capabilities)
    )
    allowed = set(DEFAULT_CAPABILITIES).intersection(available)
    if "ALL" in add:
        allowed.update(available)
    if "ALL" in drop:
        allowed.clear()
    if "ALL" in ambient:
        ambient = [*ambient, *available]
    for name in (*add, *ambient):
        if name == "ALL":
            continue
        if name not in available and name not in drop:
            raise errors.PermissionDenied(f"capability {name} cannot be added: the host's container manager lacks it")
        allowed.add(name)
    allowed.difference_update(drop)
    return Capabilities(
        allowed=tuple(name for name in NAMES if name in allowed),
        ambient=tuple(name for name in NAMES if name in allowed and name in ambient),
    )


def _names(names: tuple[str, ...]) -> list[str]:
    """Full names: "net_admin", "CAP_NET_ADMIN" and "NET_ADMIN" are one. "ALL" stays as it is."""
    full = []
    for name in names:
        upper = name.upper()
        if upper != "ALL":
            upper = upper if upper.startswith("CAP_") else f"CAP_{upper}"
            if upper not in _KNOWN:
                raise errors.InvalidArgument(f"unknown capability {name!r}")
        full.append(upper)
    return full


def hidden_paths(context: LinuxContainerSecurityContext) -> tuple[list[str], list[str]]:
    """`linux.maskedPaths` and `linux.readonlyPaths`: the request's lists as they are, none if privileged.

    The kubelet sends its defaults; an empty list is ProcMount "Unmasked", so nothing is filled in here.

    Raises:
        InvalidArgument: a path that is relative or has "..".
    """
    if context.privileged:
        return [], []
    masked = [paths.container_path(path, "masked path") for path in context.masked_paths]
    readonly = [paths.container_path(path, "read-only path") for path in context.readonly_paths]
    return masked, readonly


def _wanted_apparmor(context: LinuxContainerSecurityContext) -> SecurityProfile:
    """The structured field wins over the deprecated string; neither means RuntimeDefault."""
    if context.apparmor is not None:
        return context.apparmor
    text = context.apparmor_profile
    if text in ("", "runtime/default"):
        return SecurityProfile(SecurityProfileType.RUNTIME_DEFAULT)
    if text == "unconfined":
        return SecurityProfile(SecurityProfileType.UNCONFINED)
    if text.startswith("localhost/"):
        return SecurityProfile(SecurityProfileType.LOCALHOST, text)
    raise errors.InvalidArgument(f"apparmor_profile {text!r} is not a known form")


def apparmor_profile(
    context: LinuxContainerSecurityContext, host: HostFacts, *, default: str = "", loaded: frozenset[str] = frozenset()
) -> str:
    """`process.apparmorProfile`; "" for none.

    `default` is the name of the profile that RuntimeDefault means, "" while none is loaded; `loaded` are the names
    that the kernel knows. Localhost holds for privileged containers too.

    Raises:
        InvalidArgument: a reference without Localhost or Localhost without one; a profile that is not loaded.
        FailedPrecondition: Localhost where AppArmor is off.
    """
    profile = _wanted_apparmor(context)
    name = profile.localhost_ref.removeprefix("localhost/")
    if profile.profile_type != SecurityProfileType.LOCALHOST:
        if name:
            raise errors.InvalidArgument(f"apparmor localhost_ref {name!r} is set, but the type is not Localhost")
        confined = profile.profile_type == SecurityProfileType.RUNTIME_DEFAULT and not context.privileged
        return default if confined and host.apparmor else ""
    if not name:
        raise errors.InvalidArgument("apparmor profile type Localhost names no profile")
    if not host.apparmor:
        raise errors.FailedPrecondition(f"apparmor profile {name!r} is asked for, but AppArmor is not enabled here")
    if name not in loaded:
        raise errors.InvalidArgument(f"apparmor profile {name!r} is not loaded on this node")
    return name


def check_selinux_options(options: SELinuxOption | None) -> None:
    """Raises InvalidArgument for a level that SELinux would not take, e.g. "s0,c4,c5"."""
    if options is not None and options.level and not _SELINUX_LEVEL.fullmatch(options.level):
        raise errors.InvalidArgument(f"selinux level {options.level!r} is not of the form s0:c1,c2")
