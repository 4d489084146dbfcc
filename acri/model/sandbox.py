# SPDX-License-Identifier: Apache-2.0
"""What a pod sandbox is.

    RunPodSandbox            StopPodSandbox / holder died / reboot
    creating ──────▶ ready ──────────────────▶ stopped ──RemovePodSandbox──▶ (gone)
        └─ rollback left something behind ───▶ stopped

CRI knows READY and NOTREADY: only `ready` is READY. `creating` is written before the first side effect, so that a
restarted acri finds what a dead one had begun and takes it back; it is never listed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from acri.model.config import NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata

__all__ = ["Holder", "Namespaces", "Phase", "Sandbox"]

_DEFAULT_NAMESPACES = NamespaceOption()


class Phase(Enum):
    CREATING = "creating"
    READY = "ready"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Paths of the pinned namespaces; empty where the pod uses the host's or has none of that kind."""

    net: str = ""
    ipc: str = ""
    uts: str = ""
    pid: str = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """PID 1 of a shared PID namespace: its pid, and its start time in clock ticks, which tell it from a successor."""

    pid: int
    start_time: int


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod sandbox as acri records it in its containerd object."""

    id: str
    config: PodSandboxConfig
    runtime_handler: str
    created_at_ns: int
    phase: Phase
    namespaces: Namespaces = field(default_factory=Namespaces)
    holder: Holder | None = None
    ips: tuple[str, ...] = ()
    network_attached: bool = False
    """CNI ADD has begun (set before it): teardown has to run DEL."""
    cgroup_parent: str = ""
    """Checked form of config.linux.cgroup_parent, or acri's default."""

    @property
    def metadata(self) -> PodSandboxMetadata:
        assert self.config.metadata is not None, "checked by RunPodSandbox"
        return self.config.metadata

    @property
    def name_key(self) -> tuple[str, str, str, int]:
        """What makes a pod sandbox unique for a kubelet: a retry of RunPodSandbox carries the same."""
        metadata = self.metadata
        return metadata.name, metadata.namespace, metadata.uid, metadata.attempt

    @property
    def namespace_options(self) -> NamespaceOption:
        """The pod's namespace options; CRI's defaults (POD for all) where the kubelet sent none."""
        linux = self.config.linux
        context = linux.security_context if linux else None
        return (context.namespace_options if context else None) or _DEFAULT_NAMESPACES

    @property
    def host_network(self) -> bool:
        return self.namespace_options.network == NamespaceMode.NODE

    @property
    def privileged(self) -> bool:
        linux = self.config.linux
        return bool(linux and linux.security_context and linux.security_context.privileged)
