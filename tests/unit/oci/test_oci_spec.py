# SPDX-License-Identifier: Apache-2.0
"""Golden specs: a plain container's whole, and what each other shape changes in it.

`golden.json` holds {shape: {path: value, or null where it is gone}}: all of the shape "plain", and of each other what
differs from that. After a change that is meant, write it anew and read the difference:
ACRI_UPDATE_GOLDEN=1 python -m pytest tests/unit/oci/test_oci_spec.py
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from oci_samples import HOST, HOST_V1, IMAGE, container, host_pod, inputs, sandbox

from acri import errors
from acri.host.capabilities import NAMES
from acri.model.config import (
    Capability,
    CDIDevice,
    ContainerConfig,
    Device,
    HugepageLimit,
    ImageSpec,
    KeyValue,
    LinuxContainerResources,
    LinuxContainerSecurityContext,
    Mount,
    MountPropagation,
    NamespaceMode,
    NamespaceOption,
    SecurityProfile,
    SecurityProfileType,
)
from acri.model.container import User
from acri.model.image import ImageConfig
from acri.oci.devices import HostDevice, ResolvedDevice
from acri.oci.mounts import ContainerPaths, ResolvedMount
from acri.oci.process import Rlimit
from acri.oci.sandbox_spec import sandbox_spec
from acri.oci.spec import LSMInputs, SpecInputs, SpecSettings, build, check

GOLDEN = Path(__file__).with_name("golden.json")
Context = LinuxContainerSecurityContext
POD, CONTAINER, NODE, TARGET = NamespaceMode
GIB = 1 << 30
FUSE = HostDevice("/dev/fuse", "c", 10, 229, 0o666, 0, 0)
SDA = HostDevice("/dev/sda", "b", 8, 0, 0o660, 0, 6)
PRIVILEGED = inputs(container(Context(privileged=True)), sandbox=sandbox(privileged=True), host_devices=(FUSE, SDA))
KUBELET_MASKED = ("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware")
KUBELET_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
LOCALHOST = b'{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO"}]}'


def context(value: LinuxContainerSecurityContext, **changes: Any) -> SpecInputs:
    return inputs(container(value), **changes)


def resources(host: Any = HOST, **fields: Any) -> SpecInputs:
    return inputs(container(resources=LinuxContainerResources(**fields)), host=host)


def config(**fields: Any) -> SpecInputs:
    return inputs(container(**fields))


def mounted(*mounts: ResolvedMount, **changes: Any) -> SpecInputs:
    return inputs(container(mounts=tuple(entry.mount for entry in mounts)), mounts=mounts, **changes)


SHAPES: dict[str, SpecInputs] = {
    "command": config(command=("sh", "-c"), args=("id",)),
    "args-only": config(args=("--help",)),
    "env-and-cwd": config(envs=(KeyValue("LANG", "de"), KeyValue("NEW", "a=b")), working_dir="/tmp"),
    "tty": config(tty=True, stdin=True),
    "bare-image": replace(config(command=("x",)), image=ImageConfig()),
    "user": context(Context(run_as_user=1000), user=User(1000, 1001, (7, 1001))),
    "no-new-privs": context(Context(no_new_privs=True, readonly_rootfs=True)),
    "restricted": context(
        Context(
            capabilities=Capability(drop_capabilities=("ALL",), add_capabilities=("NET_BIND_SERVICE",)),
            no_new_privs=True,
            seccomp=SecurityProfile(),
            masked_paths=KUBELET_MASKED,
            readonly_paths=KUBELET_READONLY,
        ),
        user=User(65532, 65532, (65532,)),
    ),
    "net-admin": context(Context(capabilities=Capability(("NET_ADMIN",)))),
    "ambient": context(Context(capabilities=Capability(add_ambient_capabilities=("NET_RAW",)))),
    "all-but-two": context(Context(capabilities=Capability(("ALL",), ("SYS_ADMIN", "SYS_MODULE")))),
    "privileged": PRIVILEGED,
    "privileged-v1": replace(PRIVILEGED, host=HOST_V1),
    "privileged-ignores-profiles": replace(
        PRIVILEGED,
        config=container(
            Context(
                privileged=True,
                seccomp=SecurityProfile(),
                masked_paths=KUBELET_MASKED,
                readonly_paths=KUBELET_READONLY,
                capabilities=Capability(drop_capabilities=("ALL",)),
            )
        ),
    ),
    "privileged-without-devices": replace(PRIVILEGED, settings=SpecSettings(privileged_without_host_devices=True)),
    "privileged-where-the-host-lacks-one": replace(
        PRIVILEGED, host=replace(HOST, bounding=tuple(name for name in NAMES if name != "CAP_SYS_RESOURCE"))
    ),
    "host-namespaces": inputs(
        sandbox=host_pod(), paths=ContainerPaths("/r/hostname", "/r/hosts", "/r/resolv.conf", "/dev/shm")
    ),
    "own-pids": inputs(sandbox=sandbox(NamespaceOption(pid=CONTAINER))),
    "target-pids": context(
        Context(namespace_options=NamespaceOption(pid=TARGET, target_id="x")),
        sandbox=sandbox(NamespaceOption(pid=CONTAINER)),
        target_pid_path="/proc/77/ns/pid",
    ),
    "cgroup-v1": inputs(host=HOST_V1),
    "seccomp-default": context(Context(seccomp=SecurityProfile())),
    "seccomp-localhost": context(
        Context(seccomp=SecurityProfile(SecurityProfileType.LOCALHOST, "/p.json")), localhost_seccomp=LOCALHOST
    ),
    "apparmor": inputs(host=replace(HOST, apparmor=True), lsm=LSMInputs(apparmor_default="acri-default")),
    "selinux": inputs(lsm=LSMInputs(selinux_process="system_u:system_r:c_t:s0", selinux_mount="o:s0")),
    "guaranteed": resources(
        cpu_shares=1024,
        cpu_quota=100_000,
        cpu_period=100_000,
        memory_limit_in_bytes=GIB,
        oom_score_adj=-997,
        unified={"memory.oom.group": "1"},
        hugepage_limits=(HugepageLimit("2MB", 0), HugepageLimit("1GB", 0)),
    ),
    "best-effort-v1": resources(HOST_V1, cpu_shares=2, cpu_period=100_000, oom_score_adj=1000),
    "exclusive-cpus": resources(cpu_quota=-1, cpu_period=100_000, cpuset_cpus="2-3", cpuset_mems="0"),
    "oom-score-raised": resources(replace(HOST, oom_score_adj_min=0), oom_score_adj=-997),
    "mounts": mounted(
        ResolvedMount(Mount("/data/sub", "/h/link", readonly=True), "/h/real"),
        ResolvedMount(Mount("/data", "/h/data"), "/h/data"),
        ResolvedMount(Mount("/etc/hosts", "/var/lib/kubelet/pods/u/etc-hosts"), "/var/lib/kubelet/pods/u/etc-hosts"),
        ResolvedMount(Mount("/dev/termination-log", "/k/t"), "/k/t"),
    ),
    "propagation": mounted(
        ResolvedMount(Mount("/a", "/a", propagation=MountPropagation.BIDIRECTIONAL), "/a", shared=True),
        ResolvedMount(Mount("/b", "/b", propagation=MountPropagation.HOST_TO_CONTAINER), "/b", slave=True),
    ),
    "recursive-read-only": mounted(ResolvedMount(Mount("/a", "/a", readonly=True, recursive_read_only=True), "/a")),
    "devices": inputs(
        container(devices=(Device("/dev/f", "/dev/fuse", "rw"),)),
        devices=(ResolvedDevice(Device("/dev/f", "/dev/fuse", "rw"), "/dev/fuse", (FUSE,)),),
    ),
    "device-owner": inputs(
        container(Context(run_as_user=1000, run_as_group=44), devices=(Device("", "/dev/sda", ""),)),
        user=User(1000, 44, (44,)),
        devices=(ResolvedDevice(Device("", "/dev/sda", ""), "/dev/sda", (SDA,)),),
        settings=SpecSettings(device_ownership_from_security_context=True),
    ),
    "rlimits": inputs(settings=SpecSettings(rlimits=(Rlimit("RLIMIT_NOFILE", 1024, -1),))),
    "annotations": inputs(
        container(annotations={"run.oci.x": "1", "io.katacontainers.y": "2", "io.kubernetes.cri.sandbox-id": "fake"}),
        sandbox=sandbox(annotations={"org.systemd.property.X": "1", "io.katacontainers.x": "1"}),
        settings=SpecSettings(
            pod_annotations=("io.katacontainers.*",), container_annotations=("io.katacontainers.*", "io.kubernetes.*")
        ),
    ),
    "image-as-the-user-wrote-it": inputs(
        replace(container(), image=ImageSpec("sha256:abc", user_specified_image="docker.io/library/web:1"))
    ),
    "no-pod-files": inputs(paths=ContainerPaths()),
}


def readable(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec without what is long and tested elsewhere: lists of system calls are counted, equal sets named once."""
    copy: dict[str, Any] = json.loads(json.dumps(spec))
    for rule in copy["linux"].get("seccomp", {}).get("syscalls", []):
        if len(rule["names"]) > 5:
            rule["names"] = f"{len(rule['names'])} names"
    sets = copy["process"]["capabilities"]
    for name in ("effective", "permitted"):
        if sets[name] == sets["bounding"]:
            sets[name] = "as bounding"
    if sets["bounding"] == list(NAMES):
        sets["bounding"] = "all"
    return copy


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Path → value; lists of objects with a name of their own go by it, other lists are one value."""
    if isinstance(value, dict) and value:
        return {key: leaf for name, part in value.items() for key, leaf in flat(part, f"{path}/{name}").items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        for key in ("destination", "type"):
            names = [part.get(key) for part in value]
            if None not in names and len(set(names)) == len(names):
                parts = {f"{path}[{name}]": part for name, part in zip(names, value, strict=True)}
                return {f"{path}[]": names} | parts
    return {path: value}


def difference(spec: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    return {path: spec.get(path) for path in sorted({*spec, *base}) if spec.get(path) != base.get(path)}


def compact(golden: dict[str, dict[str, Any]]) -> str:
    """JSON with a line for each path, so that a difference between two versions is read line by line."""
    shapes = []
    for name, paths in golden.items():
        lines = (f"  {json.dumps(path)}: {json.dumps(value)}" for path, value in paths.items())
        shapes.append(f"{json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n}")
    return "{" + ",\n".join(shapes) + "}\n"


def test_golden() -> None:
    plain = flat(readable(build(inputs()).spec))
    changes = {name: difference(flat(readable(build(shape).spec)), plain) for name, shape in SHAPES.items()}
    made = {"plain": plain, **changes}
    if os.environ.get("ACRI_UPDATE_GOLDEN"):
        GOLDEN.write_text(compact(made))
    golden = json.loads(GOLDEN.read_text())
    assert list(made) == list(golden)
    for name, paths in made.items():
        assert paths == golden[name], name


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_json_and_has_what_a_runtime_must_have(name: str) -> None:
    shape = SHAPES[name]
    check(shape.sandbox, shape.config, shape.image, shape.host)
    spec = build(shape).spec
    assert json.loads(json.dumps(spec)) == spec
    assert spec["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert spec["annotations"]["io.containerd.runc.v2.group"] == shape.sandbox.id
    assert spec["annotations"]["io.kubernetes.cri.sandbox-id"] == shape.sandbox.id
    assert {"type": "mount"} in spec["linux"]["namespaces"]
    inheritable = spec["process"]["capabilities"]["inheritable"]
    assert inheritable == (["CAP_NET_RAW"] if name == "ambient" else [])


def test_the_oom_score_that_was_raised_is_told() -> None:
    assert build(SHAPES["oom-score-raised"]).oom_score_adj_raised
    assert not build(SHAPES["guaranteed"]).oom_score_adj_raised


def test_specs_of_two_containers_share_nothing() -> None:
    first, second = build(SHAPES["restricted"]).spec, build(SHAPES["restricted"]).spec
    untouched = json.dumps(second)
    for part in (first["process"]["env"], first["mounts"], first["linux"]["seccomp"]["syscalls"]):
        part.clear()
    assert json.dumps(second) == untouched == json.dumps(build(SHAPES["restricted"]).spec)


REFUSED: dict[str, tuple[ContainerConfig, type[errors.AcriError]]] = {
    "privileged in an unprivileged pod": (container(Context(privileged=True)), errors.InvalidArgument),
    "CDI": (container(cdi_devices=(CDIDevice("vendor.com/gpu=0"),)), errors.Unimplemented),
    "capability": (container(Context(capabilities=Capability(("NOPE",)))), errors.InvalidArgument),
    "container path": (container(mounts=(Mount("../x", "/h"),)), errors.InvalidArgument),
    "device": (container(devices=(Device("/dev/x", "/dev/x", "z"),)), errors.InvalidArgument),
    "env": (container(envs=(KeyValue("=", "x"),)), errors.InvalidArgument),
    "working dir": (container(working_dir="/proc/self/fd/8"), errors.InvalidArgument),
    "masked path": (container(Context(masked_paths=("x",))), errors.InvalidArgument),
    "host network": (
        container(Context(namespace_options=NamespaceOption(network=NODE))),
        errors.InvalidArgument,
    ),
    "seccomp": (container(Context(seccomp_profile_path="x")), errors.InvalidArgument),
    "memory": (container(resources=LinuxContainerResources(memory_limit_in_bytes=-5)), errors.InvalidArgument),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_requests_are_refused_before_anything_is_looked_up(name: str) -> None:
    bad, error = REFUSED[name]
    with pytest.raises(error):
        check(sandbox(), bad, IMAGE, HOST)


def test_the_spec_of_a_sandbox() -> None:
    assert sandbox_spec(sandbox(hostname="web-0", log_directory="/logs", annotations={"a": "b"})) == {
        "ociVersion": "1.1.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": [], "env": [], "cwd": "/", "noNewPrivileges": True},
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "web-0",
        "annotations": {
            "io.containerd.runc.v2.group": "5" * 64,
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": "5" * 64,
            "io.kubernetes.cri.sandbox-name": "web",
            "io.kubernetes.cri.sandbox-namespace": "default",
            "io.kubernetes.cri.sandbox-uid": "uid-1",
            "io.kubernetes.cri.sandbox-log-directory": "/logs",
        },
        "linux": {
            "cgroupsPath": "/kubepods/poduid-1/" + "5" * 64,
            "namespaces": [
                {"type": "network", "path": "/run/netns/acri-s"},
                {"type": "uts", "path": "/run/acri/ns/uts/s"},
                {"type": "ipc", "path": "/run/acri/ns/ipc/s"},
                {"type": "pid", "path": "/run/acri/ns/pid/s"},
            ],
        },
    }
    assert sandbox_spec(host_pod())["linux"]["namespaces"] == []
