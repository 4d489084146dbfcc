# SPDX-License-Identifier: Apache-2.0
"""Bytes that are encoded already: how a list is answered without encoding anything.

A store entry keeps `frame(1, encode(item))`, made when the entry changes; the answer to a list call is
`join(frames of all entries)`, because a repeated field is nothing but its items' frames one after another.
"""

from __future__ import annotations

from collections.abc import Iterable

from acri.wire.primitives import LEN, tag_bytes, varint

__all__ = ["Encoded", "frame", "join"]


class Encoded(bytes):
    """Wire bytes of the message type at hand. The codec passes them through untouched, also as a sub-message."""

    __slots__ = ()


def frame(number: int, body: bytes) -> bytes:
    """`body` as the length-delimited field `number` (≥ 1): tag, length, body."""
    if not 0 < number < 1 << 29:
        raise ValueError(f"field number {number}")
    return b"%b%b%b" % (tag_bytes(number, LEN), varint(len(body)), body)


def join(frames: Iterable[bytes]) -> Encoded:
    """One message made of fields that are wire bytes already."""
    return Encoded(b"".join(frames))
