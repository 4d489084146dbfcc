# SPDX-License-Identifier: Apache-2.0
"""gRPC on unix sockets, both ends: grpclib with its faults repaired, behind acri's own words.

`Server` + `Router` serve CRI to the kubelet; `Channel` calls containerd. Nothing of grpclib or h2 is
to be seen from other rooms: handlers get a request and a `Call`, callers get replies and `acri.errors`.

    unix ◀── connection ◀─┬─ server ◀── (daemon)        status: errors ↔ gRPC codes, for both
                          │  router ◀── (api)
                          └─ transport ◀── channel ◀── (containerd)
"""

from __future__ import annotations

from acri.rpc.channel import BidiStream, Channel, Retry, ServerStream
from acri.rpc.connection import MAX_MESSAGE, Limits
from acri.rpc.router import Call, Cardinality, Handler, Method, Router, methods_of
from acri.rpc.server import Server
from acri.rpc.unix import Peer

__all__ = [
    "MAX_MESSAGE",
    "BidiStream",
    "Call",
    "Cardinality",
    "Channel",
    "Handler",
    "Limits",
    "Method",
    "Peer",
    "Retry",
    "Router",
    "Server",
    "ServerStream",
    "methods_of",
]
