# SPDX-License-Identifier: Apache-2.0
"""CPU, memory and their like: CRI's LinuxContainerResources as `linux.resources`, and how an update changes them.

CRI's zero means "unset": the cgroup keeps the kernel's default, or on update what it has. cgroup v2's own numbers
(weights) are runc's business; the spec keeps CRI's on both versions.

Memory and swap: `memory.swap` is memory plus swap, in v1's sense on both versions. A memory limit alone brings a swap
limit of the same size along, which means no swap, wherever the kernel counts swap.

References:
    CRI, LinuxContainerResources; OCI runtime-spec, config-linux.md, "Control groups".
"""

from __future__ import annotations

import copy
import dataclasses
import re
from typing import Any

from acri import errors
from acri.host.facts import HostFacts
from acri.model.config import HugepageLimit, LinuxContainerResources

__all__ = ["linux_resources", "merge", "with_resources"]

Json = dict[str, Any]

_PAGE_SIZE = re.compile(r"[1-9][0-9]*[KMGTP]B", re.ASCII)
_UNIFIED_KEY = re.compile(r"[a-z0-9_]+(?:\.[A-Za-z0-9_]+)+", re.ASCII)
_CPU_LIST = re.compile(r"[0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*", re.ASCII)
_OWN_KEYS = ("cpu", "memory", "hugepageLimits", "unified")


def linux_resources(resources: LinuxContainerResources | None, host: HostFacts) -> Json:
    """`linux.resources` without its device rules.

    Left out where the host lacks the means: hugepage limits (the kubelet sends one for each size it has seen) and swap
    limits (without swap accounting the kernel has no file for them, and runc would fail). All else is an error.

    Raises:
        InvalidArgument: numbers that no kernel takes; `unified` on cgroup v1.
    """
    if resources is None:
        return {}
    _check(resources)
    built: Json = {}
    cpu = _set(
        shares=resources.cpu_shares,
        quota=resources.cpu_quota,
        period=resources.cpu_period,
        cpus=resources.cpuset_cpus,
        mems=resources.cpuset_mems,
    )
    if cpu:
        built["cpu"] = cpu
    memory = _memory(resources, host)
    if memory:
        built["memory"] = memory
    if resources.hugepage_limits and "hugetlb" in host.cgroups.controllers:
        limits = [
            {"pageSize": limit.page_size, "limit": limit.limit}
            for limit in resources.hugepage_limits
            if limit.page_size in host.hugepage_sizes
        ]
        if limits:
            built["hugepageLimits"] = limits
    if resources.unified:
        if not host.cgroups.unified:
            raise errors.InvalidArgument(
                f"unified resource {min(resources.unified)!r} needs cgroup v2; this host has {host.cgroup_mode}"
            )
        built["unified"] = dict(resources.unified)
    return built


def _set(**values: int | str) -> Json:
    return {name: value for name, value in values.items() if value}


def _memory(resources: LinuxContainerResources, host: HostFacts) -> Json:
    limit, swap = resources.memory_limit_in_bytes, resources.memory_swap_limit_in_bytes
    if not host.swap_accounting:
        return _set(limit=limit)
    return _set(limit=limit, swap=swap or limit)


def _check(resources: LinuxContainerResources) -> None:
    def fail(why: str) -> errors.InvalidArgument:
        return errors.InvalidArgument(f"container resources: {why}")

    for name in ("cpu_shares", "cpu_period"):
        if getattr(resources, name) < 0:
            raise fail(f"{name} {getattr(resources, name)} is negative")
    for name in ("cpu_quota", "memory_limit_in_bytes", "memory_swap_limit_in_bytes"):
        if getattr(resources, name) < -1:
            raise fail(f"{name} {getattr(resources, name)} is below -1 (unlimited)")
    limit, swap = resources.memory_limit_in_bytes, resources.memory_swap_limit_in_bytes
    if swap > 0 and not limit:
        raise fail("memory_swap_limit_in_bytes is set without memory_limit_in_bytes")
    if swap > 0 and (limit == -1 or swap < limit):
        raise fail(f"memory_swap_limit_in_bytes {swap}, memory and swap together, is below the memory limit {limit}")
    for name in ("cpuset_cpus", "cpuset_mems"):
        value = getattr(resources, name)
        if value and not _CPU_LIST.fullmatch(value):
            raise fail(f"{name} {value!r} is not of the form 0-3,8")
    for hugepage in resources.hugepage_limits:
        if not _PAGE_SIZE.fullmatch(hugepage.page_size):
            raise fail(f"hugepage size {hugepage.page_size!r} is not of the form 2MB")
    for key in resources.unified:
        # A key is a file's name in the cgroup: no slash, no "..".
        if not _UNIFIED_KEY.fullmatch(key):
            raise fail(f"unified key {key!r} is not a cgroup file's name")


def merge(current: LinuxContainerResources | None, update: LinuxContainerResources) -> LinuxContainerResources:
    """What a container has after UpdateContainerResources: what the update leaves unset stays.

    `unified` and hugepage limits are merged by key and size. A new memory limit without a swap limit takes the swap
    limit along; an old one, below it, would make the kernel refuse. The OOM score cannot be changed in a running
    process and stays.
    """
    if current is None:
        return dataclasses.replace(update, oom_score_adj=0)
    limits = {limit.page_size: limit for limit in (*current.hugepage_limits, *update.hugepage_limits)}
    new_memory = bool(update.memory_limit_in_bytes)
    return LinuxContainerResources(
        cpu_period=update.cpu_period or current.cpu_period,
        cpu_quota=update.cpu_quota or current.cpu_quota,
        cpu_shares=update.cpu_shares or current.cpu_shares,
        memory_limit_in_bytes=update.memory_limit_in_bytes or current.memory_limit_in_bytes,
        oom_score_adj=current.oom_score_adj,
        cpuset_cpus=update.cpuset_cpus or current.cpuset_cpus,
        cpuset_mems=update.cpuset_mems or current.cpuset_mems,
        hugepage_limits=tuple(HugepageLimit(limit.page_size, limit.limit) for limit in limits.values()),
        unified={**current.unified, **update.unified},
        memory_swap_limit_in_bytes=update.memory_swap_limit_in_bytes
        or (0 if new_memory else current.memory_swap_limit_in_bytes),
    )


def with_resources(spec: Json, resources: LinuxContainerResources, host: HostFacts) -> Json:
    """A copy of a stored spec with other resources; device rules and all else stay. Raises as `linux_resources`."""
    changed = copy.deepcopy(spec)
    stored: Json = changed.setdefault("linux", {}).setdefault("resources", {})
    for key in _OWN_KEYS:
        stored.pop(key, None)
    stored.update(linux_resources(resources, host))
    return changed
