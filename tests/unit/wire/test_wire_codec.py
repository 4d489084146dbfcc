# SPDX-License-Identifier: Apache-2.0
"""The codec behind grpclib's interface, ready-made frames, unknown fields, building and reading messages, threads."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import betterproto
import pytest
import structlog.testing
from grpclib.encoding.base import CodecBase
from wire_oracle import Pair, fill, raw, translate

from acri.wire import (
    Encoded,
    Truncated,
    WireCodec,
    WireError,
    decode,
    decoder,
    encode,
    encoder,
    frame,
    get,
    has,
    join,
    new,
    plan_of,
)


def test_codec(t: ModuleType) -> None:
    codec = WireCodec()
    assert isinstance(codec, CodecBase)
    assert codec.__content_subtype__ == "proto"
    data = codec.encode(t.M(st="a"), t.M)
    assert codec.decode(data, t.M) == t.M(st="a")
    ready = Encoded(data)
    assert codec.encode(ready, t.M) is ready
    assert encode(ready) is ready


def test_codec_refuses_another_class(t: ModuleType) -> None:
    for wrong, name in ((t.Sub(), "Sub"), (None, "NoneType"), (b"bytes", "bytes"), ({}, "dict")):
        with pytest.raises(TypeError, match=rf"expected a M, got a {name}"):
            WireCodec().encode(wrong, t.M)
    for wrong in (5, None, object()):
        with pytest.raises(TypeError, match="not a generated message class"):
            encode(wrong)
    with pytest.raises(TypeError, match="not a generated message class"):
        plan_of(int)


def test_codec_names_the_message(t: ModuleType) -> None:
    with pytest.raises(Truncated) as caught:
        WireCodec().decode(frame(22, b"\x0a\x7f"), t.M)
    assert caught.value.path == "M.rec.s"
    with pytest.raises(WireError, match="in M at byte 0"):
        WireCodec().decode(b"\x00", t.M)


def test_codec_limit(t: ModuleType) -> None:
    """Too large coming in is refused, going out it is logged and sent: the receiver decides."""
    codec = WireCodec(max_message=100)
    with structlog.testing.capture_logs() as logs:
        data = codec.encode(t.M(st="x" * 100), t.M)
    assert [(line["event"], line["message"], line["size"]) for line in logs] == [("message over limit", "M", len(data))]
    with pytest.raises(WireError, match="limit is 100"):
        codec.decode(data, t.M)


def test_unknown_fields(t: ModuleType) -> None:
    strange = (
        frame(1000, b"what") + b"\xc8\x3e\x05" + b"\xcb\x3e\x08\x01\xcc\x3e" + b"\x58\x05"
    )  # the last: st as varint
    data = frame(22, frame(11, b"a") + strange)
    assert encode(WireCodec(keep_unknown=True).decode(data, t.M)) == data
    assert encode(WireCodec().decode(data, t.M)) == frame(22, frame(11, b"a"))
    twice = decode(t.M, data + data, keep_unknown=True)
    assert encode(twice) == frame(22, frame(11, b"a") + strange + strange)


def test_frames(t: ModuleType) -> None:
    subs = [t.Sub(a=i, from_="x" * i * 10) for i in range(30)]
    frames = [frame(15, encode(s)) for s in subs]
    assert join(frames) == encode(t.M(subs=subs))
    assert type(join(frames)) is Encoded
    assert encode(t.M(subs=[Encoded(encode(s)) for s in subs])) == join(frames)
    assert encode(t.M(s=Encoded(b""))) == b"\x0a\x00"
    assert frame(536870911, b"a") == bytes.fromhex("faffffff0f0161")
    for number in (0, -1, 1 << 29):
        with pytest.raises(ValueError, match="field number"):
            frame(number, b"")


def test_long_map_entries(t: ModuleType) -> None:
    """Around the sizes where lengths take two bytes; the last one looks like a short entry to who reads one byte."""
    cases = [("k" * k, "v" * v) for k in (0, 1, 60, 126, 127, 128, 200) for v in (0, 1, 60, 63, 64, 127, 128, 20_000)]
    for key, value in [*cases, ("a" * 199 + "\x12", "v" * 17)]:
        m = t.M(ms={key: value})
        assert decode(t.M, encode(m)) == m


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_other_buffers(t: ModuleType, kind: Any) -> None:
    assert decode(t.M, kind(frame(11, b"a"))).st == "a"


# Building without __post_init__.


def test_new_equals_betterproto(t: ModuleType, test_pairs: dict[str, Pair]) -> None:
    assert raw(new(t.M)) == raw(t.M())
    assert raw(new(t.M, st="a", s=t.Sub())) == raw(t.M(st="a", s=t.Sub()))
    assert raw(new(t.M, os=None)) == raw(t.M(os=None))
    assert raw(new(t.M, choice_int=0, other_bool=False)) == raw(t.M(choice_int=0, other_bool=False))
    for name, pair in test_pairs.items():
        rng = random.Random(name)
        for _ in range(20):
            theirs = translate(fill(rng, pair.theirs()), pair.ours)
            given = {
                n: v
                for n, v in raw(theirs).items()
                if n in plan_of(pair.ours).by_name and v is not betterproto.PLACEHOLDER
            }
            ours = new(pair.ours, **{n: v for n, v in given.items() if v is not None})
            assert raw(ours).keys() == raw(theirs).keys()
            assert repr(ours) == repr(theirs)
            assert encode(ours) == encode(theirs)


def test_new_is_a_usable_message(t: ModuleType) -> None:
    m = new(t.M, choice_int=1)
    m.choice_string = "a"
    assert betterproto.which_one_of(m, "choice") == ("choice_string", "a")
    assert m.ints == []
    m.ints.append(1)
    assert new(t.M).ints == []
    assert encode(m) == encode(t.M(ints=[1], choice_string="a"))


def test_new_refuses(t: ModuleType) -> None:
    with pytest.raises(TypeError, match="M: no field 'imaeg'"):
        new(t.M, imaeg="x")
    with pytest.raises(TypeError, match="no field '_unknown_fields'"):
        new(t.M, _unknown_fields=b"x")
    with pytest.raises(TypeError, match="keywords only"):
        new(t.M, t.Sub())
    with pytest.raises(TypeError, match="both 'choice_int' and 'choice_string' of the oneof 'choice'"):
        new(t.M, choice_int=1, choice_string="a")


def test_decoded_equals_betterproto(test_pairs: dict[str, Pair]) -> None:
    """Where betterproto's own parser is right, what the codec builds equals what it builds, in every public view."""
    for name in ("Names", "Scalars", "OneOf", "Sub"):
        pair, rng = test_pairs[name], random.Random(name)
        for _ in range(30):
            data = fill(rng, pair.theirs(), chance=0.8).SerializeToString()
            if name == "Scalars":  # betterproto does not sign-extend enums, and reads negative zero as absent
                data = pair.theirs(f_string="a", f_int64=-5, f_bytes=b"x", f_float=1.5).SerializeToString()
            if name == "OneOf" and b"\xff\xff\xff\xff\xff" in data:
                continue
            ours, theirs = decode(pair.ours, data), pair.ours().parse(data)
            assert ours == theirs
            assert repr(ours.to_dict()) == repr(theirs.to_dict())
            assert bytes(ours) == bytes(theirs)
            assert betterproto.serialized_on_wire(ours)
            assert raw(ours).keys() == raw(theirs).keys()


def test_decoded_messages_share_nothing(t: ModuleType) -> None:
    one, two = decode(t.M, b""), decode(t.M, b"")
    one.ints.append(1)
    one.ms["a"] = "b"
    one.choice_int = 5
    assert two.ints == []
    assert two.ms == {}
    assert not has(two, "choice_int")


# Reading without betterproto's getters.


def test_has_and_get(t: ModuleType) -> None:
    m = t.M(rec=t.M(s=t.Sub(a=5), choice_int=0), i32=0, os=t.Sub())
    assert [n for n in plan_of(t.M).by_name if has(m, n)] == ["os", "rec"]
    assert has(m.rec, "choice_int")
    assert get(m, "rec.s.a") == 5
    assert get(m, "rec.rec.s", "none") == "none"
    assert get(m, "rec.choice_string") is None
    assert get(m, "os.a", -1) == -1
    assert has(t.M(ints=[0]), "ints")
    assert not has(t.M(ints=[]), "ints")
    assert raw(t.M(rec=m)) == raw(t.M(rec=m))
    before = dict(raw(m))
    has(m, "ts")
    get(m, "ts.seconds")
    assert raw(m) == before
    with pytest.raises(AttributeError, match="M has no field 'sekonds'"):
        has(m, "sekonds")
    with pytest.raises(AttributeError, match="Sub has no field 'b'"):
        get(m, "rec.s.b")


# Plans.


def test_plans_are_made_once_and_late(t: ModuleType) -> None:
    plan = plan_of(t.M)
    assert plan is plan_of(t.M)
    assert [f.number for f in plan.fields] == sorted(f.number for f in plan.fields)
    child = plan.by_name["rec"].child
    assert child is not None
    assert child() is plan
    assert repr(plan) == "<plan of wiretest.M, 26 fields>"


def test_generated_source_is_python(test_pairs: dict[str, Pair]) -> None:
    for pair in test_pairs.values():
        plan = plan_of(pair.ours)
        compile(encoder.source(plan), "<encoder>", "exec")
        compile(decoder.source(plan), "<decoder>", "exec")


def test_lossy_classes_are_refused() -> None:
    from betterproto.lib.google.protobuf import Type
    from betterproto.lib.google.protobuf.compiler import Version

    plan_of(Version)
    plan_of(Type)

    import datetime
    from dataclasses import dataclass

    @dataclass(eq=False, repr=False)
    class Lossy(betterproto.Message):
        at: datetime.datetime = betterproto.message_field(1)  # noqa: RUF009

    globals()["datetime"] = datetime  # betterproto looks annotations up in the module
    with pytest.raises(TypeError, match=r"field at: google\.protobuf's Timestamp"):
        plan_of(Lossy)


def test_classes_without_the_rewrite(t: ModuleType) -> None:
    """A singular message that is not `optional`: present once it is stored, also by betterproto's getter."""
    from betterproto.lib.google.protobuf import SourceContext, Type

    assert encode(Type(name="a")) == frame(1, b"a")
    assert encode(Type(source_context=SourceContext())) == bytes.fromhex("2a00")
    decoded = decode(Type, bytes.fromhex("2a03" + "0a0161") + bytes.fromhex("2a00"))
    assert decoded.source_context == SourceContext(file_name="a")
    assert encode(decode(Type, b"")) == b""


def test_private_names_of_betterproto() -> None:
    """What `acri.wire` leans on in betterproto 2.0.0b7 beyond its public interface."""
    from betterproto.lib.google.protobuf import Type

    assert betterproto.PLACEHOLDER is not None
    assert set(betterproto.ProtoClassMetadata.__slots__) >= {
        "cls_by_field",
        "default_gen",
        "meta_by_field_name",
        "sorted_field_names",
    }
    assert isinstance(Type._betterproto, betterproto.ProtoClassMetadata)
    names = {f.name for f in Type().__dataclass_fields__.values()}
    assert raw(Type()).keys() - names == {"_serialized_on_wire", "_unknown_fields", "_group_current"}
    assert betterproto.Enum.try_value is not None


def test_threads(test_pairs: dict[str, Pair]) -> None:
    """First use (compilation) and encoding of shared messages in eight threads at once give the same bytes."""
    from acri.wire.plan import Plan, _plans

    rng = random.Random(1)
    work = []
    for pair in test_pairs.values():
        for _ in range(10):
            message = translate(fill(rng, pair.theirs(), depth=2), pair.ours)
            work.append((message, encode(message)))
    classes = {type(m) for m, _ in work}
    saved: dict[Any, Plan] = {c: _plans.pop(c) for c in classes}
    start = time.monotonic() + 0.05

    def run(seed: int) -> int:
        mine = work * 3
        random.Random(seed).shuffle(mine)
        time.sleep(max(0.0, start - time.monotonic()))
        return sum(encode(m) == data and encode(decode(type(m), data)) == data for m, data in mine)

    try:
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(run, range(8))) == [len(work) * 3] * 8
    finally:
        _plans.update(saved)
