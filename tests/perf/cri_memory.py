# SPDX-License-Identifier: Apache-2.0
"""Memory and CPU time of processes, from /proc, and which processes a pod consists of besides its workload.

A pod's own: the shims of its containerd and what runs below them (pause), and acri's holders. PSS shares a page among
those who map it: what one more pod costs. RSS counts it for each.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cri_servers import Side

__all__ = ["Usage", "cpu_seconds", "pod_processes", "rss_mib", "total"]

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory of a set of processes, KiB."""

    processes: int
    rss_kib: int
    pss_kib: int


def rss_mib(pid: int) -> float:
    """VmRSS of a process, MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has ended")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process itself, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def total(pids: Iterable[int]) -> Usage:
    """The sum over `pids`."""
    count = rss = pss = 0
    for pid in pids:
        values = {}
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            key, value = line.split()[:2]
            values[key] = int(value)
        count, rss, pss = count + 1, rss + values["Rss:"], pss + values["Pss:"]
    return Usage(count, rss, pss)


def pod_processes(side: Side, sandbox_ids: set[str]) -> dict[str, list[int]]:
    """Pids by role: `shim`, `pause` (the plugin's sandbox containers, acri's holders), `workload`."""
    parents = _parents()
    shims = set(side.containerd.shims())
    found: dict[str, list[int]] = {"shim": sorted(shims), "pause": [], "workload": []}
    for pid in parents:
        words = _command(pid)
        if parents[pid] in shims:
            found["pause" if words[:1] == ["/pause"] else "workload"].append(pid)
        elif words[:1] == ["acri-holder"] and sandbox_ids & set(words[1:]):
            found["pause"].append(pid)
    return found


def _parents() -> dict[int, int]:
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parents[int(name)] = int(Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                pass  # ended meanwhile
    return parents


def _command(pid: int) -> list[str]:
    try:
        return [word.decode(errors="replace") for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    except OSError:
        return []
