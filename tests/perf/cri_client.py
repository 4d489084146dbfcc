# SPDX-License-Identifier: Apache-2.0
"""A CRI client for benches, and the requests that a kubelet would send for a plain pod.

    cri = Cri("/run/acri/acri.sock")
    reply = await cri.call("Version")
    seconds, reply = await cri.timed("StopContainer", container_id=…, timeout=30)

One client for every server: acri's own channel and codec, so what they cost is in each figure alike.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acri.proto.runtime import v1
from acri.rpc.channel import Channel
from acri.wire import WireCodec, new

__all__ = ["IMAGE", "SANDBOX_IMAGE", "WORKLOAD", "Cri", "Pod", "container_config", "pod_config"]

IMAGE = "docker.io/library/bench:1"
SANDBOX_IMAGE = "registry.k8s.io/pause:bench"

# One process that waits without children and ends at SIGTERM, also as PID 1 (which has no default actions).
WORKLOAD = ("sh", "-c", "trap 'exit 0' TERM; mkfifo /tmp/wait; read x <>/tmp/wait")

TIMEOUT_S = 120.0
_PATHS = {path.rpartition("/")[2]: (path, method) for path, method in v1.METHODS.items()}
_MASKED: tuple[str, ...] = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
)
_MASKED += ("/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware")
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


class _Codec(WireCodec):
    """Leaves a reply as bytes where `bytes` is asked for: then the client's own decoding is not measured."""

    def decode(self, data: bytes, message_type: Any) -> Any:
        return data if message_type is bytes else super().decode(data, message_type)


class Cri:
    """Calls to one CRI server. Make it inside the running loop."""

    def __init__(self, socket: str, name: str = "the server") -> None:
        self._channel = Channel(socket, codec=_Codec(), peer=name, remedy="see its log")

    def close(self) -> None:
        self._channel.close()

    async def call(self, rpc: str, *, wait: bool = False, **fields: Any) -> Any:
        """One RPC by its name; `wait` tries until the server is there. Raises what `Channel.unary` does."""
        path, method = _PATHS[rpc]
        request = new(method.request, **fields)
        return await self._channel.unary(path, request, method.reply, timeout=TIMEOUT_S, retry=wait)

    async def timed(self, rpc: str, *, raw: bool = False, **fields: Any) -> tuple[float, Any]:
        """One RPC, and the seconds from handing over the request to having the reply (`raw`: as bytes)."""
        path, method = _PATHS[rpc]
        request = new(method.request, **fields)
        reply_type = bytes if raw else method.reply
        began = time.perf_counter()
        reply = await self._channel.unary(path, request, reply_type, timeout=TIMEOUT_S)
        return time.perf_counter() - began, reply

    async def remove_all(self) -> None:
        """Every pod sandbox of this server, with what is in it."""
        for sandbox in (await self.call("ListPodSandbox")).items:
            await self.call("StopPodSandbox", pod_sandbox_id=sandbox.id)
            await self.call("RemovePodSandbox", pod_sandbox_id=sandbox.id)


@dataclass(frozen=True, slots=True)
class Pod:
    """Names of one pod: `directory` holds what a kubelet keeps for it, and its logs."""

    name: str
    directory: Path
    cgroup_parent: str
    pid_mode: v1.NamespaceMode

    @property
    def uid(self) -> str:
        return f"uid-{self.name}"

    def prepare(self) -> None:
        """What a kubelet makes before its first call."""
        (self.directory / "logs" / "app").mkdir(parents=True, exist_ok=True)
        (self.directory / "etc-hosts").write_text("127.0.0.1 localhost\n")
        (self.directory / "termination-log").touch()

    def _labels(self) -> dict[str, str]:
        return {
            "io.kubernetes.pod.name": self.name,
            "io.kubernetes.pod.namespace": "bench",
            "io.kubernetes.pod.uid": self.uid,
        }

    def _namespaces(self) -> Any:
        return new(v1.NamespaceOption, pid=self.pid_mode)


def pod_config(pod: Pod) -> Any:
    """A PodSandboxConfig: pod network, cluster DNS, RuntimeDefault seccomp, a cgroup of its own."""
    security = new(v1.LinuxSandboxSecurityContext, namespace_options=pod._namespaces(), seccomp=_runtime_default())
    return new(
        v1.PodSandboxConfig,
        metadata=new(v1.PodSandboxMetadata, name=pod.name, uid=pod.uid, namespace="bench"),
        hostname=pod.name,
        log_directory=str(pod.directory / "logs"),
        dns_config=new(
            v1.DnsConfig,
            servers=["10.96.0.10"],
            searches=["bench.svc.cluster.local", "svc.cluster.local", "cluster.local"],
            options=["ndots:5"],
        ),
        labels={**pod._labels(), "app": "bench"},
        annotations={"kubernetes.io/config.source": "api", "kubernetes.io/config.seen": "2024-01-01T00:00:00Z"},
        linux=new(v1.LinuxPodSandboxConfig, cgroup_parent=pod.cgroup_parent, security_context=security),
    )


def container_config(pod: Pod, name: str = "app") -> Any:
    """A ContainerConfig: limits, the kubelet's two mounts, masked paths, a log."""
    resources = new(
        v1.LinuxContainerResources,
        cpu_period=100_000,
        cpu_quota=50_000,
        cpu_shares=102,
        memory_limit_in_bytes=128 * 2**20,
        oom_score_adj=999,
    )
    security = new(
        v1.LinuxContainerSecurityContext,
        namespace_options=pod._namespaces(),
        masked_paths=list(_MASKED),
        readonly_paths=list(_READONLY),
        seccomp=_runtime_default(),
    )
    return new(
        v1.ContainerConfig,
        metadata=new(v1.ContainerMetadata, name=name),
        image=new(v1.ImageSpec, image=IMAGE),
        command=list(WORKLOAD),
        envs=[new(v1.KeyValue, key="KUBERNETES_SERVICE_HOST", value=b"10.96.0.1")],
        mounts=[
            new(v1.Mount, container_path="/etc/hosts", host_path=str(pod.directory / "etc-hosts")),
            new(v1.Mount, container_path="/dev/termination-log", host_path=str(pod.directory / "termination-log")),
        ],
        labels={**pod._labels(), "io.kubernetes.container.name": name},
        annotations={
            "io.kubernetes.container.hash": "cafe",
            "io.kubernetes.container.restartCount": "0",
            "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
            "io.kubernetes.container.terminationMessagePolicy": "File",
            "io.kubernetes.pod.terminationGracePeriod": "30",
        },
        log_path=f"{name}/0.log",
        linux=new(v1.LinuxContainerConfig, resources=resources, security_context=security),
    )


def _runtime_default() -> Any:
    return new(v1.SecurityProfile, profile_type=v1.SecurityProfileProfileType.RuntimeDefault)
