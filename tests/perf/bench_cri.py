# SPDX-License-Identifier: Apache-2.0
"""How fast acri is beside containerd's own CRI plugin: `python tests/perf/bench_cri.py [--pods 30]`, as root.

Starts both (a private containerd each), sends both the calls that a kubelet makes for a plain pod, and prints p50 and
p90 of each RPC, the ratio of the p50s and the target that issue 3 sets. Nothing is judged by the exit code.

    for each pod, acri and the plugin, and both kinds of pod, in turn (so that the machine's noise hits all):
        RunPodSandbox ─ CreateContainer ─ StartContainer ─ ContainerStatus ─ ExecSync ─ StopContainer
        ─ StopPodSandbox ─ RemoveContainer ─ RemovePodSandbox
    then: pods held at once for memory; then 200 containers, listed in turn

Two kinds: pods whose containers have a PID namespace each (a kubelet's default), and that share one (crictl's).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

sys.path.extend([str(Path(__file__).parents[1] / name) for name in ("fixtures", "integration")])

from cri_client import Cri, Pod, container_config, pod_config
from cri_memory import Usage, cpu_seconds, pod_processes, rss_mib, total
from cri_report import Memory, Samples, environment, memory_table, rpc_table, summary
from cri_servers import Side, make_cgroup, remove_cgroup, servers

from acri.proto.runtime import v1

MODES = {
    "pid CONTAINER, a kubelet's default": v1.NamespaceMode.CONTAINER,
    "pid POD, crictl's default": v1.NamespaceMode.POD,
}
WARM_UP = 2
LIST_SANDBOXES = 4
LIST_CALLS = 100
STATUS_CALLS = 5
GRACE_S = 30

_numbers = itertools.count()


class Run:
    """One pod of one side, and the seconds of each call."""

    def __init__(self, side: Side, mode: v1.NamespaceMode, samples: Samples) -> None:
        name = f"pod{next(_numbers)}"
        self.cri: Cri = side.cri
        self.side = side.name
        self.pod = Pod(name, side.directory / "pods" / name, f"{side.cgroup_parent}/pod-{name}", mode)
        self.config = pod_config(self.pod)
        self.samples = samples
        self.sandbox_id = self.container_id = ""
        self.pod.prepare()
        make_cgroup(self.pod.cgroup_parent)

    async def call(self, rpc: str, **fields: Any) -> Any:
        seconds, reply = await self.cri.timed(rpc, **fields)
        self.note(rpc, seconds)
        return reply

    def note(self, rpc: str, seconds: float) -> None:
        self.samples.setdefault(rpc, {}).setdefault(self.side, []).append(seconds)

    def last(self, *rpcs: str) -> float:
        return sum(self.samples[rpc][self.side][-1] for rpc in rpcs)

    async def start(self) -> None:
        """From nothing to a running container."""
        self.sandbox_id = (await self.call("RunPodSandbox", config=self.config)).pod_sandbox_id
        await self.create()
        await self.call("StartContainer", container_id=self.container_id)
        self.note("whole pod", self.last("RunPodSandbox", "CreateContainer", "StartContainer"))

    async def create(self, name: str = "app") -> None:
        reply = await self.call(
            "CreateContainer",
            pod_sandbox_id=self.sandbox_id,
            config=container_config(self.pod, name),
            sandbox_config=self.config,
        )
        self.container_id = reply.container_id

    async def use(self) -> None:
        """What a kubelet asks of a running container."""
        for _ in range(STATUS_CALLS):
            reply = await self.call("ContainerStatus", container_id=self.container_id)
        if reply.status.state != v1.ContainerState.CONTAINER_RUNNING:
            raise RuntimeError(f"{self.side}: the container does not run: {reply.status}")
        reply = await self.call("ExecSync", container_id=self.container_id, cmd=["true"], timeout=10)
        if reply.exit_code:
            raise RuntimeError(f"{self.side}: exec failed: {reply.stderr.decode(errors='replace')}")

    async def end(self) -> None:
        """From a running container to nothing."""
        await self.call("StopContainer", container_id=self.container_id, timeout=GRACE_S)
        await self.call("StopPodSandbox", pod_sandbox_id=self.sandbox_id)
        await self.call("RemoveContainer", container_id=self.container_id)
        await self.call("RemovePodSandbox", pod_sandbox_id=self.sandbox_id)
        self.note("whole teardown", self.last("StopContainer", "StopPodSandbox", "RemoveContainer", "RemovePodSandbox"))
        remove_cgroup(self.pod.cgroup_parent)


def in_turn(sides: Sequence[Side], turn: int) -> Sequence[Side]:
    """Who goes first changes, so that neither always runs in the other's wake."""
    return sides if turn % 2 == 0 else sides[::-1]


Cpu = dict[str, dict[str, float]]
"""Side → daemon → milliseconds per pod."""


async def life(sides: Sequence[Side], modes: dict[str, v1.NamespaceMode], pods: int) -> dict[str, tuple[Samples, Cpu]]:
    """`pods` pods of each side and mode, one after another, modes and sides in turn."""
    results: dict[str, tuple[Samples, Cpu]] = {
        title: ({}, {side.name: dict.fromkeys(side.daemons, 0.0) for side in sides}) for title in modes
    }
    for turn in range(-WARM_UP, pods):
        for title, mode in modes.items():
            samples, cpu = results[title] if turn >= 0 else ({}, {})
            for side in in_turn(sides, turn):
                before = {name: cpu_seconds(pid) for name, pid in side.daemons.items()}
                run = Run(side, mode, samples)
                await run.start()
                await run.use()
                await run.end()
                for name, spent in cpu.get(side.name, {}).items():
                    cpu[side.name][name] = spent + (cpu_seconds(side.daemons[name]) - before[name]) * 1e3 / pods
        progress(f"pod {max(turn + 1, 0)}/{pods}")
    return results


async def held(side: Side, mode: v1.NamespaceMode, pods: int) -> dict[str, float]:
    """KiB per pod by role, with `pods` running pods and no other of either side."""
    runs = [Run(side, mode, {}) for _ in range(pods)]
    before = {name: total([pid]) for name, pid in side.daemons.items()}
    for run in runs:
        await run.start()
        progress(f"{side.name}: holding {run.pod.name}")
    roles = pod_processes(side, {run.sandbox_id for run in runs})
    figures: dict[str, float] = {}
    own = Usage(0, 0, 0)
    for role, pids in roles.items():
        usage = total(pids)
        figures[f"{role} RSS"], figures[f"{role} PSS"] = usage.rss_kib / pods, usage.pss_kib / pods
        if role != "workload":
            own = Usage(own.processes + usage.processes, own.rss_kib + usage.rss_kib, own.pss_kib + usage.pss_kib)
    figures |= {"pod's own RSS": own.rss_kib / pods, "pod's own PSS": own.pss_kib / pods}
    figures |= {
        f"{name} grew": (total([pid]).pss_kib - before[name].pss_kib) / pods for name, pid in side.daemons.items()
    }
    for run in runs:
        await run.end()
    return figures


async def listing(sides: Sequence[Side], mode: v1.NamespaceMode, containers: int) -> Samples:
    """ListContainers with `containers` created ones, the replies not decoded; Version as the floor of any call."""
    for side in sides:
        runs = [Run(side, mode, {}) for _ in range(LIST_SANDBOXES)]
        for run in runs:
            run.sandbox_id = (await run.call("RunPodSandbox", config=run.config)).pod_sandbox_id
        for number in range(containers):
            await runs[number % LIST_SANDBOXES].create(f"c{number}")
            progress(f"{side.name}: container {number + 1}/{containers}")
    samples: Samples = {}
    for turn in range(LIST_CALLS):
        for side in in_turn(sides, turn):
            for rpc in ("ListContainers", "Version"):
                seconds, _ = await side.cri.timed(rpc, raw=True)
                samples.setdefault(rpc, {}).setdefault(side.name, []).append(seconds)
    for side in sides:
        count = len((await side.cri.call("ListContainers")).containers)
        if count != containers:
            raise RuntimeError(f"{side.name} lists {count} containers, not {containers}")
    return samples


async def bench(options: argparse.Namespace) -> dict[str, Any]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # cleans up, as Ctrl-C does
    names = [options.only] if options.only else ["acri", "plugin"]
    report: dict[str, Any] = {"environment": environment(options.containerd_bin), "modes": {}}
    for key, value in report["environment"].items():
        print(f"{key:<12}{value}")
    memory = {name: Memory() for name in names}
    async with servers(names, options.containerd_bin) as sides:

        def weigh(when: str) -> None:
            for side in sides:
                memory[side.name].rss_mib[when] = {name: rss_mib(pid) for name, pid in side.daemons.items()}

        weigh("at start")
        for title, (samples, cpu) in (await life(sides, MODES, options.pods)).items():
            print_table(title, f"{options.pods} pods", samples, names)
            report["modes"][title] = summary(samples)
            for side in sides:
                memory[side.name].cpu_ms_per_pod[title] = cpu[side.name]
        weigh(f"after {options.pods * len(MODES)} pods")
        for side, (title, mode) in itertools.product(sides if options.held else (), MODES.items()):
            memory[side.name].per_pod[title] = await held(side, mode, options.held)
        if options.containers:
            samples = await listing(sides, v1.NamespaceMode.CONTAINER, options.containers)
            weigh(f"with {options.containers} containers")
            how = f"{options.containers} containers, created and not started, in {LIST_SANDBOXES} pods"
            print_table("lists", f"{how}; reply not decoded", samples, names)
            report["lists"] = summary(samples)
        for side in sides:
            await side.cri.remove_all()
        weigh("when empty again")
    print("\n== memory" + (f" ({options.held} pods held at once)" if options.held else ""))
    print(memory_table(memory))
    report["memory"] = {name: vars(value) for name, value in memory.items()}
    print(f"\nload at the end: {' '.join(f'{value:.2f}' for value in os.getloadavg())}")
    return report


def print_table(title: str, how: str, samples: Samples, names: list[str]) -> None:
    progress("")
    print(f"\n== {title} ({how})\n{rpc_table(samples, names)}", flush=True)


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="p50 and p90 of CRI calls: acri beside containerd's CRI plugin.")
    parser.add_argument("--pods", type=int, default=30, metavar="N", help="pods per side and table (default: 30)")
    parser.add_argument("--containers", type=int, default=200, metavar="N", help="containers to list; 0: no lists")
    parser.add_argument("--held", type=int, default=10, metavar="N", help="pods held at once for memory; 0: none")
    parser.add_argument("--containerd-bin", default=shutil.which("containerd"), metavar="FILE", help="default: PATH's")
    parser.add_argument("--only", choices=("acri", "plugin"), help="one side alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample here")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("must run as root")
    if not options.containerd_bin or not os.access(options.containerd_bin, os.X_OK):
        parser.error(f"no containerd at {options.containerd_bin}; apt install containerd, or --containerd-bin FILE")
    report = uvloop.run(bench(options))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("interrupted")
