# SPDX-License-Identifier: Apache-2.0
"""What a kubelet asks before it has a pod (kubelet-cri.md 1, script 1), and the RPCs of later issues (script 28)."""

from __future__ import annotations

import json
import os

import pytest
from cri_client import Cri

from acri import errors
from acri.proto.runtime import v1 as m

IMPLEMENTED = {
    *("Version", "Status", "RuntimeConfig", "UpdateRuntimeConfig"),
    *("RunPodSandbox", "StopPodSandbox", "RemovePodSandbox", "PodSandboxStatus", "ListPodSandbox"),
    *("CreateContainer", "StartContainer", "StopContainer", "RemoveContainer", "ListContainers", "ContainerStatus"),
    *("ExecSync", "ReopenContainerLog"),
    *("PullImage", "ImageStatus", "ListImages", "RemoveImage", "ImageFsInfo"),
}


async def test_start_of_a_kubelet(cri: Cri) -> None:
    for asked in ("", "0.1.0"):
        version = await cri(m.VersionRequest(version=asked))
        assert version.version == "0.1.0"
        assert version.runtime_name == "acri"
        assert version.runtime_version
        assert version.runtime_api_version == "v1"
    drivers = [(await cri(m.RuntimeConfigRequest())).linux.cgroup_driver for _ in range(3)]
    assert drivers == [m.CgroupDriver.CGROUPFS] * 3


async def test_both_conditions_are_true_and_bare(cri: Cri) -> None:
    answer = await cri(m.StatusRequest())
    conditions = {item.type: item for item in answer.status.conditions}
    assert set(conditions) == {"RuntimeReady", "NetworkReady"}
    assert all(item.status for item in conditions.values())
    assert answer.info == {}


async def test_the_default_handler_is_listed_under_the_empty_name(cri: Cri) -> None:
    handlers = (await cri(m.StatusRequest())).runtime_handlers
    assert {handler.name for handler in handlers} == {"", "runc"}
    assert all(handler.features is not None for handler in handlers)


async def test_verbose_status_is_json(cri: Cri) -> None:
    info = (await cri(m.StatusRequest(verbose=True))).info
    assert json.loads(info["config"])["cgroups"]["driver"] == "cgroupfs"


async def test_image_fs_info(cri: Cri) -> None:
    answer = await cri(m.ImageFsInfoRequest())
    for usages in (answer.image_filesystems, answer.container_filesystems):
        (usage,) = usages
        assert usage.timestamp > 0
        assert usage.used_bytes is not None
        assert os.path.isdir(usage.fs_id.mountpoint)


async def test_a_pod_cidr_is_taken(cri: Cri) -> None:
    config = m.RuntimeConfig(network_config=m.NetworkConfig(pod_cidr="10.0.0.0/24"))
    await cri(m.UpdateRuntimeConfigRequest(runtime_config=config))


@pytest.mark.parametrize(
    "path", [path for path in m.METHODS if path.rpartition("/")[2] not in IMPLEMENTED], ids=lambda path: path[12:]
)
async def test_rpcs_of_later_issues_are_unimplemented(cri: Cri, path: str) -> None:
    """A kubelet takes any other code for an error, and this one for "fall back"; streams on the first receive."""
    with pytest.raises(errors.Unimplemented):
        await _call(cri, path)


async def _call(cri: Cri, path: str) -> None:
    method = m.METHODS[path]
    if not method.server_streaming:
        await cri.channel.unary(path, method.request(), method.reply, timeout=30)
        return
    async with cri.channel.server_stream(path, method.request(), method.reply, timeout=30) as replies:
        async for _ in replies:
            pass
