# SPDX-License-Identifier: Apache-2.0
"""Timestamp, Duration and Any without datetime: int nanoseconds, and bytes with a type's name.

The generated code has these as ordinary messages ({seconds, nanos}, {type_url, value}) so that no nanosecond is lost.
`wire` knows no generated module, so whoever builds one hands the class in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from acri.wire.codec import decode, encode
from acri.wire.errors import OutOfRange
from acri.wire.messages import new

__all__ = [
    "GO_ZERO_SECONDS",
    "duration",
    "duration_ns",
    "pack_any",
    "timestamp",
    "timestamp_ns",
    "type_name",
    "unpack_any",
]

_NS = 1_000_000_000

#: Go's zero time, 0001-01-01T00:00:00Z, which is what containerd sends for "never". As int64 nanoseconds it overflows.
GO_ZERO_SECONDS = -62_135_596_800

_MAX_TIMESTAMP_SECONDS = 253_402_300_799  # 9999-12-31T23:59:59Z, google/protobuf/timestamp.proto
_MAX_DURATION_SECONDS = 315_576_000_000  # about 10,000 years, google/protobuf/duration.proto


class SecondsNanos(Protocol):
    """Timestamp or Duration."""

    seconds: int
    nanos: int


class AnyMessage(Protocol):
    type_url: str
    value: bytes


T = TypeVar("T")


def timestamp_ns(message: SecondsNanos | None) -> int:
    """Nanoseconds since 1970, exact. 0 for None and for Go's zero time: "never", as CRI's own int64 times have it."""
    if message is None or (message.seconds == GO_ZERO_SECONDS and message.nanos == 0):
        return 0
    return message.seconds * _NS + message.nanos


def duration_ns(message: SecondsNanos | None) -> int:
    """Nanoseconds, exact, of either sign; 0 for None."""
    return 0 if message is None else message.seconds * _NS + message.nanos


def timestamp(cls: type[T], ns: int) -> T:
    """`ns` since 1970 as a Timestamp message of class `cls`; nanos are 0 … 999,999,999, also before 1970.

    Raises OutOfRange outside the years 1 … 9999.
    """
    seconds, nanos = divmod(ns, _NS)
    if not GO_ZERO_SECONDS <= seconds <= _MAX_TIMESTAMP_SECONDS:
        raise OutOfRange("timestamp outside the years 1 to 9999")
    return _build(cls, seconds=seconds, nanos=nanos)


def duration(cls: type[T], ns: int) -> T:
    """`ns` as a Duration message of class `cls`: seconds and nanos have the same sign (−1.5 s is −1 and −500,000,000).

    Raises OutOfRange beyond ±10,000 years.
    """
    seconds, nanos = divmod(abs(ns), _NS)
    if seconds > _MAX_DURATION_SECONDS:
        raise OutOfRange("duration of more than 10,000 years")
    sign = -1 if ns < 0 else 1
    return _build(cls, seconds=sign * seconds, nanos=sign * nanos)


def type_name(message: AnyMessage | None) -> str:
    """What an Any's type_url names, its host aside: "containerd.events.TaskExit" for both forms in use, with and
    without "type.googleapis.com/". containerd's JSON types ("types.containerd.io/opencontainers/runtime-spec/1/Spec")
    keep their path: "opencontainers/runtime-spec/1/Spec". "" for None."""
    if message is None:
        return ""
    host, slash, name = message.type_url.partition("/")
    return name if slash else host


def pack_any(cls: type[T], type_url: str, value: Any) -> T:
    """`value` (a generated message, or bytes of what the type says, such as JSON) as an Any message of class `cls`."""
    return _build(cls, type_url=type_url, value=bytes(value) if isinstance(value, bytes | bytearray) else encode(value))


def unpack_any(message: AnyMessage | None, types: Mapping[str, type[T]], *, keep_unknown: bool = False) -> T | None:
    """The message inside an Any, by `types` (name as `type_name` gives it → class); None if the type is not there.

    Raises WireError if the bytes are no such message.
    """
    cls = types.get(type_name(message))
    if message is None or cls is None:
        return None
    return decode(cls, message.value, keep_unknown=keep_unknown)


def _build(cls: type[T], **fields: Any) -> T:
    return new(cls, **fields)
