# SPDX-License-Identifier: Apache-2.0
"""What this machine is and can do, gathered once at start: `gather() -> HostFacts`.

The facts are values, so that whatever is decided from them (above all `acri.oci`) stays pure and is tested with facts
of machines that nobody has at hand.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from acri.host import cgroups
from acri.host.capabilities import oom_score_adj_floor, read_sets
from acri.host.cgroups import CgroupLayout, CgroupMode

__all__ = ["HostFacts", "gather"]

# uname's machine → the word of the OCI image specification (Go's GOARCH).
_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "i686": "386",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
}


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One machine, as seen by a process that will be the ancestor of containers (containerd, else acri itself).

    machine            uname's word: "x86_64", "aarch64"
    architecture       the OCI word: "amd64", "arm64"
    kernel_release     uname's release, whole
    kernel             its first three numbers, for comparisons: (6, 1, 0)
    cgroups            the hierarchies; `cgroups.mode`, `cgroups.controllers`
    systemd            PID 1 is systemd, so its cgroup driver can be used
    apparmor           the LSM is on and its interface is reachable
    selinux            the LSM is on (a policy is loaded)
    seccomp            the kernel has seccomp filters
    seccomp_actions    what a filter may answer: "errno", "kill_process", "log", "user_notif", …; empty if unknown
    bounding           capability names that a container can have at most, in bit order ("CAP_CHOWN", …)
    effective          capability names that the process itself has
    oom_score_adj      the process's own value
    oom_score_adj_min  the lowest value that a container can be given without an error
    rlimits            hard limits of the process by OCI name ("RLIMIT_NOFILE" → 1048576, -1 unlimited)
    hugepage_sizes     in the cgroup's words, ascending: ("2MB", "1GB")
    swap_accounting    the memory cgroup limits swap too
    user_namespaces    user namespaces can be made
    rro_mounts         recursive read-only mounts (mount_setattr(2), Linux 5.12)
    """

    machine: str
    architecture: str
    kernel_release: str
    kernel: tuple[int, int, int]
    cgroups: CgroupLayout
    systemd: bool
    apparmor: bool
    selinux: bool
    seccomp: bool
    seccomp_actions: frozenset[str]
    bounding: tuple[str, ...]
    effective: tuple[str, ...]
    oom_score_adj: int
    oom_score_adj_min: int
    rlimits: dict[str, int]
    hugepage_sizes: tuple[str, ...]
    swap_accounting: bool
    user_namespaces: bool
    rro_mounts: bool

    @property
    def cgroup_mode(self) -> CgroupMode:
        return self.cgroups.mode

    @property
    def may_raise_limits(self) -> bool:
        """CAP_SYS_RESOURCE: lower OOM scores and higher resource limits than the process's own can be set."""
        return "CAP_SYS_RESOURCE" in self.effective


def _read(path: Path) -> str:
    """A small file's text, "" where it is not there or not to be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _kernel_numbers(release: str) -> tuple[int, int, int]:
    numbers = [int(part) for part in re.findall(r"\d+", release.split("-", 1)[0])[:3]]
    return (*numbers, 0, 0, 0)[:3]  # type: ignore[return-value]


def _size_name(kib: int) -> str:
    """The hugetlb cgroup's name of a page size: 2048 → "2MB"."""
    for unit, factor in (("GB", 1 << 20), ("MB", 1 << 10)):
        if kib >= factor and kib % factor == 0:
            return f"{kib // factor}{unit}"
    return f"{kib}KB"


def _hugepage_sizes(root: str) -> tuple[str, ...]:
    sizes = []
    for entry in Path(root, "sys/kernel/mm/hugepages").glob("hugepages-*kB"):
        digits = entry.name.removeprefix("hugepages-").removesuffix("kB")
        if digits.isdigit():
            sizes.append(int(digits))
    return tuple(_size_name(size) for size in sorted(sizes))


def _rlimits(pid: int | str, root: str) -> dict[str, int]:
    """Hard limits out of /proc/PID/limits, by their OCI names."""
    names = {
        "Max cpu time": "RLIMIT_CPU",
        "Max file size": "RLIMIT_FSIZE",
        "Max data size": "RLIMIT_DATA",
        "Max stack size": "RLIMIT_STACK",
        "Max core file size": "RLIMIT_CORE",
        "Max resident set": "RLIMIT_RSS",
        "Max processes": "RLIMIT_NPROC",
        "Max open files": "RLIMIT_NOFILE",
        "Max locked memory": "RLIMIT_MEMLOCK",
        "Max address space": "RLIMIT_AS",
        "Max file locks": "RLIMIT_LOCKS",
        "Max pending signals": "RLIMIT_SIGPENDING",
        "Max msgqueue size": "RLIMIT_MSGQUEUE",
        "Max nice priority": "RLIMIT_NICE",
        "Max realtime priority": "RLIMIT_RTPRIO",
        "Max realtime timeout": "RLIMIT_RTTIME",
    }
    limits = {}
    for line in _read(Path(root, "proc", str(pid), "limits")).splitlines():
        match = re.match(r"(Max [a-z ]+?)\s{2,}\S+\s+(\S+)", line)
        if match and match[1] in names:
            limits[names[match[1]]] = -1 if match[2] == "unlimited" else int(match[2])
    return limits


def _swap_accounting(layout: CgroupLayout, root: str) -> bool:
    memory = layout.hierarchy("memory")
    if memory is None:
        return False
    if layout.unified:
        # The root cgroup has no memory.swap.max; a first-level child has it exactly when swap is accounted.
        return any(Path(memory.mount_point).glob("*/memory.swap.max")) or Path(root, "proc/swaps").exists()
    return Path(memory.mount_point, "memory.memsw.limit_in_bytes").exists()


def gather(pid: int | str = "self", root: str = "/") -> HostFacts:
    """The facts. `pid`: whose privileges count, containerd's where it is known (the peer of its socket).

    A process that is gone or may not be read raises OSError; whatever else cannot be read counts as absent.
    `root`: a recorded tree for tests (`proc`, `sys`, `run`); uname is always this machine's.
    """
    uname = os.uname()
    base = Path(root)
    sets = read_sets(pid, root)
    layout = cgroups.detect(root)
    kernel = _kernel_numbers(uname.release)
    status = _read(base / "proc" / str(pid) / "status")
    return HostFacts(
        machine=uname.machine,
        architecture=_ARCHITECTURES.get(uname.machine, uname.machine),
        kernel_release=uname.release,
        kernel=kernel,
        cgroups=layout,
        systemd=(base / "run/systemd/system").is_dir() and _read(base / "proc/1/comm") == "systemd",
        apparmor=_read(base / "sys/module/apparmor/parameters/enabled") == "Y"
        and (base / "sys/kernel/security/apparmor").is_dir(),
        selinux=(base / "sys/fs/selinux/enforce").exists(),
        seccomp="\nSeccomp:" in status,
        seccomp_actions=frozenset(_read(base / "proc/sys/kernel/seccomp/actions_avail").split()),
        bounding=sets.bounding,
        effective=sets.effective,
        oom_score_adj=int(_read(base / "proc" / str(pid) / "oom_score_adj") or 0),
        oom_score_adj_min=oom_score_adj_floor(pid, root),
        rlimits=_rlimits(pid, root),
        hugepage_sizes=_hugepage_sizes(root),
        swap_accounting=_swap_accounting(layout, root),
        user_namespaces=(base / "proc" / str(pid) / "ns/user").exists()
        and int(_read(base / "proc/sys/user/max_user_namespaces") or 0) > 0,
        rro_mounts=kernel >= (5, 12, 0),
    )
