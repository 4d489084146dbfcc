# SPDX-License-Identifier: Apache-2.0
"""What `bench_cri.py` says: the machine, p50 and p90 per RPC and side, ratios beside the targets, memory."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import acri

__all__ = ["TARGETS", "Memory", "Samples", "environment", "memory_table", "rpc_table", "summary"]

TARGETS = {"RunPodSandbox": 0.5, "whole pod": 0.75, "StopPodSandbox": 0.8, "ListContainers": 1.0}
"""Ratio of acri's p50 to the plugin's that issue 3 asks for, at most. Whole pod: run + create + start."""
RSS_TARGET_MIB = 75

Samples = dict[str, dict[str, list[float]]]
"""RPC → side → seconds."""


@dataclass
class Memory:
    """Resident memory and CPU of the daemons of one side, and of what its pods consist of."""

    rss_mib: dict[str, dict[str, float]] = field(default_factory=dict)
    """When → process → MiB."""
    per_pod: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Mode → KiB per pod by role."""
    cpu_ms_per_pod: dict[str, dict[str, float]] = field(default_factory=dict)
    """Mode → process → milliseconds of its own CPU time per pod."""


def environment(containerd_bin: str) -> dict[str, str]:
    """Facts that a figure means nothing without."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "kernel": platform.release(),
        "cpus": f"{os.cpu_count()} × {models[0] if models else platform.machine()}",
        "load": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "cgroups": "v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1",
        "python": platform.python_version(),
        "acri": acri.__version__,
        "containerd": f"{_version(containerd_bin)} ({containerd_bin})",
        "runc": _version("runc"),
    }


def _version(program: str) -> str:
    try:
        text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    words = text.splitlines()[0].split()[1:]
    return " ".join(word for word in words if "/" not in word and word != "version")


def rpc_table(samples: Samples, sides: Sequence[str]) -> str:
    """Milliseconds, one row per RPC."""
    head = f"{'ms':<18}" + "".join(f"{side + ' p50':>12}{'p90':>9}" for side in sides)
    compare = len(sides) == 2
    if compare:
        head += f"{'paired':>10}{'ratio p50':>12}{'target':>9}"
    rows = [head, "─" * len(head)]
    for rpc, by_side in samples.items():
        row = f"{rpc:<18}"
        for side in sides:
            row += f"{p50(by_side[side]) * 1e3:>12.2f}{p90(by_side[side]) * 1e3:>9.2f}"
        if compare:
            ratio = p50(by_side[sides[0]]) / p50(by_side[sides[1]])
            target = TARGETS.get(rpc)
            row += f"{paired(by_side[sides[0]], by_side[sides[1]]):>10.2f}{ratio:>12.2f}"
            if target is not None:
                row += f"{f'≤ {target:g}':>9}  {'met' if ratio <= target else 'MISSED'}"
        rows.append(row)
    return "\n".join(rows)


def memory_table(memory: Mapping[str, Memory]) -> str:
    """RSS of the daemons over the run, what a pod costs beside its workload, CPU of the daemons per pod."""
    lines = []
    for side, report in memory.items():
        for process in next(iter(report.rss_mib.values())):
            course = ", ".join(f"{when} {values[process]:.1f}" for when, values in report.rss_mib.items())
            verdict = ""
            if process == "acri":
                last = list(report.rss_mib.values())[-1][process]
                verdict = f"  (target ≤ {RSS_TARGET_MIB}: {'met' if last <= RSS_TARGET_MIB else 'MISSED'})"
            lines.append(f"{side}: VmRSS of {process}, MiB: {course}{verdict}")
    for side, report in memory.items():
        for mode, roles in report.per_pod.items():
            text = ", ".join(f"{role} {value:.0f}" for role, value in roles.items())
            lines.append(f"{side}: KiB per running pod ({mode}): {text}")
        for mode, values in report.cpu_ms_per_pod.items():
            text = ", ".join(f"{process} {value:.0f}" for process, value in values.items())
            lines.append(f"{side}: CPU ms per pod, without children ({mode}): {text}")
    return "\n".join(lines)


def summary(samples: Samples) -> dict[str, dict[str, dict[str, Any]]]:
    """For a JSON file: RPC → side → p50, p90 and all samples, milliseconds."""
    return {
        rpc: {
            side: {
                "p50": p50(values) * 1e3,
                "p90": p90(values) * 1e3,
                "samples": [round(value * 1e3, 3) for value in values],
            }
            for side, values in by_side.items()
        }
        for rpc, by_side in samples.items()
    }


def paired(first: Sequence[float], second: Sequence[float]) -> float:
    """The median of the ratios of neighbours in time: steadier than the ratio of medians while the load changes."""
    return p50([a / b for a, b in zip(first, second, strict=True)])


def p50(values: Sequence[float]) -> float:
    return statistics.median(values)


def p90(values: Sequence[float]) -> float:
    return values[0] if len(values) == 1 else statistics.quantiles(values, n=10, method="inclusive")[8]
