# SPDX-License-Identifier: Apache-2.0
"""The codec of one message class, derived from the class and compiled at first use.

    plan_of(cls) ──▶ Plan: fields known ──first .encode──▶ encoder compiled
                                        └─first .decode──▶ decoder compiled

A daemon uses a part of its 300 classes, most of them in one direction only; compiling all of them both ways at start
would cost 67 ms (measured). Two threads that race compile the same thing twice, and one result wins: no lock needed.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import betterproto

from acri.wire import decoder, encoder
from acri.wire.fields import PLACEHOLDER, FieldPlan, fields_of

__all__ = ["Decode", "Encode", "Plan", "plan_of"]


class Encode(Protocol):
    def __call__(self, message: Any, depth: int, /) -> bytes:
        """The message's bytes; sub-messages may nest `depth` levels below it."""


class Decode(Protocol):
    def __call__(
        self, buf: bytes, pos: int, end: int, depth: int, keep: bool, message: Any = None, /
    ) -> betterproto.Message:
        """The message in `buf[pos:end]`, or `message` with those bytes merged into it.

        `keep`: unknown fields are kept, to be written again when the message is encoded. Raises WireError only.
        """


class Plan:
    """All that is derived from one message class. Get it from `plan_of`.

    `blank` is the `__dict__` of an instance in which nothing is set, `_group_current` aside (that one is not shared).
    """

    def __init__(self, cls: type[betterproto.Message]) -> None:
        self.cls = cls
        self.fields: tuple[FieldPlan, ...] = fields_of(cls, plan_of)
        self.groups: tuple[str, ...] = tuple(dict.fromkeys(f.group for f in self.fields if f.group))
        self.blank: dict[str, Any] = {f.name: None if f.optional else PLACEHOLDER for f in self.fields}
        self.blank |= {"_serialized_on_wire": False, "_unknown_fields": b"", "_group_current": {}}

    def __repr__(self) -> str:
        return f"<plan of {self.cls.__module__}.{self.cls.__name__}, {len(self.fields)} fields>"

    @cached_property
    def by_name(self) -> dict[str, FieldPlan]:
        return {f.name: f for f in self.fields}

    @cached_property
    def encode(self) -> Encode:
        return encoder.compiled(self)

    @cached_property
    def decode(self) -> Decode:
        return decoder.compiled(self)


_plans: dict[type[Any], Plan] = {}


def plan_of(cls: type[Any]) -> Plan:
    """The plan of a generated message class; made once per class.

    Raises TypeError if `cls` is no generated message class, or has fields that the codec cannot keep exact.
    """
    plan = _plans.get(cls)
    if plan is not None:
        return plan
    if not (isinstance(cls, type) and issubclass(cls, betterproto.Message)):
        raise TypeError(f"not a generated message class: {cls!r}")
    return _plans.setdefault(cls, Plan(cls))
