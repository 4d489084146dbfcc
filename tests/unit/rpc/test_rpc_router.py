# SPDX-License-Identifier: Apache-2.0
"""Router and status: what a handler raises, and what the caller and the log see of it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from hypothesis import given
from hypothesis import strategies as st
from rpc_peers import COUNT, FAIL, SAY, CCore, Echo, ServerFactory, raw_client
from structlog.testing import capture_logs

from acri import errors
from acri.errors import Code
from acri.proto import Method as Row
from acri.rpc import Call, Cardinality, Channel, Method, Router, methods_of, status

TEXTS = [
    "plain",
    "line one\nline two\r\n\ttabbed\x00\x7f",
    "100 % of µ and 漢字 and 🙂",
    "  leading and trailing  ",
    "%41 is not A",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
async def test_error_text_survives(serve: ServerFactory, path: str, echo: Echo, channel: Channel, text: str) -> None:
    await serve()
    echo.error = lambda: errors.NotFound(text)
    with CCore(path) as peer:
        assert await peer.error(FAIL, StringValue(), StringValue) == (grpc.StatusCode.NOT_FOUND, text)
    with pytest.raises(errors.NotFound) as caught:
        await channel.unary(FAIL, StringValue(), StringValue, timeout=10)
    assert caught.value.message == (text or "containerd answered /acri.test.Echo/Fail with NOT_FOUND")


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidArgument,
        errors.NotFound,
        errors.AlreadyExists,
        errors.FailedPrecondition,
        errors.PermissionDenied,
        errors.ResourceExhausted,
        errors.Unimplemented,
        errors.Unavailable,
        errors.OutcomeUnknown,
        errors.DeadlineExceeded,
        errors.Aborted,
        errors.Cancelled,
        errors.Internal,
        errors.UnknownError,
        errors.ImagePullError,
    ],
)
async def test_every_error_has_its_code(
    serve: ServerFactory, path: str, echo: Echo, error: type[errors.AcriError]
) -> None:
    await serve()
    echo.error = lambda: error("why")
    with CCore(path) as peer:
        code, text = await peer.error(FAIL, StringValue(), StringValue)
    assert (code.value[0], text) == (error.code, "why")


async def test_bug_is_logged_and_not_told(serve: ServerFactory, path: str, echo: Echo) -> None:
    await serve()
    with capture_logs() as logs, CCore(path) as peer:
        code, text = await peer.error(FAIL, StringValue(), StringValue)
        assert code is grpc.StatusCode.UNKNOWN
        assert (await peer.unary(SAY, StringValue(value="x"), StringValue)).value == "x"
    assert "secret" not in text
    [entry] = [e for e in logs if e["log_level"] == "error"]
    assert entry["exc_info"]
    assert text.startswith("internal error in Fail; see the log (request ")
    done = [e for e in logs if e["event"] == "rpc"]
    assert [e["code"] for e in done] == ["UNKNOWN", "OK"]
    assert all(e["ms"] >= 0 and e["log_level"] == "debug" for e in done)


async def test_log_names_the_call(serve: ServerFactory, path: str, echo: Echo) -> None:
    import structlog

    bound: list[dict[str, Any]] = []

    async def say(request: Any, call: Call) -> Any:
        bound.append(structlog.contextvars.get_contextvars())
        assert bound[-1] == {"rpc": "Say", "request_id": call.request_id}
        return StringValue()

    echo.say = say  # type: ignore[method-assign]
    await serve()
    async with await raw_client(path) as raw:
        for _ in range(2):
            assert (await raw.ask()).status is Code.OK
    assert bound[0]["request_id"] != bound[1]["request_id"]


@pytest.mark.parametrize("raised", ["cancelled", "group", "nothing", "wrong type", "base"])
async def test_odd_ends_are_answered(serve: ServerFactory, path: str, echo: Echo, raised: str) -> None:
    async def fail(request: Any, call: Call) -> Any:
        match raised:
            case "cancelled":
                raise asyncio.CancelledError  # what was waited for was cancelled, not this call
            case "group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(missing())
            case "wrong type":
                return Int32Value(value=3)
            case "base":
                raise GRPCError(Status.DATA_LOSS, "as it is")
        return None

    async def missing() -> None:
        raise errors.NotFound("no such pod")

    echo.fail = fail  # type: ignore[method-assign]
    await serve()
    expected = {
        "cancelled": Code.ABORTED,
        "group": Code.NOT_FOUND,
        "nothing": Code.UNKNOWN,
        "wrong type": Code.UNKNOWN,
        "base": Code.DATA_LOSS,
    }
    async with await raw_client(path) as raw:
        assert (await raw.ask(raw.headers(FAIL))).status is expected[raised]
        assert (await raw.ask()).status is Code.OK


async def test_stream_that_fails_after_some_replies(serve: ServerFactory, path: str, echo: Echo) -> None:
    async def count(request: Any, call: Call) -> Any:
        yield Int32Value(value=1)
        raise errors.ResourceExhausted("too slow")

    echo.count = count  # type: ignore[method-assign]
    await serve()
    async with await raw_client(path) as raw:
        answer = await raw.ask(raw.headers(COUNT))
    assert answer.status is Code.RESOURCE_EXHAUSTED
    assert answer.data == b"\0\0\0\0\x02\x08\x01"


async def test_undecodable_is_logged_with_its_path(serve: ServerFactory, path: str) -> None:
    await serve()
    with capture_logs() as logs:
        async with await raw_client(path) as raw:
            answer = await raw.ask(data=b"\0\0\0\0\x02\xff\xff")
    assert answer.trailers.get("grpc-message", answer.headers.get("grpc-message")) == (
        "failed to unmarshal the received message"
    )
    [entry] = [e for e in logs if e["event"] == "undecodable request"]
    assert "error_path" in entry


def test_method_names() -> None:
    for name, attribute in {
        "ListPodSandbox": "list_pod_sandbox",
        "Version": "version",
        "ImageFsInfo": "image_fs_info",
        "ReopenContainerLog": "reopen_container_log",
        "ListCPUInfo": "list_cpu_info",
    }.items():
        method = Method(f"/a.B/{name}", Cardinality.UNARY_UNARY, bytes, bytes)
        assert (method.name, method.attribute) == (name, attribute)


def test_registration_mistakes() -> None:
    router = Router()
    method = Method("/a.B/C", Cardinality.UNARY_UNARY, bytes, bytes)
    router.add(method, None)
    assert router.paths == ["/a.B/C"]
    with pytest.raises(ValueError, match="handler already"):
        router.add(method, None)
    with pytest.raises(ValueError, match="client streams"):
        router.add(Method("/a.B/D", Cardinality.STREAM_UNARY, bytes, bytes), None)


def test_methods_of_a_generated_table() -> None:
    table = {
        "/a.B/C": Row(False, True, StringValue, Int32Value),
        "/a.B/D": Row(False, False, Int32Value, StringValue),
        "/a.B/E": Row(True, True, Int32Value, Int32Value),
        "/a.B/F": Row(True, False, Int32Value, Int32Value),
        "/a.Bee/C": Row(False, False, Int32Value, Int32Value),
    }
    assert methods_of(table, "a.B") == [
        Method("/a.B/C", Cardinality.UNARY_STREAM, StringValue, Int32Value),
        Method("/a.B/D", Cardinality.UNARY_UNARY, Int32Value, StringValue),
        Method("/a.B/E", Cardinality.STREAM_STREAM, Int32Value, Int32Value),
        Method("/a.B/F", Cardinality.STREAM_UNARY, Int32Value, Int32Value),
    ]
    with pytest.raises(ValueError, match=r"no method of a service a\.X"):
        methods_of(table, "a.X")


@given(st.text(st.characters(codec=None), max_size=9000))
def test_any_text_travels(text: str) -> None:
    from grpclib.metadata import decode_grpc_message, encode_grpc_message

    travelling = status.wire_text(text)
    wire = encode_grpc_message(travelling)
    assert len(wire) <= status.MAX_TEXT
    assert wire.isascii()
    assert wire.isprintable()
    assert decode_grpc_message(wire) == travelling
    if travelling != text:
        assert travelling.endswith("(cut)") or any("\ud800" <= c <= "\udfff" for c in text)


def test_long_text_is_cut() -> None:
    for text in ("x" * 100_000, "漢" * 100_000, "%" * 3000):
        cut = status.wire_text(text)
        assert cut.endswith("… (cut)")
        assert text.startswith(cut.removesuffix(" … (cut)"))
    assert status.wire_text("x" * status.MAX_TEXT) == "x" * status.MAX_TEXT
