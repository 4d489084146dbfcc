# SPDX-License-Identifier: Apache-2.0
"""The spec's annotations: those that others read, and those of the pod that a handler lets through.

    io.containerd.runc.v2.group    containerd's shim puts containers of one group under one shim process
    io.kubernetes.cri.*            Kata tells sandbox and container apart by them; node agents find the pod

A pod's own annotations reach the OCI runtime only by a handler's patterns: several runtimes take orders from them
(`org.systemd.property.*`, `run.oci.*`), and pods are not to give orders (the class of CVE-2024-3154).
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from acri.model.config import ContainerConfig
from acri.model.sandbox import Sandbox

__all__ = ["allowed", "for_container", "for_sandbox"]

_CRI = "io.kubernetes.cri."
SHIM_GROUP = "io.containerd.runc.v2.group"


def allowed(annotations: Mapping[str, str], patterns: tuple[str, ...]) -> dict[str, str]:
    """The annotations whose name matches a pattern; `*` matches anything, slashes too."""
    return {
        name: value for name, value in annotations.items() if any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def _common(sandbox: Sandbox) -> dict[str, str]:
    metadata = sandbox.metadata
    return {
        SHIM_GROUP: sandbox.id,
        _CRI + "sandbox-id": sandbox.id,
        _CRI + "sandbox-name": metadata.name,
        _CRI + "sandbox-namespace": metadata.namespace,
        _CRI + "sandbox-uid": metadata.uid,
    }


def for_sandbox(sandbox: Sandbox, patterns: tuple[str, ...] = ()) -> dict[str, str]:
    """Annotations of a sandbox's spec; ours win over the pod's."""
    ours = {_CRI + "container-type": "sandbox", **_common(sandbox)}
    if sandbox.config.log_directory:
        ours[_CRI + "sandbox-log-directory"] = sandbox.config.log_directory
    return {**allowed(sandbox.config.annotations, patterns), **ours}


def for_container(
    sandbox: Sandbox,
    config: ContainerConfig,
    pod_patterns: tuple[str, ...] = (),
    container_patterns: tuple[str, ...] = (),
) -> dict[str, str]:
    """Annotations of a container's spec: the pod's, then the container's, then ours, which win."""
    image = config.image
    return {
        **allowed(sandbox.config.annotations, pod_patterns),
        **allowed(config.annotations, container_patterns),
        _CRI + "container-type": "container",
        **_common(sandbox),
        _CRI + "container-name": config.metadata.name if config.metadata else "",
        _CRI + "image-name": (image.user_specified_image or image.image) if image else "",
    }
