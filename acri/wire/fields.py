# SPDX-License-Identifier: Apache-2.0
"""What a betterproto class says about its fields, as plain values.

betterproto 2.0.0b7 keeps enough metadata on its classes to derive a codec without any .proto file
(`FieldMetadata`, `ProtoClassMetadata`). The private name `_betterproto` is used here only; tests/unit/wire lists it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import betterproto

if TYPE_CHECKING:
    from acri.wire.plan import Plan

__all__ = ["PLACEHOLDER", "FieldPlan", "fields_of"]

#: What betterproto stores in a field that was never set; reading the attribute replaces it by the type's default.
PLACEHOLDER: Any = betterproto.PLACEHOLDER


@dataclass(frozen=True, slots=True)
class FieldPlan:
    """One field. `kind` is protobuf's name of the type ("int32", "message", "map" …).

    `map` has the kinds of a map's key and value. `type` is the message or enum class (of a map: its value's), `child`
    gives the message class's plan; it is called late, so that types may contain themselves. `group` is the oneof that
    the field belongs to. `optional` means None is "absent" and anything else, an empty message too, is present.
    """

    number: int
    name: str
    kind: str
    repeated: bool = False
    map: tuple[str, str] | None = None
    group: str | None = None
    optional: bool = False
    type: type[Any] | None = None
    child: Callable[[], Plan] | None = None

    @property
    def implicit(self) -> bool:
        """A scalar without presence: on the wire when it is not the type's default."""
        return not (self.repeated or self.map or self.group or self.optional or self.kind == betterproto.TYPE_MESSAGE)


def fields_of(cls: type[betterproto.Message], plan_of: Callable[[type[Any]], Plan]) -> tuple[FieldPlan, ...]:
    """The fields of `cls` by ascending number, which is the order on the wire.

    Raises TypeError for what the codec does not do: fields that betterproto turns into datetime, timedelta or a bare
    wrapped value (they lose nanoseconds; protos/generate.py renames those types).
    """
    meta = cls._betterproto  # type: ignore[arg-type]
    return tuple(_field(meta, name, plan_of) for name in meta.sorted_field_names)


def _field(meta: betterproto.ProtoClassMetadata, name: str, plan_of: Callable[[type[Any]], Plan]) -> FieldPlan:
    about = meta.meta_by_field_name[name]
    is_map = about.proto_type == betterproto.TYPE_MAP
    value_kind = about.map_types[1] if about.map_types else about.proto_type
    value_type = meta.cls_by_field[f"{name}.value" if is_map else name]
    if about.wraps or value_type in (datetime, timedelta):
        raise TypeError(f"field {name}: google.protobuf's Timestamp, Duration and wrappers need the rewritten protos")
    child: Callable[[], Plan] | None = None
    if value_kind == betterproto.TYPE_MESSAGE:

        def child() -> Plan:
            return plan_of(value_type)

    return FieldPlan(
        number=about.number,
        name=name,
        kind=about.proto_type,
        repeated=meta.default_gen[name] is list,
        map=about.map_types,
        group=about.group,
        optional=bool(about.optional),
        type=value_type if value_kind in (betterproto.TYPE_MESSAGE, betterproto.TYPE_ENUM) else None,
        child=child,
    )
