# SPDX-License-Identifier: Apache-2.0
"""Varints, tags, and what to do with fields that nobody knows: the parts of the protobuf encoding below fields.

Generated encoders and decoders (encoder.py, decoder.py) handle the one-byte cases inline and call these for the rest.
Readers take the whole buffer and a position and return (value, next position); they do not check the end of the message
at hand: the caller compares its position with that end after every field, and IndexError means the end of the buffer.
Format: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from functools import cache

from acri.wire.errors import BadVarint, BadWireType, OutOfRange, TooDeep, Truncated

__all__ = [
    "END_GROUP",
    "FIXED32",
    "FIXED64",
    "LEN",
    "ONE_BYTE",
    "START_GROUP",
    "VARINT",
    "heads",
    "int32",
    "int64",
    "read_tag",
    "read_varint",
    "sint32",
    "sint64",
    "skip",
    "tag_bytes",
    "uint32",
    "uint64",
    "varint",
]

VARINT, FIXED64, LEN, START_GROUP, END_GROUP, FIXED32 = range(6)

_MASK64 = (1 << 64) - 1

#: The encodings of 0 … 127.
ONE_BYTE = tuple(bytes((n,)) for n in range(128))


def varint(value: int) -> bytes:
    """`value` (0 … 2⁶⁴−1) as base-128 varint, 1 to 10 bytes."""
    if value < 128:
        return ONE_BYTE[value]
    if value < 16384:
        return bytes((value & 127 | 128, value >> 7))
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag_bytes(number: int, wire_type: int) -> bytes:
    """The tag in front of a field."""
    return varint(number << 3 | wire_type)


@cache
def heads(number: int) -> tuple[bytes, ...]:
    """Tag and length of a length-delimited field for lengths 0 … 127; shared by all messages that use the number."""
    tag = tag_bytes(number, LEN)
    return tuple(tag + length for length in ONE_BYTE)


def _out_of_range(value: int, kind: str) -> OutOfRange:
    return OutOfRange(f"number does not fit {kind}")


def int32(value: int) -> bytes:
    """int32 and enum: negative numbers are sign-extended to 64 bits, thus 10 bytes."""
    if 0 <= value < 128:
        return ONE_BYTE[value]
    if not -0x8000_0000 <= value < 0x8000_0000:
        raise _out_of_range(value, "int32")
    return varint(value & _MASK64)


def int64(value: int) -> bytes:
    if 0 <= value < 128:
        return ONE_BYTE[value]
    if not -(1 << 63) <= value < 1 << 63:
        raise _out_of_range(value, "int64")
    return varint(value & _MASK64)


def uint32(value: int) -> bytes:
    if not 0 <= value < 1 << 32:
        raise _out_of_range(value, "uint32")
    return varint(value)


def uint64(value: int) -> bytes:
    if not 0 <= value < 1 << 64:
        raise _out_of_range(value, "uint64")
    return varint(value)


def sint32(value: int) -> bytes:
    """Zigzag: 0, −1, 1, −2 … become 0, 1, 2, 3 …"""
    if not -0x8000_0000 <= value < 0x8000_0000:
        raise _out_of_range(value, "sint32")
    return varint(value << 1 ^ value >> 31)


def sint64(value: int) -> bytes:
    if not -(1 << 63) <= value < 1 << 63:
        raise _out_of_range(value, "sint64")
    return varint(value << 1 ^ value >> 63)


def read_varint(buf: bytes, pos: int) -> tuple[int, int]:
    """A varint of up to 10 bytes; bits beyond 64 are cut, as every implementation does."""
    value = shift = 0
    while True:
        byte = buf[pos]
        pos += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & _MASK64, pos
        shift += 7
        if shift == 70:
            raise BadVarint("number of more than 10 bytes")


def read_tag(buf: bytes, pos: int) -> tuple[int, int]:
    """A field's tag: at most 5 bytes and 32 bits. Number 0 is left to `skip`, which every unknown tag comes to."""
    value = shift = 0
    while True:
        byte = buf[pos]
        pos += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
        if shift == 35:
            raise BadVarint("tag of more than 5 bytes")
    if value >> 32:
        raise BadVarint("tag of more than 32 bits")
    return value, pos


def skip(buf: bytes, pos: int, end: int, tag: int, depth: int) -> int:
    """The position behind an unknown field whose tag has been read; groups are skipped whole, within the depth."""
    if tag < 8:
        raise BadWireType("field number 0")
    wire_type = tag & 7
    if wire_type == VARINT:
        _, pos = read_varint(buf, pos)
    elif wire_type == LEN:
        size, pos = read_varint(buf, pos)
        pos += size
    elif wire_type == FIXED64:
        pos += 8
    elif wire_type == FIXED32:
        pos += 4
    elif wire_type == START_GROUP:
        pos = _skip_group(buf, pos, end, tag, depth)
    elif wire_type == END_GROUP:
        raise BadWireType("end of a group that was not begun")
    else:
        raise BadWireType(f"wire type {wire_type}")
    if pos > end:
        raise Truncated("field reaches beyond its message")
    return pos


def _skip_group(buf: bytes, pos: int, end: int, tag: int, depth: int) -> int:
    if depth <= 0:
        raise TooDeep("groups nested too deeply")
    closing = tag + 1
    while pos < end:
        inner, pos = read_tag(buf, pos)
        if inner == closing:
            return pos
        pos = skip(buf, pos, end, inner, depth - 1)
    raise Truncated("group without an end")
