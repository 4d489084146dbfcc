# SPDX-License-Identifier: Apache-2.0
"""The spec in a sandbox's containerd object.

A sandbox without a task never runs it; others read it: cAdvisor decodes the spec of every containerd container and goes
through its process's environment, node agents look for the annotations and the cgroup. So it is valid and says what
is true: the namespaces the pod has, the cgroup it lives in, nothing to run.
"""

from __future__ import annotations

from typing import Any

from acri.model.config import NamespaceMode
from acri.model.sandbox import Sandbox
from acri.oci import spec_annotations
from acri.oci.cgroup_path import cgroups_path
from acri.oci.version import OCI_VERSION

__all__ = ["sandbox_spec"]


def sandbox_spec(sandbox: Sandbox, patterns: tuple[str, ...] = ()) -> dict[str, Any]:
    """A JSON-ready runtime spec. `patterns`: the pod annotations that the runtime handler lets through."""
    pins = sandbox.namespaces
    options = sandbox.namespace_options
    kinds = [
        ("network", pins.net, options.network),
        ("uts", pins.uts, options.network),
        ("ipc", pins.ipc, options.ipc),
        ("pid", pins.pid, options.pid),
    ]
    spec: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": {"user": {"uid": 0, "gid": 0}, "args": [], "env": [], "cwd": "/", "noNewPrivileges": True},
        "root": {"path": "rootfs", "readonly": True},
        "annotations": spec_annotations.for_sandbox(sandbox, patterns),
        "linux": {
            "cgroupsPath": cgroups_path(sandbox.cgroup_parent, sandbox.id),
            "namespaces": [
                {"type": kind, "path": path} for kind, path, mode in kinds if path and mode != NamespaceMode.NODE
            ],
        },
    }
    if sandbox.config.hostname:
        spec["hostname"] = sandbox.config.hostname
    return spec
