# SPDX-License-Identifier: Apache-2.0
"""Every asynchronous test of this room runs on both loops: asyncio's and uvloop's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop
from grpclib.encoding.proto import ProtoCodec
from rpc_peers import Echo, ServerFactory, echo_router

from acri.rpc import Channel, Limits, Server


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s.sock")


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def serve(path: str, echo: Echo) -> AsyncIterator[ServerFactory]:
    """Start an Echo server on `path`; closed at the end."""
    servers: list[Server] = []

    async def start(limits: Limits | None = None, at: str = path) -> Server:
        server = Server(echo_router(echo), codec=ProtoCodec(), limits=limits)
        await server.bind_unix(at)
        servers.append(server)
        return server

    yield start
    echo.release.set()
    for server in servers:
        server.close()
        await server.wait_closed()


@pytest.fixture
async def channel(path: str) -> AsyncIterator[Channel]:
    """acri's own client on the same path."""
    async with Channel(path, codec=ProtoCodec()) as channel:
        yield channel
