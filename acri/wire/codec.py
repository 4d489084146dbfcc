# SPDX-License-Identifier: Apache-2.0
"""The codec: bytes to message, message to bytes, within limits; and the same behind grpclib's interface.

Limits: 16 MiB a message is what a kubelet's CRI client and containerd's server accept (`maxMsgSize`,
`DefaultMaxRecvMsgSize`); 100 levels of nesting is protobuf's own limit, which upb and C++ share.
"""

from __future__ import annotations

from typing import Any, TypeVar

import structlog
from grpclib.encoding.base import CodecBase

from acri.wire.errors import TooDeep, TooLarge, WireError
from acri.wire.explain import explain
from acri.wire.frames import Encoded
from acri.wire.plan import Plan, plan_of

__all__ = ["MAX_DEPTH", "MAX_MESSAGE", "WireCodec", "decode", "encode"]

MAX_MESSAGE = 16 * 1024 * 1024  # bytes
MAX_DEPTH = 100  # messages nested below the outermost one

M = TypeVar("M")

log = structlog.get_logger(__name__)


def encode(message: Any, *, max_depth: int = MAX_DEPTH) -> bytes:
    """The wire bytes of a generated message, fields in number order. An `Encoded` is returned as it is.

    Presence decides for messages, `optional` and oneofs; a plain scalar is written unless it is its type's default.
    Safe in any thread, as long as nobody changes the message meanwhile.

    Raises OutOfRange, BadUtf8 or TooDeep (with the path of the field) for values that have no encoding, TypeError for
    values of the wrong type, misspelt attributes and objects that are no generated messages.
    """
    if isinstance(message, Encoded):
        return message
    return _encode(plan_of(type(message)), message, max_depth)


def _encode(plan: Plan, message: Any, max_depth: int) -> bytes:
    try:
        return plan.encode(message, max_depth)
    except RecursionError:  # the caller's own stack was nearly used up
        raise TooDeep("messages nested too deeply") from None
    except Exception as error:  # whatever the compiled code fell over: find the field and say it properly
        fault = explain(plan, message, max_depth)
        if fault is None:
            raise
        raise fault from error


def decode(
    cls: type[M],
    data: bytes,
    *,
    keep_unknown: bool = False,
    max_message: int = MAX_MESSAGE,
    max_depth: int = MAX_DEPTH,
) -> M:
    """The message of the generated class `cls` in `data`, all of it.

    `keep_unknown`: fields that the class does not know are written again when the message is encoded (for objects of
    containerd that acri changes and writes back); otherwise they are dropped.

    Raises WireError, with path and offset, for bytes that are no such message; nothing else.
    """
    if len(data) > max_message:
        raise TooLarge(f"message of {len(data)} bytes, the limit is {max_message}")
    if type(data) is not bytes:
        data = bytes(data)
    message: M = plan_of(cls).decode(data, 0, len(data), max_depth, keep_unknown)  # type: ignore[assignment]
    return message


class WireCodec(CodecBase):
    """`encode` and `decode` as grpclib's Server and Channel want them; one instance serves any number of both.

    `keep_unknown`: see `decode`. `max_message`: bytes; a larger one is refused on the way in, and on the way out logged
    as a warning and sent, since whether it is too large is the receiver's to say.
    """

    __content_subtype__ = "proto"

    def __init__(self, *, keep_unknown: bool = False, max_message: int = MAX_MESSAGE) -> None:
        self.keep_unknown = keep_unknown
        self.max_message = max_message

    def encode(self, message: Any, message_type: Any) -> bytes:
        """Raises TypeError, naming both, if `message` is neither a `message_type` nor `Encoded`; else as `encode`."""
        if isinstance(message, Encoded):
            data: bytes = message
        elif type(message) is not message_type:
            raise TypeError(f"expected a {_name(message_type)}, got a {_name(type(message))}")
        else:
            data = _encode(plan_of(message_type), message, MAX_DEPTH)
        if len(data) > self.max_message:
            log.warning("message over limit", message=_name(message_type), size=len(data), limit=self.max_message)
        return data

    def decode(self, data: bytes, message_type: Any) -> Any:
        """Raises WireError; the text names the message type and the path, not the content."""
        try:
            return decode(message_type, data, keep_unknown=self.keep_unknown, max_message=self.max_message)
        except WireError as error:
            error.path = ".".join(filter(None, (message_type.__name__, error.path)))
            raise


def _name(cls: Any) -> str:
    return getattr(cls, "__qualname__", repr(cls))
