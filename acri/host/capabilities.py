# SPDX-License-Identifier: Apache-2.0
"""What a process may do: capability sets, the lowest OOM score, resource limits (capabilities(7), proc(5)).

containers are children of containerd's shim, so what counts for them is what *containerd's* process may do; every
function here takes the pid to ask about ("self" by default).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["NAMES", "CapabilitySets", "clamp_rlimit", "decode", "oom_score_adj_floor", "read_sets"]

# linux/capability.h, in the order of their bits.
NAMES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)


@dataclass(frozen=True, slots=True)
class CapabilitySets:
    """Names as in `NAMES`, in bit order. Bits that have no name here (a newer kernel) are left out."""

    bounding: tuple[str, ...]
    effective: tuple[str, ...]
    permitted: tuple[str, ...]


def decode(mask: int) -> tuple[str, ...]:
    """The names of the bits that are set in `mask`."""
    return tuple(name for bit, name in enumerate(NAMES) if mask >> bit & 1)


def read_sets(pid: int | str = "self", root: str = "/") -> CapabilitySets:
    """The sets of a process. Raises FileNotFoundError if it is gone."""
    masks = {}
    for line in Path(root, "proc", str(pid), "status").read_text(encoding="ascii", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key in ("CapBnd", "CapEff", "CapPrm"):
            masks[key] = int(value, 16)
    return CapabilitySets(
        bounding=decode(masks.get("CapBnd", 0)),
        effective=decode(masks.get("CapEff", 0)),
        permitted=decode(masks.get("CapPrm", 0)),
    )


def oom_score_adj_floor(pid: int | str = "self", root: str = "/") -> int:
    """The lowest oom_score_adj that a child of the process may be given without an error.

    With CAP_SYS_RESOURCE anything down to -1000; without it the kernel refuses less than a minimum that it does not
    show, but never refuses what the process has itself (fs/proc/base.c, __set_oom_adj).
    """
    if "CAP_SYS_RESOURCE" in read_sets(pid, root).effective:
        return -1000
    return int(Path(root, "proc", str(pid), "oom_score_adj").read_text(encoding="ascii"))


def clamp_rlimit(soft: int, hard: int, *, own_hard: int, may_raise: bool) -> tuple[int, int]:
    """A resource limit that can be set: without CAP_SYS_RESOURCE (`may_raise`) no more than the own hard limit.

    -1 is "unlimited" (RLIM_INFINITY), in and out. The soft limit never exceeds the hard one.
    """
    infinite = 1 << 64

    def widen(value: int) -> int:
        return infinite if value == -1 else value

    limit = widen(hard) if may_raise else min(widen(hard), widen(own_hard))
    low = min(widen(soft), limit)
    return (-1 if low == infinite else low), (-1 if limit == infinite else limit)
