# SPDX-License-Identifier: Apache-2.0
"""The gRPC client: one connection to one unix socket, typed errors, deadlines, retry of what is safe.

    idle ──first call──▶ connected ──EOF, close()──▶ idle … connects anew at the next call
                             └─ GOAWAY, stream ids nearly used up ─▶ retired: its calls end on it, new ones elsewhere

    a call:  connecting ─▶ waiting for a free stream ─▶ sent ─▶ answered
                   │                 │                    └─ broken ─▶ OutcomeUnknown: re-read before repeating
                   └─────────────────┴───── not sent ─▶ Unavailable: repeating is safe

"Not sent" covers what the peer says that it did not run: RST_STREAM REFUSED_STREAM, and a GOAWAY whose last stream id
is below the call's (RFC 9113 §6.8, §8.7). An UNAVAILABLE that the peer answered is OutcomeUnknown: containerd says so
of a shim that died under a call, too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from enum import IntEnum
from types import TracebackType
from typing import Any, Generic, TypeVar

from grpclib.const import Cardinality
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, StreamTerminatedError
from h2.exceptions import ProtocolError

from acri import errors
from acri.rpc import status
from acri.rpc.transport import ClientCall, NotRun, Transport

__all__ = ["BidiStream", "Channel", "Retry", "ServerStream"]

_Reply = TypeVar("_Reply")
_Request = TypeVar("_Request")
_Metadata = Mapping[str, str | bytes]

_BACKOFF_FIRST_S = 0.05
_BACKOFF_MAX_S = 1.0
_WINDOW = 16 * 2**20


class Retry(IntEnum):
    """What `Channel.unary` may repeat. False and True mean NEVER and UNSENT."""

    NEVER = 0
    #: Only what certainly was not run.
    UNSENT = 1
    #: Also what broke while it ran: for reads, and writes that may be done twice.
    IDEMPOTENT = 2


class Channel:
    """Calls to the server on a unix socket. Make it inside the running loop; `close` it, or use it as `async with`.

    Args:
        address: path of the socket, any length.
        codec: encodes and decodes messages.
        window: HTTP/2 windows of the connection and of each stream, bytes; large answers need no round trips within.
        peer: what the errors call the other side.
        remedy: the sentence that an Unavailable ends with.

    All calls raise, beside what the peer answers (`errors.from_code`): Unavailable when the call was certainly not run,
    OutcomeUnknown when it may have been, DeadlineExceeded, Internal for an answer that cannot be read.
    """

    def __init__(
        self,
        address: str,
        *,
        codec: CodecBase,
        window: int = _WINDOW,
        peer: str = "containerd",
        remedy: str = "check that it is running and that the path is right",
    ) -> None:
        self.address = address
        self._peer = peer
        self._remedy = remedy
        self._transport = Transport(address, codec=codec, window=window)

    def __repr__(self) -> str:
        return f"Channel({self.address!r})"

    @property
    def connected(self) -> bool:
        return self._transport.connected

    def close(self) -> None:
        """Break every call (Unavailable or OutcomeUnknown) and the connection; a later call raises Unavailable."""
        self._transport.close()

    def reset(self) -> None:
        """Break every call and the connection; the next call connects anew. For a peer that no longer answers."""
        self._transport.reset()

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def unary(
        self,
        path: str,
        request: Any,
        reply_type: type[_Reply],
        *,
        metadata: _Metadata | None = None,
        timeout: float | None,
        retry: Retry | bool = False,
    ) -> _Reply:
        """One request, one reply.

        Args:
            path: `/package.Service/Name`.
            timeout: seconds for all attempts together; None waits (and retries) for ever.
            retry: repeat with back-off of 50 ms to 1 s while the timeout lasts; then the last error is raised.
                What the peer answered, whatever it is, is never repeated.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _BACKOFF_FIRST_S
        while True:
            try:
                return await self._unary_once(path, request, reply_type, metadata, deadline, timeout)
            except Broken:
                if retry < Retry.IDEMPOTENT:
                    raise
                if deadline is not None and time.monotonic() + pause >= deadline:
                    raise
            except NotReached:
                if retry < Retry.UNSENT or self._transport.closed:
                    raise
                if deadline is not None and time.monotonic() + pause >= deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _BACKOFF_MAX_S)

    async def _unary_once(
        self,
        path: str,
        request: Any,
        reply_type: type[_Reply],
        metadata: _Metadata | None,
        deadline: float | None,
        timeout: float | None,
    ) -> _Reply:
        left = None if deadline is None else deadline - time.monotonic()
        call = self._transport.call(path, Cardinality.UNARY_UNARY, type(request), reply_type, metadata, left)
        try:
            with self._mapped(call, timeout):
                await call.send_message(request, end=True)
                reply = await call.receive()
                await call.finish()
        finally:
            call.close()
        if reply is None:
            raise errors.Internal(f"{self._peer} answered {path} without a message")
        return reply  # type: ignore[no-any-return]

    def server_stream(
        self,
        path: str,
        request: Any,
        reply_type: type[_Reply],
        *,
        metadata: _Metadata | None = None,
        timeout: float | None = None,
    ) -> ServerStream[_Reply]:
        """One request, many replies: `async with channel.server_stream(…) as replies: async for reply in replies: …`.

        Without `async with` the call starts at the first iteration and is cancelled when the iterator is dropped.
        """
        call = self._transport.call(path, Cardinality.UNARY_STREAM, type(request), reply_type, metadata, timeout)
        return ServerStream(call, request, lambda: self._mapped(call, timeout))

    @asynccontextmanager
    async def bidi(
        self,
        path: str,
        request_type: type[_Request],
        reply_type: type[_Reply],
        *,
        metadata: _Metadata | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[BidiStream[_Request, _Reply]]:
        """Both ways at once. Leaving the block cancels what has not ended. send and recv may run in two tasks."""
        call = self._transport.call(path, Cardinality.STREAM_STREAM, request_type, reply_type, metadata, timeout)
        stream: BidiStream[_Request, _Reply] = BidiStream(call, lambda: self._mapped(call, timeout))
        try:
            with self._mapped(call, timeout):
                await call.send_request()
            yield stream
        finally:
            call.close()

    @contextmanager
    def _mapped(self, call: ClientCall, timeout: float | None) -> Iterator[None]:
        """Third-party errors of one call → acri's."""
        try:
            yield
        except GRPCError as exc:
            raise status.from_grpc(exc, self._peer, call.path) from exc
        except TimeoutError as exc:  # before OSError, of which it is one
            limit = "in time" if timeout is None else f"within {timeout:g} s"
            raise errors.DeadlineExceeded(f"{self._peer} did not answer {call.path} {limit}") from exc
        except (StreamTerminatedError, ProtocolError) as exc:
            # The peer may have answered and then reset what we were still sending: its answer is the reason.
            answer = call.answered()
            if answer is not None:
                raise status.from_grpc(answer, self._peer, call.path) from exc
            if isinstance(exc, NotRun) or not call.sent:
                raise self._unreachable(call.path, str(exc)) from exc
            raise Broken(
                f"{self._peer} at {self.address} went away during {call.path} ({exc}): it may have been done"
            ) from exc
        except OSError as exc:
            raise self._unreachable(call.path, exc.strerror or str(exc)) from exc

    def _unreachable(self, path: str, reason: str) -> NotReached:
        return NotReached(
            f"{self._peer} does not answer at {self.address} ({reason}), {path} was not run: {self._remedy}"
        )


class NotReached(errors.Unavailable):
    """Unavailable that this channel found itself, as opposed to one that the peer answered."""


class Broken(errors.OutcomeUnknown):
    """OutcomeUnknown because the connection broke. What the peer answered is not repeated: it would say so again."""


class ServerStream(Generic[_Reply]):
    """The replies of one call. States: new ─▶ open ─▶ closed."""

    def __init__(self, call: ClientCall, request: Any, mapped: Callable[[], Any]) -> None:
        self._call = call
        self._request = request
        self._mapped = mapped
        self._open = False
        self._ended = False

    async def start(self) -> None:
        """Send the request, if that was not done yet; raises what a unary call would."""
        if self._open or self._ended:
            return
        self._open = True
        try:
            with self._mapped():
                await self._call.send_message(self._request, end=True)
        except BaseException:
            self.close()
            raise

    def __aiter__(self) -> ServerStream[_Reply]:
        return self

    async def __anext__(self) -> _Reply:
        await self.start()
        if self._ended:
            raise StopAsyncIteration
        try:
            with self._mapped():
                reply = await self._call.receive()
                if reply is None:
                    await self._call.finish()
        except BaseException:
            self.close()
            raise
        if reply is None:
            self.close()
            raise StopAsyncIteration
        return reply  # type: ignore[no-any-return]

    def close(self) -> None:
        """Cancel the call, if it still runs. Any number of times."""
        self._ended = True
        self._call.close()

    async def aclose(self) -> None:
        self.close()

    async def __aenter__(self) -> ServerStream[_Reply]:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self._call.close()  # a `break` out of a bare `async for` drops the last reference here


class BidiStream(Generic[_Request, _Reply]):
    """Both directions of one call."""

    def __init__(self, call: ClientCall, mapped: Callable[[], Any]) -> None:
        self._call = call
        self._mapped = mapped

    async def send(self, message: _Request, *, end: bool = False) -> None:
        """Send one message; `end` says that it is the last. Waits for the peer's window."""
        with self._mapped():
            await self._call.send_message(message, end=end)

    async def end(self) -> None:
        """No more messages from here. Does nothing when that was said already."""
        with self._mapped():
            await self._call.end_once()

    async def recv(self) -> _Reply | None:
        """The next reply, or None when the peer ended the call with OK."""
        with self._mapped():
            reply = await self._call.receive()
            if reply is None:
                await self._call.finish()
        return reply  # type: ignore[no-any-return]
