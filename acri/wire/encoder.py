# SPDX-License-Identifier: Apache-2.0
"""Writes the encoder of one message class as Python source and compiles it.

What comes out for `message M { string id = 1; optional Sub sub = 2; }` (`source(plan_of(M))` shows it):

    def encode(obj, depth):
        if type(obj) is not CLS: return foreign(obj, CLS)        # Encoded passes, another class is a TypeError
        if depth < 0: raise TooDeep(…)
        d = get_dict(obj, "__dict__")                            # raw values: betterproto's getters are slow and store
        if len(d) != 5: raise TypeError(…)                       # a misspelt attribute
        out = []
        v = d["id"]
        if v and v is not UNSET:                                 # a scalar counts by truth value
            b = v.encode(); n = len(b)
            if n < 128: out += HEAD_1[n], b                      # tag and length from a table
            else: out += b"\\n" + varint(n), b
        v = d["sub"]
        if v is not None:                                        # a message by presence
            b = ENCODE_2(v, depth - 1); n = len(b)
            …
        return b"".join(out)

Fields are in number order, maps in dict order. The code checks types only as far as that is free; whatever it trips
over (AttributeError, struct.error …) is looked up and named by `explain`. It touches no shared state: any number of
threads may encode at once.
"""

from __future__ import annotations

import struct
from textwrap import indent
from typing import TYPE_CHECKING, Any

from acri.wire import primitives
from acri.wire.errors import TooDeep
from acri.wire.fields import PLACEHOLDER, FieldPlan
from acri.wire.frames import Encoded
from acri.wire.primitives import FIXED32, FIXED64, LEN, VARINT, heads, tag_bytes, varint

if TYPE_CHECKING:
    from acri.wire.plan import Encode, Plan

__all__ = ["FIXED", "compiled", "source"]

#: kind → struct format of the kinds of fixed size.
FIXED = {"double": "<d", "float": "<f", "fixed32": "<I", "fixed64": "<Q", "sfixed32": "<i", "sfixed64": "<q"}

#: kind → expression that makes the bytes of a number `v`.
_VARINTS = {
    "int32": "int32(v)",
    "int64": "int64(v)",
    "uint32": "uint32(v)",
    "uint64": "uint64(v)",
    "sint32": "sint32(v)",
    "sint64": "sint64(v)",
    "enum": "int32(v)",
    "bool": "BOOL[v]",
}

_BOOL = {False: b"\x00", True: b"\x01"}  # a dict, so that "no" is a KeyError and not true


def compiled(plan: Plan) -> Encode:
    namespace: dict[str, Any] = {
        "CLS": plan.cls,
        "UNSET": PLACEHOLDER,
        "BOOL": _BOOL,
        "TooDeep": TooDeep,
        "foreign": _foreign,
        "sequence": _sequence,
        "get_dict": object.__getattribute__,
        "varint": varint,
        **{name: getattr(primitives, name) for name in ("int32", "int64", "uint32", "uint64", "sint32", "sint64")},
        **{f"pack_{kind}": struct.Struct(form).pack for kind, form in FIXED.items()},
        **{f"HEAD_{number}": heads(number) for number in {1, 2, *(f.number for f in plan.fields)}},
    }
    for field in plan.fields:
        if field.child is not None:
            _link(namespace, f"ENCODE_{field.number}", field)
    exec(compile(source(plan), f"<encoder of {plan.cls.__module__}.{plan.cls.__name__}>", "exec"), namespace)
    encode: Encode = namespace["encode"]
    return encode


def _link(namespace: dict[str, Any], name: str, field: FieldPlan) -> None:
    """Binds `name` to the child's encoder, which is compiled and put in this one's place when it is first called."""

    def first(message: Any, depth: int) -> bytes:
        assert field.child is not None
        encode = namespace[name] = field.child().encode
        return encode(message, depth)

    namespace[name] = first


def _foreign(obj: Any, cls: type[Any]) -> bytes:
    if isinstance(obj, Encoded):
        return obj
    raise TypeError(f"expected {cls.__name__}, got {type(obj).__name__}")


def _sequence(value: Any) -> None:
    """A str or bytes in a repeated field would pass as a list of its parts."""
    if not isinstance(value, list | tuple):
        raise TypeError(f"expected a list, got {type(value).__name__}")


def source(plan: Plan) -> str:
    """The encoder of `plan` as Python source."""
    body = [
        "if type(obj) is not CLS:\n    return foreign(obj, CLS)",
        "if depth < 0:\n    raise TooDeep('messages nested too deeply')",
        "d = get_dict(obj, '__dict__')",
        f"if len(d) != {len(plan.blank)}:\n    raise TypeError('unknown attribute')",
        "out = []",
    ]
    if plan.groups:
        body.append("selected = d['_group_current']")
    body += [_field(field) for field in plan.fields]
    body.append("v = d['_unknown_fields']\nif v:\n    out.append(v)")
    body.append("return b''.join(out)")
    return "def encode(obj, depth):\n" + indent("\n".join(body), "    ") + "\n"


def _field(field: FieldPlan) -> str:
    """The statements for one field: is it there, and if so append it to `out`."""
    load = f"v = d[{field.name!r}]"
    kind, number = field.kind, field.number
    if field.map:
        return f"{load}\nif v and v is not UNSET:\n" + indent(_map(field), "    ")
    if field.repeated:
        check = "if type(v) is not list:\n    sequence(v)\n"
        return f"{load}\nif v and v is not UNSET:\n" + indent(check + _list(kind, number), "    ")
    if field.group:
        inner = f"{load}\nif v is not None and v is not UNSET:\n" + indent(_value(kind, number), "    ")
        return f"if selected[{field.group!r}] == {field.name!r}:\n" + indent(inner, "    ")
    if field.optional:
        return f"{load}\nif v is not None:\n" + indent(_value(kind, number), "    ")
    if kind == "message":
        return f"{load}\nif v is not None and v is not UNSET:\n" + indent(_value(kind, number), "    ")
    if kind in ("float", "double"):  # −0.0 is false but not the default
        zero = bytes(struct.calcsize(FIXED[kind]))
        put = f"b = pack_{kind}(v)\nif b != {zero!r}:\n    out += {_tag(kind, number)!r}, b"
        return f"{load}\nif v is not UNSET:\n" + indent(put, "    ")
    return f"{load}\nif v and v is not UNSET:\n" + indent(_value(kind, number), "    ")


def _tag(kind: str, number: int) -> bytes:
    if kind in _VARINTS:
        return tag_bytes(number, VARINT)
    if kind in FIXED:
        return tag_bytes(number, FIXED32 if struct.calcsize(FIXED[kind]) == 4 else FIXED64)
    return tag_bytes(number, LEN)


def _value(kind: str, number: int, out: str = "out") -> str:
    """Appends field `number` with the value `v` to the list `out`."""
    if kind in _VARINTS:
        return f"{out} += {_tag(kind, number)!r}, {_VARINTS[kind]}"
    if kind in FIXED:
        return f"{out} += {_tag(kind, number)!r}, pack_{kind}(v)"
    encoded = {"string": "v.encode()", "bytes": "v"}.get(kind, f"ENCODE_{number}(v, depth - 1)")
    return f"b = {encoded}\n" + _delimited(number, out)


def _delimited(number: int, out: str = "out") -> str:
    return (
        f"n = len(b)\nif n < 128:\n    {out} += HEAD_{number}[n], b\n"
        f"else:\n    {out} += {tag_bytes(number, LEN)!r} + varint(n), b"
    )


def _list(kind: str, number: int) -> str:
    """A repeated field: numbers packed into one field, anything else one field per item."""
    if kind in _VARINTS:
        return f"b = b''.join([{_VARINTS[kind]} for v in v])\n" + _delimited(number)
    if kind in FIXED:
        return f"b = b''.join([pack_{kind}(v) for v in v])\n" + _delimited(number)
    return "for v in v:\n" + indent(_value(kind, number), "    ")


def _map(field: FieldPlan) -> str:
    """A map: per entry a message of key (1) and value (2), both written even if they are defaults, as protobuf does."""
    assert field.map is not None
    number = field.number
    if field.map == ("string", "string"):  # labels and annotations: worth a path of their own
        return "for k, v in v.items():\n" + indent(
            f"k = k.encode()\nv = v.encode()\nm = len(k)\nn = len(v)\nsize = m + n + 4\n"
            f"if size < 128:\n    out += HEAD_{number}[size], HEAD_1[m], k, HEAD_2[n], v\n"
            f"else:\n    m = varint(m)\n    n = varint(n)\n    size = len(m) + len(k) + len(n) + len(v) + 2\n"
            f"    out += {tag_bytes(number, LEN)!r} + varint(size), b'\\n' + m, k, b'\\x12' + n, v",
            "    ",
        )
    key, value = field.map
    if value == "message":  # two levels down: the entry is a message too
        put = f"b = ENCODE_{number}(w, depth - 2)\n{_delimited(2, 'entry')}"
    else:
        put = f"v = w\n{_value(value, 2, 'entry')}"
    return "for k, w in v.items():\n" + indent(
        f"entry = []\nv = k\n{_value(key, 1, 'entry')}\n{put}\nb = b''.join(entry)\n{_delimited(number)}",
        "    ",
    )
