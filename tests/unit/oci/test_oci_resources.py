# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oci_samples import HOST, HOST_V1

from acri import errors
from acri.model.config import HugepageLimit, LinuxContainerResources
from acri.oci.cgroup_path import cgroups_path
from acri.oci.resources import linux_resources, merge, with_resources

MIB = 1 << 20
NO_SWAP = replace(HOST, swap_accounting=False)


def made(host: Any = HOST, **fields: Any) -> dict[str, Any]:
    return linux_resources(LinuxContainerResources(**fields), host)


def test_zero_is_unset() -> None:
    assert linux_resources(None, HOST) == {}
    assert made() == {}


def test_cpu() -> None:
    assert made(cpu_shares=2, cpu_quota=-1, cpu_period=100_000, cpuset_cpus="0-3,8", cpuset_mems="0") == {
        "cpu": {"shares": 2, "quota": -1, "period": 100_000, "cpus": "0-3,8", "mems": "0"}
    }


def test_memory_brings_its_swap_along() -> None:
    assert made(memory_limit_in_bytes=MIB)["memory"] == {"limit": MIB, "swap": MIB}
    assert made(memory_limit_in_bytes=MIB, memory_swap_limit_in_bytes=2 * MIB)["memory"]["swap"] == 2 * MIB
    assert made(memory_limit_in_bytes=MIB, memory_swap_limit_in_bytes=-1)["memory"]["swap"] == -1
    assert made(NO_SWAP, memory_limit_in_bytes=MIB, memory_swap_limit_in_bytes=MIB)["memory"] == {"limit": MIB}


def test_hugepages_where_the_host_has_them() -> None:
    limits = (HugepageLimit("2MB", 0), HugepageLimit("16GB", 5))
    assert made(hugepage_limits=limits) == {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}
    assert made(HOST_V1, hugepage_limits=limits) == {}


def test_unified_goes_through_on_v2_only() -> None:
    unified = {"memory.oom.group": "1", "hugetlb.2MB.max": "0", "some.future_key": "x"}
    assert made(unified=unified) == {"unified": unified}
    with pytest.raises(errors.InvalidArgument, match=r"hybrid"):
        made(HOST_V1, unified=unified)


@pytest.mark.parametrize(
    "fields",
    [
        {"cpu_shares": -1},
        {"cpu_period": -1},
        {"cpu_quota": -2},
        {"memory_limit_in_bytes": -2},
        {"memory_swap_limit_in_bytes": MIB},
        {"memory_limit_in_bytes": 2 * MIB, "memory_swap_limit_in_bytes": MIB},
        {"memory_limit_in_bytes": -1, "memory_swap_limit_in_bytes": MIB},
        {"cpuset_cpus": "0-"},
        {"cpuset_mems": "0\n1"},
        {"hugepage_limits": (HugepageLimit("../x", 1),)},
        {"unified": {"../memory.max": "1"}},
        {"unified": {"memory": "1"}},
        {"unified": {"memory/max.x": "1"}},
    ],
)
def test_what_no_kernel_takes(fields: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidArgument):
        made(**fields)


sizes = st.sampled_from([0, 0, MIB, 2 * MIB, 3 * MIB])
some_resources = st.builds(
    LinuxContainerResources,
    cpu_period=st.sampled_from([0, 50_000, 100_000]),
    cpu_quota=st.sampled_from([0, -1, 20_000]),
    cpu_shares=st.sampled_from([0, 2, 1024]),
    memory_limit_in_bytes=sizes,
    cpuset_cpus=st.sampled_from(["", "0", "0-1"]),
    hugepage_limits=st.lists(
        st.builds(HugepageLimit, st.sampled_from(["2MB", "1GB"]), st.integers(0, 5)),
        max_size=2,
        unique_by=lambda limit: limit.page_size,
    ).map(tuple),
    unified=st.dictionaries(st.sampled_from(["memory.min", "memory.high"]), st.sampled_from(["0", "9"])),
    oom_score_adj=st.integers(-1000, 1000),
)


@given(some_resources, some_resources)
def test_merge_keeps_what_is_unset_and_is_idempotent(current: Any, update: Any) -> None:
    merged = merge(current, update)
    for name in ("cpu_period", "cpu_quota", "cpu_shares", "memory_limit_in_bytes", "cpuset_cpus"):
        assert getattr(merged, name) == (getattr(update, name) or getattr(current, name))
    assert merged.unified == {**current.unified, **update.unified}
    assert len({limit.page_size for limit in merged.hugepage_limits}) == len(merged.hugepage_limits)
    assert merged.oom_score_adj == current.oom_score_adj
    assert merge(merged, update) == merged
    assert merge(current, LinuxContainerResources()) == current


def test_a_new_memory_limit_takes_the_swap_limit_along() -> None:
    current = LinuxContainerResources(memory_limit_in_bytes=MIB, memory_swap_limit_in_bytes=MIB)
    grown = merge(current, LinuxContainerResources(memory_limit_in_bytes=4 * MIB))
    assert linux_resources(grown, HOST)["memory"] == {"limit": 4 * MIB, "swap": 4 * MIB}
    assert merge(None, LinuxContainerResources(cpu_shares=5)).cpu_shares == 5


def test_a_stored_spec_gets_other_resources_and_keeps_its_devices() -> None:
    stored = {"linux": {"resources": {"devices": [1], "cpu": {"shares": 9}, "memory": {"limit": 1}}}, "root": {}}
    changed = with_resources(stored, LinuxContainerResources(cpu_shares=3), HOST)
    assert changed == {"linux": {"resources": {"devices": [1], "cpu": {"shares": 3}}}, "root": {}}
    assert stored["linux"]["resources"]["cpu"] == {"shares": 9}  # type: ignore[index]


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        ("/kubepods/burstable/podx", "/kubepods/burstable/podx/ab12"),
        ("kubepods/", "/kubepods/ab12"),
        ("/", "/ab12"),
        ("/kubepods.slice/kubepods-podx.slice", "kubepods-podx.slice:acri:ab12"),
        ("test.slice", "test.slice:acri:ab12"),
    ],
)
def test_cgroups_path(parent: str, expected: str) -> None:
    assert cgroups_path(parent, "ab12") == expected
