# SPDX-License-Identifier: Apache-2.0
"""What the tests of rpc talk to: an Echo service, grpcio's C-core on either side, a raw h2 client for broken frames."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
from google.protobuf.wrappers_pb2 import BytesValue, Int32Value, StringValue

from acri import errors
from acri.rpc import Call, Cardinality, Method, Router, Server

ServerFactory = Callable[..., Awaitable[Server]]

SERVICE = "/acri.test.Echo/"
SAY, BLOB, WAIT, FAIL, COUNT, ENDLESS, MISSING = (
    SERVICE + name for name in ("Say", "Blob", "Wait", "Fail", "Count", "Endless", "Missing")
)


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


class Echo:
    """One handler per thing a test wants to see; what happened is left in the attributes."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.ended = asyncio.Event()
        self.cancels = 0
        self.cancelling = 0
        self.closed = asyncio.Event()
        self.error: Callable[[], BaseException] = lambda: RuntimeError("secret")

    async def say(self, request: Any, call: Call) -> Any:
        self.calls.append(call)
        return StringValue(value=request.value)

    async def blob(self, request: Any, call: Call) -> Any:
        return Int32Value(value=len(request.value))

    async def wait(self, request: Any, call: Call) -> Any:
        """Waits for `release`; a cancelled one counts how often it was told."""
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            try:
                await asyncio.sleep(0)  # a clean-up that awaits: a second cancel would arrive here
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self.cancels += 1
            self.cancels += 1
            self.cancelling = task.cancelling()
            self.ended.set()
            raise
        return StringValue(value="waited")

    async def fail(self, request: Any, call: Call) -> Any:
        raise self.error()

    async def count(self, request: Any, call: Call) -> AsyncGenerator[Any, None]:
        for n in range(request.value):
            yield Int32Value(value=n)

    async def endless(self, request: Any, call: Call) -> AsyncGenerator[Any, None]:
        try:
            yield Int32Value(value=0)
            self.started.set()
            await self.release.wait()
        finally:
            self.closed.set()


def _method(path: str, request: type[Any], reply: type[Any], *, stream: bool = False) -> Method:
    return Method(path, Cardinality.UNARY_STREAM if stream else Cardinality.UNARY_UNARY, request, reply)


METHODS = [
    _method(SAY, StringValue, StringValue),
    _method(BLOB, BytesValue, Int32Value),
    _method(WAIT, StringValue, StringValue),
    _method(FAIL, StringValue, StringValue),
    _method(COUNT, Int32Value, Int32Value, stream=True),
    _method(ENDLESS, Int32Value, Int32Value, stream=True),
    _method(MISSING, StringValue, StringValue),
]


def echo_router(echo: Echo) -> Router:
    router = Router()
    assert router.add_service(METHODS, echo) == ["Missing"]
    return router


# --- C-core -----------------------------------------------------------------------------------------------------------

_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class CCore:
    """grpcio's client; each call runs in a thread of its own, so that the loop stays free for the server under test."""

    def __init__(self, path: str) -> None:
        self.channel = grpc.insecure_channel(f"unix:{path}", options=_OPTIONS)

    def __enter__(self) -> CCore:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    async def unary(self, path: str, request: Any, reply_type: Any, **options: Any) -> Any:
        options.setdefault("timeout", 20)
        call = self.channel.unary_unary(
            path, request_serializer=lambda m: m.SerializeToString(), response_deserializer=reply_type.FromString
        )
        return await asyncio.to_thread(call, request, **options)

    async def error(self, path: str, request: Any, reply_type: Any, **options: Any) -> tuple[grpc.StatusCode, str]:
        try:
            reply = await self.unary(path, request, reply_type, **options)
        except grpc.RpcError as exc:
            return exc.code(), exc.details()  # type: ignore[attr-defined]
        raise AssertionError(f"answered {reply!r}")

    def stream(self, path: str, request: Any, reply_type: Any, **options: Any) -> Any:
        options.setdefault("timeout", 20)
        return self.channel.unary_stream(
            path, request_serializer=lambda m: m.SerializeToString(), response_deserializer=reply_type.FromString
        )(request, **options)


PEER_SERVER = """
import sys, time, threading
from concurrent import futures
import grpc
from google.protobuf.wrappers_pb2 import StringValue, BytesValue, Int32Value

def say(request, context):
    context.set_trailing_metadata((("seen", dict(context.invocation_metadata()).get("who", "")),))
    return StringValue(value=request.value)

def fail(request, context):
    code, _, text = request.value.partition(" ")
    context.abort(grpc.StatusCode[code], text)

def wait(request, context):
    time.sleep(60)
    return StringValue()

def big(request, context):
    return BytesValue(value=bytes(request.value))

def count(request, context):
    for n in range(request.value):
        yield Int32Value(value=n)

def endless(request, context):
    gone = threading.Event()
    # said by the callback: the generator is not resumed when the call ends right after its first reply
    context.add_callback(lambda: (gone.set(), print("gone", flush=True)))
    yield Int32Value(value=1)
    gone.wait(60)

def total(requests, context):
    sum = 0
    for request in requests:
        if request.value < 0:
            context.abort(grpc.StatusCode.OUT_OF_RANGE, "negative")
        sum += request.value
        yield Int32Value(value=sum)

def handler(kind, func, request, reply):
    make = getattr(grpc, kind + "_rpc_method_handler")
    return make(func, request_deserializer=request.FromString, response_serializer=lambda m: m.SerializeToString())

server = grpc.server(futures.ThreadPoolExecutor(32), options=[
    ("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1),
    *([("grpc.max_concurrent_streams", int(sys.argv[2]))] if len(sys.argv) > 2 else []),
])
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("acri.test.Echo", {
    "Say": handler("unary_unary", say, StringValue, StringValue),
    "Fail": handler("unary_unary", fail, StringValue, StringValue),
    "Wait": handler("unary_unary", wait, StringValue, StringValue),
    "Big": handler("unary_unary", big, Int32Value, BytesValue),
    "Count": handler("unary_stream", count, Int32Value, Int32Value),
    "Endless": handler("unary_stream", endless, Int32Value, Int32Value),
    "Total": handler("stream_stream", total, Int32Value, Int32Value),
}),))
server.add_insecure_port("unix:" + sys.argv[1])
server.start()
print("ready", flush=True)
for line in sys.stdin:
    if line == "stop\\n":
        server.stop(30)     # GOAWAY now, calls may end
        print("stopping", flush=True)
"""


class PeerServer:
    """grpcio's server in a process of its own, so that it can be killed."""

    def __init__(self, path: str, *arguments: str) -> None:
        self.path = path
        self.arguments = arguments
        self.process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> PeerServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def start(self) -> None:
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PEER_SERVER, self.path, *self.arguments, stdin=pipe, stdout=pipe
        )
        await self.expect("ready")

    async def expect(self, word: str) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 20)
        assert line.decode().strip() == word

    async def stop_gracefully(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(b"stop\n")
        await self.expect("stopping")

    async def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            await self.process.communicate()
            self.process = None


# --- raw h2 -----------------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """What came back on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    reset: int | None = None
    ended: bool = False

    @property
    def status(self) -> errors.Code | None:
        code = self.trailers.get("grpc-status", self.headers.get("grpc-status"))
        return None if code is None else errors.Code(int(code))

    @property
    def done(self) -> bool:
        return self.ended or self.reset is not None


class RawClient:
    """An HTTP/2 client that sends whatever it is told to."""

    def __init__(self) -> None:
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
        )
        self.h2 = h2.connection.H2Connection(config)
        self.answers: dict[int, Answer] = {}
        self.goaway: h2.events.ConnectionTerminated | None = None
        self.pongs = 0
        self.eof = False

    async def connect(self, path: str) -> RawClient:
        self.reader, self.writer = await asyncio.open_unix_connection(path)
        self.h2.initiate_connection()
        self.flush()
        return self

    async def __aenter__(self) -> RawClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def headers(self, path: str = SAY, *more: tuple[str, str], without: Sequence[str] = ()) -> list[tuple[str, str]]:
        pairs = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "x"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *more,
        ]
        return [(name, value) for name, value in pairs if name not in without]

    def send(
        self, headers: Sequence[tuple[str, str]] | None = None, data: bytes | None = b"\0\0\0\0\0", *, end: bool = True
    ) -> int:
        stream = self.h2.get_next_available_stream_id()
        self.answers[stream] = Answer()
        self.h2.send_headers(stream, headers or self.headers(), end_stream=end and data is None)
        if data is not None:
            self.h2.send_data(stream, data, end_stream=end)
        self.flush()
        return stream

    async def read_until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition() and not self.eof:
                data = await self.reader.read(65536)
                if not data:
                    self.eof = True
                    return
                for event in self.h2.receive_data(data):
                    self._take(event)
                self.flush()

    def _take(self, event: h2.events.Event) -> None:
        answer = self.answers.get(getattr(event, "stream_id", None) or 0, Answer())
        if isinstance(event, h2.events.ResponseReceived):
            answer.headers = dict(event.headers)  # type: ignore[arg-type]
        elif isinstance(event, h2.events.TrailersReceived):
            answer.trailers = dict(event.headers)  # type: ignore[arg-type]
        elif isinstance(event, h2.events.DataReceived):
            answer.data += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            answer.ended = True
        elif isinstance(event, h2.events.StreamReset):
            answer.reset = int(event.error_code)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = event
        elif isinstance(event, h2.events.PingAckReceived):
            self.pongs += 1

    async def answer(self, stream: int) -> Answer:
        await self.read_until(lambda: self.answers[stream].done)
        assert not self.eof, "the server closed the connection"
        return self.answers[stream]

    async def ask(self, headers: Sequence[tuple[str, str]] | None = None, data: bytes | None = b"\0\0\0\0\0") -> Answer:
        return await self.answer(self.send(headers, data))


async def raw_client(path: str) -> RawClient:
    return await RawClient().connect(path)
