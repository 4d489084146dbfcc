# SPDX-License-Identifier: Apache-2.0
"""Ours against upstream's contracts, as descriptors: whatever upstream's file has and ours names, ours has alike.

Upstream's files come from Debian's -dev packages (`golang-github-containerd-containerd-dev` or `-api-dev`, containerd
1.6 and later; `golang-github-kubernetes-cri-api-dev`), and from newer trees that ACRI_UPSTREAM_PROTOS names: a list of
directories, each the root of a checkout of kubernetes/cri-api or of containerd's `api` directory.
Ours may have more (newer fields); it may leave out whole messages and RPCs of containerd that acri does not use, those
of CRI never. A field that ours has not is an error unless the whole message is left out.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("grpc_tools", reason="grpcio-tools (dev group) is not installed")
from google.protobuf import descriptor_pb2 as pb

PROTOS = Path(__file__).resolve().parents[3] / "protos"
GO = Path("/usr/share/gocode/src")
CRI = "runtime/v1/api.proto"

# Where a file of ours is below upstream's roots, where that is not the usual place (`candidates`).
PLACES: dict[str, tuple[str, ...]] = {
    CRI: ("k8s.io/cri-api/pkg/apis/runtime/v1/api.proto", "pkg/apis/runtime/v1/api.proto"),
    "containerd/types/runc/options/oci.proto": (
        "github.com/containerd/containerd/runtime/v2/runc/options/oci.proto",
        "github.com/containerd/containerd/api/types/runc/options/oci.proto",
        "types/runc/options/oci.proto",
    ),
    "containerd/types/runtimeoptions/v1/api.proto": (
        "github.com/containerd/containerd/pkg/runtimeoptions/v1/api.proto",
        "github.com/containerd/containerd/api/types/runtimeoptions/v1/api.proto",
        "types/runtimeoptions/v1/api.proto",
    ),
}
# The same message under another name in some release, equal on the wire.
RENAMED = {".containerd.services.events.v1.Envelope": ".containerd.types.Envelope"}
# Parts of containerd's contracts that acri leaves out.
LEFT_OUT = {
    "containerd.types.ActiveMount",
    "containerd.types.ActivationInfo",
    "containerd.services.events.v1.ForwardRequest",
    "containerd.services.events.v1.Events/Forward",
}


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("acri_protos_generate", PROTOS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = generator()


@dataclass(frozen=True)
class Fact:
    """One thing a contract says; `name` finds it, `value` is what must be equal."""

    name: str
    value: tuple[object, ...]


def type_name(name: str) -> str:
    return RENAMED.get(name, name)


def message_facts(message: pb.DescriptorProto, outer: str) -> Iterator[Fact]:
    full = f"{outer}.{message.name}"
    yield Fact(type_name(f".{full}")[1:], ("message", message.options.map_entry))
    full = type_name(f".{full}")[1:]
    for field in message.field:
        real_oneof = field.HasField("oneof_index") and not field.proto3_optional
        oneof = message.oneof_decl[field.oneof_index].name if real_oneof else ""
        value = (field.name, field.type, field.label, type_name(field.type_name), oneof, field.proto3_optional)
        yield Fact(f"{full}#{field.number}", value)
    for nested in message.nested_type:
        yield from message_facts(nested, full)
    for enum in message.enum_type:
        yield from enum_facts(enum, full)


def enum_facts(enum: pb.EnumDescriptorProto, outer: str) -> Iterator[Fact]:
    for value in enum.value:
        yield Fact(f"{outer}.{enum.name}#{value.name}", (value.number,))


def facts(file: pb.FileDescriptorProto) -> Iterator[Fact]:
    yield Fact("package", (file.package,))
    for message in file.message_type:
        yield from message_facts(message, file.package)
    for enum in file.enum_type:
        yield from enum_facts(enum, file.package)
    for service in file.service:
        for m in service.method:
            value = (type_name(m.input_type), type_name(m.output_type), m.client_streaming, m.server_streaming)
            yield Fact(f"{file.package}.{service.name}/{m.name}", value)


def roots() -> list[Path]:
    named = os.environ.get("ACRI_UPSTREAM_PROTOS", "")
    return [GO, *(Path(p) for p in named.split(os.pathsep) if p)]


def candidates(ours: str) -> tuple[str, ...]:
    if ours in PLACES:
        return PLACES[ours]
    below = ours.removeprefix("containerd/")
    return (f"github.com/containerd/containerd/api/{below}", below)


def upstream_files(ours: str) -> list[tuple[Path, Path]]:
    """(file, root) of every release of this contract that is at hand."""
    found = ((next((root / c for c in candidates(ours) if (root / c).is_file()), None), root) for root in roots())
    return [(path, root) for path, root in found if path is not None]


def left_out(name: str) -> bool:
    return any(name == part or name.startswith((f"{part}#", f"{part}.")) for part in LEFT_OUT)


def describe_upstream(path: Path, root: Path) -> pb.FileDescriptorProto:
    # google/rpc/status.proto is no part of these packages: it is taken from our own tree, last.
    include = [root, GO, GO / "github.com/gogo/protobuf", PROTOS]
    described = GENERATE.describe([str(path)], *(d for d in include if d.is_dir()))
    found: pb.FileDescriptorProto = described.file[-1]
    return found


EARLIER = {Fact("runtime.v1.KeyValue#2", ("value", 9, 1, "", "", False))}
"""What earlier releases say: until cri-api 0.36 an environment value was a string, the same bytes on the wire."""


@pytest.fixture(scope="module")
def ours() -> dict[str, pb.FileDescriptorProto]:
    return {f.name: f for f in GENERATE.describe(GENERATE.sources(), PROTOS).file}


@pytest.mark.parametrize("name", [f for f in GENERATE.sources() if f.startswith(("runtime/", "containerd/"))])
def test_ours_says_what_upstream_says(name: str, ours: dict[str, pb.FileDescriptorProto]) -> None:
    upstream = upstream_files(name)
    if not upstream:
        pytest.skip(f"upstream's {name} is in none of {', '.join(map(str, roots()))}")
    # A few messages live in other files in other releases, so facts are looked up over all of our files.
    mine = {fact.name: fact.value for file in ours.values() for fact in facts(file) if fact.name != "package"}
    mine["package"] = (ours[name].package,)
    wrong = [
        f"{path}: {fact.name}: upstream {fact.value}, ours {mine.get(fact.name, 'nothing')}"
        for path, root in upstream
        for fact in facts(describe_upstream(path, root))
        if mine.get(fact.name) != fact.value and not left_out(fact.name) and fact not in EARLIER
    ]
    assert wrong == []


def test_the_comparison_sees_differences(ours: dict[str, pb.FileDescriptorProto]) -> None:
    """Numbers, names, labels, types, enum values and streaming each make another fact."""
    base = set(facts(ours[CRI]))
    for change in ("number", "name", "label", "type", "enum", "stream"):
        copy = pb.FileDescriptorProto()
        copy.CopyFrom(ours[CRI])
        field = next(m for m in copy.message_type if m.name == "Mount").field[0]
        if change == "number":
            field.number = 77
        elif change == "name":
            field.name = "other"
        elif change == "label":
            field.label = pb.FieldDescriptorProto.LABEL_REPEATED
        elif change == "type":
            field.type = pb.FieldDescriptorProto.TYPE_BYTES
        elif change == "enum":
            copy.enum_type[0].value[1].number = 9
        else:
            copy.service[0].method[0].server_streaming = True
        assert set(facts(copy)) != base, change
