# SPDX-License-Identifier: Apache-2.0
"""Writes the decoder of one message class as Python source and compiles it.

What comes out for `message M { string id = 1; optional Sub sub = 2; }` (`source(plan_of(M))` shows it):

    def decode(buf, pos, end, depth, keep, obj=None):
        if depth < 0: raise TooDeep(…)
        if obj is None:                                          # an instance without __init__: 0.3 µs instead of 46
            obj = new(CLS); d = DEFAULTS.copy(); …
        unknown = None; tag = 0; start = pos
        try:
            while pos < end:
                start = pos; tag = buf[pos]; pos += 1
                if tag > 127: tag = 0; tag, pos = read_tag(buf, start)
                if tag == 10:                                    # id = 1
                    n = buf[pos]; …; stop = pos + n
                    if stop > end: raise Truncated(…)
                    d["id"] = buf[pos:stop].decode(); pos = stop
                    continue
                if tag == 18: … d["sub"] = DECODE_2(buf, pos, stop, depth - 1, keep, d["sub"]) …
                pos = skip(buf, pos, end, tag, depth)            # unknown, or known with another wire type
                if keep: …
            if pos > end: raise Truncated(…)
        except DECODING as error:
            raise located(error, NAMES.get(tag >> 3, ""), start) from None
        return obj

`pos` may run past `end` while a number is read; nothing that was read so counts, because the check behind the loop then
raises. Rules: the last scalar wins, sub-messages merge, numbers are cut to their type's width, strings are strict
UTF-8, repeated numbers come packed, unpacked or mixed, a oneof's last member wins, unknown fields inside map entries
are dropped (as Go's implementation does).

Fields that are absent hold their type's default (scalars), a fresh list or dict, or None (messages, optional). In a
message that betterproto parsed they would hold its placeholder, which compares equal, but costs 5 µs at the first read
and changes the process's warning filters while it does.
"""

from __future__ import annotations

import struct
from textwrap import indent
from typing import TYPE_CHECKING, Any

import betterproto

from acri.wire.encoder import FIXED
from acri.wire.errors import DECODING, TooDeep, Truncated, located
from acri.wire.fields import PLACEHOLDER, FieldPlan
from acri.wire.primitives import FIXED32, FIXED64, LEN, VARINT, read_tag, read_varint, skip

if TYPE_CHECKING:
    from acri.wire.plan import Decode, Plan

__all__ = ["compiled", "source"]

_INT32 = "v = ((v & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000"

#: kind → (statement for numbers of more than one byte, statement for all), both on the raw number `v`.
_VARINTS = {
    "int32": (_INT32, ""),
    "int64": ("v = (v ^ 0x8000000000000000) - 0x8000000000000000", ""),
    "uint32": ("v &= 0xFFFFFFFF", ""),
    "uint64": ("", ""),
    "sint32": ("v &= 0xFFFFFFFF", "v = v >> 1 ^ -(v & 1)"),
    "sint64": ("", "v = v >> 1 ^ -(v & 1)"),
    "bool": ("", "v = v != 0"),
    "enum": (_INT32, "e = KNOWN_{0}(v)\nv = OTHER_{0}(v) if e is None else e"),
}

_DEFAULTS: dict[str, Any] = {"string": "", "bytes": b"", "bool": False, "float": 0.0, "double": 0.0}

_LENGTH = """\
n = buf[pos]
pos += 1
if n > 127:
    n, pos = read_varint(buf, pos - 1)
stop = pos + n
if stop > end:
    raise Truncated('length reaches beyond its message')
"""

_PROLOGUE = """\
start = pos
tag = buf[pos]
pos += 1
if tag > 127:
    tag = 0
    tag, pos = read_tag(buf, start)
"""

_KEEP = """\
if keep:
    if unknown is None:
        unknown = [d['_unknown_fields']]
    unknown.append(buf[start:pos])
"""

_BEYOND = "if pos > end:\n    raise Truncated('value reaches beyond its message')\n"

#: A chain of `if tag ==` longer than this is split in two by a comparison.
_CHAIN = 6


def compiled(plan: Plan) -> Decode:
    namespace: dict[str, Any] = {
        "CLS": plan.cls,
        "DECODING": DECODING,
        "DEFAULTS": _defaults(plan),
        "NAMES": {0: "", **{f.number: f.name for f in plan.fields}},
        "TooDeep": TooDeep,
        "Truncated": Truncated,
        "UNSET": PLACEHOLDER,
        "get_dict": object.__getattribute__,
        "located": located,
        "new": object.__new__,
        "read_tag": read_tag,
        "read_varint": read_varint,
        "set_dict": object.__setattr__,
        "skip": skip,
    }
    for kind, form in FIXED.items():
        namespace[f"unpack_{kind}"] = struct.Struct(form).unpack_from
        namespace[f"unpack_all_{kind}"] = struct.Struct(form).iter_unpack
    for field in plan.fields:
        if field.child is not None:
            _link(namespace, f"DECODE_{field.number}", field)
        elif field.type is not None:
            namespace[f"KNOWN_{field.number}"] = {int(member): member for member in field.type}.get
            namespace[f"OTHER_{field.number}"] = field.type.try_value
    exec(compile(source(plan), f"<decoder of {plan.cls.__module__}.{plan.cls.__name__}>", "exec"), namespace)
    decode: Decode = namespace["decode"]
    return decode


def _link(namespace: dict[str, Any], name: str, field: FieldPlan) -> None:
    """Binds `name` to the child's decoder, which is compiled and put in this one's place when it is first called."""

    def first(*args: Any) -> betterproto.Message:
        assert field.child is not None
        decode = namespace[name] = field.child().decode
        return decode(*args)

    namespace[name] = first


def _default(kind: str, field: FieldPlan) -> Any:
    """The default of a scalar of `kind`: an enum's is its member 0."""
    if kind == "enum":
        assert field.type is not None
        return field.type.try_value(0)
    return _DEFAULTS.get(kind, 0)


def _defaults(plan: Plan) -> dict[str, Any]:
    """The `__dict__` of a message in which no field was seen; lists and dicts are put in by the code."""
    values = {f.name: _default(f.kind, f) for f in plan.fields if f.implicit}
    return {**plan.blank, **values, "_serialized_on_wire": True}


def source(plan: Plan) -> str:
    """The decoder of `plan` as Python source."""
    fresh = [f"d[{f.name!r}] = {'{}' if f.map else '[]'}\n" for f in plan.fields if f.map or f.repeated]
    groups = dict.fromkeys(plan.groups)
    make = (
        "obj = new(CLS)\nd = DEFAULTS.copy()\n"
        + "".join(fresh)
        + f"d['_group_current'] = {groups!r}\nset_dict(obj, '__dict__', d)\n"
    )
    loop = _PROLOGUE + _branches(sorted(b for f in plan.fields for b in _field(f)))
    loop += "pos = skip(buf, pos, end, tag, depth)\n" + _KEEP
    guarded = "while pos < end:\n" + indent(loop, "    ") + _BEYOND
    body = (
        "if depth < 0:\n    raise TooDeep('messages nested too deeply')\n"
        "if obj is None:\n" + indent(make, "    ") + "else:\n    d = get_dict(obj, '__dict__')\n"
        "unknown = None\ntag = 0\nstart = pos\n"
        "try:\n" + indent(guarded, "    ") + "except DECODING as error:\n"
        "    raise located(error, NAMES.get(tag >> 3, ''), start) from None\n"
        "if unknown is not None:\n    d['_unknown_fields'] = b''.join(unknown)\n"
        "return obj\n"
    )
    entries = "".join(_entry(f) for f in plan.fields if f.map)
    return f"{entries}def decode(buf, pos, end, depth, keep, obj=None):\n" + indent(body, "    ")


def _branches(branches: list[tuple[int, str]]) -> str:
    """(tag, statements) by ascending tag as a chain of ifs, halved while it is long."""
    if len(branches) > _CHAIN:
        middle = len(branches) // 2
        low, high = _branches(branches[:middle]), _branches(branches[middle:])
        return f"if tag < {branches[middle][0]}:\n{indent(low, '    ')}else:\n{indent(high, '    ')}"
    return "".join(f"if tag == {tag}:\n" + indent(text + "continue\n", "    ") for tag, text in branches)


def _wire_type(kind: str) -> int:
    if kind in _VARINTS:
        return VARINT
    if kind in FIXED:
        return FIXED32 if struct.calcsize(FIXED[kind]) == 4 else FIXED64
    return LEN


def _read(kind: str, number: int) -> str:
    """Reads a scalar of `kind` at `pos` into `v`. `number`: the field whose enum it is."""
    if kind in _VARINTS:
        large, always = _VARINTS[kind]
        more = f"    {large}\n" if large else ""
        every = always.format(number) + "\n" if always else ""
        return f"v = buf[pos]\npos += 1\nif v > 127:\n    v, pos = read_varint(buf, pos - 1)\n{more}{every}"
    if kind in FIXED:
        return f"(v,) = unpack_{kind}(buf, pos)\npos += {struct.calcsize(FIXED[kind])}\n"
    decoded = ".decode()" if kind == "string" else ""
    return f"{_LENGTH}v = buf[pos:stop]{decoded}\npos = stop\n"


def _field(field: FieldPlan) -> list[tuple[int, str]]:
    """The tags under which the field may come, and what to do then."""
    number, name, kind = field.number, field.name, field.kind
    slot = f"d[{name!r}]"
    tag = number << 3 | _wire_type(kind)
    if field.map:
        return [(tag, _map(field))]
    if kind == "message":
        return [(tag, _LENGTH + _message(field) + "pos = stop\n")]
    if not field.repeated:
        return [(tag, _read(kind, number) + _select(field) + f"{slot} = v\n")]
    one_by_one = _read(kind, number) + f"{slot}.append(v)\n"
    if kind in ("string", "bytes"):
        return [(tag, one_by_one)]
    return [(number << 3 | LEN, _LENGTH + _packed(field)), (tag, one_by_one)]


def _message(field: FieldPlan) -> str:
    slot, call = f"d[{field.name!r}]", f"DECODE_{field.number}(buf, pos, stop, depth - 1, keep"
    if field.repeated:
        return f"{slot}.append({call}))\n"
    if field.optional:
        return f"{slot} = {call}, {slot})\n"
    return _select(field) + f"v = {slot}\n{slot} = {call}, None if v is UNSET else v)\n"


def _select(field: FieldPlan) -> str:
    """Makes the field its oneof's chosen member and forgets the one before."""
    if not field.group:
        return ""
    return (
        f"old = d['_group_current'][{field.group!r}]\n"
        f"if old != {field.name!r}:\n"
        f"    d['_group_current'][{field.group!r}] = {field.name!r}\n"
        "    if old is not None:\n        d[old] = UNSET\n"
    )


def _packed(field: FieldPlan) -> str:
    """A list of numbers in one field, appended to what the list has already."""
    kind, slot = field.kind, f"d[{field.name!r}]"
    if kind in FIXED:
        return (
            f"if n % {struct.calcsize(FIXED[kind])}:\n    raise Truncated('packed list ends inside a number')\n"
            f"{slot} += [v for (v,) in unpack_all_{kind}(buf[pos:stop])]\npos = stop\n"
        )
    return (
        f"items = {slot}\nwhile pos < stop:\n"
        + indent(_read(kind, field.number) + "items.append(v)\n", "    ")
        + "if pos != stop:\n"
        "    raise Truncated('packed list ends inside a number')\n"
    )


def _map(field: FieldPlan) -> str:
    """One entry of a map: the usual shape of string to string inline, all else by the entry's own function."""
    slot = f"d[{field.name!r}]"
    general = f"k, v = entry_{field.number}(buf, pos, stop, depth - 1, keep)\n{slot}[k] = v\n"
    if field.map != ("string", "string"):
        return f"{_LENGTH}{general}pos = stop\n"
    # An entry of fewer than 128 bytes has one-byte lengths; key then value and nothing else is what everybody writes.
    usual = (
        "3 < n < 128 and buf[pos] == 10 and (m := pos + 2 + buf[pos + 1]) + 1 < stop"
        " and buf[m] == 18 and m + 2 + buf[m + 1] == stop"
    )
    quick = f"{slot}[buf[pos + 2:m].decode()] = buf[m + 2:stop].decode()\n"
    return f"{_LENGTH}if {usual}:\n{indent(quick, '    ')}else:\n{indent(general, '    ')}pos = stop\n"


def _entry(field: FieldPlan) -> str:
    """The function that reads one map entry in any shape: fields in any order, missing, twice, unknown."""
    assert field.map is not None
    key_kind, value_kind = field.map
    number = field.number
    key = (1 << 3 | _wire_type(key_kind), _read(key_kind, number) + "key = v\n")
    if value_kind == "message":
        value = (
            2 << 3 | LEN,
            f"{_LENGTH}value = DECODE_{number}(buf, pos, stop, depth - 1, keep, value)\npos = stop\n",
        )
        default, finish = "None", f"if value is None:\n    value = DECODE_{number}(buf, end, end, depth - 1, keep)\n"
    else:
        value = (2 << 3 | _wire_type(value_kind), _read(value_kind, number) + "value = v\n")
        default = f"OTHER_{number}(0)" if value_kind == "enum" else repr(_default(value_kind, field))
        finish = ""
    body = (
        f"key = {_default(key_kind, field)!r}\nvalue = {default}\n"
        "while pos < end:\n"
        + indent(_PROLOGUE + _branches([key, value]) + "pos = skip(buf, pos, end, tag, depth)\n", "    ")
        + _BEYOND
        + finish
        + "return key, value\n"
    )
    return f"def entry_{number}(buf, pos, end, depth, keep):\n" + indent(body, "    ") + "\n\n"
