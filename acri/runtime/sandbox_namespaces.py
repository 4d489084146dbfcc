# SPDX-License-Identifier: Apache-2.0
"""A pod sandbox's namespaces and holder: made, checked and removed in threads that end with the deed."""

from __future__ import annotations

from acri.aio.threads import Kind
from acri.host import cgroups, namespaces
from acri.host import holder as host_holder
from acri.host.holder import HolderPlan
from acri.host.namespaces import NamespacePlan
from acri.model.sandbox import Holder, Sandbox
from acri.oci.cgroup_path import cgroups_path
from acri.runtime import holders, sandbox_files
from acri.runtime.node import Node

__all__ = ["make_namespaces", "remove_namespaces", "sandbox_is_whole", "stop_holder"]

DEFAULT_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
"""A pod may bind low ports and ping without capabilities (containerd's enable_unprivileged_ports and _icmp)."""
HOLDER_OOM_SCORE_ADJ = -998
"""As the kubelet's own pause containers had: the last to go, after kubelet and runtime."""


async def make_namespaces(node: Node, sandbox: Sandbox) -> Holder | None:
    """Make and pin what the sandbox's record plans; answers the holder of a shared PID namespace."""
    return await node.threads.fresh(_make, node, sandbox)


def _make(node: Node, sandbox: Sandbox) -> Holder | None:
    planned = sandbox.namespaces
    linux = sandbox.config.linux
    namespaces.create(
        node.kernel,
        NamespacePlan(
            net=planned.net,
            ipc=planned.ipc,
            uts=planned.uts,
            hostname=sandbox_files.hostname_of(sandbox),
            sysctls=linux.sysctls if linux else {},
            default_sysctls=DEFAULT_SYSCTLS if planned.net else {},
            roots=(node.paths.netns_dir, node.paths.pin_root),
        ),
    )
    if not planned.pid:
        return None
    directories = cgroups.make(node.facts.cgroups, cgroups_path(sandbox.cgroup_parent, sandbox.id))
    made = host_holder.start(
        node.kernel,
        HolderPlan(sandbox.id, pin=planned.pid, cgroups=directories, oom_score_adj=HOLDER_OOM_SCORE_ADJ),
    )
    return Holder(made.pid, made.start_time)


async def stop_holder(node: Node, sandbox: Sandbox) -> None:
    """Kill the holder, and with it what is left in the pod's PID namespace, and remove its cgroup."""
    holders.unwatch(node, sandbox.id)
    await node.threads.run(Kind.TEARDOWN, _stop_holder, node, sandbox)


def _stop_holder(node: Node, sandbox: Sandbox) -> None:
    if sandbox.holder is not None:
        host_holder.stop(node.kernel, sandbox.holder)
    path = cgroups_path(sandbox.cgroup_parent, sandbox.id)
    if cgroups.processes(node.facts.cgroups, path):
        # A holder that no record names: acri died, or gave up the sandbox, between starting and recording it.
        stray = host_holder.find(sandbox.id)
        if stray is not None:
            host_holder.stop(node.kernel, stray)
    cgroups.remove(node.facts.cgroups, path)


async def remove_namespaces(node: Node, sandbox: Sandbox) -> None:
    """Remove the pins, and a holder with its cgroup; idempotent, also where half of it was never made."""
    await node.threads.run(Kind.TEARDOWN, _remove, node, sandbox)


def _remove(node: Node, sandbox: Sandbox) -> None:
    if sandbox.namespaces.pid:
        _stop_holder(node, sandbox)
    namespaces.remove(node.kernel, sandbox.namespaces)


async def sandbox_is_whole(node: Node, sandbox: Sandbox) -> bool:
    """Whether everything that a READY sandbox stands on is still there."""
    return await node.threads.run(Kind.FILE, _is_whole, node, sandbox)


def _is_whole(node: Node, sandbox: Sandbox) -> bool:
    pins = sandbox.namespaces
    kept = {"net": pins.net, "ipc": pins.ipc, "uts": pins.uts, "pid": pins.pid}
    if not all(namespaces.check(node.kernel, path, kind) for kind, path in kept.items() if path):
        return False
    return sandbox.holder is None or host_holder.alive(sandbox.holder)
