# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oci_samples import HOST, container, sandbox

from acri import errors
from acri.host.capabilities import NAMES
from acri.model.config import (
    Capability,
    LinuxContainerSecurityContext,
    SecurityProfile,
    SecurityProfileType,
    SELinuxOption,
)
from acri.oci import security

WITHOUT_RESOURCE = tuple(name for name in NAMES if name != "CAP_SYS_RESOURCE")


def allowed(
    add: tuple[str, ...] = (), drop: tuple[str, ...] = (), available: tuple[str, ...] = NAMES, **more: bool
) -> set[str]:
    context = LinuxContainerSecurityContext(capabilities=Capability(add, drop), **more)
    return set(security.capabilities(context, available).allowed)


DEFAULT = set(security.DEFAULT_CAPABILITIES)


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ((), (), DEFAULT),
        (("NET_ADMIN",), (), DEFAULT | {"CAP_NET_ADMIN"}),
        (("cap_net_admin", "Sys_Time"), (), DEFAULT | {"CAP_NET_ADMIN", "CAP_SYS_TIME"}),
        ((), ("NET_RAW",), DEFAULT - {"CAP_NET_RAW"}),
        ((), ("all",), set()),
        (("ALL",), (), set(NAMES)),
        (("ALL",), ("ALL",), set()),
        (("NET_BIND_SERVICE",), ("ALL",), {"CAP_NET_BIND_SERVICE"}),
        (("ALL",), ("SYS_ADMIN",), set(NAMES) - {"CAP_SYS_ADMIN"}),
        (("CHOWN",), ("CHOWN",), DEFAULT - {"CAP_CHOWN"}),
        (("ALL", "NET_RAW"), ("ALL",), {"CAP_NET_RAW"}),
    ],
)
def test_capabilities(add: tuple[str, ...], drop: tuple[str, ...], expected: set[str]) -> None:
    assert allowed(add, drop) == expected


def test_all_is_what_the_host_has() -> None:
    assert allowed(("ALL",), available=WITHOUT_RESOURCE) == set(WITHOUT_RESOURCE)
    assert allowed(available=WITHOUT_RESOURCE, drop=("ALL",), privileged=True) == set(WITHOUT_RESOURCE)
    assert allowed(available=("CAP_CHOWN",)) == {"CAP_CHOWN"}
    with pytest.raises(errors.PermissionDenied, match="CAP_SYS_RESOURCE"):
        allowed(("SYS_RESOURCE",), available=WITHOUT_RESOURCE)


@pytest.mark.parametrize("name", ["", "NOPE", "CAP_", "CAP_CAP_CHOWN", "NET ADMIN", "CAP_ALL"])
def test_unknown_capability(name: str) -> None:
    for capability in (Capability((name,)), Capability((), (name,)), Capability((), (), (name,))):
        with pytest.raises(errors.InvalidArgument):
            security.capabilities(LinuxContainerSecurityContext(capabilities=capability), NAMES)


some = st.lists(st.sampled_from([*NAMES, "ALL", "all", *(name[4:] for name in NAMES)]), max_size=6)


@given(some, some, some)
def test_no_capability_that_was_dropped_and_inheritable_only_for_ambient(
    add: list[str], drop: list[str], ambient: list[str]
) -> None:
    wish = Capability(tuple(add), tuple(drop), tuple(ambient))
    made = security.capabilities(LinuxContainerSecurityContext(capabilities=wish), NAMES)
    dropped = {f"CAP_{name.removeprefix('CAP_')}" for name in drop if name.upper() != "ALL"}
    assert dropped.isdisjoint(made.allowed)
    assert set(made.ambient) <= set(made.allowed)
    spec = made.spec()
    assert spec["inheritable"] == spec["ambient"] == list(made.ambient)
    assert bool(made.ambient) <= bool(ambient)
    assert spec["bounding"] == spec["effective"] == spec["permitted"] == list(made.allowed)


def test_privileged_needs_a_privileged_pod() -> None:
    context = LinuxContainerSecurityContext(privileged=True)
    security.check_privileged(sandbox(privileged=True), context)
    with pytest.raises(errors.InvalidArgument, match="privileged"):
        security.check_privileged(sandbox(), context)


def test_paths_are_the_requests_own_and_none_when_privileged() -> None:
    context = LinuxContainerSecurityContext(masked_paths=("/proc/kcore",), readonly_paths=("/proc/sys/",))
    assert security.hidden_paths(context) == (["/proc/kcore"], ["/proc/sys"])
    assert security.hidden_paths(replace(context, privileged=True)) == ([], [])
    assert security.hidden_paths(security.security_context(container())) == ([], [])
    for path in ("", "proc", "/proc/../etc"):
        with pytest.raises(errors.InvalidArgument):
            security.hidden_paths(LinuxContainerSecurityContext(masked_paths=(path,)))


ON = replace(HOST, apparmor=True)
LOCALHOST = SecurityProfile(SecurityProfileType.LOCALHOST, "localhost/mine")


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ({}, "default"),
        ({"privileged": True}, ""),
        ({"apparmor": SecurityProfile(SecurityProfileType.UNCONFINED)}, ""),
        ({"apparmor": LOCALHOST}, "mine"),
        ({"apparmor": LOCALHOST, "privileged": True}, "mine"),
        ({"apparmor_profile": "runtime/default"}, "default"),
        ({"apparmor_profile": "unconfined"}, ""),
        ({"apparmor_profile": "localhost/mine"}, "mine"),
        ({"apparmor_profile": "localhost/other", "apparmor": SecurityProfile()}, "default"),
    ],
)
def test_apparmor(context: dict[str, object], expected: str) -> None:
    wish = LinuxContainerSecurityContext(**context)  # type: ignore[arg-type]
    made = security.apparmor_profile(wish, ON, default="default", loaded=frozenset({"mine"}))
    assert made == expected


def test_apparmor_refusals() -> None:
    wish = LinuxContainerSecurityContext(apparmor=LOCALHOST)
    with pytest.raises(errors.FailedPrecondition, match="not enabled"):
        security.apparmor_profile(wish, HOST, loaded=frozenset({"mine"}))
    with pytest.raises(errors.InvalidArgument, match="not loaded"):
        security.apparmor_profile(wish, ON)
    assert security.apparmor_profile(LinuxContainerSecurityContext(), HOST, default="default") == ""
    for bad in (
        LinuxContainerSecurityContext(apparmor_profile="docker"),
        LinuxContainerSecurityContext(apparmor=SecurityProfile(SecurityProfileType.LOCALHOST)),
        LinuxContainerSecurityContext(apparmor=SecurityProfile(SecurityProfileType.UNCONFINED, "x")),
    ):
        with pytest.raises(errors.InvalidArgument):
            security.apparmor_profile(bad, ON)


def test_selinux_levels() -> None:
    for level in ("", "s0", "s0:c1,c2", "s0-s0:c0.c1023"):
        security.check_selinux_options(SELinuxOption(level=level))
    for level in ("s0,c4,c5", "c1", "s0:c12345", "s0:c1\n"):
        with pytest.raises(errors.InvalidArgument):
            security.check_selinux_options(SELinuxOption(level=level))
