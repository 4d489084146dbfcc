# SPDX-License-Identifier: Apache-2.0
"""Rule 25: the names of grpclib 0.4.9 and h2 that are not promised to anybody, and that acri.rpc leans on.

A failure here after an upgrade says which file to read again: acri/rpc/connection.py, server.py, transport.py.
"""

from __future__ import annotations

import inspect
from importlib.metadata import version

import grpclib.client
import grpclib.server
import pytest
from grpclib import protocol, utils
from grpclib.config import Configuration
from grpclib.encoding.proto import ProtoCodec
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import Settings
from hyperframe.frame import GoAwayFrame

CODEC = ProtoCodec()


def test_grpclib_is_the_version_that_was_read() -> None:
    assert version("grpclib") == "0.4.9"


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (grpclib.server.Handler, ["accept", "cancel", "close", "wait_closed", "check_closed", "__gc_collect__"]),
        (grpclib.server.Server, ["_protocol_factory", "__gc_step__", "close", "wait_closed", "start"]),
        (grpclib.client.Channel, ["_protocol_factory", "_create_connection", "_connected", "__connect__", "_protocol"]),
        (
            grpclib.client.Stream,
            [
                "_send_request_done",
                "_end_done",
                "_recv_trailing_metadata_done",
                "_maybe_raise",
                "send_request",
                "recv_message",
                "recv_trailing_metadata",
            ],
        ),
        (
            protocol.EventsProcessor,
            [
                "register",
                "process",
                "close",
                "process_data_received",
                "process_stream_reset",
                "process_connection_terminated",
            ],
        ),
        (protocol.Connection, ["create_stream", "get_peer", "flush", "is_closing", "initialize", "feed", "close"]),
        (protocol.Stream, ["__terminated__", "__ended__", "recv_data", "send_data", "reset_nowait", "closable"]),
        (utils.Wrapper, ["__enter__", "__exit__", "cancel", "_error", "cancelled", "cancel_failed"]),
        (utils.DeadlineWrapper, ["start"]),
    ],
)
def test_class_has(cls: type, names: list[str]) -> None:
    assert [name for name in names if not hasattr(cls, name)] == []


async def test_instances_have() -> None:
    server = grpclib.server.Server([], codec=CODEC)
    for name in (
        "_mapping",
        "_handlers",
        "_codec",
        "_status_details_codec",
        "_config",
        "_h2_config",
        "_server",
        "_server_closed_fut",
        "_loop",
        "__dispatch__",
    ):
        assert hasattr(server, name), name
    channel = grpclib.client.Channel(path="/nowhere", codec=CODEC)
    for name in ("_authority", "_h2_config", "_config", "_codec", "_loop", "__dispatch__", "_connect_lock"):
        assert hasattr(channel, name), name
    handler = grpclib.server.Handler({}, CODEC, None, server.__dispatch__)
    assert handler._tasks == {}
    assert handler._cancelled == set()
    assert hasattr(utils.Wrapper(), "_tasks")
    assert {"_keepalive_time"} <= set(inspect.signature(Configuration).parameters)


def test_the_server_looks_methods_up_by_get_only() -> None:
    """Row 1 hangs on it."""
    source = inspect.getsource(grpclib.server.request_handler)
    assert source.count("mapping") == 2  # the parameter and …
    assert "mapping.get(method_name)" in source


def test_client_stream_attributes() -> None:
    source = inspect.getsource(grpclib.client.Stream)
    for name in ("self._stream", "self._release_stream", "self._wrapper", "self._deadline", "self._method_name"):
        assert name in source


def test_h2_has() -> None:
    conn = H2Connection(H2Configuration(client_side=False))
    conn.local_settings = Settings(client=False)
    assert GoAwayFrame in conn._frame_dispatch_table
    for name in (
        "max_inbound_frame_size",
        "highest_inbound_stream_id",
        "highest_outbound_stream_id",
        "_frame_dispatch_table",  # ours for GOAWAY; deleted by grpclib's Connection.close
    ):
        assert hasattr(conn, name), name
    assert conn.decoder.max_header_list_size
