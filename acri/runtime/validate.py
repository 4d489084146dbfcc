# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a request before anything is made: each check is one sentence of `errors.InvalidArgument`.

Names come from whoever calls CRI and end up in paths and in arguments of programs that run as root.
"""

from __future__ import annotations

import posixpath
import re

from acri import errors
from acri.model.config import ContainerConfig, PodSandboxConfig
from acri.oci.namespaces import check_sandbox_options

__all__ = ["check_container_config", "check_sandbox_config", "log_path"]

_PORTS = range(65536)
# RFC 1123's letters, digits, hyphens and dots, and the underscore that Linux and kubelets let through. Anything else
# would become part of /etc/hosts and of shell scripts that trust `hostname`.
_HOSTNAME = re.compile(r"[A-Za-z0-9._-]*", re.ASCII)


def check_sandbox_config(config: PodSandboxConfig) -> None:
    """Refuse a pod configuration that no sandbox can be made of."""
    metadata = config.metadata
    if metadata is None:
        raise errors.InvalidArgument("config.metadata is missing")
    for field, value in (("name", metadata.name), ("namespace", metadata.namespace), ("uid", metadata.uid)):
        _check_name(f"config.metadata.{field}", value)
    if not _HOSTNAME.fullmatch(config.hostname):
        raise errors.InvalidArgument(
            f"config.hostname {config.hostname!r} has other characters than letters, digits, '-', '.' and '_'"
        )
    _check_directory("config.log_directory", config.log_directory)
    for port in config.port_mappings:
        if port.container_port not in _PORTS or port.host_port not in _PORTS:
            raise errors.InvalidArgument(
                f"config.port_mappings: {port.container_port} to host port {port.host_port} is outside 0–65535"
            )
        if port.host_port and not port.container_port:
            raise errors.InvalidArgument(f"config.port_mappings: host port {port.host_port} has no container port")
    context = config.linux.security_context if config.linux else None
    if context is not None and context.run_as_group is not None and context.run_as_user is None:
        raise errors.InvalidArgument("config.linux.security_context: run_as_group needs run_as_user")
    if context is not None and context.namespace_options is not None:
        check_sandbox_options(context.namespace_options)


def check_container_config(config: ContainerConfig) -> None:
    """Refuse a container configuration that lacks what every container needs."""
    if config.metadata is None:
        raise errors.InvalidArgument("config.metadata is missing")
    _check_name("config.metadata.name", config.metadata.name)
    if config.image is None or not config.image.image:
        raise errors.InvalidArgument("config.image.image is empty")


def log_path(sandbox: PodSandboxConfig, container: ContainerConfig) -> str:
    """The absolute path of the container's log; "" where the pod has no log directory or the container no log.

    Raises:
        errors.InvalidArgument: the path leads out of the pod's log directory.
    """
    if not sandbox.log_directory or not container.log_path:
        return ""
    joined = posixpath.normpath(posixpath.join(sandbox.log_directory, container.log_path))
    base = posixpath.normpath(sandbox.log_directory)
    if "\0" in joined or not joined.startswith(base.rstrip("/") + "/"):
        raise errors.InvalidArgument(
            f"config.log_path {container.log_path!r} is outside the pod's log directory {sandbox.log_directory!r}"
        )
    return joined


def _check_name(field: str, value: str) -> None:
    if not value:
        raise errors.InvalidArgument(f"{field} is empty")
    if "/" in value or value in (".", "..") or any(ord(char) < 0x20 or ord(char) == 0x7F for char in value):
        raise errors.InvalidArgument(f"{field} {value!r} has a slash or a control character in it, or is '.' or '..'")


def _check_directory(field: str, value: str) -> None:
    if value and (not value.startswith("/") or "\0" in value or ".." in value.split("/")):
        raise errors.InvalidArgument(f"{field} {value!r} is not an absolute path without '..'")
