# SPDX-License-Identifier: Apache-2.0
"""Machines, pods and containers for the tests of `acri.oci`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from acri.host.capabilities import NAMES
from acri.host.cgroups import CgroupLayout, CgroupMode, Hierarchy
from acri.host.facts import HostFacts
from acri.model.config import (
    ContainerConfig,
    ContainerMetadata,
    ImageSpec,
    LinuxContainerConfig,
    LinuxContainerSecurityContext,
    LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext,
    NamespaceMode,
    NamespaceOption,
    PodSandboxConfig,
    PodSandboxMetadata,
)
from acri.model.container import User
from acri.model.image import ImageConfig
from acri.model.sandbox import Namespaces, Phase, Sandbox
from acri.oci.mounts import ContainerPaths
from acri.oci.spec import SpecInputs

CONTROLLERS = frozenset({"cpu", "cpuset", "memory", "pids", "hugetlb", "io"})

HOST = HostFacts(
    machine="x86_64",
    architecture="amd64",
    kernel_release="6.12.1",
    kernel=(6, 12, 1),
    cgroups=CgroupLayout(CgroupMode.V2, (Hierarchy("/sys/fs/cgroup", 2, CONTROLLERS),)),
    systemd=True,
    apparmor=False,
    selinux=False,
    seccomp=True,
    seccomp_actions=frozenset({"errno", "allow"}),
    bounding=NAMES,
    effective=NAMES,
    oom_score_adj=0,
    oom_score_adj_min=-1000,
    rlimits={},
    hugepage_sizes=("2MB", "1GB"),
    swap_accounting=True,
    user_namespaces=True,
    rro_mounts=True,
)
HOST_V1 = replace(
    HOST,
    cgroups=CgroupLayout(
        CgroupMode.HYBRID,
        (Hierarchy("/sys/fs/cgroup/memory", 1, frozenset({"memory"})), Hierarchy("/sys/fs/cgroup/u", 2, frozenset())),
    ),
)

PINS = Namespaces("/run/netns/acri-s", "/run/acri/ns/ipc/s", "/run/acri/ns/uts/s", "/run/acri/ns/pid/s")
PATHS = ContainerPaths("/r/hostname", "/r/hosts", "/r/resolv.conf", "/r/shm")
IMAGE = ImageConfig(env=("PATH=/bin", "LANG=C"), entrypoint=("/entry",), cmd=("serve",), working_dir="/srv")


def sandbox(
    options: NamespaceOption | None = None, *, privileged: bool = False, pins: Namespaces = PINS, **config: Any
) -> Sandbox:
    context = LinuxSandboxSecurityContext(namespace_options=options, privileged=privileged)
    return Sandbox(
        id="5" * 64,
        config=PodSandboxConfig(
            metadata=PodSandboxMetadata("web", "uid-1", "default", 0),
            linux=LinuxPodSandboxConfig(security_context=context),
            **config,
        ),
        runtime_handler="",
        created_at_ns=1,
        phase=Phase.READY,
        namespaces=pins,
        cgroup_parent="/kubepods/poduid-1",
    )


def host_pod(*, privileged: bool = False) -> Sandbox:
    node = NamespaceMode.NODE
    return sandbox(NamespaceOption(network=node, pid=node, ipc=node), privileged=privileged, pins=Namespaces())


def container(context: LinuxContainerSecurityContext | None = None, **config: Any) -> ContainerConfig:
    resources = config.pop("resources", None)
    linux = None if context is None and resources is None else LinuxContainerConfig(resources, context)
    return ContainerConfig(metadata=ContainerMetadata("app", 0), image=ImageSpec("img:1"), linux=linux, **config)


def inputs(config: ContainerConfig | None = None, **changes: Any) -> SpecInputs:
    base = SpecInputs(
        container_id="c" * 64,
        sandbox=sandbox(),
        config=config or container(),
        image=IMAGE,
        user=User(0, 0, (0,)),
        host=HOST,
        paths=PATHS,
        hostname="web-0",
        cgroups_path="/kubepods/poduid-1/" + "c" * 64,
        cgroup_options=("nsdelegate", "memory_recursiveprot"),
    )
    return replace(base, **changes)
