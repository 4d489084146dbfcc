# SPDX-License-Identifier: Apache-2.0
"""The repaired server: each row of table 2.2 of python-anchors.md, seen by C-core or by a raw h2 client."""

from __future__ import annotations

import asyncio
import os
import socket

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BytesValue, Int32Value, StringValue
from grpclib.encoding.proto import ProtoCodec
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame, RstStreamFrame
from rpc_peers import (
    BLOB,
    COUNT,
    ENDLESS,
    FAIL,
    MISSING,
    SAY,
    WAIT,
    CCore,
    Echo,
    ServerFactory,
    echo_router,
    raw_client,
    until,
)

from acri import errors
from acri.errors import Code, ConfigError
from acri.rpc import Channel, Limits, Server
from acri.rpc.server import RESETS_PER_SECOND

MIB = 2**20


def framed(body: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    return bytes([flag]) + (len(body) if length is None else length).to_bytes(4, "big") + body


async def test_unary_and_stream_with_ccore(serve: ServerFactory, path: str, echo: Echo) -> None:
    await serve()
    with CCore(path) as peer:
        reply = await peer.unary(
            SAY, StringValue(value="hi"), StringValue, metadata=[("who", "me"), ("k-bin", b"\0\1")]
        )
        assert reply.value == "hi"
        numbers = await asyncio.to_thread(
            lambda: [m.value for m in peer.stream(COUNT, Int32Value(value=50), Int32Value)]
        )
        assert numbers == list(range(50))
    call = echo.calls[0]
    assert call.method == "Say"
    assert call.metadata["who"] == "me"
    assert call.metadata["k-bin"] == b"\0\1"
    assert call.peer.pid == os.getpid()
    assert (call.peer.uid, call.peer.gid) == (os.getuid(), os.getgid())
    assert call.deadline is not None
    assert 0 < call.deadline < 25  # C-core rounds up
    assert call.remaining is not None
    assert call.remaining <= call.deadline


async def test_row_1_unknown_method(serve: ServerFactory, path: str, channel: Channel) -> None:
    await serve()
    with CCore(path) as peer:
        code, text = await peer.error("/acri.test.Echo/Nope", StringValue(), StringValue)
        assert code is grpc.StatusCode.UNIMPLEMENTED
        assert "/acri.test.Echo/Nope" in text
        code, text = await peer.error(MISSING, StringValue(), StringValue)
        assert code is grpc.StatusCode.UNIMPLEMENTED
        assert text == "Missing is not implemented by acri"
    with pytest.raises(errors.Unimplemented, match="unknown method /x/y"):
        await channel.unary("/x/y", StringValue(), StringValue, timeout=5)
    async with await raw_client(path) as raw:
        answer = await raw.ask(raw.headers("/x/y"))
        # grpc-go reads the status only of answers with this header
        assert answer.headers["content-type"].startswith("application/grpc")


async def test_row_2_unknown_frame_is_ignored(serve: ServerFactory, path: str) -> None:
    await serve()
    async with await raw_client(path) as raw:
        raw.writer.write(b"\x00\x00\x04\xbb\x00\x00\x00\x00\x00rest")
        assert (await raw.ask()).status is Code.OK
        raw.writer.write(b"\x00\x00\x00\xbc\xff\x00\x00\x00\x01")
        assert (await raw.ask()).status is Code.OK


@pytest.mark.parametrize(
    ("without", "extra"),
    [
        ((), ("bad-bin", "a")),
        ((), ("bad-bin", "é")),
        ((":method",), None),
        ((":path",), None),
    ],
)
async def test_row_3_malformed_request_is_reset(
    serve: ServerFactory, path: str, without: tuple[str, ...], extra: tuple[str, str] | None
) -> None:
    server = await serve()
    async with await raw_client(path) as raw:
        answer = await raw.ask(raw.headers(SAY, *([extra] if extra else []), without=without), None)
        assert answer.reset == ErrorCodes.PROTOCOL_ERROR
        assert (await raw.ask()).status is Code.OK
        assert server.active == 0


async def test_non_ascii_header_spoils_nothing(serve: ServerFactory, path: str, echo: Echo) -> None:
    await serve()
    async with await raw_client(path) as raw:
        assert (await raw.ask(raw.headers(SAY, ("who", "ü")))).status is Code.OK
    assert echo.calls[0].metadata["who"] == "Ã¼"


@pytest.mark.parametrize(("missing", "http"), [("content-type", "415"), ("te", "400")], ids=["content-type", "te"])
async def test_row_3_wrong_http_is_answered(serve: ServerFactory, path: str, missing: str, http: str) -> None:
    await serve()
    async with await raw_client(path) as raw:
        assert (await raw.ask(raw.headers(SAY, without=[missing]))).headers[":status"] == http
        get = [(k, "GET" if k == ":method" else v) for k, v in raw.headers()]
        assert (await raw.ask(get, None)).headers[":status"] == "405"
        assert (await raw.ask()).status is Code.OK


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (framed(b"x", flag=1), Code.UNIMPLEMENTED),
        (framed(b"abc", length=9), Code.INTERNAL),
        (b"\0\0", Code.INTERNAL),
        (framed(b"", length=9), Code.INTERNAL),
        (None, Code.INTERNAL),
        (b"", Code.INTERNAL),
        (framed(b"\x0a\x0aabc"), Code.INTERNAL),
        (framed(b"\xff\xff\xff"), Code.INTERNAL),
    ],
    ids=["compressed", "short", "short prefix", "prefix only", "no message", "empty", "truncated", "garbage"],
)
async def test_row_4_broken_message(serve: ServerFactory, path: str, data: bytes | None, code: Code) -> None:
    await serve()
    async with await raw_client(path) as raw:
        answer = await raw.ask(data=data)
        assert answer.status is code
        assert (await raw.ask()).status is Code.OK


async def test_row_4_compression_of_ccore(serve: ServerFactory, path: str) -> None:
    await serve()
    with CCore(path) as peer:
        request = StringValue(value="a" * 4096)
        code, text = await peer.error(SAY, request, StringValue, compression=grpc.Compression.Gzip)
        assert code is grpc.StatusCode.UNIMPLEMENTED
        assert "compressed" in text
        assert (await peer.unary(SAY, request, StringValue)).value == request.value


async def test_message_in_many_frames_with_empty_ones(serve: ServerFactory, path: str) -> None:
    await serve()
    async with await raw_client(path) as raw:
        body = framed(StringValue(value="abcdef").SerializeToString())
        stream = raw.send(data=body[:7], end=False)
        for part in (b"", body[7:9], b"", b"", body[9:]):
            frame = DataFrame(stream)
            frame.data = part
            raw.writer.write(frame.serialize())
        raw.h2.send_data(stream, b"", end_stream=True)
        raw.flush()
        answer = await raw.answer(stream)
        assert answer.data == body


async def test_row_5_own_timeout(serve: ServerFactory, path: str, echo: Echo) -> None:
    await serve()
    echo.error = lambda: TimeoutError("cni add took longer than 60 s")
    with CCore(path) as peer:
        code, text = await peer.error(FAIL, StringValue(), StringValue)
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert text == "cni add took longer than 60 s"


async def test_row_6_many_streams_before_settings(serve: ServerFactory, path: str, echo: Echo) -> None:
    server = await serve()
    async with await raw_client(path) as raw:
        streams = [raw.send(raw.headers(WAIT)) for _ in range(300)]
        await until(lambda: server.active == 300)
        await raw.read_until(lambda: raw.h2.remote_settings.max_frame_size == 64 * 1024)
        settings = raw.h2.remote_settings
        assert settings.max_concurrent_streams == 1000
        assert settings.max_frame_size == 64 * 1024
        assert settings.max_header_list_size == 64 * 1024
        assert settings.initial_window_size >= 4 * MIB
        assert raw.h2.outbound_flow_control_window >= 4 * MIB - 300 * 5
        echo.release.set()
        assert {(await raw.answer(s)).status for s in streams} == {Code.OK}


async def test_row_6_large_frames(serve: ServerFactory, path: str) -> None:
    await serve()
    async with await raw_client(path) as raw:
        await raw.ask()
        body = framed(BytesValue(value=bytes(60_000)).SerializeToString())
        assert raw.h2.max_outbound_frame_size == 64 * 1024
        answer = await raw.ask(raw.headers(BLOB), body)
        assert Int32Value.FromString(answer.data[5:]).value == 60_000


async def test_row_7_inbound_bound(serve: ServerFactory, path: str) -> None:
    await serve()
    with CCore(path) as peer:
        assert (await peer.unary(BLOB, BytesValue(value=bytes(15 * MIB)), Int32Value)).value == 15 * MIB
        code, text = await peer.error(BLOB, BytesValue(value=bytes(17 * MIB)), Int32Value)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in text
        assert (await peer.unary(BLOB, BytesValue(value=b"1"), Int32Value)).value == 1


async def test_row_7_refused_before_it_is_sent(serve: ServerFactory, path: str) -> None:
    await serve()
    async with await raw_client(path) as raw:
        stream = raw.send(raw.headers(BLOB), framed(b"", length=300 * MIB), end=False)
        assert (await raw.answer(stream)).status is Code.RESOURCE_EXHAUSTED
        assert (await raw.ask()).status is Code.OK


async def test_row_8_drain_lets_calls_end(serve: ServerFactory, path: str, echo: Echo) -> None:
    server = await serve()
    with CCore(path) as peer:
        running = asyncio.ensure_future(peer.unary(WAIT, StringValue(), StringValue))
        await echo.started.wait()
        draining = asyncio.ensure_future(server.drain(20))
        await until(lambda: server.draining)
        assert not draining.done()
        echo.release.set()
        assert (await running).value == "waited"
        assert await draining == 0
    assert server.connections == 0
    assert not os.access(path, os.F_OK)
    assert await server.drain(1) == 0


async def test_row_8_drain_answers_the_rest(serve: ServerFactory, path: str, echo: Echo) -> None:
    server = await serve()
    with CCore(path) as peer:
        running = asyncio.ensure_future(peer.error(WAIT, StringValue(), StringValue))
        await echo.started.wait()
        assert await server.drain(0.05) == 1
        code, text = await running
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "shutting down" in text
    assert echo.cancels == 1


async def test_row_8_drain_refuses_new_calls(serve: ServerFactory, path: str, echo: Echo) -> None:
    server = await serve()
    async with await raw_client(path) as raw:
        first = raw.send(raw.headers(WAIT))
        await echo.started.wait()
        draining = asyncio.ensure_future(server.drain(20))
        await until(lambda: server.draining)
        second = raw.send()  # sent before the GOAWAY was read
        await asyncio.sleep(0.05)
        echo.release.set()
        answers: dict[str, bytes] = {"wire": b""}
        while data := await raw.reader.read(65536):
            answers["wire"] += data
        await draining
    # h2 would refuse to go on after the GOAWAY, so the frames are read by hand
    kinds = frames(answers["wire"])
    assert (7, 0) in kinds  # GOAWAY
    assert (3, second) in kinds  # RST_STREAM of the refused call
    assert kinds.count((1, first)) == 2  # headers and trailers of the one that ran
    assert kinds.index((7, 0)) < kinds.index((1, first))


def frames(wire: bytes) -> list[tuple[int, int]]:
    """(type, stream) of each frame."""
    found = []
    while wire:
        length = int.from_bytes(wire[:3], "big")
        found.append((wire[3], int.from_bytes(wire[5:9], "big")))
        wire = wire[9 + length :]
    return found


async def test_row_9_close_with_connected_client(serve: ServerFactory, path: str, echo: Echo) -> None:
    server = await serve()
    async with await raw_client(path) as raw:
        await raw.ask()
        raw.send(raw.headers(WAIT))
        await echo.started.wait()
        server.close()
        await asyncio.wait_for(server.wait_closed(), 10)
        await raw.read_until(lambda: False)
        assert raw.eof
    assert echo.cancels == 1
    server.close()


@pytest.mark.parametrize("how", ["cancel", "disconnect"])
async def test_rows_10_11_client_leaves(serve: ServerFactory, path: str, echo: Echo, how: str) -> None:
    server = await serve()
    raw = await raw_client(path)
    stream = raw.send(raw.headers(WAIT))
    await echo.started.wait()
    if how == "cancel":
        raw.h2.reset_stream(stream, ErrorCodes.CANCEL)
        raw.flush()
    else:
        raw.writer.close()
    await asyncio.wait_for(echo.ended.wait(), 10)
    assert echo.cancels == 1
    assert echo.cancelling == 1
    await until(lambda: not server.active)
    raw.writer.close()


async def test_client_deadline_cancels_the_handler(serve: ServerFactory, path: str, echo: Echo) -> None:
    await serve()
    with CCore(path) as peer:
        code, _ = await peer.error(WAIT, StringValue(), StringValue, timeout=0.2)
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(echo.ended.wait(), 10)
    assert echo.cancels == 1


async def test_server_answers_a_deadline_itself(serve: ServerFactory, path: str) -> None:
    await serve()
    async with await raw_client(path) as raw:
        assert (await raw.ask(raw.headers(WAIT, ("grpc-timeout", "20m")))).status is Code.DEADLINE_EXCEEDED


async def test_stream_generator_is_closed_when_the_client_leaves(serve: ServerFactory, path: str, echo: Echo) -> None:
    await serve()
    with CCore(path) as peer:
        replies = peer.stream(ENDLESS, Int32Value(), Int32Value)
        assert (await asyncio.to_thread(next, replies)).value == 0
        await echo.started.wait()
        replies.cancel()
        await asyncio.wait_for(echo.closed.wait(), 10)


async def test_row_12_rapid_reset_closes_the_connection(serve: ServerFactory, path: str) -> None:
    server = await serve()
    async with await raw_client(path) as raw:
        try:
            for _ in range(RESETS_PER_SECOND + 200):
                stream = raw.h2.get_next_available_stream_id()
                raw.h2.send_headers(stream, raw.headers(WAIT))
                raw.h2.reset_stream(stream)
            raw.flush()
            await raw.read_until(lambda: False)
        except OSError:
            pass  # the rest could not be written any more
        assert raw.eof or raw.writer.is_closing()
        if raw.goaway is not None:
            assert raw.goaway.error_code == ErrorCodes.ENHANCE_YOUR_CALM
    await until(lambda: not server.connections)
    async with await raw_client(path) as raw:
        assert (await raw.ask()).status is Code.OK


async def test_row_12_reset_in_the_same_read_leaks_nothing(serve: ServerFactory, path: str) -> None:
    server = await serve()
    async with await raw_client(path) as raw:
        await raw.ask()
        for _ in range(50):
            stream = raw.h2.get_next_available_stream_id()
            raw.h2.send_headers(stream, raw.headers(WAIT))
            raw.h2.reset_stream(stream)
            second = RstStreamFrame(stream)
            raw.writer.write(raw.h2.data_to_send() + second.serialize())
        assert (await raw.ask()).status is Code.OK
        await until(lambda: not server.active)


async def test_row_13_only_unix_sockets(echo: Echo) -> None:
    server = Server(echo_router(echo), codec=ProtoCodec())
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigError, match="only unix"):
            await server.serve_socket(sock)
    with pytest.raises(NotImplementedError):
        await server.start(path="/nowhere")


@pytest.mark.parametrize(
    ("timeout", "code"),
    [
        ("0S", Code.DEADLINE_EXCEEDED),
        ("0n", Code.DEADLINE_EXCEEDED),
        ("soon", Code.INTERNAL),
        ("-1S", Code.INTERNAL),
        ("1s", Code.INTERNAL),
        ("", Code.INTERNAL),
        ("9" * 400 + "H", Code.INTERNAL),
        ("99999999H", Code.OK),
    ],
)
async def test_row_14_timeout_header(serve: ServerFactory, path: str, timeout: str, code: Code) -> None:
    server = await serve()
    async with await raw_client(path) as raw:
        answer = await raw.ask(raw.headers(SAY, ("grpc-timeout", timeout)))
        assert answer.status is code
        assert answer.headers["content-type"].startswith("application/grpc")
        assert (await raw.ask()).status is Code.OK
        assert server.active == 0


async def test_protocol_error_is_told(serve: ServerFactory, path: str) -> None:
    await serve()
    async with await raw_client(path) as raw:
        await raw.ask()
        raw.writer.write(b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00")  # WINDOW_UPDATE by 0
        await raw.read_until(lambda: False)
        assert raw.goaway is not None
        assert raw.goaway.error_code == ErrorCodes.PROTOCOL_ERROR
    async with await raw_client(path) as raw:
        assert (await raw.ask()).status is Code.OK


async def test_garbage_instead_of_http2(serve: ServerFactory, path: str) -> None:
    server = await serve()
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.wait_for(reader.read(), 10)
    writer.close()
    async with await raw_client(path) as raw:
        assert (await raw.ask()).status is Code.OK
    await until(lambda: not server.connections)


async def test_large_answers_and_parallel_calls(serve: ServerFactory, path: str, channel: Channel) -> None:
    await serve(Limits(window=16 * MIB))
    text = "x" * (3 * MIB)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(channel.unary(SAY, StringValue(value=text), StringValue, timeout=20)) for _ in range(8)
        ]
    assert {t.result().value for t in tasks} == {text}
