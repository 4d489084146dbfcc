# SPDX-License-Identifier: Apache-2.0
"""Which namespaces a container joins, makes, or leaves the host's.

    kind      POD                     CONTAINER   NODE           TARGET
    network   the pod's pin           –           the host's     –
    uts       goes with the network
    ipc       the pod's pin           –           the host's     –
    pid       the pod's pin           a new one   the host's     another container's
    cgroup    a new one on cgroup v2, unless privileged
    mount     always a new one
    user      not yet: everything runs in the host's

POD means "the pod's, whatever that is": in a pod on the host's network it is the host's. NODE is only for pods that
are on the host's themselves. It fails closed: a pin that should be there and is not is an error, never the host's
namespace.

References:
    CRI, NamespaceOption; OCI runtime-spec, config-linux.md, "Namespaces".
"""

from __future__ import annotations

from acri import errors
from acri.model.config import LinuxContainerSecurityContext, NamespaceMode, NamespaceOption, UserNamespace
from acri.model.sandbox import Sandbox

__all__ = ["check_sandbox_options", "container_options", "namespaces", "shares_host_cgroup_namespace"]

_POD, _CONTAINER, _NODE, _TARGET = NamespaceMode
Namespace = dict[str, str]


def check_sandbox_options(options: NamespaceOption) -> None:
    """What a pod sandbox may ask for.

    Raises:
        InvalidArgument: a mode that the kind does not have.
        Unimplemented: a user namespace.
    """
    for kind, mode in (("network", options.network), ("ipc", options.ipc)):
        if mode not in (_POD, _NODE):
            raise errors.InvalidArgument(f"{kind} namespace mode {mode.name} is not possible; POD or NODE is")
    if options.pid == _TARGET or options.target_id:
        raise errors.InvalidArgument("a pod sandbox cannot target another container's PID namespace")
    _check_user_namespace(options.userns_options)


def _check_user_namespace(options: UserNamespace | None) -> None:
    if options is None or options.mode == _NODE:
        if options is not None and (options.uids or options.gids):
            raise errors.InvalidArgument("user namespace mode NODE takes no id mappings")
        return
    if options.mode != _POD:
        raise errors.InvalidArgument(f"user namespace mode {options.mode.name} is not possible; POD or NODE is")
    for kind, mappings in (("uid", options.uids), ("gid", options.gids)):
        if len(mappings) != 1 or mappings[0].container_id != 0 or mappings[0].length < 1:
            raise errors.InvalidArgument(f"a user namespace takes exactly one {kind} mapping, from id 0 on")
    raise errors.Unimplemented("this version of acri has no user namespaces for pods; set hostUsers: true")


def container_options(sandbox: Sandbox, context: LinuxContainerSecurityContext) -> NamespaceOption:
    """The container's options, the pod's where it has none, checked against the pod's.

    Raises:
        InvalidArgument: a mode that the kind does not have, or that contradicts the pod's.
        Unimplemented: a user namespace.
    """
    pod = sandbox.namespace_options
    options = context.namespace_options
    if options is None:
        return pod
    for kind, mode, pods in (
        ("network", options.network, pod.network),
        ("ipc", options.ipc, pod.ipc),
        ("pid", options.pid, pod.pid),
    ):
        if kind != "pid" and mode not in (_POD, _NODE):
            raise errors.InvalidArgument(f"{kind} namespace mode {mode.name} is not possible; POD or NODE is")
        if mode == _NODE and pods != _NODE:
            raise errors.InvalidArgument(f"the container asks for the host's {kind} namespace, but its pod has its own")
    if options.pid == _POD and pod.pid == _CONTAINER:
        raise errors.InvalidArgument("the container asks for the pod's PID namespace, but its pod does not share one")
    if (options.pid == _TARGET) != bool(options.target_id):
        raise errors.InvalidArgument("PID namespace mode TARGET and target_id go together")
    if options.userns_options != pod.userns_options and not (
        _on_host(options.userns_options) and _on_host(pod.userns_options)
    ):
        raise errors.InvalidArgument("the container's user namespace options differ from its pod's")
    _check_user_namespace(options.userns_options)
    return options


def _on_host(options: UserNamespace | None) -> bool:
    return options is None or options.mode == _NODE


def shares_host_cgroup_namespace(*, unified: bool, privileged: bool) -> bool:
    """cgroup v1 leaves the host's; privileged containers manage cgroups and need to see them whole."""
    return privileged or not unified


def namespaces(
    sandbox: Sandbox, context: LinuxContainerSecurityContext, *, target_pid_path: str, unified: bool
) -> list[Namespace]:
    """`linux.namespaces`. What is not in the list stays the host's.

    `target_pid_path` is the PID namespace of the container that TARGET names, "" otherwise; `unified`: cgroup v2.

    Raises:
        InvalidArgument, Unimplemented: see `container_options`.
        FailedPrecondition: a namespace of the pod or of the target is gone.
    """
    options = container_options(sandbox, context)
    pod = sandbox.namespace_options
    pins = sandbox.namespaces
    found: list[Namespace] = [{"type": "mount"}]
    if pod.network != _NODE:
        found.append(_pinned("network", pins.net, sandbox))
        found.append(_pinned("uts", pins.uts, sandbox))
    if pod.ipc != _NODE:
        found.append(_pinned("ipc", pins.ipc, sandbox))
    if options.pid == _CONTAINER:
        found.append({"type": "pid"})
    elif options.pid == _TARGET:
        if not target_pid_path:
            raise errors.FailedPrecondition(f"the PID namespace of target container {options.target_id} is gone")
        found.append({"type": "pid", "path": target_pid_path})
    elif pod.pid != _NODE:
        found.append(_pinned("pid", pins.pid, sandbox))
    if not shares_host_cgroup_namespace(unified=unified, privileged=context.privileged):
        found.append({"type": "cgroup"})
    return found


def _pinned(kind: str, path: str, sandbox: Sandbox) -> Namespace:
    if not path:
        raise errors.FailedPrecondition(f"sandbox {sandbox.id} has no {kind} namespace to join")
    return {"type": kind, "path": path}
