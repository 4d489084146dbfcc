# SPDX-License-Identifier: Apache-2.0
"""A container's runtime spec, put together from everything that is known of it: `build(SpecInputs) -> Built`.

What comes from where:

    process.user           inputs.user, by `users.resolve` from the image's files
    process, rest          `process`; capabilities and AppArmor from `security`
    root, mounts           `mounts`; the root file system itself goes with Tasks.Create
    linux.namespaces       `namespaces`
    linux.resources        `resources`, and the device rules of `devices`
    linux.seccomp          `seccomp`, last: it depends on the capabilities
    annotations            `spec_annotations`

`check` is what can be said of a request before anything is looked up or made for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from acri import errors
from acri.host.facts import HostFacts
from acri.model.config import ContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext
from acri.model.container import User
from acri.model.image import ImageConfig
from acri.model.sandbox import Sandbox
from acri.oci import devices, mounts, namespaces, process, resources, seccomp, security, spec_annotations
from acri.oci.devices import HostDevice, ResolvedDevice
from acri.oci.mounts import ContainerPaths, ResolvedMount
from acri.oci.process import Rlimit
from acri.oci.version import OCI_VERSION

__all__ = ["Built", "LSMInputs", "SpecInputs", "SpecSettings", "build", "check"]


@dataclass(frozen=True, slots=True)
class SpecSettings:
    """What a runtime handler's configuration says about specs.

    recursive_read_only   the handler's OCI runtime knows "rro" (runc 1.1); the kernel's part is in HostFacts
    *_annotations         patterns of annotations that reach the OCI runtime
    """

    privileged_without_host_devices: bool = False
    device_ownership_from_security_context: bool = False
    recursive_read_only: bool = True
    pod_annotations: tuple[str, ...] = ()
    container_annotations: tuple[str, ...] = ()
    rlimits: tuple[Rlimit, ...] = ()


@dataclass(frozen=True, slots=True)
class LSMInputs:
    """What security modules need: names of loaded AppArmor profiles, the one that RuntimeDefault means, and SELinux
    labels, which the caller has allocated."""

    apparmor_default: str = ""
    apparmor_loaded: frozenset[str] = frozenset()
    selinux_process: str = ""
    selinux_mount: str = ""


@dataclass(frozen=True, slots=True)
class SpecInputs:
    """Everything that a spec depends on.

    hostname         the pod's, or the host's where the pod has none of its own (HOSTNAME)
    target_pid_path  PID namespace of the container that namespace_options.target_id names
    cgroups_path     by `cgroup_path.cgroups_path`
    cgroup_options   of the host's cgroup2 mount: those of nsdelegate and memory_recursiveprot that it has
    mounts, devices  those of the config, in its order, resolved on the host
    host_devices     all of the host's; only needed for privileged containers
    localhost_seccomp  the bytes of `seccomp.localhost_path(context)`
    """

    container_id: str
    sandbox: Sandbox
    config: ContainerConfig
    image: ImageConfig
    user: User
    host: HostFacts
    paths: ContainerPaths
    hostname: str
    cgroups_path: str
    cgroup_options: tuple[str, ...]
    settings: SpecSettings = SpecSettings()
    target_pid_path: str = ""
    mounts: tuple[ResolvedMount, ...] = ()
    devices: tuple[ResolvedDevice, ...] = ()
    host_devices: tuple[HostDevice, ...] = ()
    localhost_seccomp: bytes | None = None
    lsm: LSMInputs = field(default_factory=LSMInputs)

    @property
    def context(self) -> LinuxContainerSecurityContext:
        return security.security_context(self.config)

    @property
    def resources(self) -> LinuxContainerResources | None:
        return self.config.linux.resources if self.config.linux else None


@dataclass(frozen=True, slots=True)
class Built:
    """The spec, and what became of wishes that the host could not grant in full.

    `oom_score_adj_raised`: the process may not set as low a value as was asked for (worth one warning per daemon).
    """

    spec: dict[str, Any]
    oom_score_adj_raised: bool = False


def check(sandbox: Sandbox, config: ContainerConfig, image: ImageConfig, host: HostFacts) -> None:
    """Refuse early what `build` would refuse from the request, the image and the host alone.

    Raises:
        InvalidArgument, PermissionDenied, Unimplemented: see the modules.
    """
    context = security.security_context(config)
    _check_request(sandbox, config)
    security.capabilities(context, host.bounding)
    security.hidden_paths(context)
    seccomp.wanted(context)
    namespaces.container_options(sandbox, context)
    process.arguments(config, image)
    process.environment(config, image, "")
    process.working_dir(config, image)
    resources.linux_resources(config.linux.resources if config.linux else None, host)
    mounts.check(config.mounts)
    devices.check(config.devices)


def _check_request(sandbox: Sandbox, config: ContainerConfig) -> None:
    """What no part of the spec checks on its way."""
    context = security.security_context(config)
    security.check_privileged(sandbox, context)
    security.check_selinux_options(context.selinux_options)
    if config.cdi_devices:
        raise errors.Unimplemented(f"CDI device {config.cdi_devices[0].name!r}: this version of acri has no CDI")


def build(inputs: SpecInputs) -> Built:
    """The runtime spec of a container.

    Raises:
        InvalidArgument: the request contradicts itself, its pod or its image.
        FailedPrecondition, PermissionDenied, Unimplemented: the host cannot do it.
    """
    context = inputs.context
    _check_request(inputs.sandbox, inputs.config)
    wanted = inputs.resources.oom_score_adj if inputs.resources else 0
    score = process.oom_score_adj(wanted, inputs.host.oom_score_adj_min)
    capabilities = security.capabilities(context, inputs.host.bounding)
    mounted = mounts.build(_mount_inputs(inputs, context))
    spec: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": process.build(
            process.ProcessInputs(
                config=inputs.config,
                image=inputs.image,
                user=inputs.user,
                capabilities=capabilities,
                hostname=inputs.hostname,
                no_new_privs=context.no_new_privs,
                oom_score_adj=score.value,
                apparmor_profile=security.apparmor_profile(
                    context, inputs.host, default=inputs.lsm.apparmor_default, loaded=inputs.lsm.apparmor_loaded
                ),
                selinux_label=inputs.lsm.selinux_process,
                rlimits=inputs.settings.rlimits,
            )
        ),
        "root": {"path": "rootfs", "readonly": context.readonly_rootfs},
        "mounts": mounted.mounts,
        "annotations": spec_annotations.for_container(
            inputs.sandbox, inputs.config, inputs.settings.pod_annotations, inputs.settings.container_annotations
        ),
        "linux": _linux(inputs, context, capabilities, mounted.rootfs_propagation),
    }
    return Built(spec, score.raised)


def _mount_inputs(inputs: SpecInputs, context: LinuxContainerSecurityContext) -> mounts.MountInputs:
    return mounts.MountInputs(
        paths=inputs.paths,
        mounts=inputs.mounts,
        privileged=context.privileged,
        readonly_rootfs=context.readonly_rootfs,
        recursive_read_only=inputs.settings.recursive_read_only and inputs.host.rro_mounts,
        shares_host_cgroups=namespaces.shares_host_cgroup_namespace(
            unified=inputs.host.cgroups.unified, privileged=context.privileged
        ),
        cgroup_options=inputs.cgroup_options if inputs.host.cgroups.unified else (),
    )


def _linux(
    inputs: SpecInputs,
    context: LinuxContainerSecurityContext,
    capabilities: security.Capabilities,
    rootfs_propagation: str,
) -> dict[str, Any]:
    owner = (0, 0)
    if inputs.settings.device_ownership_from_security_context:
        owner = (context.run_as_user or 0, context.run_as_group or 0)
    made = devices.build(
        devices.DeviceInputs(
            devices=inputs.devices,
            privileged=context.privileged,
            host_devices=inputs.host_devices,
            privileged_without_host_devices=inputs.settings.privileged_without_host_devices,
            owner=owner,
        )
    )
    masked, readonly = security.hidden_paths(context)
    linux: dict[str, Any] = {
        "cgroupsPath": inputs.cgroups_path,
        "namespaces": namespaces.namespaces(
            inputs.sandbox,
            context,
            target_pid_path=inputs.target_pid_path,
            unified=inputs.host.cgroups.unified,
        ),
        "resources": {**resources.linux_resources(inputs.resources, inputs.host), "devices": made.rules},
    }
    optional = {
        "devices": made.nodes,
        "maskedPaths": masked,
        "readonlyPaths": readonly,
        "rootfsPropagation": rootfs_propagation,
        "mountLabel": inputs.lsm.selinux_mount,
        "seccomp": seccomp.build(
            context, bounding=capabilities.allowed, host=inputs.host, localhost=inputs.localhost_seccomp
        ),
    }
    linux.update({key: value for key, value in optional.items() if value})
    return linux
