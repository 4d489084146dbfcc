# SPDX-License-Identifier: Apache-2.0
"""One HTTP/2 connection: grpclib's protocol classes with the repairs that both ends need.

    Protocol (asyncio) ──bytes──▶ Connection (h2) ──events──▶ Processor ──▶ Stream ◀── a call

    connected ──GOAWAY NO_ERROR──▶ going away ──last call ended──▶ closed
        └──────EOF, any other GOAWAY, protocol error, close()────────▲   every stream is told why, once

What grpclib 0.4.9 does and what is done instead:
  · an unknown frame type raised out of `data_received` and cost the connection; RFC 9113 §4.1 says ignore;
  · h2's first SETTINGS allowed 100 streams, 65,535-byte windows, 16 KiB frames; the real values now go in that first
    frame, before `initiate_connection()`;
  · a message of any announced length was buffered; `Stream.recv_data` refuses beyond `max_message`;
  · h2 fails on every frame after a GOAWAY, so a graceful end killed the calls that it meant to spare, and lost the
    answers that came in the same read; here a GOAWAY is only an event;
  · an empty DATA frame in the middle of a message ended the read;
  · a non-ASCII byte in a header, or any error that is no h2 ProtocolError, escaped from `data_received`;
  · after `close()` the next flush of the same batch raised AttributeError (the transport is deleted);
  · on a protocol error h2's GOAWAY was made but never written;
  · the reason of a broken stream was overwritten by "Connection lost";
  · a call that waited for a free stream or for room to write was not woken when the connection ended.
The names with one underscore that are used here are checked by tests/unit/rpc/test_rpc_private_names.py.
"""

from __future__ import annotations

import weakref
from asyncio import BaseTransport, Transport
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import h2.connection
import h2.events
import structlog
from grpclib import protocol
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.utils import Wrapper
from h2.config import H2Configuration
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import Frame, GoAwayFrame

from acri.rpc.unix import Peer, credentials

__all__ = ["MAX_MESSAGE", "Connection", "Limits", "PeerOf", "Processor", "Protocol", "Stream", "h2_configuration"]

#: The largest message either side accepts: the kubelet's and containerd's own bound.
MAX_MESSAGE = 16 * 2**20

_DEFAULT_WINDOW = 65_535  # RFC 9113 §6.9.2; a connection's window cannot be changed by SETTINGS

log = structlog.get_logger("acri.rpc")


@dataclass(frozen=True, slots=True)
class Limits:
    """What this end announces and enforces. Bytes, except `streams`."""

    streams: int = 1000
    window: int = 4 * 2**20
    frame: int = 64 * 2**10
    headers: int = 64 * 2**10
    message: int = MAX_MESSAGE

    def settings(self, *, client: bool) -> dict[SettingCodes, int]:
        values = {
            SettingCodes.INITIAL_WINDOW_SIZE: self.window,
            SettingCodes.MAX_FRAME_SIZE: self.frame,
            SettingCodes.MAX_HEADER_LIST_SIZE: self.headers,
        }
        if client:
            values[SettingCodes.ENABLE_PUSH] = 0
        else:
            values[SettingCodes.MAX_CONCURRENT_STREAMS] = self.streams
        return values


def h2_configuration(*, client: bool) -> H2Configuration:
    """h2 without header validation: that costs a third of a call, and both sockets are root's own.

    latin-1 decodes any byte: a broken header is then one request's fault, not the connection's.
    """
    return H2Configuration(
        client_side=client,
        header_encoding="latin-1",
        validate_inbound_headers=False,
        validate_outbound_headers=False,
        normalize_inbound_headers=False,
        normalize_outbound_headers=False,
    )


class PeerOf(protocol.Peer):
    """grpclib's Peer, knowing the process at the other end."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.credentials: Peer = credentials(transport.get_extra_info("socket"))


class Stream(protocol.Stream):
    """A stream with a bound on what one read may gather and one reason for its end."""

    connection: Connection

    async def recv_data(self, size: int) -> bytes:
        limit = self.connection.limits.message
        if size > limit:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, f"received message larger than max ({size} vs. {limit})")
        return await super().recv_data(size)

    def __terminated__(self, reason: str) -> None:
        # The first reason is the true one: grpclib calls again with "Connection lost" when the transport follows.
        if self.wrapper is not None and not self.wrapper.cancelled:
            super().__terminated__(reason)


class Connection(protocol.Connection):
    """grpclib's connection that makes our streams, and that may be flushed after it was closed."""

    stream_class: type[Stream] = Stream

    def __init__(
        self,
        connection: h2.connection.H2Connection,
        transport: Transport,
        *,
        config: Configuration,
        limits: Limits,
    ) -> None:
        super().__init__(connection, transport, config=config)
        self.limits = limits
        self._peer = PeerOf(transport)
        self._made: weakref.WeakSet[Stream] = weakref.WeakSet()

    @property
    def h2(self) -> h2.connection.H2Connection:
        return self._connection

    def create_stream(self, *, stream_id: int | None = None, wrapper: Wrapper | None = None) -> Stream:
        if self.is_closing():
            raise ConnectionResetError("the connection is closing")
        stream = self.stream_class(self, self._connection, self._transport, stream_id=stream_id, wrapper=wrapper)
        if stream_id is None:
            self._made.add(stream)  # ours: it has no id until it is sent, so the processor does not know it yet
        return stream

    def get_peer(self) -> PeerOf:
        return self._peer

    def flush(self) -> None:
        if hasattr(self, "_transport"):
            super().flush()

    def terminate_unsent(self, reason: str) -> None:
        """Wake the calls that still wait for a free stream or for room to write."""
        for stream in list(self._made):
            if stream.id is None:
                stream.__terminated__(reason)

    def write_goaway(self, error_code: int = 0) -> None:
        """Tell the peer that no stream beyond those seen will be served, and leave h2 able to send the answers.

        `h2.close_connection()` would move h2 to CLOSED, which refuses every later frame.
        """
        if self.is_closing():
            return
        self.flush()
        frame = GoAwayFrame(0, last_stream_id=self._connection.highest_inbound_stream_id, error_code=error_code)
        self._transport.write(frame.serialize())


def _receive_goaway(frame: GoAwayFrame) -> tuple[list[Frame], list[h2.events.Event]]:
    """In place of h2's: the same event, but the connection's state stays open for the calls that still run."""
    event = h2.events.ConnectionTerminated()
    event.error_code = frame.error_code
    event.last_stream_id = frame.last_stream_id
    event.additional_data = frame.additional_data or None
    return [], [event]


class Processor(protocol.EventsProcessor):
    """grpclib's event dispatch that ignores what it does not know and says when a stream is released."""

    connection: Connection

    def __init__(self, handler: protocol.AbstractHandler, connection: Connection) -> None:
        super().__init__(handler, connection)
        self.on_release: Callable[[], None] | None = None

    def register(self, stream: protocol.Stream) -> Callable[[], None]:
        release = super().register(stream)
        released = False

        def release_once() -> None:
            nonlocal released
            if released:
                return
            released = True
            release()
            if self.on_release is not None:
                self.on_release()

        return release_once

    def process(self, event: h2.events.Event) -> None:
        if event.__class__ in getattr(self, "processors", ()):  # close() deletes them
            super().process(event)

    def process_data_received(self, event: h2.events.DataReceived) -> None:
        if event.flow_controlled_length:  # grpclib's buffer takes an empty frame for the end of the stream
            super().process_data_received(event)

    def process_connection_terminated(self, event: h2.events.ConnectionTerminated) -> None:
        if event.error_code:
            detail = (event.additional_data or b"").decode("utf-8", "replace")
            self.close(f"GOAWAY, error code {event.error_code} {detail}".rstrip())

    def close(self, reason: str = "Connection closed") -> None:
        for stream in list(self.streams.values()):
            stream.__terminated__(reason)  # before the handler's close(), which cancels only what this did not reach
        super().close(reason)
        self.connection.terminate_unsent(reason)


class Protocol(protocol.H2Protocol):
    """The asyncio protocol of either end: right settings in the first frame, nothing escapes from `data_received`."""

    connection_class: type[Connection] = Connection
    processor_class: type[Processor] = Processor
    connection: Connection
    processor: Processor

    def __init__(
        self, handler: protocol.AbstractHandler, config: Configuration, h2_config: H2Configuration, limits: Limits
    ) -> None:
        super().__init__(handler, config, h2_config)
        self.limits = limits

    def connection_made(self, transport: BaseTransport) -> None:
        limits = self.limits
        client = self.h2_config.client_side
        conn = h2.connection.H2Connection(config=self.h2_config)
        conn.local_settings = Settings(client=client, initial_values=limits.settings(client=client))
        conn.max_inbound_frame_size = limits.frame
        conn.decoder.max_header_list_size = limits.headers
        conn._frame_dispatch_table[GoAwayFrame] = _receive_goaway
        conn.initiate_connection()
        if limits.window > _DEFAULT_WINDOW:
            conn.increment_flow_control_window(limits.window - _DEFAULT_WINDOW)
        self.connection = self.connection_class(conn, cast(Transport, transport), config=self.config, limits=limits)
        self.connection.flush()
        self.connection.initialize()
        self.processor = self.processor_class(self.handler, self.connection)

    def data_received(self, data: bytes) -> None:
        if self.connection.is_closing():
            return
        try:
            events = self.connection.feed(data)
            self.connection.flush()
            for event in events:
                self.processor.process(event)
        except ProtocolError as exc:
            self._broken(f"Protocol error: {exc}")
        except Exception as exc:
            # h2 and hpack let a few others through; asyncio would log "Fatal error" and drop the connection untold.
            log.warning("broken http/2 input", error=repr(exc), peer=self.connection.get_peer().credentials)
            self._broken(f"Broken HTTP/2 input: {exc!r}")
        else:
            self.connection.flush()

    def _broken(self, reason: str) -> None:
        self.connection.flush()  # h2 has a GOAWAY ready that says why
        self.processor.close(reason)
