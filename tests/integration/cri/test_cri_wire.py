# SPDX-License-Identifier: Apache-2.0
"""CRI as bytes on the wire, by an independent client: gRPC's C core. What is no protobuf, what is no RPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from cri_lab import AcriProcess
from cri_pods import Pods

SERVICE = "/runtime.v1.RuntimeService/"
IMAGES = "/runtime.v1.ImageService/"


@pytest.fixture
async def foreign(acri: AcriProcess) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]
    # `localhost` is the authority that a kubelet sends.
    async with grpc.aio.insecure_channel(
        f"unix:{acri.socket}", options=[*options, ("grpc.default_authority", "localhost")]
    ) as channel:
        yield channel


async def call(channel: grpc.aio.Channel, path: str, body: bytes = b"") -> bytes:
    """The raw answer to raw bytes."""
    return await channel.unary_unary(path)(body, timeout=30)


async def test_version_and_lists_in_bytes(foreign: grpc.aio.Channel) -> None:
    answer = await call(foreign, SERVICE + "Version")
    assert answer.startswith(b"\x0a\x050.1.0\x12\x04acri\x1a")
    assert answer.endswith(b"\x22\x02v1")
    assert await call(foreign, SERVICE + "Version", b"\x0a\x050.1.0") == answer
    assert await call(foreign, SERVICE + "ListPodSandbox") == b""
    assert await call(foreign, SERVICE + "ListContainers", b"\x0a\x00") == b""


async def test_the_state_wrapper_s_presence(foreign: grpc.aio.Channel, pods: Pods) -> None:
    """CREATED is 0, so its wrapper is an empty message: two bytes that say everything."""
    pod = await pods.run()
    running = await pod.start(name="running")
    created = await pod.create("true", name="created")
    everything = await call(foreign, SERVICE + "ListContainers", b"\x0a\x00")
    assert running.encode() in everything
    assert created.encode() in everything
    only_created = await call(foreign, SERVICE + "ListContainers", b"\x0a\x02\x12\x00")
    assert created.encode() in only_created
    assert running.encode() not in only_created
    only_running = await call(foreign, SERVICE + "ListContainers", b"\x0a\x04\x12\x02\x08\x01")
    assert running.encode() in only_running
    assert created.encode() not in only_running


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("RunPodSandbox", b"\xff\xff\xff\xff"),
        ("RunPodSandbox", b"\x0a\x7fshort"),
        ("CreateContainer", b"\x12\x05\x0a\x03\x0a\x09x"),
        ("PodSandboxStatus", b"\x0a\x02\xff\xfe"),
        ("ListContainers", b"\x0a\x02\x12"),
        ("StopContainer", b"\x10\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"),
        ("ExecSync", b"\x00\x01"),
    ],
    ids=["noise", "cut", "cut-inside", "not-utf8", "cut-wrapper", "varint-too-long", "field-0"],
)
async def test_bytes_that_are_no_request(foreign: grpc.aio.Channel, method: str, body: bytes) -> None:
    """INTERNAL, as grpc-go says it; the connection lives on."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(foreign, SERVICE + method, body)
    assert refused.value.code() is grpc.StatusCode.INTERNAL
    assert "\n" not in refused.value.details()
    assert len(refused.value.details()) > 10
    assert await call(foreign, SERVICE + "ListPodSandbox") == b""


async def test_unknown_fields_are_ignored(foreign: grpc.aio.Channel) -> None:
    """A newer kubelet knows more."""
    newer = b"\xfa\x3f\x03new" + b"\xf8\x3f\x01"
    assert await call(foreign, SERVICE + "ListPodSandbox", newer) == b""


@pytest.mark.parametrize(
    "path", [SERVICE + "NoSuch", "/runtime.v1alpha2.RuntimeService/Version", "/x.Y/Z", IMAGES + "Version"]
)
async def test_unknown_rpcs_are_unimplemented(foreign: grpc.aio.Channel, path: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(foreign, path)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_request_beyond_the_limit(foreign: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(foreign, SERVICE + "Version", b"\x0a" + b"\x80\x80\x80\x0a" + b"x" * (20 << 20))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await call(foreign, SERVICE + "ListPodSandbox") == b""


async def test_not_found_and_absent(foreign: grpc.aio.Channel) -> None:
    unknown = b"\x0a\x40" + b"f" * 64
    for method in ("ContainerStatus", "PodSandboxStatus"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(foreign, SERVICE + method, unknown)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    for method in ("StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"):
        assert await call(foreign, SERVICE + method, unknown) == b""
    assert await call(foreign, IMAGES + "ImageStatus", b"\x0a\x03\x0a\x01x") == b""


async def test_many_connections_and_calls(acri: AcriProcess) -> None:
    """More than a hundred at once, which is where grpclib's own server stops."""

    async def client() -> None:
        arguments = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"unix:{acri.socket}", options=arguments) as channel:
            await asyncio.gather(*(call(channel, SERVICE + "Status") for _ in range(40)))

    await asyncio.gather(*(client() for _ in range(5)))
