# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acri import errors
from acri.host import sysctl
from acri.host.recording import RecordingKernel


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("kernel.shm_rmid_forced", "kernel/shm_rmid_forced"),
        ("fs.mqueue.msg_max", "fs/mqueue/msg_max"),
    ],
)
def test_both_spellings(name: str, path: str) -> None:
    assert sysctl.to_path(name) == path
    assert sysctl.check({name: "1"}) == {path: "1"}


@pytest.mark.parametrize(
    "name",
    ["", "net", ".", "net.", ".net.x", "net..x", "net.../..", "net/../kernel/core_pattern", "net/./x", "/net/x",
     "net/x/", "net.ipv4.a b", "net.ipv4.a\n", "net/ipv4/\0", "net.*.x"],
)  # fmt: skip
def test_no_path_tricks(name: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        sysctl.check({name: "1"})


@pytest.mark.parametrize(
    "name",
    ["kernel.core_pattern", "vm.swappiness", "kernel.hostname", "fs.file-max", "kernel.semx", "fs.mqueue", "user.x",
     "netx.a", "kernel.sem/x"],
)  # fmt: skip
def test_what_is_not_namespaced_is_refused(name: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        sysctl.check({name: "1"})


@pytest.mark.parametrize(
    ("name", "shared"),
    [("net.ipv4.tcp_syncookies", "host_network"), ("kernel.sem", "host_ipc"), ("fs/mqueue/msg_max", "host_ipc"),
     ("kernel.domainname", "host_uts")],
)  # fmt: skip
def test_a_namespace_shared_with_the_node_is_left_alone(name: str, shared: str) -> None:
    assert sysctl.check({name: "1"})
    with pytest.raises(errors.InvalidArgument, match="would change the node"):
        sysctl.check({name: "1"}, **{shared: True})


def test_two_spellings_must_agree() -> None:
    assert len(sysctl.check({"net.a": "1", "net/a": "1"})) == 1
    with pytest.raises(errors.InvalidArgument, match="twice"):
        sysctl.check({"net.a": "1", "net/a": "2"})


def test_values() -> None:
    assert sysctl.check({"kernel.sem": "32000\t1024000000\t500\t32000"})
    with pytest.raises(errors.InvalidArgument, match="control character"):
        sysctl.check({"net.a": "1\n2"})


@given(st.text(alphabet="net./kernlshm_0.", max_size=30))
def test_whatever_is_accepted_stays_below_its_namespace(name: str) -> None:
    try:
        (path,) = sysctl.check({name: "1"})
    except errors.InvalidArgument:
        return
    assert path == "kernel/sem" or path.startswith(("net/", "kernel/shm"))
    assert not {"", ".", ".."} & set(path.split("/"))


def test_apply_tells_whose_fault_it_is() -> None:
    def apply(number: int, *, skip: bool = False) -> None:
        sysctl.apply(RecordingKernel(fail_at=0, error=number), {"net/a": "1"}, skip_missing=skip)

    with pytest.raises(errors.InvalidArgument, match="none of that name"):
        apply(errno.ENOENT)
    apply(errno.ENOENT, skip=True)
    with pytest.raises(errors.InvalidArgument, match="refuses the value"):
        apply(errno.EINVAL, skip=True)
    with pytest.raises(errors.PermissionDenied):
        apply(errno.EROFS)
