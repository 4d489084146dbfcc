# SPDX-License-Identifier: Apache-2.0
"""CRI's RuntimeService. A handler translates and makes one call; what the call does is in `acri.runtime`.

RPCs of `runtime.v1` without a method here answer UNIMPLEMENTED, which the kubelet takes for "fall back".
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from enum import IntEnum
from typing import TypeVar

import acri
from acri import errors
from acri.api import convert
from acri.model import config as model
from acri.model.container import Container, ContainerState
from acri.model.records import to_plain
from acri.model.sandbox import Phase, Sandbox
from acri.proto.runtime import v1 as cri
from acri.rpc.router import Call
from acri.runtime.container_create import create_container
from acri.runtime.container_logs import reopen_container_log
from acri.runtime.container_remove import remove_container
from acri.runtime.container_start import start_container
from acri.runtime.container_stop import stop_container
from acri.runtime.exec_sync import exec_sync
from acri.runtime.node import Node
from acri.runtime.sandbox_remove import remove_pod_sandbox
from acri.runtime.sandbox_run import run_pod_sandbox
from acri.runtime.sandbox_stop import stop_pod_sandbox
from acri.runtime.status import runtime_status
from acri.store import Store
from acri.wire import Encoded

__all__ = ["RuntimeService"]

T = TypeVar("T")
V = TypeVar("V", Sandbox, Container)


class SandboxState(IntEnum):
    """CRI's numbers."""

    SANDBOX_READY = 0
    SANDBOX_NOTREADY = 1


KUBELET_API_VERSION = "0.1.0"
"""What a kubelet compares `VersionResponse.version` with; nothing else passes."""
CRI_API_VERSION = "v1"
_CGROUP_DRIVERS = {
    "systemd": cri.CgroupDriver(cri.CgroupDriver.SYSTEMD),
    "cgroupfs": cri.CgroupDriver(cri.CgroupDriver.CGROUPFS),
}


class RuntimeService:
    """Handlers by RPC name; `rpc.router` finds them by it."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def version(self, request: cri.VersionRequest, call: Call) -> cri.VersionResponse:
        return cri.VersionResponse(
            version=KUBELET_API_VERSION,
            runtime_name=self._node.settings.runtime_name,
            runtime_version=acri.__version__,
            runtime_api_version=CRI_API_VERSION,
        )

    async def status(self, request: cri.StatusRequest, call: Call) -> cri.StatusResponse:
        status = await runtime_status(self._node, verbose=request.verbose)
        return cri.StatusResponse(
            status=cri.RuntimeStatus(conditions=[cri.RuntimeCondition(**asdict(item)) for item in status.conditions]),
            runtime_handlers=[
                cri.RuntimeHandler(
                    name=handler.name,
                    features=cri.RuntimeHandlerFeatures(
                        recursive_read_only_mounts=handler.recursive_read_only_mounts,
                        user_namespaces=handler.user_namespaces,
                    ),
                )
                for handler in status.handlers
            ],
            features=cri.RuntimeFeatures(supplemental_groups_policy=True),
            info=status.info,
        )

    async def runtime_config(self, request: cri.RuntimeConfigRequest, call: Call) -> cri.RuntimeConfigResponse:
        driver = _CGROUP_DRIVERS[self._node.cgroup_driver]
        return cri.RuntimeConfigResponse(linux=cri.LinuxRuntimeConfiguration(cgroup_driver=driver))

    async def update_runtime_config(
        self, request: cri.UpdateRuntimeConfigRequest, call: Call
    ) -> cri.UpdateRuntimeConfigResponse:
        # The pod CIDR is the network plugin's affair; whoever installs one writes its configuration.
        return cri.UpdateRuntimeConfigResponse()

    async def run_pod_sandbox(self, request: cri.RunPodSandboxRequest, call: Call) -> cri.RunPodSandboxResponse:
        config = convert.from_wire(model.PodSandboxConfig, _present(request.config, "config"))
        return cri.RunPodSandboxResponse(
            pod_sandbox_id=await run_pod_sandbox(self._node, config, request.runtime_handler)
        )

    async def stop_pod_sandbox(self, request: cri.StopPodSandboxRequest, call: Call) -> cri.StopPodSandboxResponse:
        await stop_pod_sandbox(self._node, request.pod_sandbox_id)
        return cri.StopPodSandboxResponse()

    async def remove_pod_sandbox(
        self, request: cri.RemovePodSandboxRequest, call: Call
    ) -> cri.RemovePodSandboxResponse:
        await remove_pod_sandbox(self._node, request.pod_sandbox_id)
        return cri.RemovePodSandboxResponse()

    async def pod_sandbox_status(
        self, request: cri.PodSandboxStatusRequest, call: Call
    ) -> cri.PodSandboxStatusResponse:
        sandbox = self._node.sandboxes.require(request.pod_sandbox_id).value
        info = {"info": json.dumps(_sandbox_info(self._node, sandbox))} if request.verbose else {}
        return cri.PodSandboxStatusResponse(status=convert.sandbox_status(sandbox), info=info)

    async def list_pod_sandbox(self, request: cri.ListPodSandboxRequest, call: Call) -> Encoded:
        store, wanted = self._node.sandboxes, request.filter
        if wanted is None:
            return Encoded(store.frames())
        checks: list[Callable[[Sandbox], bool]] = []
        if wanted.id:
            sandbox_id = _one_id(store, wanted.id)
            checks.append(lambda sandbox: sandbox.id == sandbox_id)
        if wanted.state is not None:
            state = convert.enum_value(SandboxState, "filter.state.state", wanted.state.state)
            ready = state is SandboxState.SANDBOX_READY
            checks.append(lambda sandbox: (sandbox.phase is Phase.READY) is ready)
        if wanted.label_selector:
            checks.append(_has_labels(dict(wanted.label_selector)))
        return _frames(store, checks)

    async def create_container(self, request: cri.CreateContainerRequest, call: Call) -> cri.CreateContainerResponse:
        config = convert.from_wire(model.ContainerConfig, _present(request.config, "config"))
        return cri.CreateContainerResponse(
            container_id=await create_container(self._node, request.pod_sandbox_id, config)
        )

    async def start_container(self, request: cri.StartContainerRequest, call: Call) -> cri.StartContainerResponse:
        await start_container(self._node, request.container_id)
        return cri.StartContainerResponse()

    async def stop_container(self, request: cri.StopContainerRequest, call: Call) -> cri.StopContainerResponse:
        await stop_container(self._node, request.container_id, float(request.timeout))
        return cri.StopContainerResponse()

    async def remove_container(self, request: cri.RemoveContainerRequest, call: Call) -> cri.RemoveContainerResponse:
        await remove_container(self._node, request.container_id)
        return cri.RemoveContainerResponse()

    async def list_containers(self, request: cri.ListContainersRequest, call: Call) -> Encoded:
        store, wanted = self._node.containers, request.filter
        if wanted is None:
            return Encoded(store.frames())
        checks: list[Callable[[Container], bool]] = []
        if wanted.id:
            container_id = _one_id(store, wanted.id)
            checks.append(lambda container: container.id == container_id)
        if wanted.pod_sandbox_id:
            sandbox_id = _one_id(self._node.sandboxes, wanted.pod_sandbox_id)
            checks.append(lambda container: container.sandbox_id == sandbox_id)
        if wanted.state is not None:
            state = convert.enum_value(ContainerState, "filter.state.state", wanted.state.state)
            checks.append(lambda container: container.state is state)
        if wanted.label_selector:
            checks.append(_has_labels(dict(wanted.label_selector)))
        return _frames(store, checks)

    async def container_status(self, request: cri.ContainerStatusRequest, call: Call) -> cri.ContainerStatusResponse:
        container = self._node.containers.require(request.container_id).value
        info = {"info": json.dumps(_container_info(self._node, container))} if request.verbose else {}
        image = self._node.images.find(container.image_id)
        return cri.ContainerStatusResponse(status=convert.container_status(container, image), info=info)

    async def reopen_container_log(
        self, request: cri.ReopenContainerLogRequest, call: Call
    ) -> cri.ReopenContainerLogResponse:
        await reopen_container_log(self._node, request.container_id)
        return cri.ReopenContainerLogResponse()

    async def exec_sync(self, request: cri.ExecSyncRequest, call: Call) -> cri.ExecSyncResponse:
        result = await exec_sync(self._node, request.container_id, tuple(request.cmd), float(request.timeout))
        return cri.ExecSyncResponse(stdout=result.stdout, stderr=result.stderr, exit_code=result.exit_code)


def _present(message: T | None, name: str) -> T:
    if message is None:
        raise errors.InvalidArgument(f"{name} is missing")
    return message


def _one_id(store: Store[V], id_or_prefix: str) -> str:
    """The id that a filter means: it may be a unique prefix. One that fits nothing, or several, selects nothing."""
    try:
        entry = store.find(id_or_prefix)
    except errors.InvalidArgument:
        entry = None
    return entry.value.id if entry else id_or_prefix


def _has_labels(selector: dict[str, str]) -> Callable[[Sandbox | Container], bool]:
    return lambda value: selector.items() <= value.config.labels.items()


def _frames(store: Store[V], checks: list[Callable[[V], bool]]) -> Encoded:
    if not checks:
        return Encoded(store.frames())
    return Encoded(store.frames(lambda value: all(check(value) for check in checks)))


def _sandbox_info(node: Node, sandbox: Sandbox) -> dict[str, object]:
    """Verbose status, as crictl inspectp prints it: the record, and what an operation on it is doing now."""
    return {
        "sandboxID": sandbox.id,
        "pid": sandbox.holder.pid if sandbox.holder else 0,
        "record": to_plain(sandbox),
        "operations": _operations(node, sandbox.id),
    }


def _container_info(node: Node, container: Container) -> dict[str, object]:
    return {
        "sandboxID": container.sandbox_id,
        "snapshotter": container.snapshotter,
        "snapshotKey": container.id,
        "record": to_plain(container),
        "operations": _operations(node, container.id),
    }


def _operations(node: Node, object_id: str) -> list[str]:
    return [operation.describe() for operation in node.operations.running() if operation.key[1] == object_id]
