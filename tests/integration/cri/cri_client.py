# SPDX-License-Identifier: Apache-2.0
"""A CRI client for tests: typed requests in, typed answers out, over acri's own channel.

    cri = Cri("/run/acri/acri.sock")
    status = await cri.container_status(container_id)
    answer = await cri(m.ListContainersRequest(filter=…))

What a request's class is called decides the RPC, so every unary call of `runtime.v1` is there. Errors are
`acri.errors.*` by gRPC code. A second, independent client (grpcio, raw bytes) is in `test_cri_wire.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from acri.proto.runtime import v1 as m
from acri.rpc.channel import Channel
from acri.wire import WireCodec

__all__ = ["Cri", "eventually"]

T = TypeVar("T")

PATIENCE_S = 60.0
"""No test judges time by this; it ends a test that hangs."""

_UNARY = {method.request: (path, method.reply) for path, method in m.METHODS.items() if not method.server_streaming}


async def eventually(probe: Callable[[], Awaitable[T]], patience: float = PATIENCE_S) -> T:
    """The first true answer of `probe`, asked again and again."""
    deadline = time.monotonic() + patience
    while not (answer := await probe()):
        assert time.monotonic() < deadline, f"{probe} stayed {answer!r} for {patience} s"
        await asyncio.sleep(0.02)
    return answer


class Cri:
    """One connection to a CRI endpoint. Make it inside the running loop; use it as `async with`."""

    def __init__(self, socket: str) -> None:
        self.channel = Channel(socket, codec=WireCodec(), peer="acri", remedy="see acri's log")

    async def __aenter__(self) -> Cri:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.channel.close()

    async def __call__(self, request: Any, timeout: float | None = PATIENCE_S) -> Any:
        """The answer to any unary request."""
        path, reply = _UNARY[type(request)]
        return await self.channel.unary(path, request, reply, timeout=timeout)

    async def run(self, config: m.PodSandboxConfig, handler: str = "", **call: Any) -> str:
        request = m.RunPodSandboxRequest(config=config, runtime_handler=handler)
        return (await self(request, **call)).pod_sandbox_id

    async def stop_sandbox(self, sandbox_id: str, **call: Any) -> None:
        await self(m.StopPodSandboxRequest(pod_sandbox_id=sandbox_id), **call)

    async def remove_sandbox(self, sandbox_id: str, **call: Any) -> None:
        await self(m.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id), **call)

    async def sandbox_status(self, sandbox_id: str, verbose: bool = False) -> m.PodSandboxStatus:
        answer = await self(m.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=verbose))
        assert answer.status is not None
        return answer.status

    async def sandboxes(self, wanted: m.PodSandboxFilter | None = None) -> list[m.PodSandbox]:
        return (await self(m.ListPodSandboxRequest(filter=wanted))).items

    async def create(
        self, sandbox_id: str, config: m.ContainerConfig, sandbox: m.PodSandboxConfig | None = None
    ) -> str:
        request = m.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config, sandbox_config=sandbox)
        return (await self(request)).container_id

    async def start(self, container_id: str, **call: Any) -> None:
        await self(m.StartContainerRequest(container_id=container_id), **call)

    async def stop(self, container_id: str, grace: int = 0, **call: Any) -> None:
        await self(m.StopContainerRequest(container_id=container_id, timeout=grace), **call)

    async def remove(self, container_id: str, **call: Any) -> None:
        await self(m.RemoveContainerRequest(container_id=container_id), **call)

    async def containers(self, wanted: m.ContainerFilter | None = None) -> list[m.Container]:
        return (await self(m.ListContainersRequest(filter=wanted))).containers

    async def container_status(self, container_id: str) -> m.ContainerStatus:
        answer = await self(m.ContainerStatusRequest(container_id=container_id))
        assert answer.status is not None
        return answer.status

    async def exec(
        self, container_id: str, *command: str, timeout: int = 0, within: float = PATIENCE_S
    ) -> m.ExecSyncResponse:
        """`timeout` is the command's, `within` the call's."""
        request = m.ExecSyncRequest(container_id=container_id, cmd=list(command), timeout=timeout)
        return await self(request, within)

    async def reopen_log(self, container_id: str) -> None:
        await self(m.ReopenContainerLogRequest(container_id=container_id))

    async def pull(self, image: str) -> str:
        return (await self(m.PullImageRequest(image=m.ImageSpec(image=image)))).image_ref

    async def image(self, name: str) -> m.Image | None:
        return (await self(m.ImageStatusRequest(image=m.ImageSpec(image=name)))).image

    async def images(self) -> list[m.Image]:
        return (await self(m.ListImagesRequest())).images

    async def conditions(self) -> dict[str, m.RuntimeCondition]:
        status = (await self(m.StatusRequest())).status
        return {condition.type: condition for condition in status.conditions}

    async def exited(self, container_id: str) -> m.ContainerStatus:
        """The container's status once it is EXITED."""

        async def probe() -> m.ContainerStatus | None:
            status = await self.container_status(container_id)
            return status if status.state == m.ContainerState.CONTAINER_EXITED else None

        status = await eventually(probe)
        assert status is not None
        return status

    async def not_ready(self, sandbox_id: str) -> m.PodSandboxStatus:
        """The sandbox's status once it is NOTREADY."""

        async def probe() -> m.PodSandboxStatus | None:
            status = await self.sandbox_status(sandbox_id)
            return status if status.state == m.PodSandboxState.SANDBOX_NOTREADY else None

        status = await eventually(probe)
        assert status is not None
        return status
