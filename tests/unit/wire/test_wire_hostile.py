# SPDX-License-Identifier: Apache-2.0
"""Bytes that nobody should send: every outcome is a message or a WireError."""

from __future__ import annotations

import random
from types import ModuleType

import pytest
from wire_oracle import Pair, fill

from acri.wire import BadUtf8, BadVarint, BadWireType, TooDeep, TooLarge, Truncated, WireError, decode, encode, frame

BIG = ["M", "Scalars", "Optionals", "Lists", "OneOf", "Maps", "Names"]


@pytest.mark.parametrize("name", BIG)
def test_every_prefix(test_pairs: dict[str, Pair], name: str) -> None:
    pair, rng = test_pairs[name], random.Random(name)
    for _ in range(5):
        data = fill(rng, pair.theirs(), depth=2).SerializeToString()[:3000]
        for size in range(len(data)):
            try:
                decode(pair.ours, data[:size])
            except WireError:
                pass


@pytest.mark.parametrize("name", BIG)
def test_byte_flips(test_pairs: dict[str, Pair], name: str) -> None:
    """3,000 changed messages a class; what still decodes encodes, and decodes to the same again."""
    pair, rng = test_pairs[name], random.Random(f"flip {name}")
    for _ in range(100):
        data = fill(rng, pair.theirs(), depth=3, chance=0.4).SerializeToString()[:2000] or b"\0"
        for _ in range(30):
            bad = bytearray(data)
            for _ in range(rng.choice([1, 1, 1, 2, 4])):
                bad[rng.randrange(len(bad))] = rng.randrange(256)
            try:
                message = decode(pair.ours, bytes(bad), keep_unknown=rng.random() < 0.5)
            except WireError:
                continue
            again = encode(message)
            assert encode(decode(pair.ours, again, keep_unknown=True)) == again


def test_the_oracle_refuses_the_same(test_pairs: dict[str, Pair]) -> None:
    """Changed messages: acri and upb agree on which are no messages, map entries with unknown fields aside."""
    from google.protobuf.message import DecodeError

    for name in ("Scalars", "Optionals", "Lists", "OneOf"):
        pair, rng = test_pairs[name], random.Random(f"agree {name}")
        for _ in range(1500):
            bad = bytearray(fill(rng, pair.theirs(), depth=2, chance=0.3).SerializeToString()[:300] or b"\0")
            bad[rng.randrange(len(bad))] = rng.randrange(256)
            try:
                theirs = pair.theirs.FromString(bytes(bad)).SerializeToString(deterministic=True)
            except DecodeError:
                theirs = None
            try:
                ours = encode(decode(pair.ours, bytes(bad), keep_unknown=True))
            except WireError:
                ours = None
            assert (ours is None) == (theirs is None), bad.hex()
            if ours is not None and "nan" not in str(pair.theirs.FromString(ours)):  # a float's NaN is quieted
                assert pair.theirs.FromString(ours).SerializeToString(deterministic=True) == theirs, bad.hex()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("0001", BadWireType),  # field number 0
        ("9c06", BadWireType),  # end of a group that was not begun
        ("0e", BadWireType),
        ("0f00", BadWireType),
        ("9b0608019c0e", BadWireType),  # a group ended by another number
        ("9b060801", Truncated),  # a group without an end
        ("8080808080", BadVarint),  # tag of six bytes
        ("ffffffff7f00", BadVarint),  # tag of 35 bits
        ("8801ffffffffffffffffffff01", BadVarint),
        ("5affffffffffffffffff01", Truncated),  # a length of 2⁶⁴−1
        ("a2030a00", Truncated),  # an unknown field that is too long
        # A number that goes on behind the end of its message, where there are bytes that would fit it:
        ("0a0208ff01680168", Truncated),  # varint
        ("b20104f9ffffff0f6801680168016801", Truncated),  # tag complete, fixed64 outside
        ("b20102f9ff01680168", Truncated),  # tag
        ("aa01040a0161120168016801", Truncated),  # map entry: the value's length
        ("5a02c328", BadUtf8),
        ("5a03eda080", BadUtf8),  # an encoded surrogate
        ("a201060a01ff120161", BadUtf8),
        ("f9ffffff0f00", Truncated),
    ],
)
def test_refused(t: ModuleType, data: str, error: type[WireError]) -> None:
    with pytest.raises(error):
        decode(t.M, bytes.fromhex(data))


def test_map_entry_whose_number_lies_outside(t: ModuleType) -> None:
    with pytest.raises(Truncated):
        decode(t.Maps, bytes.fromhex("1a03080110" + "1a0408011001"))


def test_path_and_offset(t: ModuleType) -> None:
    good = encode(t.M(st="x" * 200))
    with pytest.raises(BadUtf8) as caught:
        decode(t.M, good + frame(22, frame(22, frame(1, bytes.fromhex("0801120" + "2c328")))))
    assert caught.value.path == "rec.rec.s.from_"
    # three headers of 3, 3 and 2 bytes, then the field `a` of 2: the offset is that of the bad field's tag
    assert caught.value.offset == len(good) + 3 + 3 + 2 + 2
    assert str(caught.value) == f"string is not UTF-8 in rec.rec.s.from_ at byte {caught.value.offset}"
    with pytest.raises(Truncated) as caught_map:
        decode(t.M, frame(20, b"\x0a\x05a"))
    assert (caught_map.value.path, caught_map.value.offset) == ("ms", 0)
    with pytest.raises(BadVarint) as caught_tag:
        decode(t.M, b"\x68\x01" + b"\xff" * 9)
    assert (caught_tag.value.path, caught_tag.value.offset) == ("", 2)


def nested(levels: int) -> bytes:
    data = b""
    for _ in range(levels):
        data = frame(22, data)
    return data


def test_depth(t: ModuleType, test_pairs: dict[str, Pair]) -> None:
    deep = decode(t.M, nested(100))
    assert encode(deep) == nested(100)
    test_pairs["M"].theirs.FromString(nested(100))
    with pytest.raises(TooDeep) as caught:
        decode(t.M, nested(101))
    assert caught.value.path == ".".join(["rec"] * 101)
    with pytest.raises(TooDeep):
        encode(t.M(rec=deep))
    with pytest.raises(TooDeep):
        decode(t.M, nested(5_000))


def test_depth_of_maps(t: ModuleType) -> None:
    def forest(levels: int) -> bytes:
        data = b""
        for _ in range(levels):
            data = frame(50, b"\x0a\x00" + frame(2, data))
        return data

    deep = decode(t.M, forest(50))
    assert encode(deep) == forest(50)
    with pytest.raises(TooDeep):
        decode(t.M, forest(51))
    with pytest.raises(TooDeep) as caught:
        encode(t.M(tree={"": deep}))
    assert caught.value.path == ".".join(["tree"] * 51)


def test_a_message_inside_itself(t: ModuleType) -> None:
    m = t.M()
    m.rec = m
    with pytest.raises(TooDeep):
        encode(m)


def test_depth_of_groups(t: ModuleType) -> None:
    decode(t.M, b"\x9b\x06" * 100 + b"\x9c\x06" * 100)
    with pytest.raises(TooDeep):
        decode(t.M, b"\x9b\x06" * 101 + b"\x9c\x06" * 101)


def test_size(t: ModuleType) -> None:
    data = frame(11, b"x" * 1000)
    assert decode(t.M, data, max_message=len(data)).st == "x" * 1000
    with pytest.raises(TooLarge, match="limit is 1000"):
        decode(t.M, data, max_message=1000)


def test_unknown_fields_take_linear_time(t: ModuleType) -> None:
    """A million of them: appended one by one to bytes they would take minutes."""
    data = b"\xa8\x3f\x01" * 1_000_000
    assert encode(decode(t.M, data, keep_unknown=True)) == data
    assert encode(decode(t.M, data)) == b""
