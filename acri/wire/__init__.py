# SPDX-License-Identifier: Apache-2.0
"""The wire: protobuf bytes ↔ betterproto's generated classes, strict and presence-aware.

betterproto 2.0.0b7 makes the classes; its own encoder and decoder lose presence, nanoseconds and negative enums, accept
cut messages, and are twenty times slower, so nothing here calls them. A codec is compiled per class at first use:

    class ─fields.py─▶ FieldPlans ─plan.py─▶ Plan ─encoder.py, decoder.py─▶ Python source ─exec─▶ encode(), decode()

`codec` is what other rooms use, `wellknown` turns Timestamp and Duration into int nanoseconds, `messages` reads and
builds messages without betterproto's costs, `primitives` is the encoding below fields, `explain` finds what was wrong
with a message that could not be encoded. The room knows no generated module: any class handed in gets its plan.
"""

from __future__ import annotations

from acri.wire.codec import MAX_DEPTH, MAX_MESSAGE, WireCodec, decode, encode
from acri.wire.errors import (
    BadUtf8,
    BadVarint,
    BadWireType,
    OutOfRange,
    TooDeep,
    TooLarge,
    Truncated,
    WireError,
)
from acri.wire.frames import Encoded, frame, join
from acri.wire.messages import get, has, new
from acri.wire.plan import Plan, plan_of

__all__ = [
    "MAX_DEPTH",
    "MAX_MESSAGE",
    "BadUtf8",
    "BadVarint",
    "BadWireType",
    "Encoded",
    "OutOfRange",
    "Plan",
    "TooDeep",
    "TooLarge",
    "Truncated",
    "WireCodec",
    "WireError",
    "decode",
    "encode",
    "frame",
    "get",
    "has",
    "join",
    "new",
    "plan_of",
]
