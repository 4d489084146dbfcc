# SPDX-License-Identifier: Apache-2.0
"""Google's protobuf as the oracle of acri.wire: the same contracts compiled for both, random messages, comparison.

`build` makes betterproto classes from a .proto text, with the rewrite that protos/generate.py does (singular messages
`optional`, google's time types replaced), and oracle classes from the text as it is. `Pair` holds two such classes.
"""

from __future__ import annotations

import importlib
import math
import random
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc_tools
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from acri.wire import plan_of

INCLUDE = Path(grpc_tools.__file__).parent / "_proto"
WKT = """\
syntax = "proto3";
package wiretest.wkt;
message Timestamp { int64 seconds = 1; int32 nanos = 2; }
message Duration { int64 seconds = 1; int32 nanos = 2; }
message Any { string type_url = 1; bytes value = 2; }
"""
TWINS = {f".google.protobuf.{n}": f".wiretest.wkt.{n}" for n in ("Timestamp", "Duration", "Any")}


@dataclass(frozen=True)
class Pair:
    """One message type: its full name, acri's class, the oracle's class."""

    name: str
    ours: type[Any]
    theirs: type[Any]


def describe(files: Iterable[str], *include: Path, out: Path) -> descriptor_pb2.FileDescriptorSet:
    _protoc(*(f"-I{d}" for d in (*include, INCLUDE)), "--include_imports", f"--descriptor_set_out={out}", *files)
    return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


def _protoc(*args: str) -> None:
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *args], check=True)


def build(proto: Path, tmp: Path) -> list[Pair]:
    """Compiles `proto` (package `wiretest`) for both sides; the betterproto modules end up in sys.modules."""
    (tmp / "wkt.proto").write_text(WKT)
    described = describe([proto.name, "wkt.proto"], proto.parent, tmp, out=tmp / "plain.pb")
    oracle = oracle_classes(described)
    for file in described.file:
        if file.name == proto.name:
            file.dependency.append("wkt.proto")
            for message in file.message_type:
                _rewrite(message)
    described.file.sort(key=lambda f: f.name == proto.name)
    (tmp / "rewritten.pb").write_bytes(described.SerializeToString())
    generated = tmp / "generated"
    generated.mkdir()
    plugin = Path(sys.executable).parent / "protoc-gen-python_betterproto"
    _protoc(
        f"--plugin=protoc-gen-python_betterproto={plugin}",
        f"--descriptor_set_in={tmp / 'rewritten.pb'}",
        f"--python_betterproto_out={generated}",
        proto.name,
        "wkt.proto",
    )
    sys.path.insert(0, str(generated))
    try:
        return list(pairs(oracle, ""))
    finally:
        sys.path.remove(str(generated))


def _rewrite(message: descriptor_pb2.DescriptorProto) -> None:
    for nested in message.nested_type:
        _rewrite(nested)
    for field in message.field:
        if field.type_name in TWINS:
            field.type_name = TWINS[field.type_name]
        singular = field.label == field.LABEL_OPTIONAL and not field.HasField("oneof_index")
        if field.type == field.TYPE_MESSAGE and singular and not message.options.map_entry:
            field.proto3_optional = True
            field.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{field.name}")


def oracle_classes(described: descriptor_pb2.FileDescriptorSet) -> dict[str, type[Any]]:
    """Full name → oracle class, for every message outside google.protobuf, from a pool of their own."""
    pool = descriptor_pool.DescriptorPool()
    for file in described.file:
        pool.Add(file)

    def walk(descriptor: Descriptor) -> Iterator[Descriptor]:
        if not descriptor.GetOptions().map_entry:
            yield descriptor
        for nested in descriptor.nested_types:
            yield from walk(nested)

    files = [pool.FindFileByName(f.name) for f in described.file if not f.name.startswith("google/protobuf/")]
    found = [d for f in files for top in f.message_types_by_name.values() for d in walk(top)]
    return {d.full_name: message_factory.GetMessageClass(d) for d in found}


def pairs(oracle: dict[str, type[Any]], root: str) -> Iterator[Pair]:
    """Joins oracle classes with betterproto's, which live below the module `root` by package, nested names joined."""
    for name, theirs in sorted(oracle.items()):
        package = theirs.DESCRIPTOR.file.package
        module = importlib.import_module(f"{root}{package}")
        plain = name[len(package) + 1 :].replace(".", "").replace("_", "").lower()
        ours = [c for n, c in vars(module).items() if isinstance(c, type) and n.replace("_", "").lower() == plain]
        assert len(ours) == 1, f"{name}: {ours}"
        yield Pair(name, ours[0], theirs)


# Random messages, made as the oracle's objects.

INT32 = [0, 1, -1, 127, 128, -128, 16383, 16384, 2**31 - 1, -(2**31)]
INT64 = [*INT32, 2**32, 2**63 - 1, -(2**63), 1_700_000_000_123_456_789]
UINT32 = [0, 1, 127, 128, 2**31, 2**32 - 1]
UINT64 = [*UINT32, 2**32, 2**63, 2**64 - 1]
FLOAT = [0.0, -0.0, 1.5, -2.25, math.inf, -math.inf, math.nan, 2.0**-149]
DOUBLE = [*FLOAT, 0.1, 1e300, 5e-324]
TEXT = ["", "a", "äöü", "\0", "😀", "k8s.io/", "x" * 127, "y" * 128, "ß" * 9000]
NUMBERS: dict[int, list[Any]] = {
    FieldDescriptor.TYPE_INT32: INT32,
    FieldDescriptor.TYPE_SINT32: INT32,
    FieldDescriptor.TYPE_SFIXED32: INT32,
    FieldDescriptor.TYPE_INT64: INT64,
    FieldDescriptor.TYPE_SINT64: INT64,
    FieldDescriptor.TYPE_SFIXED64: INT64,
    FieldDescriptor.TYPE_UINT32: UINT32,
    FieldDescriptor.TYPE_FIXED32: UINT32,
    FieldDescriptor.TYPE_UINT64: UINT64,
    FieldDescriptor.TYPE_FIXED64: UINT64,
    FieldDescriptor.TYPE_FLOAT: FLOAT,
    FieldDescriptor.TYPE_DOUBLE: DOUBLE,
    FieldDescriptor.TYPE_BOOL: [False, True],
}


def scalar(rng: random.Random, field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return rng.choice(TEXT) if rng.random() < 0.3 else f"{field.name}-{rng.randrange(1000)}"
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.randbytes(rng.choice([0, 1, 20, 127, 128, 300]))
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.choice([*(v.number for v in field.enum_type.values), 0, 77, -5])
    return rng.choice(NUMBERS[field.type])


def fill(rng: random.Random, message: Any, depth: int = 4, chance: float = 0.6) -> Any:
    """Sets some of the fields of an oracle message, and returns it."""
    for field in message.DESCRIPTOR.fields:
        if rng.random() > chance:
            continue
        if field.containing_oneof and len(field.containing_oneof.fields) > 1 and rng.random() < 0.5:
            continue
        if field.message_type and depth <= 0:
            continue
        value = getattr(message, field.name)
        if field.message_type and field.message_type.GetOptions().map_entry:
            key, item = field.message_type.fields
            for _ in range(rng.randrange(4)):
                name = scalar(rng, key)
                if item.message_type:
                    fill(rng, value[name], depth - 1, chance / 2)
                else:
                    value[name] = scalar(rng, item)
        elif field.is_repeated:
            for _ in range(rng.choice([0, 1, 2, 5])):
                if field.message_type:
                    fill(rng, value.add(), depth - 1, chance / 2)
                else:
                    value.append(scalar(rng, field))
        elif field.message_type:
            value.SetInParent()
            fill(rng, value, depth - 1, chance * 0.8)
        else:
            setattr(message, field.name, scalar(rng, field))
    return message


# Comparison and conversion, field by field and by number: neither side's codec takes part.


def raw(message: Any) -> dict[str, Any]:
    values: dict[str, Any] = object.__getattribute__(message, "__dict__")
    return values


def same_value(ours: Any, theirs: Any) -> bool:
    if hasattr(theirs, "DESCRIPTOR"):
        return same(ours, theirs)
    if isinstance(theirs, float):
        return isinstance(ours, float) and (struct.pack("<d", ours) == struct.pack("<d", theirs) or ours != ours)
    return bool(ours == theirs) and isinstance(ours, type(theirs))


def same(ours: Any, theirs: Any) -> bool:
    """Whether a decoded message has what the oracle's has: every value, type, presence and oneof."""
    values = raw(ours)
    for plan in plan_of(type(ours)).fields:
        field = theirs.DESCRIPTOR.fields_by_number[plan.number]
        mine, its = values[plan.name], getattr(theirs, field.name)
        if plan.map:
            ok = mine.keys() == set(its) and all(same_value(mine[k], its[k]) for k in its)
        elif plan.repeated:
            ok = len(mine) == len(its) and all(map(same_value, mine, its))
        elif plan.group:
            chosen = theirs.WhichOneof(field.containing_oneof.name) == field.name
            ok = (values["_group_current"][plan.group] == plan.name) == chosen
            ok = ok and (same_value(mine, its) if chosen else True)
        elif plan.optional:
            ok = same_value(mine, its) if theirs.HasField(field.name) else mine is None
        else:
            ok = same_value(mine, its)
        if not ok:
            raise AssertionError(f"{theirs.DESCRIPTOR.full_name}.{field.name}: {mine!r} is not {its!r}")
    return True


def translate(theirs: Any, cls: type[Any]) -> Any:
    """The oracle's message as a betterproto object, made by betterproto's own constructor."""
    fields: dict[str, Any] = {}
    for plan in plan_of(cls).fields:
        field = theirs.DESCRIPTOR.fields_by_number[plan.number]
        its = getattr(theirs, field.name)

        def one(value: Any, plan: Any = plan) -> Any:
            if hasattr(value, "DESCRIPTOR"):
                return translate(value, plan.type)
            return plan.type.try_value(value) if plan.type is not None and isinstance(value, int) else value

        if plan.map:
            fields[plan.name] = {k: one(its[k]) for k in its}
        elif plan.repeated:
            fields[plan.name] = [one(v) for v in its]
        elif not field.has_presence or theirs.HasField(field.name):
            fields[plan.name] = one(its)
    return cls(**fields)


def canonical(theirs: type[Any], data: bytes) -> bytes:
    """The oracle's deterministic form: fields by number, map entries by key."""
    return bytes(theirs.FromString(data).SerializeToString(deterministic=True))


def check(pair: Pair, rng: random.Random, **limits: Any) -> None:
    """One random message through both codecs in both directions."""
    from acri.wire import decode, encode

    theirs = fill(rng, pair.theirs(), **limits)
    data = theirs.SerializeToString()
    decoded = decode(pair.ours, data)
    assert same(decoded, theirs)
    for ours in (decoded, translate(theirs, pair.ours)):
        back = encode(ours)
        assert len(back) == len(data)
        assert canonical(pair.theirs, back) == theirs.SerializeToString(deterministic=True)
