# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oci_samples import HOST

from acri import errors
from acri.host.capabilities import NAMES
from acri.model.config import LinuxContainerSecurityContext, SecurityProfile, SecurityProfileType
from acri.oci import seccomp
from acri.oci.security import DEFAULT_CAPABILITIES

# Debian's golang-github-containerd-containerd-dev: containerd's table, to compare with.
CONTAINERD = Path("/usr/share/gocode/src/github.com/containerd/containerd/contrib/seccomp/seccomp_default.go")


def default(
    caps: tuple[str, ...] = DEFAULT_CAPABILITIES, arch: str = "amd64", kernel: tuple[int, ...] = (6, 1, 0)
) -> Any:
    return seccomp.runtime_default(caps, arch, kernel)


def outright(profile: Any) -> set[str]:
    """Calls that are allowed whatever their arguments."""
    return {
        name
        for rule in profile["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args")
        for name in rule["names"]
    }


def rules(profile: Any, name: str) -> list[Any]:
    return [rule for rule in profile["syscalls"] if name in rule["names"]]


def test_what_a_default_container_may_call() -> None:
    profile = default()
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    may = outright(profile)
    assert {"read", "openat2", "execve", "faccessat2", "ptrace", "chroot", "arch_prctl", "futex_waitv"} <= may
    for name in ("mount", "unshare", "setns", "bpf", "keyctl", "add_key", "io_uring_setup", "userfaultfd", "reboot",
                 "init_module", "kexec_load", "open_by_handle_at", "pivot_root", "settimeofday", "clone"):  # fmt: skip
        assert name not in may


def test_clone_may_make_threads_but_no_namespaces() -> None:
    (clone,) = rules(default(), "clone")
    assert clone["args"] == [{"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 0x7E020000, "valueTwo": 0}]
    (clone3,) = rules(default(), "clone3")
    assert (clone3["action"], clone3["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    (on_s390,) = rules(default(arch="s390x"), "clone")
    assert on_s390["args"][0]["index"] == 1
    admin = default((*DEFAULT_CAPABILITIES, "CAP_SYS_ADMIN"))
    assert {"clone", "clone3", "mount"} <= outright(admin)
    assert [rule["action"] for rule in rules(admin, "clone3")] == ["SCMP_ACT_ALLOW"]


def test_sockets_but_not_to_the_hypervisor() -> None:
    (rule,) = rules(default(), "socket")
    assert rule["args"] == [{"index": 0, "op": "SCMP_CMP_NE", "value": 40}]


@pytest.mark.parametrize(
    ("capability", "call"),
    [
        *[("CAP_SYS_BOOT", "reboot"), ("CAP_SYS_MODULE", "finit_module"), ("CAP_SYS_TIME", "settimeofday")],
        *[("CAP_SYS_PTRACE", "pidfd_getfd"), ("CAP_BPF", "bpf"), ("CAP_DAC_READ_SEARCH", "open_by_handle_at")],
        *[("CAP_SYS_NICE", "mbind"), ("CAP_SYSLOG", "syslog"), ("CAP_PERFMON", "perf_event_open")],
        *[("CAP_SYS_RAWIO", "iopl"), ("CAP_SYS_TTY_CONFIG", "vhangup"), ("CAP_SYS_PACCT", "acct")],
    ],
)
def test_a_capability_brings_its_calls(capability: str, call: str) -> None:
    assert call not in outright(default())
    assert call in outright(default((capability,)))


def test_kernel_and_architecture() -> None:
    assert "ptrace" not in outright(default(kernel=(4, 7, 9)))
    assert "ptrace" in outright(default(kernel=(4, 8, 0)))
    assert default(arch="arm64")["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert "breakpoint" in outright(default(arch="arm64"))
    assert "arch_prctl" not in outright(default(arch="arm64"))
    assert default(arch="vax")["architectures"] == []


@given(st.sets(st.sampled_from(NAMES)), st.sampled_from(NAMES))
def test_more_capabilities_never_mean_fewer_calls(caps: set[str], more: str) -> None:
    fewer = outright(default(tuple(caps)))
    assert fewer <= outright(default((*caps, more)))


def test_profiles_share_nothing() -> None:
    first = default()
    first["syscalls"].clear()
    first["architectures"].clear()
    assert default()["syscalls"]
    assert default()["architectures"]


@pytest.mark.skipif(not CONTAINERD.exists(), reason="golang-github-containerd-containerd-dev is not installed")
def test_the_same_sense_as_containerds_table() -> None:
    text = CONTAINERD.read_text()
    theirs = set(re.findall(r'"(\w+)"', text.split("Names: []string{")[1].split("}")[0]))
    # What containerd itself has changed since 1.6: io_uring is out, sockets know a condition.
    since = {"io_uring_enter", "io_uring_register", "io_uring_setup", "socket"}
    assert theirs - outright(default(())) <= since
    newer = outright(default((), "none", (4, 0))) - theirs
    assert newer <= {  # a later containerd has some of them itself
        *("cachestat", "fchmodat2", "futex_requeue", "futex_wait", "futex_wake", "map_shadow_stack"),  # 2.0
        "name_to_handle_at",  # 2.0
        *("getxattrat", "setxattrat", "listxattrat", "removexattrat", "mseal", "uretprobe"),  # Linux 6.10 to 6.13
        *("file_getattr", "file_setattr"),  # Linux 6.17
    }


RUNTIME_DEFAULT = SecurityProfile(SecurityProfileType.RUNTIME_DEFAULT)
UNCONFINED = SecurityProfile(SecurityProfileType.UNCONFINED)
LOCALHOST = SecurityProfile(SecurityProfileType.LOCALHOST, "/p/x.json")


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ({}, UNCONFINED),
        ({"seccomp": RUNTIME_DEFAULT}, RUNTIME_DEFAULT),
        ({"seccomp": RUNTIME_DEFAULT, "privileged": True}, UNCONFINED),
        ({"seccomp": LOCALHOST}, LOCALHOST),
        ({"seccomp": LOCALHOST, "privileged": True}, UNCONFINED),
        ({"seccomp": UNCONFINED, "seccomp_profile_path": "runtime/default"}, UNCONFINED),
        ({"seccomp_profile_path": "runtime/default"}, RUNTIME_DEFAULT),
        ({"seccomp_profile_path": "docker/default"}, RUNTIME_DEFAULT),
        ({"seccomp_profile_path": "unconfined"}, UNCONFINED),
        ({"seccomp_profile_path": "localhost//p/x.json"}, LOCALHOST),
    ],
)
def test_which_profile(context: dict[str, Any], expected: SecurityProfile) -> None:
    assert seccomp.wanted(LinuxContainerSecurityContext(**context)) == expected


@pytest.mark.parametrize(
    "context",
    [
        {"seccomp": SecurityProfile(SecurityProfileType.LOCALHOST, "rel.json")},
        {"seccomp": SecurityProfile(SecurityProfileType.LOCALHOST, "")},
        {"seccomp": SecurityProfile(SecurityProfileType.RUNTIME_DEFAULT, "/x")},
        {"seccomp_profile_path": "somewhere"},
        {"seccomp_profile_path": "localhost/rel"},
    ],
)
def test_bad_wishes(context: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidArgument):
        seccomp.wanted(LinuxContainerSecurityContext(**context))


def test_a_kernel_without_filters() -> None:
    deaf = replace(HOST, seccomp=False)
    wish = LinuxContainerSecurityContext(seccomp=RUNTIME_DEFAULT)
    with pytest.raises(errors.Unimplemented):
        seccomp.build(wish, bounding=(), host=deaf, localhost=None)
    assert seccomp.build(LinuxContainerSecurityContext(), bounding=(), host=deaf, localhost=None) is None


def test_localhost_profiles() -> None:
    wish = LinuxContainerSecurityContext(seccomp=LOCALHOST)
    assert seccomp.localhost_path(wish) == "/p/x.json"
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            {
                "names": ["chmod"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": 1,
                "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}],
            }
        ],
    }
    data = json.dumps({**profile, "archMap": [{"x": 1}]}).encode()
    assert seccomp.build(wish, bounding=(), host=HOST, localhost=data) == profile
    with pytest.raises(errors.InvalidArgument, match="not found on this node"):
        seccomp.build(wish, bounding=(), host=HOST, localhost=None)


@pytest.mark.parametrize(
    "text",
    [
        *["", "[]", "{}", '{"defaultAction":"x"}', "[" * 100_000, '{"defaultAction":["SCMP_ACT_ALLOW"]}'],
        '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":{}}',
        '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[1]}',
        '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[]}]}',
        '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":"a","action":"SCMP_ACT_ALLOW"}]}',
        '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"ALLOW"}]}',
        '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_LOG","args":[{"op":"x"}]}]}',
        '{"defaultAction":"SCMP_ACT_ALLOW","architectures":"x"}',
        '{"defaultAction":"SCMP_ACT_ALLOW","defaultErrnoRet":"x"}',
        " " * (seccomp.LOCALHOST_LIMIT + 1),
    ],
)
def test_localhost_profiles_that_are_none(text: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="/p"):
        seccomp.parse_localhost(text.encode(), "/p")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["defaultAction", "syscalls", "architectures", "flags", "defaultErrnoRet", "listenerPath"])


@given(st.dictionaries(keys, json_values))
def test_any_json_gives_a_profile_or_a_clear_error(document: dict[str, Any]) -> None:
    try:
        seccomp.parse_localhost(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", **document}).encode(), "/p")
    except errors.InvalidArgument:
        pass
