# SPDX-License-Identifier: Apache-2.0
"""Where everything of a sandbox and of a container lies.

    <root>/sandboxes/<id>/{hostname,hosts,resolv.conf}     goes with the sandbox
    <root>/containers/<id>/                                goes with the container (image volumes)
    <state>/sandboxes/<id>/shm                             tmpfs
    <state>/ns/<id>/{ipc,uts,pid}                          pinned namespaces
    <netns_dir>/acri-<id>                                  pinned network namespace
    <state>/containers/<id>/io/{stdin,stdout,stderr}       FIFOs
    <state>/containers/<id>/io/exec-<n>-{stdout,stderr}    FIFOs of an exec
    <state>/containers/<id>/log-mark                       how far the log pump is

Paths are derived from ids, so nothing has to remember them.
"""

from __future__ import annotations

from dataclasses import dataclass

from acri.config import Settings
from acri.model.sandbox import Namespaces

__all__ = ["ContainerPaths", "Paths", "SandboxPaths"]


@dataclass(frozen=True, slots=True)
class SandboxPaths:
    root: str
    state: str
    hostname: str
    hosts: str
    resolv_conf: str
    shm: str
    namespaces: Namespaces
    """Where each kind would be pinned; which of them exist depends on the pod."""
    namespace_dir: str


@dataclass(frozen=True, slots=True)
class ContainerPaths:
    root: str
    state: str
    io: str
    log_mark: str

    def fifo(self, stream: str) -> str:
        """Path of the FIFO for `stream` (`stdin`, `stdout`, `stderr`, or an exec's)."""
        return f"{self.io}/{stream}"


class Paths:
    """Derives paths from ids and settings."""

    def __init__(self, settings: Settings) -> None:
        self.root = settings.root_dir
        self.state = settings.state_dir
        self.netns_dir = settings.cni.netns_dir
        self.pin_root = f"{settings.state_dir}/ns"

    def sandbox(self, sandbox_id: str) -> SandboxPaths:
        root = f"{self.root}/sandboxes/{sandbox_id}"
        state = f"{self.state}/sandboxes/{sandbox_id}"
        pins = f"{self.pin_root}/{sandbox_id}"
        return SandboxPaths(
            root=root,
            state=state,
            hostname=f"{root}/hostname",
            hosts=f"{root}/hosts",
            resolv_conf=f"{root}/resolv.conf",
            shm=f"{state}/shm",
            namespaces=Namespaces(
                net=f"{self.netns_dir}/acri-{sandbox_id}", ipc=f"{pins}/ipc", uts=f"{pins}/uts", pid=f"{pins}/pid"
            ),
            namespace_dir=pins,
        )

    def container(self, container_id: str) -> ContainerPaths:
        state = f"{self.state}/containers/{container_id}"
        return ContainerPaths(
            root=f"{self.root}/containers/{container_id}", state=state, io=f"{state}/io", log_mark=f"{state}/log-mark"
        )
