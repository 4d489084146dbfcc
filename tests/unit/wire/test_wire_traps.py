# SPDX-License-Identifier: Apache-2.0
"""The traps of betterproto 2.0.0b7 (reference: python-anchors.md 1.3), each with what is right instead."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import ModuleType
from typing import Any

import betterproto
import pytest
from wire_oracle import Pair, raw

from acri.wire import BadUtf8, OutOfRange, Truncated, WireError, decode, encode, has

Make = Callable[[ModuleType], Any]


def h(text: str) -> bytes:
    return bytes.fromhex(text)


# Presence.


def test_unset_message_is_none_before_and_after_reading(t: ModuleType) -> None:
    m = decode(t.M, b"")
    assert m.s is None
    assert not has(m, "s")
    assert m.s is None
    assert encode(m) == b""


def test_present_but_empty_message_is_kept(t: ModuleType) -> None:
    m = decode(t.M, h("0a00"))
    assert has(m, "s")
    assert m.s == t.Sub()
    assert encode(m) == h("0a00")


def test_presence_is_not_truth(t: ModuleType) -> None:
    m = decode(t.M, h("0a00"))
    assert not m.s  # betterproto's bool(): no field differs from its default
    assert m.s is not None


ENCODINGS: list[tuple[str, Make, str]] = [
    ("explicitly empty", lambda t: t.M(s=t.Sub()), "0a00"),
    ("with an explicit default", lambda t: t.M(s=t.Sub(a=0)), "0a00"),
    ("deep default", lambda t: t.M(rec=t.M(rec=t.M(s=t.Sub(a=0)))), "b20107b201040a00"[:2] + "01" + "05b201020a00"),
    ("a class without fields", lambda t: t.Sub(empty=t.Empty()), "1a00"),
    ("optional unset", lambda t: t.M(os=None), ""),
    ("optional empty", lambda t: t.M(os=t.Sub()), "5200"),
    ("oneof empty message", lambda t: t.M(choice_empty=t.Empty()), "8a0200"),
    ("oneof default", lambda t: t.M(choice_int=0), "800200"),
    ("oneof empty string", lambda t: t.M(choice_string=""), "fa0100"),
    ("optional scalar default", lambda t: t.Optionals(f_int32=0, f_string="", f_bool=False), "180068007200"),
    ("map entry of defaults", lambda t: t.M(ms={"": ""}), "a201040a001200"),
    ("map with an empty message", lambda t: t.M(subs_by_name={"a": t.Sub()}), "aa01050a01611200"),
    ("empty item in a list", lambda t: t.M(subs=[t.Sub(), t.Sub()]), "7a007a00"),
    ("empty string in a list", lambda t: t.M(strings=["", "a"]), "7200720161"),
    ("negative enum", lambda t: t.M(e=t.Kind.NEG), "18ffffffffffffffffff01"),
    ("enum given as int", lambda t: t.M(e=1), "1801"),
    ("negative zero", lambda t: t.Scalars(f_double=-0.0), "090000000000000080"),
    ("fields in number order", lambda t: t.M(far=1, b=True, s=t.Sub()), "0a006801f9ffffff0f0100000000000000"),
    ("map in dict order", lambda t: t.M(ms={"b": "", "a": ""}), "a201050a01621200a201050a01611200"),
    ("epoch", lambda t: t.M(ts=type_of(t.M, "ts")()), "2200"),
]


def type_of(cls: Any, field: str) -> Any:
    from acri.wire import plan_of

    return plan_of(cls).by_name[field].type


@pytest.mark.parametrize(("make", "expected"), [c[1:] for c in ENCODINGS], ids=[c[0] for c in ENCODINGS])
def test_encoding(t: ModuleType, test_pairs: dict[str, Pair], make: Make, expected: str) -> None:
    message = make(t)
    data = encode(message)
    assert data.hex() == expected
    theirs = test_pairs[type(message).__name__].theirs.FromString(data)
    assert len(theirs.SerializeToString()) == len(data)  # the oracle agrees that this is all of it
    assert encode(decode(type(message), data)) == data


def test_deep_assignment_of_a_default(t: ModuleType) -> None:
    m = t.M(rec=t.M(rec=t.M()))
    m.rec.rec.i32 = 0
    assert encode(m) == h("b20103b20100")


def test_reading_changes_nothing(t: ModuleType) -> None:
    m = decode(t.M, h("0a0208055a0161"))
    before = {name: copy.copy(value) for name, value in raw(m).items() if value is not betterproto.PLACEHOLDER}
    for name in ("s", "ints", "e", "ts", "st", "ms", "rec", "subs", "far"):
        getattr(m, name)
    assert {name: value for name, value in raw(m).items() if value is not betterproto.PLACEHOLDER} == before


# Decoding.


@pytest.mark.parametrize(
    "data",
    ["5a0a616263", "680180", "6880", "f9ffffff0f010203", "0a05080a", "1203010280", "0a02b201", "a201040a016112", "5a"],
    ids=["string", "tag", "varint", "fixed64", "message", "packed", "inner tag", "map entry", "length"],
)
def test_truncation(t: ModuleType, data: str) -> None:
    with pytest.raises(Truncated):
        decode(t.M, h(data))


DECODINGS: list[tuple[str, str, str, Any]] = [
    ("string as varint is unknown", "5805", "st", ""),
    ("message as varint is unknown", "0805", "s", None),
    ("list as fixed32 is unknown", "1505000000", "ints", []),
    ("bool as fixed64 is unknown", "690100000000000000", "b", False),
    ("group of a known number is unknown", "0b08010c", "s", None),
    ("packed list in two parts", "12020102120103", "ints", [1, 2, 3]),
    ("unpacked, then packed", "100112020203", "ints", [1, 2, 3]),
    ("unpacked", "10011002", "ints", [1, 2]),
    ("empty packed list", "1200", "ints", []),
    ("unknown enum", "184d", "e", 77),
    ("enum from 64 bits", "18ffffffffffffffffff01", "e", -1),
    ("enum from 32 bits", "18ffffffff0f", "e", -1),
    ("int32 from 64 bits", "8801ffffffffffffffffff01", "i32", -1),
    ("int32 cut", "88018180808010", "i32", 1),
    ("uint32 cut", "8001ffffffffffffffffff01", "u32", 2**32 - 1),
    ("bool of more than one byte", "68808001", "b", True),
    ("last scalar wins", "5a01615a0162", "st", "b"),
    ("last map value wins", "a201060a01611201" + "62" + "a201060a0161120163", "ms", {"a": "c"}),
    ("map entry without key and value", "a20100", "ms", {"": ""}),
    ("map entry in reverse", "a2010612016" + "20a0161", "ms", {"a": "b"}),
    ("map entry with an unknown field", "a201080a0161180512" + "0162", "ms", {"a": "b"}),
    ("map entry with an unknown string", "a201060a01611a0162", "ms", {"a": ""}),
    ("map entry with a key twice", "a201090a01780a0161120162", "ms", {"a": "b"}),
    ("ten bytes of varint", "8801ffffffffffffffffff7f", "i32", -1),
    ("overlong length", "5a838000616263", "st", "abc"),
]


@pytest.mark.parametrize(("data", "field", "expected"), [c[1:] for c in DECODINGS], ids=[c[0] for c in DECODINGS])
def test_decoding(t: ModuleType, data: str, field: str, expected: Any) -> None:
    assert getattr(decode(t.M, h(data)), field) == expected


def test_enum_members(t: ModuleType) -> None:
    assert decode(t.M, h("18ffffffffffffffffff01")).e is t.Kind.NEG
    unknown = decode(t.M, h("184d")).e
    assert isinstance(unknown, t.Kind)
    assert unknown.name is None
    assert decode(t.M, b"").e is t.Kind.ZERO


def test_second_occurrence_merges(t: ModuleType) -> None:
    m = decode(
        t.M,
        encode(t.M(rec=t.M(st="a", ints=[1], s=t.Sub(a=1))))
        + encode(t.M(rec=t.M(i32=2, ints=[2], s=t.Sub(from_="x")))),
    )
    assert m.rec == t.M(st="a", i32=2, ints=[1, 2], s=t.Sub(a=1, from_="x"))


def test_oneof_merges_the_same_member_and_forgets_another(t: ModuleType) -> None:
    first, second, other = t.M(choice_sub=t.Sub(a=1)), t.M(choice_sub=t.Sub(from_="x")), t.M(choice_int=7)
    both = decode(t.M, encode(first) + encode(second))
    assert both.choice_sub == t.Sub(a=1, from_="x")
    last = decode(t.M, encode(first) + encode(other) + encode(second))
    assert last.choice_sub == t.Sub(from_="x")
    with pytest.raises(AttributeError):
        _ = last.choice_int
    assert encode(last) == encode(second)
    assert not has(decode(t.M, b""), "choice_int")


def test_nanoseconds(t: ModuleType) -> None:
    """Timestamps to the nanosecond, beyond year 9999, negative Durations: two numbers, never a datetime."""
    stamp, span = type_of(t.M, "ts"), type_of(t.M, "d")
    m = t.M(ts=stamp(seconds=253402300800, nanos=123456789), d=span(seconds=-1, nanos=-500000000))
    assert decode(t.M, encode(m)) == m
    assert decode(t.M, b"").ts is None


# Encoding what cannot be encoded.


FAULTS: list[tuple[str, Make, type[Exception], str]] = [
    ("int32 above", lambda t: t.M(i32=1 << 31), OutOfRange, "i32"),
    ("int32 below", lambda t: t.M(rec=t.M(ints=[1, -(1 << 31) - 1])), OutOfRange, "rec.ints"),
    ("uint32 negative", lambda t: t.M(u32=-1), OutOfRange, "u32"),
    ("enum", lambda t: t.M(e=1 << 31), OutOfRange, "e"),
    ("fixed64", lambda t: t.M(far=1 << 64), OutOfRange, "far"),
    ("float", lambda t: t.Scalars(f_float=1e40), OutOfRange, "f_float"),
    ("sint32", lambda t: t.Scalars(f_sint32=1 << 31), OutOfRange, "f_sint32"),
    ("uint64", lambda t: t.Lists(f_uint64=[1 << 64]), OutOfRange, "f_uint64"),
    ("map key", lambda t: t.Maps(m_int32={-1: 1}), OutOfRange, "m_int32"),
    ("surrogate", lambda t: t.M(subs=[t.Sub(from_="\ud800")]), BadUtf8, "subs.from_"),
    ("surrogate in a map", lambda t: t.M(ms={"a": "\udfff"}), BadUtf8, "ms"),
    ("int in a string", lambda t: t.M(st=5), TypeError, "st: expected str, got int"),
    ("str in bytes", lambda t: t.Scalars(f_bytes="x"), TypeError, "f_bytes: expected bytes, got str"),
    ("str in an int", lambda t: t.M(i32="5"), TypeError, "i32: expected int, got str"),
    ("str in a bool", lambda t: t.M(b="no"), TypeError, "b: expected bool, got str"),
    ("float in an int", lambda t: t.Scalars(f_int64=5.5), TypeError, "f_int64: expected int, got float"),
    ("str as a list", lambda t: t.M(strings="sh"), TypeError, "strings: expected a list, got str"),
    ("bytes as a list", lambda t: t.M(ints=b"ab"), TypeError, "ints: expected a list, got bytes"),
    ("list as a map", lambda t: t.M(ms=["a"]), TypeError, "ms: expected a dict, got list"),
    ("None in a list", lambda t: t.M(subs=[None]), TypeError, "subs: expected Sub, got NoneType"),
    ("another class", lambda t: t.M(s=t.M()), TypeError, "s: expected Sub, got M"),
    ("None in a map", lambda t: t.M(rec=t.M(ms={"a": None})), TypeError, "rec.ms: expected str, got NoneType"),
]


@pytest.mark.parametrize(("make", "error", "text"), [c[1:] for c in FAULTS], ids=[c[0] for c in FAULTS])
def test_faults_are_named(t: ModuleType, make: Make, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        encode(make(t))
    if isinstance(caught.value, WireError):
        assert caught.value.path == text
    else:
        assert str(caught.value) == text


def test_misspelt_attribute(t: ModuleType) -> None:
    m = t.M(rec=t.M())
    m.rec.imaeg = "x"
    with pytest.raises(TypeError, match="M has no field 'imaeg'"):
        encode(m)
