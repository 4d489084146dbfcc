# SPDX-License-Identifier: Apache-2.0
"""Pods for tests, configured as a kubelet does, and their logs, parsed strictly.

    pod = await pods.run()                                  # PID namespace per container, network of its own
    container_id = await pod.start("sleep", "1000")
    lines = await pod.output("id", "-u")                    # to the end of it, stdout of its log

`Pods.remove_all` takes back everything; the fixture `pods` then looks for leftovers.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cri_client import Cri

from acri.proto.runtime import v1 as m

__all__ = ["BUSYBOX", "CONTAINER", "NODE", "POD", "TARGET", "Line", "Pod", "Pods", "options", "read_log", "rejoin"]

BUSYBOX = "docker.io/library/busybox:1.35"
POD, CONTAINER, NODE, TARGET = (
    m.NamespaceMode.POD,
    m.NamespaceMode.CONTAINER,
    m.NamespaceMode.NODE,
    m.NamespaceMode.TARGET,
)
FOREVER = ("sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait")
"""Runs until it is told to end, and then ends at once, also as PID 1."""

_LINE = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(?:Z|[+-]\d\d:\d\d)) (stdout|stderr) ([FP]) ([^\n]*)\n")
_counter = itertools.count()


@dataclass(frozen=True)
class Line:
    """One record of a CRI log."""

    time: str
    stream: str
    tag: str
    content: bytes


def read_log(path: str | Path) -> list[Line]:
    """The records of a log file; a byte that is in none of them fails the test."""
    data = Path(path).read_bytes()
    lines: list[Line] = []
    at = 0
    while at < len(data):
        found = _LINE.match(data, at)
        assert found, f"no CRI log record at byte {at}: {data[at : at + 200]!r}"
        lines.append(Line(found[1].decode(), found[2].decode(), found[3].decode(), found[4]))
        at = found.end()
    return lines


def rejoin(lines: list[Line], stream: str) -> bytes:
    """What a container wrote to `stream`."""
    return b"".join(line.content + (b"\n" if line.tag == "F" else b"") for line in lines if line.stream == stream)


def options(network: int = POD, pid: int = CONTAINER, ipc: int = POD, target: str = "") -> m.NamespaceOption:
    return m.NamespaceOption(
        network=m.NamespaceMode.try_value(network),
        pid=m.NamespaceMode.try_value(pid),
        ipc=m.NamespaceMode.try_value(ipc),
        target_id=target,
    )


@dataclass
class Pod:
    """A running pod sandbox."""

    cri: Cri
    id: str
    config: m.PodSandboxConfig

    @property
    def namespaces(self) -> m.NamespaceOption:
        context = self.config.linux and self.config.linux.security_context
        assert context is not None
        assert context.namespace_options is not None
        return context.namespace_options

    def container(
        self,
        *command: str,
        name: str = "c",
        attempt: int = 0,
        image: str = BUSYBOX,
        security: dict[str, Any] | None = None,
        resources: m.LinuxContainerResources | None = None,
        **fields: Any,
    ) -> m.ContainerConfig:
        """A container's configuration; `security` and `fields` are those of CRI's messages."""
        context = m.LinuxContainerSecurityContext(**{"namespace_options": self.namespaces} | (security or {}))
        return m.ContainerConfig(
            **{
                "metadata": m.ContainerMetadata(name=name, attempt=attempt),
                "image": m.ImageSpec(image=image, user_specified_image=image),
                "command": list(command),
                "log_path": f"{name}/{attempt}.log",
                "linux": m.LinuxContainerConfig(resources=resources, security_context=context),
            }
            | fields
        )

    async def create(self, *command: str, **fields: Any) -> str:
        return await self.cri.create(self.id, self.container(*command, **fields), self.config)

    async def start(self, *command: str, **fields: Any) -> str:
        """Create and start a container; without a command, one that runs until it is told to end."""
        container_id = await self.create(*(command or FOREVER), **fields)
        await self.cri.start(container_id)
        return container_id

    async def run(self, *command: str, **fields: Any) -> tuple[m.ContainerStatus, list[Line]]:
        """Run a container to its end; without a command, the image's own."""
        container_id = await self.create(*command, **{"name": f"run{next(_counter)}"} | fields)
        await self.cri.start(container_id)
        status = await self.cri.exited(container_id)
        return status, read_log(status.log_path)

    async def output(self, *command: str, **fields: Any) -> str:
        """stdout of a container that ends well."""
        status, lines = await self.run(*command, **fields)
        assert status.exit_code == 0, (command, status.exit_code, status.message, lines)
        return rejoin(lines, "stdout").decode()

    async def exec(self, container_id: str, *command: str) -> str:
        """stdout of a command in a running container that ends well."""
        answer = await self.cri.exec(container_id, *command)
        assert answer.exit_code == 0, (command, answer)
        return answer.stdout.decode()

    def log(self, name: str = "c", attempt: int = 0) -> Path:
        return Path(self.config.log_directory, name, f"{attempt}.log")

    async def ip(self) -> str:
        network = (await self.cri.sandbox_status(self.id)).network
        assert network
        return network.ip


class Pods:
    """Makes pods and takes them back."""

    def __init__(self, cri: Cri, directory: Path) -> None:
        self.cri = cri
        self.directory = directory

    def config(
        self,
        name: str = "",
        *,
        attempt: int = 0,
        namespaces: m.NamespaceOption | None = None,
        sysctls: dict[str, str] | None = None,
        cgroup_parent: str = "",
        security: dict[str, Any] | None = None,
        **fields: Any,
    ) -> m.PodSandboxConfig:
        """A pod's configuration with a name of its own; `security` and `fields` are those of CRI's messages."""
        name = name or f"pod{next(_counter)}"
        # Not `namespaces or …`: a message whose fields are all 0 is false.
        chosen = options() if namespaces is None else namespaces
        context = m.LinuxSandboxSecurityContext(**{"namespace_options": chosen} | (security or {}))
        return m.PodSandboxConfig(
            **{
                "metadata": m.PodSandboxMetadata(name=name, namespace="ns", uid=f"uid-{name}", attempt=attempt),
                "hostname": name,
                "log_directory": str(self.directory / "logs" / name),
                "labels": {"io.kubernetes.pod.name": name, "io.kubernetes.pod.uid": f"uid-{name}"},
                "linux": m.LinuxPodSandboxConfig(
                    cgroup_parent=cgroup_parent, sysctls=sysctls or {}, security_context=context
                ),
            }
            | fields
        )

    async def run(self, config: m.PodSandboxConfig | None = None, **fields: Any) -> Pod:
        config = config or self.config(**fields)
        return Pod(self.cri, await self.cri.run(config), config)

    async def run_host_network(self, **fields: Any) -> Pod:
        """As for a `hostNetwork` pod: no host name, no port mappings."""
        return await self.run(namespaces=options(network=NODE), hostname="", **fields)

    async def remove_all(self) -> None:
        async def remove(sandbox: m.PodSandbox) -> None:
            await self.cri.stop_sandbox(sandbox.id)
            await self.cri.remove_sandbox(sandbox.id)

        await asyncio.gather(*(remove(sandbox) for sandbox in await self.cri.sandboxes()))
