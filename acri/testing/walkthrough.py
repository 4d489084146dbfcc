# SPDX-License-Identifier: Apache-2.0
"""The life of one pod through CRI, as steps that each check what they saw: what `acri demo` shows.

    Version, Status ─▶ PullImage ─▶ RunPodSandbox ─▶ CreateContainer, StartContainer (twice) ─▶ logs, exec, http
        ─▶ StopContainer, RemoveContainer, StopPodSandbox, RemovePodSandbox, RemoveImage ─▶ nothing left

A step answers what it saw in a few words, or raises `Wrong`.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from acri.aio.threads import Kind, Threads
from acri.containerd.client import Containerd
from acri.proto.runtime import v1 as cri
from acri.testing import process_table, sweep
from acri.testing.cri import CriClient
from acri.testing.place import Place
from acri.wire import new

__all__ = ["GREETING", "IMAGE", "Step", "Walkthrough", "Wrong"]

IMAGE = "registry.example/acri/busybox:demo"
GREETING = "hello from a pod that acri runs"
_PORT = 8080
_PATIENCE_S = 10.0
_PAUSE_S = 0.02
_WRITER = """\
trap 'echo bye; exit 0' TERM
n=0
while :; do n=$((n+1)); echo "line $n of the second container"; sleep 0.1; done
"""

_OWN_PID = cri.NamespaceMode(cri.NamespaceMode.CONTAINER)
"""Each container has its own PID namespace, as the kubelet's pods have it."""

Step = tuple[str, Callable[[], Awaitable[str]]]


class Wrong(Exception):
    """A step saw something else than it should have."""


class Walkthrough:
    """One pod with two containers, `web` and `writer`.

    Args:
        client: of the acri to show.
        place: where that acri is, to look behind the scenes.
    """

    def __init__(self, client: CriClient, place: Place, threads: Threads) -> None:
        self._call = client.call
        self._place = place
        self._threads = threads
        self._logs = place.below("pod-logs")
        self._sandbox = ""
        self._ip = ""
        self._containers: dict[str, str] = {}

    def shown(self) -> list[Step]:
        """What makes the pod and looks at it."""
        return [
            ("runtime answers", self._version),
            ("conditions", self._conditions),
            ("image pulled", self._pull),
            ("sandbox READY", self._run_sandbox),
            (
                "web RUNNING",
                functools.partial(self._run_container, "web", ["httpd", "-f", "-p", str(_PORT), "-h", "/www"]),
            ),
            ("writer RUNNING", functools.partial(self._run_container, "writer", ["sh", "-c", _WRITER])),
            ("logs", self._read_logs),
            ("exec in web", self._exec),
            ("http over pod network", self._request),
            ("http between containers", self._request_inside),
        ]

    def undone(self) -> list[Step]:
        """What takes it away again and looks for what is left; also after a step of `shown` failed."""
        return [
            ("writer stopped", self._stop_writer),
            ("pod removed", self._remove_pod),
            ("image removed", self._remove_image),
            ("left: namespaces, mounts", self._no_mounts),
            ("left: processes, cgroups", self._no_processes),
            ("left: addresses, rules", self._no_addresses),
            ("left: in containerd", self._no_objects),
        ]

    async def _version(self) -> str:
        reply = await self._call("Version", version="v1")
        return f"{reply.runtime_name} {reply.runtime_version}, CRI {reply.runtime_api_version}"

    async def _conditions(self) -> str:
        async def ready() -> str | None:
            reply = await self._call("Status")
            conditions = {condition.type: condition.status for condition in reply.status.conditions}
            good = [name for name in ("RuntimeReady", "NetworkReady") if conditions.get(name)]
            return ", ".join(good) if len(good) == 2 else None

        return await _eventually(ready, "RuntimeReady and NetworkReady")

    async def _pull(self) -> str:
        spec = new(cri.ImageSpec, image=IMAGE)
        await self._call("PullImage", image=spec)
        reply = await self._call("ImageStatus", image=spec)
        if reply.image is None:
            raise Wrong("ImageStatus does not know the image that was pulled")
        return f"{IMAGE}, {reply.image.size / 1e6:.1f} MB"

    def _pod(self) -> cri.PodSandboxConfig:
        options = new(cri.NamespaceOption, pid=_OWN_PID)
        return new(
            cri.PodSandboxConfig,
            metadata=new(cri.PodSandboxMetadata, name="demo", uid="acri-demo", namespace="default"),
            hostname="demo",
            log_directory=self._logs,
            linux=new(
                cri.LinuxPodSandboxConfig,
                security_context=new(cri.LinuxSandboxSecurityContext, namespace_options=options),
            ),
        )

    async def _run_sandbox(self) -> str:
        reply = await self._call("RunPodSandbox", config=self._pod())
        self._sandbox = reply.pod_sandbox_id
        status = (await self._call("PodSandboxStatus", pod_sandbox_id=self._sandbox)).status
        if status.state != cri.PodSandboxState.SANDBOX_READY:
            raise Wrong("the pod sandbox is not READY")
        self._ip = status.network.ip if status.network else ""
        if not self._ip:
            raise Wrong("the pod sandbox has no IP address")
        return f"{self._sandbox[:12]}, IP {self._ip}"

    async def _run_container(self, name: str, command: list[str]) -> str:
        options = new(cri.NamespaceOption, pid=_OWN_PID)
        config = new(
            cri.ContainerConfig,
            metadata=new(cri.ContainerMetadata, name=name),
            image=new(cri.ImageSpec, image=IMAGE),
            command=command,
            log_path=f"{name}.log",
            linux=new(
                cri.LinuxContainerConfig,
                security_context=new(cri.LinuxContainerSecurityContext, namespace_options=options),
            ),
        )
        reply = await self._call(
            "CreateContainer", pod_sandbox_id=self._sandbox, config=config, sandbox_config=self._pod()
        )
        self._containers[name] = reply.container_id
        await self._call("StartContainer", container_id=reply.container_id)
        status = await self._status(name)
        if status.state != cri.ContainerState.CONTAINER_RUNNING:
            raise Wrong(f"container {name} is not RUNNING: {status.reason} {status.message}")
        return str(reply.container_id[:12])

    async def _status(self, name: str) -> Any:
        return (await self._call("ContainerStatus", container_id=self._containers[name])).status

    async def _log_lines(self, name: str) -> list[str]:
        """Complete lines of a container's log, in CRI's format."""

        def read() -> list[str]:
            try:
                return Path(self._logs, f"{name}.log").read_text("utf-8").splitlines()
            except FileNotFoundError:
                return []

        return await self._threads.run(Kind.FILE, read)

    async def _read_logs(self) -> str:
        async def two_lines() -> str | None:
            lines = await self._log_lines("writer")
            if len(lines) < 2:
                return None
            for number, line in enumerate(lines[:2], 1):
                if not line.endswith(f" stdout F line {number} of the second container"):
                    raise Wrong(f"unexpected line in the log: {line!r}")
            return lines[1]

        return await _eventually(two_lines, "two lines in the log of writer")

    async def _exec_sync(self, name: str, *command: str) -> str:
        reply = await self._call("ExecSync", container_id=self._containers[name], cmd=list(command), timeout=10)
        if reply.exit_code != 0:
            raise Wrong(
                f"{' '.join(command)} ended with code {reply.exit_code}: {reply.stderr.decode(errors='replace')}"
            )
        return str(reply.stdout.decode(errors="replace").strip())

    async def _exec(self) -> str:
        said = await self._exec_sync("web", "sh", "-c", 'echo "host $(hostname), uid $(id -u)"')
        if said != "host demo, uid 0":
            raise Wrong(f"unexpected output: {said!r}")
        return said

    async def _request(self) -> str:
        async def answered() -> str | None:
            try:
                reader, writer = await asyncio.open_connection(self._ip, _PORT)
            except ConnectionRefusedError:  # the server has just been started
                return None
            try:
                writer.write(f"GET / HTTP/1.0\r\nHost: {self._ip}\r\n\r\n".encode())
                return (await reader.read()).decode(errors="replace")
            finally:
                writer.close()

        async with asyncio.timeout(_PATIENCE_S):
            answer = await _eventually(answered, f"an answer from {self._ip}:{_PORT}")
        status, _, body = answer.partition("\r\n")
        if " 200 " not in f"{status} " or GREETING not in body:
            raise Wrong(f"unexpected answer: {status}")
        return f"http://{self._ip}:{_PORT}/ {status.partition(' ')[2]}: {GREETING}"

    async def _request_inside(self) -> str:
        said = await self._exec_sync("writer", "wget", "-q", "-O", "-", f"http://127.0.0.1:{_PORT}/")
        if said != GREETING:
            raise Wrong(f"unexpected answer: {said!r}")
        return f"writer to web by 127.0.0.1:{_PORT}"

    async def _stop_writer(self) -> str:
        if "writer" not in self._containers:
            return "there is none"
        await self._call("StopContainer", container_id=self._containers["writer"], timeout=5)
        status = await self._status("writer")
        last = (await self._log_lines("writer"))[-1:]
        if status.state != cri.ContainerState.CONTAINER_EXITED or status.exit_code != 0:
            raise Wrong(f"it ended with code {status.exit_code} ({status.reason})")
        if not last or not last[0].endswith(" stdout F bye"):
            raise Wrong(f"its last words are not in the log, which ends in {last}")
        await self._call("RemoveContainer", container_id=self._containers.pop("writer"))
        return "exit code 0, last words in the log"

    async def _remove_pod(self) -> str:
        if not self._sandbox:
            return "there is none"
        await self._call("StopPodSandbox", pod_sandbox_id=self._sandbox)
        await self._call("RemovePodSandbox", pod_sandbox_id=self._sandbox)
        sandboxes = (await self._call("ListPodSandbox")).items
        containers = (await self._call("ListContainers")).containers
        if sandboxes or containers:
            raise Wrong(f"{len(sandboxes)} pod sandboxes and {len(containers)} containers are still listed")
        return "no pod sandbox, no container listed"

    async def _remove_image(self) -> str:
        await self._call("RemoveImage", image=new(cri.ImageSpec, image=IMAGE))
        images = (await self._call("ListImages")).images
        if images:
            raise Wrong(f"{len(images)} images are still listed")
        return "no image listed"

    async def _no_mounts(self) -> str:
        return await self._none_of(sweep.pinned, "no network namespace, no mount")

    async def _no_processes(self) -> str:
        def found(place: Place) -> list[str]:
            servers = ("acri", "containerd")
            running = [str(process) for process in process_table.find(place) if process.kind not in servers]
            return running + sweep.pod_cgroups(place)

        return await self._none_of(found, "no shim, no container, no holder, no cgroup")

    async def _no_addresses(self) -> str:
        return await self._none_of(sweep.network_leftovers, "no IP address given out, no iptables rule")

    async def _none_of(self, look: Callable[[Place], list[str]], good: str) -> str:
        async def nothing() -> str | None:
            found.clear()
            found.extend(await self._threads.run(Kind.FILE, look, self._place))
            return None if found else good

        found: list[str] = []
        try:
            return await _eventually(nothing, good, patience_s=2.0)
        except Wrong:
            raise Wrong(f"left behind: {'; '.join(found)}") from None

    async def _no_objects(self) -> str:
        async with Containerd(self._place.containerd_socket) as containerd:

            async def nothing() -> str | None:
                found.clear()
                found["containers"] = len(await containerd.containers.list())
                found["tasks"] = len(await containerd.tasks.list())
                found["snapshots"] = len(await containerd.snapshots.list("overlayfs"))
                found["images"] = len(await containerd.images.list())
                found["leases"] = len(await containerd.leases.list())
                return None if any(found.values()) else "no containers, tasks, snapshots, images, leases"

            found: dict[str, int] = {}
            try:
                return await _eventually(
                    nothing, "nothing", patience_s=5.0
                )  # its garbage collector comes a little later
            except Wrong:
                left = ", ".join(f"{count} {kind}" for kind, count in found.items() if count)
                raise Wrong(f"containerd still has {left}") from None


async def _eventually(look: Callable[[], Awaitable[str | None]], what: str, *, patience_s: float = _PATIENCE_S) -> str:
    """What `look` answers once it is not None; `Wrong` after `patience_s` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    while (seen := await look()) is None:
        if loop.time() > deadline:
            raise Wrong(f"{what} did not come within {patience_s:g} s")
        await asyncio.sleep(_PAUSE_S)
    return seen
