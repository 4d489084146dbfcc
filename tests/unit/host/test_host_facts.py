# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acri.host import capabilities, facts
from acri.host.capabilities import clamp_rlimit
from acri.host.cgroups import CgroupMode

STATUS = "Name:\tx\nCapInh:\t0\nCapPrm:\t{caps}\nCapEff:\t{caps}\nCapBnd:\t000001ffffffffff\nSeccomp:\t0\n"
LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max open files            1024                 524288               files
Max msgqueue size         819200               819200               bytes
"""


def machine(root: Path, caps: str = "000001ffffffffff") -> Path:
    files = {
        "proc/77/status": STATUS.format(caps=caps),
        "proc/77/limits": LIMITS,
        "proc/77/oom_score_adj": "-999\n",
        "proc/77/ns/user": "",
        "proc/1/comm": "systemd\n",
        "proc/self/mountinfo": "40 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "proc/sys/kernel/seccomp/actions_avail": "kill_process errno allow\n",
        "proc/sys/user/max_user_namespaces": "100\n",
        "proc/swaps": "",
        "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
        "sys/module/apparmor/parameters/enabled": "Y\n",
        "sys/kernel/security/apparmor/profiles": "",
        "sys/fs/selinux/enforce": "1",
        "sys/kernel/mm/hugepages/hugepages-1048576kB/nr": "",
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr": "",
        "sys/kernel/mm/hugepages/hugepages-64kB/nr": "",
        "run/systemd/system/x": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_recorded_machine(tmp_path: Path) -> None:
    found = facts.gather(77, str(machine(tmp_path)))
    assert found.cgroup_mode is CgroupMode.V2
    assert (found.systemd, found.apparmor, found.selinux, found.seccomp, found.user_namespaces) == (True,) * 5
    assert found.seccomp_actions == {"kill_process", "errno", "allow"}
    assert found.bounding == found.effective == capabilities.NAMES
    assert (found.may_raise_limits, found.oom_score_adj, found.oom_score_adj_min) == (True, -999, -1000)
    assert found.rlimits == {"RLIMIT_CPU": -1, "RLIMIT_NOFILE": 524288, "RLIMIT_MSGQUEUE": 819200}
    assert found.hugepage_sizes == ("64KB", "2MB", "1GB")


def test_without_sys_resource_the_own_score_is_the_lowest(tmp_path: Path) -> None:
    found = facts.gather(77, str(machine(tmp_path, "000001fffeffffff")))
    assert not found.may_raise_limits
    assert "CAP_SYS_RESOURCE" in found.bounding
    assert found.oom_score_adj_min == -999


def test_a_bare_machine(tmp_path: Path) -> None:
    for name, text in (("status", "CapBnd:\t0\nCapEff:\t0\n"), ("oom_score_adj", "0\n"), ("mountinfo", "")):
        (tmp_path / "proc/self").mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc/self" / name).write_text(text)
    found = facts.gather(root=str(tmp_path))
    assert not any((found.systemd, found.apparmor, found.selinux, found.seccomp, found.user_namespaces))
    assert (found.bounding, found.hugepage_sizes, found.rlimits) == ((), (), {})
    assert not found.swap_accounting


def test_this_machine() -> None:
    found = facts.gather()
    assert found.machine == os.uname().machine
    assert ".".join(map(str, found.kernel[:2])) in found.kernel_release
    assert set(found.effective) <= set(capabilities.NAMES)
    assert found.rlimits["RLIMIT_NOFILE"] != 0
    with pytest.raises(FileNotFoundError):
        facts.gather(4194305)


@pytest.mark.parametrize(
    ("soft", "hard", "own", "may", "expected"),
    [
        (1024, 4096, 2048, False, (1024, 2048)),
        (4096, 4096, 2048, False, (2048, 2048)),
        (4096, 4096, 2048, True, (4096, 4096)),
        (-1, -1, 2048, False, (2048, 2048)),
        (-1, -1, -1, False, (-1, -1)),
        (-1, -1, 10, True, (-1, -1)),
        (-1, 10, -1, False, (10, 10)),
    ],
)
def test_clamped_limits(soft: int, hard: int, own: int, may: bool, expected: tuple[int, int]) -> None:
    assert clamp_rlimit(soft, hard, own_hard=own, may_raise=may) == expected


@given(st.integers(0, (1 << 41) - 1))
def test_decoded_capabilities(mask: int) -> None:
    names = capabilities.decode(mask)
    assert sum(1 << capabilities.NAMES.index(name) for name in names) == mask
