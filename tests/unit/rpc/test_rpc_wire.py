# SPDX-License-Identifier: Apache-2.0
"""rpc with what acri runs it with: the generated table of CRI and the wire codec; C-core speaks raw bytes."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpclib.encoding.proto import ProtoCodec
from rpc_peers import CCore
from structlog.testing import capture_logs

from acri import errors
from acri.proto.runtime import v1
from acri.rpc import Call, Cardinality, Channel, Method, Router, Server
from acri.wire import Encoded, WireCodec, frame

SERVICE = "/runtime.v1.RuntimeService/"
METHODS = [
    Method(path, Cardinality((row.client_streaming, row.server_streaming)), row.request, row.reply)
    for path, row in v1.METHODS.items()
    if path.startswith(SERVICE)
]


class Bytes(bytes):
    """Bytes that look like a message to C-core's test client."""

    def SerializeToString(self) -> bytes:
        return bytes(self)

    @staticmethod
    def FromString(data: bytes) -> bytes:
        return data


class Runtime:
    async def version(self, request: v1.VersionRequest, call: Call) -> v1.VersionResponse:
        return v1.VersionResponse(version=request.version, runtime_name="acri")

    async def list_containers(self, request: v1.ListContainersRequest, call: Call) -> Encoded:
        return Encoded(frame(1, frame(1, b"abc")))

    async def get_container_events(self, request: v1.GetEventsRequest, call: Call) -> Any:
        yield v1.ContainerEventResponse(container_id="c1")
        yield Encoded(frame(1, b"c2"))


async def test_cri_over_the_wire_codec(path: str) -> None:
    router = Router()
    missing = router.add_service(METHODS, Runtime())
    assert "RunPodSandbox" in missing
    assert "Version" not in missing
    async with Server(router, codec=WireCodec()) as server:
        await server.bind_unix(path)
        async with Channel(path, codec=WireCodec()) as channel:
            reply = await channel.unary(
                SERVICE + "Version", v1.VersionRequest(version="v1"), v1.VersionResponse, timeout=10
            )
            assert (reply.version, reply.runtime_name) == ("v1", "acri")
            listed = await channel.unary(
                SERVICE + "ListContainers", Encoded(b""), v1.ListContainersResponse, timeout=10
            )
            assert [c.id for c in listed.containers] == ["abc"]
            async with channel.server_stream(
                SERVICE + "GetContainerEvents", v1.GetEventsRequest(), v1.ContainerEventResponse
            ) as events:
                assert [e.container_id async for e in events] == ["c1", "c2"]
            with pytest.raises(errors.Unimplemented, match="StopPodSandbox is not implemented"):
                await channel.unary(
                    SERVICE + "StopPodSandbox", v1.StopPodSandboxRequest(), v1.StopPodSandboxResponse, timeout=10
                )
        with CCore(path) as peer, capture_logs() as logs:
            assert await peer.unary(SERVICE + "ListContainers", Bytes(), Bytes) == b"\x0a\x05\x0a\x03abc"
            code, text = await peer.error(SERVICE + "Version", Bytes(b"\x0a\x0aabc"), Bytes)
            assert (code, text) == (grpc.StatusCode.INTERNAL, "failed to unmarshal the received message")
            [entry] = [e for e in logs if e["event"] == "undecodable request"]
            assert entry["error_path"] == "VersionRequest.version"


async def test_undecodable_answer_names_its_path(path: str) -> None:
    async def version(request: Any, call: Call) -> Encoded:
        return Encoded(b"\x0a\x0aabc")

    router = Router()
    runtime = Runtime()
    runtime.version = version  # type: ignore[assignment,method-assign]
    router.add_service(METHODS, runtime)
    async with Server(router, codec=WireCodec()) as server, Channel(path, codec=WireCodec()) as channel:
        await server.bind_unix(path)
        with pytest.raises(errors.Internal, match="version"):
            await channel.unary(SERVICE + "Version", v1.VersionRequest(), v1.VersionResponse, timeout=10)


def test_codec_is_one_of_grpclib() -> None:
    assert WireCodec.__content_subtype__ == ProtoCodec.__content_subtype__ == "proto"
