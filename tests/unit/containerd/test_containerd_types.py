# SPDX-License-Identifier: Apache-2.0
"""Pure parts of the containerd client: events' decoding, options, expiry, and that each call is one of the contract."""

from __future__ import annotations

import importlib
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import acri.containerd
from acri.containerd import convert, leases
from acri.containerd.event_types import Event, TaskDeleted, TaskExited, TaskOom, decode_event
from acri.containerd.types import AnyValue, Descriptor, Mount, SnapshotKind, TaskStatus, runc_options
from acri.proto.acri import wkt
from acri.proto.containerd import events as pb
from acri.proto.containerd import types as wire
from acri.proto.containerd.runc import v1 as runc
from acri.wire import decode, encode

ROOM = Path(acri.containerd.__file__).parent


def envelope(type_url: str, value: bytes) -> wire.Envelope:
    return wire.Envelope(
        timestamp=wkt.Timestamp(seconds=1, nanos=2),
        namespace="k8s.io",
        topic="/tasks/x",
        event=wkt.Any(type_url=type_url, value=value),
    )


def test_exits_of_containers_and_execs_are_told_apart() -> None:
    at = wkt.Timestamp(seconds=5, nanos=7)
    first = pb.TaskExit(container_id="c", id="c", pid=9, exit_status=1, exited_at=at)
    other = pb.TaskDelete(container_id="c", id="e", pid=9, exit_status=137, exited_at=at)
    decoded = decode_event(envelope("containerd.events.TaskExit", encode(first)))
    assert decoded == Event("/tasks/x", "k8s.io", 1_000_000_002, TaskExited("c", "", 9, 1, 5_000_000_007))
    decoded = decode_event(envelope("type.googleapis.com/containerd.events.TaskDelete", encode(other)))
    assert decoded.event == TaskDeleted("c", "e", 9, 137, 5_000_000_007)
    oom = decode_event(envelope("containerd.events.TaskOOM", encode(pb.TaskOom(container_id="c"))))
    assert oom.event == TaskOom("c")


@given(st.binary(max_size=40), st.sampled_from(["containerd.events.TaskExit", "containerd.events.TaskCreate", "x.Y"]))
def test_an_event_never_ends_the_stream(value: bytes, type_url: str) -> None:
    assert decode_event(envelope(type_url, value)).topic == "/tasks/x"


def test_an_event_without_content() -> None:
    assert decode_event(wire.Envelope(topic="/t")) == Event("/t", "", 0, None)


def test_runc_options_are_what_the_shim_reads() -> None:
    packed = runc_options(binary_name="crun", systemd_cgroup=True, io_uid=1000)
    assert packed.type_url == "containerd.runc.v1.Options"
    read = decode(runc.Options, packed.value)
    assert (read.binary_name, read.systemd_cgroup, read.io_uid, read.io_gid) == ("crun", True, 1000, 0)
    assert runc_options().value == b""


def test_states_of_later_releases_are_unknown() -> None:
    assert TaskStatus(99) is TaskStatus.UNKNOWN
    assert SnapshotKind(99) is SnapshotKind.UNKNOWN


@given(st.floats(min_value=0, max_value=1e8))
def test_expiry_is_rfc_3339(seconds: float) -> None:
    text = leases.expiry(seconds)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text)
    assert abs(datetime.fromisoformat(text).timestamp() - datetime.now(UTC).timestamp() - seconds) < 60


text = st.text(max_size=8)


@given(st.lists(st.builds(Mount, text, text, text, st.lists(text, max_size=3).map(tuple)), max_size=3))
def test_mounts_there_and_back(mounts: list[Mount]) -> None:
    assert convert.mounts_in(convert.mounts_out(mounts)) == tuple(mounts)


@given(st.none() | st.builds(Descriptor, text, text, st.integers(0, 2**62), st.dictionaries(text, text, max_size=2)))
def test_descriptors_there_and_back(value: Descriptor | None) -> None:
    assert convert.descriptor_in(convert.descriptor_out(value)) == value


@given(st.none() | st.builds(AnyValue, text, st.binary(max_size=8)))
def test_any_there_and_back(value: AnyValue | None) -> None:
    assert convert.any_in(convert.any_out(value)) == value


def test_no_paths_are_no_mask() -> None:
    assert convert.mask(()) is None
    assert convert.mask(["labels.a"]) == wkt.FieldMask(paths=["labels.a"])


SERVICES = [path.stem for path in sorted(ROOM.glob("*.py")) if '\n_SERVICE = "/' in path.read_text()]


@pytest.mark.parametrize("name", SERVICES)
def test_each_call_names_a_method_and_its_reply(name: str) -> None:
    """Path and reply class are written out at each call: they must be the contract's."""
    source = (ROOM / f"{name}.py").read_text()
    module = importlib.import_module(f"acri.containerd.{name}")
    prefix = re.search(r'^_SERVICE = "(/.*/)"$', source, re.MULTILINE)
    assert prefix is not None
    methods = module.v1.METHODS
    flat = re.sub(r"\s+", " ", source)
    calls = re.findall(
        r'(?:_SERVICE \+ |_write\( ?)"(\w+)"(?:, (?:request|new\([\w.]+\)|self\._request), ([\w.]+))?', flat
    )
    assert calls
    for method, reply in calls:
        assert prefix.group(1) + method in methods
        if reply:
            owner, _, cls = reply.partition(".")
            assert getattr(getattr(module, owner), cls) is methods[prefix.group(1) + method].reply, (name, method)
