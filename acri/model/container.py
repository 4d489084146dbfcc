# SPDX-License-Identifier: Apache-2.0
"""What a container is.

                 StartContainer             task exit
    created ─────────────────▶ running ─────────────────▶ exited ──RemoveContainer──▶ (gone)
       │                                                    ▲
       └── start failed (128, StartError), sandbox stopped ─┘
    unknown: containerd could not be asked what became of it; the kubelet stops it and starts a new attempt

The state is derived from time stamps, in containerd's manner: there is no second truth to fall out of step with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from acri.model.config import ContainerConfig, ContainerMetadata, LinuxContainerResources

__all__ = ["Container", "ContainerState", "Exit", "User"]


class ContainerState(IntEnum):
    """CRI's numbers."""

    CREATED = 0
    RUNNING = 1
    EXITED = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class User:
    """Whom the first process runs as, resolved against the image's own /etc/passwd and /etc/group."""

    uid: int
    gid: int
    supplemental_groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended: `code` is 0–255, 128 + signal for a signal; `reason` is what kubectl shows."""

    code: int
    finished_at_ns: int
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Container:
    """A container as acri records it in its containerd object."""

    id: str
    sandbox_id: str
    config: ContainerConfig
    image_id: str
    image_ref: str
    created_at_ns: int
    snapshotter: str
    user: User
    stop_signal: int
    log_path: str = ""
    """Absolute; empty without a log directory (crictl): the output is read and dropped."""
    started_at_ns: int = 0
    exit: Exit | None = None
    unknown: bool = False
    resources: LinuxContainerResources | None = None
    """What CreateContainer or the last UpdateContainerResources set, in CRI's numbers."""
    cgroups_path: str = ""
    """As in the runtime spec (`linux.cgroupsPath`)."""

    @property
    def metadata(self) -> ContainerMetadata:
        assert self.config.metadata is not None, "checked by CreateContainer"
        return self.config.metadata

    @property
    def name_key(self) -> tuple[str, str, int]:
        """What makes a container unique for a kubelet: a retry of CreateContainer carries the same."""
        return self.sandbox_id, self.metadata.name, self.metadata.attempt

    @property
    def state(self) -> ContainerState:
        if self.exit is not None:
            return ContainerState.EXITED
        if self.unknown:
            return ContainerState.UNKNOWN
        return ContainerState.RUNNING if self.started_at_ns else ContainerState.CREATED
