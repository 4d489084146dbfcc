# SPDX-License-Identifier: Apache-2.0
"""Finds out which value kept a message from being encoded.

The compiled encoders check nothing that costs time and just fall over; this walk over the same message, in the same
order, names the field. It runs only after a failure.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from acri.wire import primitives
from acri.wire.encoder import FIXED
from acri.wire.errors import BadUtf8, OutOfRange, TooDeep, WireError
from acri.wire.fields import PLACEHOLDER, FieldPlan
from acri.wire.frames import Encoded

if TYPE_CHECKING:
    from acri.wire.plan import Plan

__all__ = ["explain"]


def explain(plan: Plan, message: Any, depth: int) -> WireError | TypeError | None:
    """The first fault in `message`, with its path: a WireError, or a TypeError where a value has the wrong type.

    None: no fault found (the message was changed meanwhile, or the encoder is wrong).
    """
    try:
        _check_message(plan, message, depth, "")
    except (WireError, TypeError) as error:
        return error
    return None


def _check_message(plan: Plan, message: Any, depth: int, path: str) -> None:
    if isinstance(message, Encoded):
        return
    if type(message) is not plan.cls:
        raise _wrong(path, plan.cls.__name__, message)
    if depth < 0:
        raise TooDeep("messages nested too deeply", path=path)
    values = object.__getattribute__(message, "__dict__")
    for name in values.keys() - plan.blank.keys():
        raise TypeError(f"{plan.cls.__name__} has no field {name!r}" + (f" (in {path})" if path else ""))
    for field in plan.fields:
        if field.name not in values:
            raise TypeError(f"{plan.cls.__name__} lacks its attribute {field.name!r}")
        for kind, number_of_type, value in _parts(field, values):
            _check(
                kind, field if number_of_type else None, value, depth, f"{path}.{field.name}" if path else field.name
            )


def _parts(field: FieldPlan, values: dict[str, Any]) -> Iterator[tuple[str, bool, Any]]:
    """(kind, is it of the field's own type, value) for each single value that the encoder would write."""
    value = values[field.name]
    if value is PLACEHOLDER or value is None:
        return
    if field.group and values["_group_current"].get(field.group) != field.name:
        return
    if field.map:
        if value and not hasattr(value, "items"):
            raise _wrong(field.name, "a dict", value)
        for key, item in value.items() if value else ():
            yield field.map[0], False, key
            yield field.map[1], True, item
    elif field.repeated:
        if value and not isinstance(value, list | tuple):
            raise _wrong(field.name, "a list", value)
        for item in value or ():
            yield field.kind, True, item
    elif value or not field.implicit:
        yield field.kind, True, value


def _check(kind: str, field: FieldPlan | None, value: Any, depth: int, path: str) -> None:
    if kind == "message":
        assert field is not None
        assert field.child is not None
        _check_message(field.child(), value, depth - (2 if field.map else 1), path)
    elif kind == "string":
        if not isinstance(value, str):
            raise _wrong(path, "str", value)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadUtf8("string has surrogates, which UTF-8 cannot", path=path) from None
    elif kind == "bytes":
        if not isinstance(value, bytes | bytearray | memoryview):
            raise _wrong(path, "bytes", value)
    elif kind == "bool":
        if not isinstance(value, int) or value not in (0, 1):
            raise _wrong(path, "bool", value)
    elif kind in ("float", "double"):
        if not isinstance(value, int | float):
            raise _wrong(path, "float", value)
        _check_number(kind, value, path)
    else:
        if not isinstance(value, int):
            raise _wrong(path, "int", value)
        _check_number(kind, value, path)


def _check_number(kind: str, value: float, path: str) -> None:
    try:
        if kind in FIXED:
            struct.pack(FIXED[kind], value)
        else:
            getattr(primitives, "int32" if kind == "enum" else kind)(value)
    except (OutOfRange, struct.error, OverflowError):
        raise OutOfRange(f"number does not fit {kind}", path=path) from None


def _wrong(path: str, expected: str, value: Any) -> TypeError:
    return TypeError(f"{path + ': ' if path else ''}expected {expected}, got {type(value).__name__}")
