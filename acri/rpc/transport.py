# SPDX-License-Identifier: Apache-2.0
"""Below `channel`: grpclib's client stream and channel, repaired. No error mapping here.

Repairs of grpclib's client (0.4.9), beside those of connection.py:
  · its deadline and termination wrapper cancels the calling task and never takes that back, so that the task counts as
    cancelled for ever after: TaskGroup and `cancelling()` then lie. `_Wrapper` uncancels, and lets a cancellation that
    came from elsewhere at the same moment through;
  · `close()` left callers hanging that waited for a free stream or for room to write (`Processor.close` wakes them);
  · stream ids used up (2³⁰ calls) was an error for ever: a new connection is made while the old one ends its calls;
  · GOAWAY and REFUSED_STREAM did not say which calls were not run (`NotRun`), and GOAWAY ended the others too;
  · an answer that ends without trailers hung the caller;
  · the timer of a call that never connected was left running;
  · a cancelled call was reset with NO_ERROR instead of CANCEL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import grpclib.client
import h2.events
from grpclib import protocol
from grpclib.config import Configuration
from grpclib.const import Cardinality
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.metadata import Deadline
from grpclib.utils import DeadlineWrapper
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from multidict import MultiDict

from acri import errors
from acri.rpc import connection, unix
from acri.rpc.connection import Limits

__all__ = ["LAST_STREAM_ID", "ClientCall", "NotRun", "Transport"]

#: Beyond this a connection takes no new calls; h2 fails at 2³¹ − 1, and some room is left for calls on their way.
LAST_STREAM_ID = 2**31 - 1000

_HEADERS = 2**20  # a peer's error text comes in a header


class NotRun(StreamTerminatedError):
    """The peer says that it did not start this call."""


class _Wrapper(DeadlineWrapper):
    """grpclib's Wrapper that gives the first reason only and leaves the task's cancellation count as it found it."""

    def __init__(self) -> None:
        super().__init__()
        self._entered: dict[asyncio.Task[Any], int] = {}
        self._hit: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> None:
        super().__enter__()
        task = asyncio.current_task()
        assert task is not None
        self._entered[task] = task.cancelling()

    def __exit__(self, kind: Any, exc: Any, trace: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.discard(task)
        before = self._entered.pop(task, 0)
        if self._error is None:
            return
        if task in self._hit:
            self._hit.discard(task)
            if task.uncancel() > before and kind is asyncio.CancelledError:
                return  # somebody else cancelled the task too: that must not be lost
        self.cancel_failed = kind is not asyncio.CancelledError
        raise self._error

    def cancel(self, error: Exception) -> None:
        if self._error is None:
            self._hit.update(self._tasks)
            super().cancel(error)


class _Stream(connection.Stream):
    def reset_nowait(self, error_code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        super().reset_nowait(error_code)

    def not_run(self, reason: str) -> None:
        if self.wrapper is not None and not self.wrapper.cancelled:
            self.wrapper.cancel(NotRun(reason))

    def __ended__(self) -> None:
        super().__ended__()
        if self.trailers is None and "grpc-status" not in dict(self.headers or ()):
            self.trailers = []  # grpclib then says "Missing grpc-status header"
            self.trailers_received.set()


class _Connection(connection.Connection):
    stream_class = _Stream


class _Processor(connection.Processor):
    def process_stream_reset(self, event: h2.events.StreamReset) -> None:
        stream = self.streams.get(event.stream_id)
        if isinstance(stream, _Stream) and event.remote_reset and event.error_code == ErrorCodes.REFUSED_STREAM:
            stream.not_run("the peer refused the stream")
        super().process_stream_reset(event)

    def process_connection_terminated(self, event: h2.events.ConnectionTerminated) -> None:
        last = event.last_stream_id
        for stream_id, stream in self.streams.items():
            if isinstance(stream, _Stream) and last is not None and stream_id > last:
                stream.not_run("the peer is going away")
        super().process_connection_terminated(event)
        self.retire("the peer is going away")

    def retire(self, reason: str) -> None:
        """Take no new calls and close when the last one has ended. Calls that were not sent yet end now, as such."""
        self.handler.close()  # how grpclib's channel learns that it has to connect anew
        self.connection.terminate_unsent(reason)

        def check() -> None:
            if not self.streams:
                self.on_release = None
                self.close(reason)

        self.on_release = check
        check()


class _Protocol(connection.Protocol):
    connection_class = _Connection
    processor_class = _Processor
    processor: _Processor

    def __init__(self, transport: Transport) -> None:
        super().__init__(grpclib.client.Handler(), transport._config, transport._h2_config, transport.limits)
        self._live = transport.live

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._live.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._live.discard(self)
        super().connection_lost(exc)


class ClientCall(grpclib.client.Stream[Any, Any]):
    """One call. grpclib's stream, with a synchronous, repeatable `close` in place of its `async with`."""

    _closed = False

    def begin(self) -> None:
        wrapper = self._wrapper = _Wrapper()
        self._timer: AbstractContextManager[Any] | None = None
        if self._deadline is not None:
            self._timer = wrapper.start(self._deadline)

    @property
    def path(self) -> str:
        return self._method_name

    @property
    def sent(self) -> bool:
        """Whether any byte of this call may have left."""
        return self._send_request_done

    async def send_request(self, *, end: bool = False) -> None:
        if self._closed:
            raise StreamTerminatedError("the call is closed")
        if self._timer is not None and not self._deadline_runs:
            self._timer.__enter__()  # TimeoutError when it is over already
            self._deadline_runs = True
        await super().send_request(end=end)

    _deadline_runs = False

    async def receive(self) -> Any:
        """The next message or None at the end. Raises errors.Internal when it cannot be read."""
        with self._readable():
            return await self.recv_message()

    async def finish(self) -> None:
        """After the last message: raise GRPCError unless the status is OK."""
        if not self._recv_trailing_metadata_done:
            self._end_done = True  # the peer has ended the call, there is no need to say it first
            with self._readable():
                await self.recv_trailing_metadata()

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (GRPCError, StreamTerminatedError, OSError, ProtocolError):
            raise
        except Exception as exc:  # compressed, cut short, a bad header, or whatever the codec calls it
            raise errors.Internal(f"the answer to {self.path} cannot be decoded: {exc}") from exc

    async def end_once(self) -> None:
        if not self._end_done:
            if not self._send_request_done:
                await self.send_request()
            with self._wrapper:
                await self.end()

    def answered(self) -> GRPCError | None:
        """The failure that the peer has answered already, if any."""
        if self._send_request_done:
            try:
                self._maybe_raise()
            except GRPCError as exc:
                return exc
        return None

    def close(self) -> None:
        """Free the stream; resets it when it has not ended."""
        if self._closed:
            return
        self._closed = True
        if self._send_request_done:
            if self._stream.closable:
                self._stream.reset_nowait()
            self._release_stream()
        if self._timer is not None and self._deadline_runs:
            self._timer.__exit__(None, None, None)


class Transport(grpclib.client.Channel):
    """grpclib's channel to one unix socket."""

    _protocol: _Protocol | None

    def __init__(self, address: str, *, codec: CodecBase, window: int) -> None:
        super().__init__(
            path=address,
            codec=codec,
            config=Configuration(http2_stream_window_size=window, http2_connection_window_size=window),
        )
        self._authority = "localhost"  # as grpc-go for unix sockets
        self._h2_config = connection.h2_configuration(client=True)
        self.limits = Limits(window=window, headers=_HEADERS)
        self.live: set[_Protocol] = set()  # the current connection and those that only wait for their calls to end
        self._address = address
        self.closed = False

    @property
    def connected(self) -> bool:
        return self._connected

    def call(
        self,
        path: str,
        cardinality: Cardinality,
        request_type: type[Any],
        reply_type: type[Any],
        metadata: Mapping[str, str | bytes] | None,
        timeout: float | None,
    ) -> ClientCall:
        call = ClientCall(
            self,
            path,
            cast(Any, MultiDict(metadata or ())),
            cardinality,
            request_type,
            reply_type,
            codec=self._codec,
            status_details_codec=None,
            dispatch=self.__dispatch__,
            deadline=None if timeout is None else Deadline.from_timeout(timeout),
        )
        call.begin()
        return call

    def _protocol_factory(self) -> _Protocol:
        return _Protocol(self)

    async def _create_connection(self) -> _Protocol:
        sock = await unix.connect(self._address)
        try:
            _, proto = await self._loop.create_unix_connection(self._protocol_factory, sock=sock)
        except BaseException:
            sock.close()
            raise
        if self.closed:  # close() came while this was connecting
            proto.processor.close("Channel closed")
            raise ConnectionAbortedError("the channel is closed")
        return proto

    async def __connect__(self) -> protocol.H2Protocol:
        if self.closed:
            raise ConnectionAbortedError("the channel is closed")
        current = self._protocol
        if current is not None and current.connection.h2.highest_outbound_stream_id >= LAST_STREAM_ID:
            current.processor.retire("stream ids used up")
        return await super().__connect__()

    def reset(self) -> None:
        """Break every connection and its calls; the next call connects anew."""
        for proto in list(self.live):
            proto.processor.close("Channel closed")
        self._protocol = None

    def close(self) -> None:
        self.closed = True
        self.reset()
        super().close()
