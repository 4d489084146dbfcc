# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from oci_samples import PINS, host_pod, sandbox

from acri import errors
from acri.model.config import (
    IDMapping,
    LinuxContainerSecurityContext,
    NamespaceMode,
    NamespaceOption,
    UserNamespace,
)
from acri.model.sandbox import Namespaces
from acri.oci.namespaces import check_sandbox_options, container_options, namespaces

POD, CONTAINER, NODE, TARGET = NamespaceMode


def made(
    pod: NamespaceOption | None,
    own: NamespaceOption | None,
    *,
    target: str = "",
    unified: bool = True,
    privileged: bool = False,
) -> dict[str, str | None]:
    context = LinuxContainerSecurityContext(namespace_options=own, privileged=privileged)
    listed = namespaces(sandbox(pod), context, target_pid_path=target, unified=unified)
    return {entry["type"]: entry.get("path") for entry in listed}


SHARED = {"mount": None, "network": PINS.net, "uts": PINS.uts, "ipc": PINS.ipc, "cgroup": None}


def test_a_pod_of_critest_shares_all_it_can() -> None:
    assert made(None, None) == {**SHARED, "pid": PINS.pid}
    assert made(None, NamespaceOption()) == {**SHARED, "pid": PINS.pid}


def test_a_pod_of_the_kubelet_gives_each_container_its_pids() -> None:
    own = NamespaceOption(pid=CONTAINER)
    assert made(own, own) == {**SHARED, "pid": None}
    assert made(own, None) == {**SHARED, "pid": None}
    assert made(None, own) == {**SHARED, "pid": None}


def test_an_ephemeral_container_joins_its_target() -> None:
    own = NamespaceOption(pid=TARGET, target_id="x")
    assert made(NamespaceOption(pid=CONTAINER), own, target="/proc/7/ns/pid") == {**SHARED, "pid": "/proc/7/ns/pid"}
    with pytest.raises(errors.FailedPrecondition, match="target container x"):
        made(NamespaceOption(pid=CONTAINER), own)


def test_host_namespaces() -> None:
    pod = NamespaceOption(network=NODE, pid=NODE, ipc=NODE)
    for own in (pod, None, NamespaceOption()):
        assert made(pod, own) == {"mount": None, "cgroup": None}
    network = NamespaceOption(network=NODE, pid=CONTAINER)
    assert made(network, network) == {"mount": None, "ipc": PINS.ipc, "pid": None, "cgroup": None}


def test_the_cgroup_namespace_is_the_hosts_on_v1_and_for_privileged() -> None:
    assert "cgroup" not in made(None, None, unified=False)
    assert "cgroup" not in made(None, None, privileged=True)


@pytest.mark.parametrize("missing", ["net", "uts", "ipc", "pid"])
def test_a_missing_pin_is_never_the_hosts_namespace(missing: str) -> None:
    pod = sandbox(pins=replace(PINS, **{missing: ""}))
    with pytest.raises(errors.FailedPrecondition):
        namespaces(pod, LinuxContainerSecurityContext(), target_pid_path="", unified=True)


def test_every_combination_is_refused_or_keeps_what_the_pod_has_of_its_own() -> None:
    for pod_modes in itertools.product((POD, NODE), (POD, CONTAINER, NODE), (POD, NODE)):
        pod = NamespaceOption(*pod_modes)
        for modes in itertools.product(NamespaceMode, repeat=3):
            own = NamespaceOption(*modes, target_id="x" if modes[1] is TARGET else "")
            try:
                found = made(pod, own, target="/t")
            except errors.InvalidArgument:
                continue
            assert ("network" in found) == (pod.network is POD)
            assert ("uts" in found) == (pod.network is POD)
            assert ("ipc" in found) == (pod.ipc is POD)
            assert ("pid" in found) == (pod.pid is not NODE or own.pid in (CONTAINER, TARGET))
            assert None not in (found.get("network", ""), found.get("ipc", ""), found.get("uts", ""))


@pytest.mark.parametrize(
    ("pod", "own"),
    [
        (NamespaceOption(), NamespaceOption(network=NODE)),
        (NamespaceOption(), NamespaceOption(ipc=NODE)),
        (NamespaceOption(), NamespaceOption(pid=NODE)),
        (NamespaceOption(pid=CONTAINER), NamespaceOption(pid=POD)),
        (NamespaceOption(), NamespaceOption(network=CONTAINER)),
        (NamespaceOption(), NamespaceOption(ipc=TARGET)),
        (NamespaceOption(), NamespaceOption(pid=TARGET)),
        (NamespaceOption(), NamespaceOption(target_id="x")),
        (NamespaceOption(), NamespaceOption(userns_options=UserNamespace(POD))),
    ],
)
def test_contradictions(pod: NamespaceOption, own: NamespaceOption) -> None:
    with pytest.raises(errors.InvalidArgument):
        container_options(sandbox(pod), LinuxContainerSecurityContext(namespace_options=own))


MAPPING = (IDMapping(host_id=100_000, container_id=0, length=65_536),)


def test_user_namespaces_of_a_pod() -> None:
    check_sandbox_options(NamespaceOption(userns_options=UserNamespace(NODE)))
    with pytest.raises(errors.Unimplemented):
        check_sandbox_options(NamespaceOption(userns_options=UserNamespace(POD, MAPPING, MAPPING)))
    for bad in (
        UserNamespace(POD, MAPPING * 2, MAPPING * 2),
        UserNamespace(POD, (replace(MAPPING[0], container_id=1),), MAPPING),
        UserNamespace(POD),
        UserNamespace(CONTAINER),
        UserNamespace(TARGET),
        UserNamespace(NODE, MAPPING),
    ):
        with pytest.raises(errors.InvalidArgument):
            check_sandbox_options(NamespaceOption(userns_options=bad))


@pytest.mark.parametrize(
    "options",
    [
        NamespaceOption(network=CONTAINER),
        NamespaceOption(ipc=TARGET),
        NamespaceOption(pid=TARGET),
        NamespaceOption(target_id="x"),
    ],
)
def test_modes_that_a_pod_cannot_have(options: NamespaceOption) -> None:
    with pytest.raises(errors.InvalidArgument):
        check_sandbox_options(options)


def test_a_host_pod_needs_no_pins() -> None:
    assert host_pod().namespaces == Namespaces()
    listed = namespaces(host_pod(), LinuxContainerSecurityContext(), target_pid_path="", unified=False)
    assert listed == [{"type": "mount"}]
