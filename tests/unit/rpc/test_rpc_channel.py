# SPDX-License-Identifier: Apache-2.0
"""The client: each row of table 2.5 of python-anchors.md, against grpcio's C-core server in a process of its own."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import h2.config
import h2.connection
import h2.events
import hpack
import pytest
from google.protobuf.wrappers_pb2 import BytesValue, Int32Value, StringValue
from grpclib.encoding.proto import ProtoCodec
from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, PingFrame
from rpc_peers import COUNT, ENDLESS, FAIL, SAY, SERVICE, WAIT, Echo, PeerServer, ServerFactory, until

from acri import errors
from acri.rpc import Channel, Retry
from acri.rpc.transport import LAST_STREAM_ID

TOTAL, BIG = SERVICE + "Total", SERVICE + "Big"
MIB = 2**20


@pytest.fixture
async def peer(path: str) -> AsyncIterator[PeerServer]:
    async with PeerServer(path) as server:
        yield server


async def say(channel: Channel, text: str = "hi", **options: Any) -> str:
    options.setdefault("timeout", 20)
    return (await channel.unary(SAY, StringValue(value=text), StringValue, **options)).value


def task() -> asyncio.Task[Any]:
    current = asyncio.current_task()
    assert current is not None
    return current


# --- answers ----------------------------------------------------------------------------------------------------------


async def test_unary(peer: PeerServer, channel: Channel) -> None:
    assert not channel.connected
    assert await say(channel, metadata={"who": "me", "id-bin": b"\0\xff"}) == "hi"
    assert channel.connected
    assert repr(channel) == f"Channel('{peer.path}')"


async def test_large_answer(peer: PeerServer, channel: Channel) -> None:
    reply = await channel.unary(BIG, Int32Value(value=15 * MIB), BytesValue, timeout=20)
    assert len(reply.value) == 15 * MIB
    with pytest.raises(errors.ResourceExhausted, match="larger than max"):
        await channel.unary(BIG, Int32Value(value=17 * MIB), BytesValue, timeout=20)
    assert await say(channel) == "hi"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("NOT_FOUND", errors.NotFound),
        ("ALREADY_EXISTS", errors.AlreadyExists),
        ("FAILED_PRECONDITION", errors.FailedPrecondition),
        ("INVALID_ARGUMENT", errors.InvalidArgument),
        ("UNIMPLEMENTED", errors.Unimplemented),
        ("UNAVAILABLE", errors.OutcomeUnknown),
        ("DATA_LOSS", errors.UnknownError),
        ("UNKNOWN", errors.UnknownError),
    ],
)
async def test_statuses(peer: PeerServer, channel: Channel, code: str, error: type[errors.AcriError]) -> None:
    with pytest.raises(errors.AcriError) as caught:
        await channel.unary(FAIL, StringValue(value=f"{code} task x:\nnot found 100 %"), StringValue, timeout=20)
    assert type(caught.value) is error
    assert caught.value.message == "task x:\nnot found 100 %"


async def test_answers_are_never_repeated(peer: PeerServer, channel: Channel) -> None:
    """Not even UNAVAILABLE: with no timeout this would go on for ever."""
    async with asyncio.timeout(20):
        with pytest.raises(errors.OutcomeUnknown, match="shim"):
            await channel.unary(
                FAIL, StringValue(value="UNAVAILABLE shim"), StringValue, timeout=None, retry=Retry.IDEMPOTENT
            )


async def test_undecodable_answer(peer: PeerServer, channel: Channel) -> None:
    with pytest.raises(errors.Internal, match="cannot be decoded"):
        await channel.unary(SAY, StringValue(value="\x7f" * 10), BytesValueOfGroup, timeout=20)
    assert await say(channel) == "hi"


class BytesValueOfGroup(StringValue.__class__):  # type: ignore[misc]
    """A reply type that refuses all bytes."""

    def __new__(cls) -> Any:
        raise NotImplementedError

    @staticmethod
    def FromString(data: bytes) -> Any:
        raise ValueError("nothing of this is right")


# --- not sent ---------------------------------------------------------------------------------------------------------


async def test_nobody_there(path: str, channel: Channel) -> None:
    with pytest.raises(
        errors.Unavailable, match=rf"{path} \(No such file or directory\).*check that it is running"
    ) as e:
        await say(channel)
    assert not isinstance(e.value, errors.OutcomeUnknown)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with pytest.raises(errors.Unavailable, match="Connection refused") as e:
        await say(channel)
    assert not isinstance(e.value, errors.OutcomeUnknown)


async def test_names_peer_and_remedy(path: str) -> None:
    async with Channel(path, codec=ProtoCodec(), peer="foo", remedy="start foo") as channel:
        with pytest.raises(errors.Unavailable, match=r"^foo does not answer at .* start foo$"):
            await say(channel)


async def test_retry_until_the_peer_is_there(path: str, channel: Channel) -> None:
    waiting = asyncio.ensure_future(say(channel, retry=True))
    await asyncio.sleep(0.1)
    async with PeerServer(path):
        assert await waiting == "hi"


async def test_retry_ends_with_the_timeout(channel: Channel) -> None:
    with pytest.raises(errors.Unavailable, match="No such file"):
        await say(channel, retry=True, timeout=0.3)


async def test_full_backlog_is_waited_for(path: str, channel: Channel) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(path)
        busy.listen(0)
        first.connect(path)
        with pytest.raises(errors.DeadlineExceeded):
            await say(channel, timeout=0.1)


async def test_refused_stream_is_not_run(serve: ServerFactory, channel: Channel, echo: Echo) -> None:
    """Our own server while it drains: the call that runs may end, a new one is refused and known not to have run."""
    server = await serve()
    running = asyncio.ensure_future(channel.unary(WAIT, StringValue(), StringValue, timeout=20))
    await echo.started.wait()
    draining = asyncio.ensure_future(server.drain(20))
    await until(lambda: server.draining)
    with pytest.raises(errors.Unavailable) as caught:  # no GOAWAY seen yet: the stream is refused
        await say(channel)
    assert "refused" in str(caught.value)
    assert not isinstance(caught.value, errors.OutcomeUnknown)
    assert not channel.connected
    with pytest.raises(errors.Unavailable) as caught:
        await say(channel)
    assert not isinstance(caught.value, errors.OutcomeUnknown)
    echo.release.set()
    assert (await running).value == "waited"
    assert await draining == 0


async def goaway_server(path: str, last_stream_id: int, error_code: int, more: bytes = b"") -> asyncio.Server:
    """Answers each connection's third read with a GOAWAY, by hand."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        conn.initiate_connection()
        writer.write(conn.data_to_send())
        seen: set[type] = set()
        while h2.events.StreamEnded not in seen:
            seen.update(type(event) for event in conn.receive_data(await reader.read(65536)))
            writer.write(conn.data_to_send())
        goaway = GoAwayFrame(0, last_stream_id=last_stream_id, error_code=error_code, additional_data=b"too_many_pings")
        writer.write(goaway.serialize() + PingFrame(0, opaque_data=b"8 bytes!").serialize() + more)
        await reader.read()
        writer.close()

    return await asyncio.start_unix_server(serve, path)


@pytest.mark.parametrize(
    ("last", "code", "error"),
    [(0, 0, errors.Unavailable), (0, 11, errors.Unavailable), (1, 11, errors.OutcomeUnknown)],
)
async def test_goaway_says_what_was_not_run(
    path: str, channel: Channel, last: int, code: int, error: type[errors.AcriError]
) -> None:
    server = await goaway_server(path, last, code)
    with pytest.raises(errors.Unavailable) as caught:
        await say(channel)
    assert isinstance(caught.value, errors.OutcomeUnknown) is (error is errors.OutcomeUnknown)
    assert "going away" in str(caught.value) or "too_many_pings" in str(caught.value)
    await until(lambda: not channel.connected)
    server.close()


async def test_goaway_in_the_same_read_as_the_answer(path: str, channel: Channel) -> None:
    encoder = hpack.Encoder()
    head = HeadersFrame(1, flags=["END_HEADERS"])
    head.data = encoder.encode([(":status", "200"), ("content-type", "application/grpc")])
    body = DataFrame(1)
    body.data = b"\0\0\0\0\x04\x0a\x02hi"
    tail = HeadersFrame(1, flags=["END_HEADERS", "END_STREAM"])
    tail.data = encoder.encode([("grpc-status", "0")])
    answer = b"".join(frame.serialize() for frame in (head, body, tail))
    server = await goaway_server(path, 1, 0, answer)
    assert await say(channel) == "hi"
    assert not channel.connected
    server.close()


# --- broken while it ran ----------------------------------------------------------------------------------------------


async def test_peer_killed_in_mid_call_and_back(peer: PeerServer, channel: Channel, path: str) -> None:
    assert await say(channel) == "hi"
    running = asyncio.ensure_future(channel.unary(WAIT, StringValue(), StringValue, timeout=20))
    await asyncio.sleep(0.1)
    await peer.kill()
    with pytest.raises(errors.OutcomeUnknown, match="may have been done"):
        await running
    await until(lambda: not channel.connected)
    with pytest.raises(errors.Unavailable, match="was not run"):
        await say(channel)
    os.unlink(path)
    await peer.start()
    assert await say(channel) == "hi"


async def test_idempotent_retry_over_a_restart(peer: PeerServer, channel: Channel, path: str) -> None:
    stream = channel.server_stream(ENDLESS, Int32Value(), Int32Value)
    async with stream:
        assert (await anext(stream)).value == 1
        reading = asyncio.ensure_future(
            channel.unary(SAY, StringValue(value="again"), StringValue, timeout=20, retry=Retry.IDEMPOTENT)
        )
        await peer.kill()
        with pytest.raises(errors.OutcomeUnknown):
            await anext(stream)
    os.unlink(path)
    await peer.start()
    assert (await reading).value == "again"
    assert await say(channel) == "hi"


async def test_graceful_goaway(peer: PeerServer, channel: Channel) -> None:
    running = asyncio.ensure_future(channel.unary(WAIT, StringValue(), StringValue, timeout=20))
    await until(lambda: channel.connected)
    await asyncio.sleep(0.1)
    await peer.stop_gracefully()
    assert not channel.connected  # new calls go elsewhere …
    with pytest.raises(errors.Unavailable, match="was not run"):
        await say(channel)
    assert not running.done()  # … and those that run may end
    await peer.kill()
    with pytest.raises(errors.OutcomeUnknown):
        await running


# --- deadlines and cancellation ---------------------------------------------------------------------------------------


async def test_deadline(peer: PeerServer, channel: Channel) -> None:
    with pytest.raises(errors.DeadlineExceeded, match=r"did not answer /acri.test.Echo/Wait within 0.2 s|DEADLINE"):
        await channel.unary(WAIT, StringValue(), StringValue, timeout=0.2)
    assert task().cancelling() == 0
    with pytest.raises(errors.DeadlineExceeded):
        await say(channel, timeout=0)
    with pytest.raises(errors.DeadlineExceeded):
        await say(channel, timeout=-1)
    assert await say(channel) == "hi"


async def test_broken_call_leaves_the_task_uncancelled(peer: PeerServer, channel: Channel) -> None:
    """A task that saw a deadline must behave in a TaskGroup: grpclib's own wrapper leaves cancelling() at 1."""
    with pytest.raises(errors.DeadlineExceeded):
        await channel.unary(WAIT, StringValue(), StringValue, timeout=0.1)

    async def fails() -> None:
        raise KeyError

    async def grouped() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            await asyncio.sleep(10)

    with pytest.raises(BaseExceptionGroup) as caught:
        await grouped()
    assert caught.value.subgroup(KeyError)


async def test_outer_timeout_and_inner_deadline_at_once(peer: PeerServer, channel: Channel) -> None:
    for _ in range(5):
        with pytest.raises((TimeoutError, errors.DeadlineExceeded)):
            async with asyncio.timeout(0.05):
                await channel.unary(WAIT, StringValue(), StringValue, timeout=0.05)
        assert task().cancelling() == 0


async def test_cancelled_call_is_reset_at_the_peer(peer: PeerServer, channel: Channel) -> None:
    async def read() -> None:
        async with channel.server_stream(ENDLESS, Int32Value(), Int32Value) as replies:
            async for _ in replies:
                started.set()

    started = asyncio.Event()
    reading = asyncio.ensure_future(read())
    await started.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await peer.expect("gone")
    assert await say(channel) == "hi"


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_server_stream(peer: PeerServer, channel: Channel) -> None:
    async with channel.server_stream(COUNT, Int32Value(value=100), Int32Value) as replies:
        assert [m.value async for m in replies] == list(range(100))
        with pytest.raises(StopAsyncIteration):
            await anext(replies)
    assert [m.value async for m in channel.server_stream(COUNT, Int32Value(value=3), Int32Value)] == [0, 1, 2]


async def test_break_closes_a_bare_stream(peer: PeerServer, channel: Channel) -> None:
    async for _ in channel.server_stream(ENDLESS, Int32Value(), Int32Value):
        break
    await peer.expect("gone")


async def test_stream_deadline_and_errors(peer: PeerServer, channel: Channel) -> None:
    replies = channel.server_stream(ENDLESS, Int32Value(), Int32Value, timeout=0.3)
    assert (await anext(replies)).value == 1
    with pytest.raises(errors.DeadlineExceeded):
        await anext(replies)
    with pytest.raises(StopAsyncIteration):
        await anext(replies)
    with pytest.raises(errors.Unimplemented):
        await anext(channel.server_stream(SERVICE + "Nope", Int32Value(), Int32Value))


async def test_bidi(peer: PeerServer, channel: Channel) -> None:
    async with channel.bidi(TOTAL, Int32Value, Int32Value) as stream:
        for n, total in ((1, 1), (2, 3), (3, 6)):
            await stream.send(Int32Value(value=n))
            reply = await stream.recv()
            assert reply is not None
            assert reply.value == total
        await stream.end()
        await stream.end()
        assert await stream.recv() is None
    async with channel.bidi(TOTAL, Int32Value, Int32Value) as stream:
        await stream.send(Int32Value(value=-1))
        with pytest.raises(errors.UnknownError, match="negative"):
            await stream.recv()
        with pytest.raises(errors.UnknownError, match="negative"):
            await stream.send(Int32Value(value=1))
    async with channel.bidi(TOTAL, Int32Value, Int32Value):
        pass  # never used: reset
    assert await say(channel) == "hi"


async def test_bidi_ended_by_the_peer_first(peer: PeerServer, channel: Channel) -> None:
    async with channel.bidi(SERVICE + "Nope", Int32Value, Int32Value) as stream:
        with pytest.raises(errors.Unimplemented):
            await stream.recv()


# --- the connection's life --------------------------------------------------------------------------------------------


async def test_close_wakes_waiting_calls(path: str) -> None:
    """Both kinds: those that were sent, and those that wait for a free stream (the peer allows two)."""
    async with PeerServer(path, "2"):
        channel = Channel(path, codec=ProtoCodec())
        assert await say(channel) == "hi"
        calls = [asyncio.ensure_future(channel.unary(WAIT, StringValue(), StringValue, timeout=None)) for _ in range(5)]
        await asyncio.sleep(0.1)
        assert not any(call.done() for call in calls)
        channel.close()
        outcomes = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
        assert [isinstance(o, errors.OutcomeUnknown) for o in outcomes] == [True] * 2 + [False] * 3
        assert all(isinstance(o, errors.Unavailable) for o in outcomes)
        with pytest.raises(errors.Unavailable, match="closed"):
            await say(channel, retry=True)
        channel.close()


async def test_lost_connection_wakes_calls_that_wait_for_a_stream(path: str, channel: Channel) -> None:
    async with PeerServer(path, "1") as peer:
        assert await say(channel) == "hi"
        calls = [asyncio.ensure_future(channel.unary(WAIT, StringValue(), StringValue, timeout=None)) for _ in range(3)]
        await asyncio.sleep(0.1)
        await peer.kill()
        outcomes = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
        assert [isinstance(o, errors.OutcomeUnknown) for o in outcomes] == [True, False, False]


async def test_reset_connects_anew(peer: PeerServer, channel: Channel) -> None:
    waiting = asyncio.ensure_future(channel.unary(WAIT, StringValue(), StringValue, timeout=None))
    await until(lambda: channel.connected)
    await asyncio.sleep(0.05)
    channel.reset()
    with pytest.raises(errors.OutcomeUnknown):
        await waiting
    assert await say(channel) == "hi"


async def test_stream_ids_used_up(peer: PeerServer, channel: Channel) -> None:
    assert await say(channel) == "hi"
    transport = channel._transport
    old = transport._protocol
    assert old is not None
    old.connection.h2.highest_outbound_stream_id = LAST_STREAM_ID - 7
    assert old.connection.h2.highest_outbound_stream_id % 2 == 1
    async with channel.server_stream(ENDLESS, Int32Value(), Int32Value) as replies:  # near the end, on the old one
        assert (await anext(replies)).value == 1
        while transport._protocol is old:
            assert await say(channel) == "hi"
        assert await say(channel) == "hi"
        assert not old.connection.is_closing()  # its stream runs on
        assert transport.live == {old, transport._protocol}
    await peer.expect("gone")
    assert old.connection.is_closing()
    assert await say(channel) == "hi"
    assert transport.live == {transport._protocol}


async def test_more_calls_than_streams(serve: ServerFactory, channel: Channel) -> None:
    await serve()
    replies = await asyncio.gather(*(say(channel, str(n)) for n in range(1500)))  # more than streams at once
    assert replies == [str(n) for n in range(1500)]
