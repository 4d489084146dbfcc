# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from acri.wire import OutOfRange, Truncated, decode, encode, plan_of
from acri.wire import wellknown as wk


@pytest.fixture(scope="session")
def twins(t: ModuleType) -> dict[str, type[Any]]:
    by_name = plan_of(t.M).by_name
    return {"Timestamp": by_name["ts"].type, "Duration": by_name["d"].type, "Any": by_name["any"].type}


@given(st.integers(-62135596800 * 10**9, 253402300799 * 10**9))
def test_timestamp(twins: dict[str, type[Any]], ns: int) -> None:
    message = wk.timestamp(twins["Timestamp"], ns)
    assert wk.timestamp_ns(message) == (0 if ns == -62135596800 * 10**9 else ns)
    theirs = Timestamp()
    theirs.FromNanoseconds(ns)
    assert encode(message) == theirs.SerializeToString()


@given(st.integers(-(10**19), 10**19))
def test_duration(twins: dict[str, type[Any]], ns: int) -> None:
    message = wk.duration(twins["Duration"], ns)
    assert wk.duration_ns(message) == ns
    theirs = Duration()
    theirs.FromNanoseconds(ns)
    assert encode(message) == theirs.SerializeToString()


def test_never(twins: dict[str, type[Any]]) -> None:
    assert wk.timestamp_ns(None) == wk.duration_ns(None) == 0
    assert wk.timestamp_ns(twins["Timestamp"](seconds=wk.GO_ZERO_SECONDS)) == 0
    assert wk.timestamp_ns(decode(twins["Timestamp"], b"")) == 0


def test_limits(twins: dict[str, type[Any]]) -> None:
    for ns in (-62135596800 * 10**9 - 1, 253402300800 * 10**9):
        with pytest.raises(OutOfRange):
            wk.timestamp(twins["Timestamp"], ns)
    for ns in (-315576000001 * 10**9, 315576000001 * 10**9):
        with pytest.raises(OutOfRange):
            wk.duration(twins["Duration"], ns)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("containerd.events.TaskExit", "containerd.events.TaskExit"),
        ("type.googleapis.com/containerd.events.TaskExit", "containerd.events.TaskExit"),
        ("types.containerd.io/opencontainers/runtime-spec/1/Spec", "opencontainers/runtime-spec/1/Spec"),
        ("", ""),
    ],
)
def test_type_names(twins: dict[str, type[Any]], url: str, name: str) -> None:
    assert wk.type_name(twins["Any"](type_url=url)) == name
    assert wk.type_name(None) == ""


def test_any(t: ModuleType, twins: dict[str, type[Any]]) -> None:
    packed = wk.pack_any(twins["Any"], "wiretest.Sub", t.Sub(a=1))
    assert wk.unpack_any(packed, {"wiretest.Sub": t.Sub}) == t.Sub(a=1)
    assert wk.unpack_any(packed, {}) is None
    assert wk.unpack_any(None, {"wiretest.Sub": t.Sub}) is None
    spec = wk.pack_any(twins["Any"], "types.containerd.io/opencontainers/runtime-spec/1/Spec", b"{}")
    assert spec.value == b"{}"
    broken = wk.pack_any(twins["Any"], "wiretest.Sub", b"\x12\x05")
    with pytest.raises(Truncated):
        wk.unpack_any(broken, {"wiretest.Sub": t.Sub})
