# SPDX-License-Identifier: Apache-2.0
"""The gRPC server: grpclib's, repaired, on unix sockets only.

    new ──bind_unix / serve_socket──▶ serving ──drain──▶ draining ──idle or grace over──▶ closed
                                         └────────────────────close───────────────────────▲

Draining: no new connection, a GOAWAY on every old one, calls that run may end within the grace, the rest is answered
UNAVAILABLE. A call that arrives while draining is reset with REFUSED_STREAM: its client knows that it was not run.

What grpclib 0.4.9 does and what is done instead (more of it in connection.py and router.py):
  · A request that grpclib's task would die of before it answers (no pseudo header, bad base64) is reset at once.
  · close() left callers without an answer and the connection open: drain(), and transports are closed.
  · wait_closed() hung on asyncio ≥ 3.12.1 while a client stayed connected: transports go first.
  · A client that leaves cancelled its handler twice, which breaks a clean-up that awaits: now once.
  · Resets are budgeted per connection; 500 in a second close it (CVE-2023-44487).
  · Header validation is off, so the server refuses any socket that is not AF_UNIX.
  · A malformed grpc-timeout is INTERNAL, as from grpc-go; one that is over already is DEADLINE_EXCEEDED.
  · unix.py binds: never steals a live socket, exact mode, removes the file only while it is ours.
  · A request reset in the same read as its headers leaked its stream (its task never starts, so
    `finally: release_stream()` never runs), and a second RST_STREAM for it raised KeyError.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol

import grpclib.server
import h2.events
import structlog
from grpclib import const, protocol
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.encoding.base import GRPC_CONTENT_TYPE, CodecBase
from grpclib.exceptions import GRPCError
from grpclib.metadata import decode_metadata, encode_grpc_message
from h2.errors import ErrorCodes

from acri.errors import ConfigError
from acri.rpc import connection, unix
from acri.rpc.connection import Limits

__all__ = ["RESETS_PER_SECOND", "Limits", "Server"]

#: Streams that one connection may have reset by its client within a second.
RESETS_PER_SECOND = 500

_TIMEOUT = re.compile(r"(\d{1,8})[HMSmun]", re.ASCII)  # gRPC over HTTP/2: at most 8 digits
_PSEUDO = (":method", ":path")
_SHUTTING_DOWN = "acri is shutting down; the call was given up, repeat it when acri is back"

log = structlog.get_logger("acri.rpc")

_Headers = list[tuple[str, str]]


class _Servable(Protocol):
    """What a server serves: a Router."""

    def __mapping__(self) -> Mapping[str, const.Handler]: ...


class _Stream(connection.Stream):
    def answer_nowait(self, status: Status, message: str) -> None:
        """A trailers-only answer from where nothing can be awaited."""
        assert self.id is not None
        headers = [
            (":status", "200"),
            ("content-type", f"{GRPC_CONTENT_TYPE}+proto"),
            ("grpc-status", str(status.value)),
            ("grpc-message", encode_grpc_message(message)),
        ]
        self.connection.h2.send_headers(self.id, headers, end_stream=True)
        if self.closable:
            self.reset_nowait()
        self.connection.flush()


class _Connection(connection.Connection):
    stream_class = _Stream


class _Processor(connection.Processor):
    """Counts resets over one-second windows of the loop's clock."""

    _window_ends = 0.0
    _resets = 0

    def process_stream_reset(self, event: h2.events.StreamReset) -> None:
        super().process_stream_reset(event)
        now = asyncio.get_running_loop().time()
        if now >= self._window_ends:
            self._window_ends, self._resets = now + 1.0, 0
        self._resets += 1
        if self._resets > RESETS_PER_SECOND:
            log.warning("too many stream resets, closing the connection", peer=self.connection.get_peer().credentials)
            self.connection.write_goaway(ErrorCodes.ENHANCE_YOUR_CALM)
            # Not connection.close(): that deletes the transport under the events of the same batch.
            self.close("Too many stream resets")


class _Handler(grpclib.server.Handler):
    """Starts a task per request, unless the request cannot be answered by one."""

    draining = False

    def accept(self, stream: protocol.Stream, headers: _Headers, release_stream: Callable[[], Any]) -> None:
        assert isinstance(stream, _Stream)
        if self.draining:
            self._refuse(stream, release_stream, ErrorCodes.REFUSED_STREAM)
            return
        present = dict(headers)
        try:
            decode_metadata(headers)
            sound = all(name in present for name in _PSEUDO)
        except ValueError:  # bad base64 or a non-ASCII byte in a -bin value
            sound = False
        if not sound:
            log.warning(
                "malformed request reset", path=present.get(":path"), peer=stream.connection.get_peer().credentials
            )
            self._refuse(stream, release_stream, ErrorCodes.PROTOCOL_ERROR)
            return
        timeout = present.get("grpc-timeout")
        if timeout is not None:
            match = _TIMEOUT.fullmatch(timeout)
            if match is None:
                stream.answer_nowait(Status.INTERNAL, f"malformed grpc-timeout: {timeout}")
            elif not int(match[1]):
                stream.answer_nowait(Status.DEADLINE_EXCEEDED, "the deadline was over when the request arrived")
            if match is None or not int(match[1]):
                release_stream()
                return
        super().accept(stream, headers, release_stream)
        # A task that is cancelled before its first step never reaches its `finally: release_stream()`.
        self._tasks[stream].add_done_callback(lambda _: release_stream())

    def _refuse(self, stream: _Stream, release_stream: Callable[[], Any], code: ErrorCodes) -> None:
        stream.reset_nowait(code)
        release_stream()
        stream.connection.flush()

    def cancel(self, stream: protocol.Stream) -> None:
        task = self._tasks.pop(stream, None)
        if task is not None:  # else this is a second RST_STREAM
            self._cancel_once(stream, task)

    def close(self) -> None:
        tasks, self._tasks = self._tasks, {}
        for stream, task in tasks.items():
            self._cancel_once(stream, task)
        self.closing = True

    def _cancel_once(self, stream: protocol.Stream, task: asyncio.Task[None]) -> None:
        wrapper = stream.wrapper
        if wrapper is None or not wrapper.cancelled or task not in wrapper._tasks:  # else the wrapper did it
            task.cancel()
        self._cancelled.add(task)


class _Protocol(connection.Protocol):
    connection_class = _Connection
    processor_class = _Processor
    handler: _Handler

    def __init__(self, server: Server, handler: _Handler) -> None:
        super().__init__(handler, server._config, server._h2_config, server.limits)
        self._owner = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.processor.on_release = self._owner._check_idle
        self._owner._connections.add(self)
        if self._owner.draining:
            self.handler.draining = True  # accepted by the kernel before the listener closed

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._owner._connections.discard(self)
        self._owner._check_idle()


class Server(grpclib.server.Server):
    """Serves a `Router` on one unix socket. Make it inside the running loop.

    Args:
        router: the methods; also anything else with grpclib's `__mapping__`, then without the router's guards.
        codec: encodes and decodes messages (`acri.wire.WireCodec`).
        limits: streams, windows and sizes that are announced and enforced.
    """

    def __init__(self, router: _Servable, *, codec: CodecBase, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        window = self.limits.window
        super().__init__(
            [],
            codec=codec,
            config=Configuration(http2_stream_window_size=window, http2_connection_window_size=window),
        )
        self._mapping = router.__mapping__()  # type: ignore[assignment]  # kept as it is: its .get() never says None
        self._h2_config = connection.h2_configuration(client=False)
        self._connections: set[_Protocol] = set()
        self._idle = asyncio.Event()
        self._listener: unix.Listener | None = None
        self.draining = False
        self._closed = False

    @property
    def active(self) -> int:
        """Calls that run now."""
        return sum(len(proto.processor.streams) for proto in self._connections)

    @property
    def connections(self) -> int:
        return len(self._connections)

    def _protocol_factory(self) -> _Protocol:
        self.__gc_step__()
        handler = _Handler(self._mapping, self._codec, self._status_details_codec, self.__dispatch__)
        self._handlers.add(handler)
        return _Protocol(self, handler)

    def _check_idle(self) -> None:
        if self.draining and not self.active:
            self._idle.set()

    async def bind_unix(self, path: str, mode: int = 0o600) -> None:
        """Serve on a socket file of exactly `mode`; see `unix.listen`. Paths may be long, their last element not.

        Raises ConfigError: somebody answers there, something else is in the way, the directory does not allow it.
        """
        listener = unix.listen(path, mode)
        try:
            await self.serve_socket(listener.sock)
        except BaseException:
            listener.sock.close()
            listener.unlink()
            raise
        self._listener = listener

    async def serve_socket(self, sock: socket.socket) -> None:
        """Serve on a listening socket that somebody else made (systemd); its file stays at close.

        Raises ConfigError when it is no unix stream socket: this server must not be on a network.
        """
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            raise ConfigError(f"cannot serve on {sock!r}: only unix stream sockets are allowed")
        if self._server is not None:
            raise RuntimeError("the server was started already")
        # Python ≥ 3.13 would remove the file at close, whoever made it.
        keep: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        self._server = await self._loop.create_unix_server(self._protocol_factory, sock=sock, backlog=512, **keep)
        self._server_closed_fut = self._loop.create_future()

    async def start(self, *args: Any, **kwargs: Any) -> None:
        """Not this one: it steals live sockets and would listen on TCP."""
        raise NotImplementedError("use bind_unix() or serve_socket()")

    async def drain(self, grace_s: float) -> int:
        """Stop serving: let calls end for `grace_s` seconds, answer the rest UNAVAILABLE, close. Idempotent.

        Returns how many calls were cut off.
        """
        cut = 0
        if self._server is None:
            return cut
        self.draining = True
        self._server.close()
        for proto in list(self._connections):
            proto.handler.draining = True
            proto.connection.write_goaway()
        try:
            await self._until_idle(grace_s)
            cut = self._cut_off()
            await self._until_idle(1.0 if cut else 0.0)  # for trailers; a handler that ignores its cancellation is left
        finally:
            self.close()
        try:
            async with asyncio.timeout(1.0):
                await self.wait_closed()
        except TimeoutError:
            log.warning("handlers ignore their cancellation", count=self._running())
        return cut

    async def _until_idle(self, timeout: float) -> None:
        self._idle.clear()
        if not self.active:
            return
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            pass

    def _cut_off(self) -> int:
        cut = 0
        for proto in list(self._connections):
            for stream in list(proto.processor.streams.values()):
                if stream.wrapper is not None and not stream.wrapper.cancelled:
                    # grpclib's wrapper raises this in the handler's place, so that proper trailers go out.
                    stream.wrapper.cancel(GRPCError(Status.UNAVAILABLE, _SHUTTING_DOWN))
                    cut += 1
        return cut

    def close(self) -> None:
        """Stop at once: cancel what runs, close every connection, remove the socket file if it is still ours."""
        if self._server is None or self._closed:
            return
        self._closed = self.draining = True
        if self._listener is not None:
            self._listener.unlink()
            self._listener = None
        for proto in list(self._connections):
            proto.processor.close("Server closed")
        super().close()
        self._check_idle()

    def _running(self) -> int:
        return sum(not task.done() for handler in self._handlers for task in handler._cancelled)

    async def wait_closed(self) -> None:
        """Wait until every handler has ended. Only after close() or drain()."""
        if self._server is not None:
            await super().wait_closed()

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        await self.wait_closed()
