# SPDX-License-Identifier: Apache-2.0
"""From a path to a handler, and from what the handler raises to a status.

    request ─▶ receive ─▶ Call ─▶ handler(request, call) ─▶ reply | replies ─▶ sent
                  │                   │
               INTERNAL,           status.to_grpc: AcriError, TimeoutError; a bug is UNKNOWN and logged
               UNIMPLEMENTED,
               RESOURCE_EXHAUSTED

Handlers are `async def handler(request, call) -> reply`, or async generators for server streams, which are closed when
the caller leaves (grpclib and betterproto leave that to the garbage collector). A handler that must not stop half-way
awaits a detached operation: the caller's leaving cancels the handler.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol, TypeAlias

import structlog
from grpclib import const
from grpclib import server as grpclib_server
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError

from acri.aio import deadline
from acri.rpc import status
from acri.rpc.connection import PeerOf
from acri.rpc.unix import Peer

__all__ = ["Call", "Cardinality", "Handler", "Method", "Peer", "Router", "methods_of"]

log = structlog.get_logger("acri.rpc")

_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_PREFIX_BYTES = 5


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC: its path `/package.Service/Name`, its shape, the message classes."""

    path: str
    cardinality: Cardinality
    request_type: type[Any]
    reply_type: type[Any]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def attribute(self) -> str:
        """The name of the implementing method: `ListPodSandbox` → `list_pod_sandbox`."""
        return _CAPITAL.sub("_", self.name).lower()


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler may know about its call beside the request.

    Args:
        method: the RPC's name, `RunPodSandbox`.
        deadline: seconds that were left when the call was dispatched; None: no deadline.
        metadata: the caller's headers; bytes for keys that end in `-bin`. Of a repeated key the last value.
        peer: the process that connected.
        request_id: names this call in the log.
        started: `time.monotonic()` at dispatch.
    """

    method: str
    deadline: float | None
    metadata: Mapping[str, str | bytes]
    peer: Peer
    request_id: str
    started: float

    @property
    def remaining(self) -> float | None:
        """Seconds left now, at least 0; None: no deadline."""
        return None if self.deadline is None else max(0.0, self.started + self.deadline - time.monotonic())


Handler: TypeAlias = Callable[[Any, Call], "Awaitable[Any] | AsyncGenerator[Any, None]"]
_Stream: TypeAlias = "grpclib_server.Stream[Any, Any]"


class _Row(Protocol):
    """One entry of a generated table of methods (`acri.proto.Method` is one)."""

    @property
    def client_streaming(self) -> bool: ...
    @property
    def server_streaming(self) -> bool: ...
    @property
    def request(self) -> type[Any]: ...
    @property
    def reply(self) -> type[Any]: ...


def methods_of(table: Mapping[str, _Row], service: str) -> list[Method]:
    """The methods of one service, `runtime.v1.RuntimeService`, from a generated table by path.

    Raises ValueError if the table has none: a misspelt service would serve nothing.
    """
    methods = [
        Method(path, _CARDINALITIES[row.client_streaming, row.server_streaming], row.request, row.reply)
        for path, row in table.items()
        if path.startswith(f"/{service}/")
    ]
    if not methods:
        raise ValueError(f"the table has no method of a service {service}")
    return methods


_CARDINALITIES = {
    (cardinality.client_streaming, cardinality.server_streaming): cardinality
    for cardinality in (
        Cardinality.UNARY_UNARY,
        Cardinality.UNARY_STREAM,
        Cardinality.STREAM_UNARY,
        Cardinality.STREAM_STREAM,
    )
}


class _Table(dict[str, const.Handler]):
    """path → grpclib handler, with an answer for every path (grpclib's own lacks a content-type)."""

    def get(self, path: str, default: Any = None) -> const.Handler:
        return super().get(path) or const.Handler(_unknown(path), Cardinality.UNARY_UNARY, bytes, bytes)


def _unknown(path: str) -> Callable[[_Stream], Awaitable[None]]:
    async def handle(stream: _Stream) -> None:
        log.info("unknown method", path=path)
        raise GRPCError(Status.UNIMPLEMENTED, status.wire_text(f"unknown method {path}: acri serves no such RPC"))

    return handle


class Router:
    """The table of methods that a server serves."""

    def __init__(self) -> None:
        self._table = _Table()
        # Unique over restarts, short enough to be read out.
        self._ids: Iterator[str] = (f"{prefix}-{n}" for prefix in (secrets.token_hex(3),) for n in count(1))

    def __mapping__(self) -> Mapping[str, const.Handler]:
        return self._table

    @property
    def paths(self) -> list[str]:
        return list(self._table)

    def add(self, method: Method, handler: Handler | None) -> None:
        """Serve `method`; without a handler it is known and UNIMPLEMENTED.

        Raises ValueError for a path that is taken or a client stream (CRI has none).
        """
        if method.path in self._table:
            raise ValueError(f"{method.path} has a handler already")
        if method.cardinality.client_streaming:
            raise ValueError(f"{method.path}: client streams are not served")
        func = self._missing(method) if handler is None else self._guarded(method, handler)
        self._table[method.path] = const.Handler(func, method.cardinality, method.request_type, method.reply_type)

    def add_service(self, methods: Iterable[Method], implementation: object) -> list[str]:
        """Serve `methods` by the like-named attributes of `implementation`; returns the names that it lacks."""
        missing = []
        for method in methods:
            handler = getattr(implementation, method.attribute, None)
            if handler is None:
                missing.append(method.name)
            self.add(method, handler)
        return missing

    def _missing(self, method: Method) -> Callable[[_Stream], Awaitable[None]]:
        async def handle(stream: _Stream) -> None:
            raise GRPCError(Status.UNIMPLEMENTED, f"{method.name} is not implemented by acri")

        return handle

    def _guarded(self, method: Method, handler: Handler) -> Callable[[_Stream], Awaitable[None]]:
        async def handle(stream: _Stream) -> None:
            call = self._call_of(method, stream)
            # A request has its own task, so the bindings end with it.
            if call.deadline is not None:
                deadline.current.set(call.started + call.deadline)
            structlog.contextvars.bind_contextvars(rpc=method.name, request_id=call.request_id)
            with _reported(call):
                request = await _receive(stream, method, call)
                outcome = handler(request, call)
                if isinstance(outcome, AsyncGenerator):
                    async with aclosing(outcome) as replies:
                        async for reply in replies:
                            await stream.send_message(reply)
                else:
                    await stream.send_message(await outcome)

        return handle

    def _call_of(self, method: Method, stream: _Stream) -> Call:
        assert isinstance(stream.peer, PeerOf)
        return Call(
            method=method.name,
            deadline=stream.deadline.time_remaining() if stream.deadline is not None else None,
            metadata=dict(stream.metadata or ()),
            peer=stream.peer.credentials,
            request_id=next(self._ids),
            started=time.monotonic(),
        )


async def _receive(stream: _Stream, method: Method, call: Call) -> Any:
    """The one request message. grpclib's own receiver answers UNKNOWN to each of these.

    Raises GRPCError: UNIMPLEMENTED when compressed, RESOURCE_EXHAUSTED when too long, INTERNAL otherwise.
    """
    wire = stream._stream
    try:
        prefix = await wire.recv_data(_PREFIX_BYTES)
        if not prefix:
            raise GRPCError(Status.INTERNAL, f"{method.name}: the request has no message")
        if prefix[0]:
            raise GRPCError(Status.UNIMPLEMENTED, "compressed messages are not supported; send them uncompressed")
        body = await wire.recv_data(int.from_bytes(prefix[1:], "big"))
        if len(body) != int.from_bytes(prefix[1:], "big"):
            raise AssertionError("the stream ended after the prefix")
    except AssertionError as exc:  # how grpclib's buffer says that the stream ended in the middle
        raise GRPCError(Status.INTERNAL, f"{method.name}: the request is cut short") from exc
    try:
        return stream._codec.decode(body, method.request_type)
    except Exception as exc:  # whatever the codec calls it: the caller's bytes are at fault
        log.warning("undecodable request", error=str(exc), error_path=getattr(exc, "path", None), peer=call.peer)
        raise GRPCError(Status.INTERNAL, "failed to unmarshal the received message") from exc


@contextmanager
def _reported(call: Call) -> Iterator[None]:
    """Map what leaves the handler and write the call's one debug line."""
    code = Status.OK
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            code = Status.DEADLINE_EXCEEDED if call.remaining == 0.0 else Status.CANCELLED
            raise  # the caller left, its deadline is over, or we shut down: grpclib knows which
        # Nobody cancelled this call: something it waited for was. Without an answer the caller would wait for ever.
        code = Status.ABORTED
        raise GRPCError(code, f"{call.method} was given up") from None
    except GRPCError as exc:
        code = exc.status
        raise
    except BaseException as exc:
        error = status.to_grpc(exc)
        if error is None:
            if not isinstance(exc, Exception):
                raise  # SystemExit, KeyboardInterrupt
            log.exception("internal error")
            error = status.bug(call.method, call.request_id)
        code = error.status
        raise error from exc
    finally:
        log.debug("rpc", code=code.name, ms=round((time.monotonic() - call.started) * 1000, 3))
