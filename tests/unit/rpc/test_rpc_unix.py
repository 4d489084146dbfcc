# SPDX-License-Identifier: Apache-2.0
"""Sockets: row 15 of table 2.2 (never steal, exact mode, unlink only what is ours), long paths, socket activation."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpclib.encoding.proto import ProtoCodec
from rpc_peers import SAY, CCore, Echo, ServerFactory, echo_router

from acri.errors import ConfigError
from acri.rpc import Channel, Server, unix


async def test_mode_is_exact_whatever_the_umask(tmp_path: Path) -> None:
    for mask in (0o000, 0o022, 0o177):
        for mode in (0o600, 0o660):
            old = os.umask(mask)
            try:
                listener = unix.listen(str(tmp_path / "m.sock"), mode)
            finally:
                os.umask(old)
            assert stat.S_IMODE(os.stat(listener.path).st_mode) == mode
            listener.sock.close()
            listener.unlink()
            assert not os.listdir(tmp_path)


async def test_live_socket_is_not_stolen(serve: ServerFactory, path: str, channel: Channel) -> None:
    await serve()
    with pytest.raises(ConfigError, match=rf"socket {path} is in use"):
        await serve()
    reply = await channel.unary(SAY, StringValue(value="still here"), StringValue, timeout=10)
    assert reply.value == "still here"


async def test_live_socket_with_full_backlog_is_not_stolen(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(path)
        busy.listen(0)
        waiting.connect(path)  # nobody accepts: the next one gets EAGAIN
        with pytest.raises(ConfigError, match="in use"):
            unix.listen(path, 0o600)


async def test_datagram_socket_is_not_stolen(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        with pytest.raises(ConfigError, match="in use"):
            unix.listen(path, 0o600)


async def test_dead_socket_is_replaced(serve: ServerFactory, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    await serve()
    with CCore(path) as peer:
        assert (await peer.unary(SAY, StringValue(value="new"), StringValue)).value == "new"


async def test_other_things_are_left_alone(serve: ServerFactory, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "dangling"):
        with pytest.raises(ConfigError, match="is not a socket"):
            await serve(at=str(tmp_path / name))
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(ConfigError, match="No such file or directory"):
        await serve(at=str(tmp_path / "no" / "s.sock"))


async def test_close_removes_only_our_socket(serve: ServerFactory, path: str) -> None:
    server = await serve()
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        server.close()
        await server.wait_closed()
        assert stat.S_ISSOCK(os.stat(path).st_mode)
    os.unlink(path)
    server = await serve()
    server.close()
    with pytest.raises(FileNotFoundError):
        os.stat(path)


async def test_deep_directory(serve: ServerFactory, tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 60] * 5)
    deep.mkdir(parents=True)
    path = str(deep / "acri.sock")
    assert len(path) > unix.MAX_PATH
    server = await serve(at=path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    async with Channel(path, codec=ProtoCodec()) as channel:
        reply = await channel.unary(SAY, StringValue(value="deep"), StringValue, timeout=10)
        assert reply.value == "deep"
    with pytest.raises(ConfigError, match="in use"):
        await serve(at=path)
    server.close()
    assert not os.listdir(deep)
    with pytest.raises(ConfigError, match="too long"):
        await serve(at=str(deep / ("n" * 120)))


async def test_socket_activation(path: str, echo: Echo) -> None:
    """The socket is somebody else's: served, and its file stays."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        server = Server(echo_router(echo), codec=ProtoCodec())
        await server.serve_socket(sock.dup())
        with CCore(path) as peer:
            assert (await peer.unary(SAY, StringValue(value="x"), StringValue)).value == "x"
        await server.drain(1)
        assert stat.S_ISSOCK(os.stat(path).st_mode)


async def test_credentials() -> None:
    a, b = socket.socketpair()
    with a, b:
        assert unix.credentials(a) == unix.Peer(os.getpid(), os.getuid(), os.getgid())
    assert unix.credentials(None) == unix.Peer(-1, -1, -1)
    with socket.socket(socket.AF_INET) as tcp:
        assert unix.credentials(tcp).pid in (-1, 0)
