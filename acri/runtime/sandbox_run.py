# SPDX-License-Identifier: Apache-2.0
"""RunPodSandbox: namespaces, network and files of a pod, without a process unless the pod shares its PID namespace.

    record ─▶ files ∥ namespaces ─▶ cni add ─▶ ready record ─▶ in the store
      └────────────┴───────────────────┴── any failure: undone in reverse

The first record is written before the first side effect, so that an acri that died half way finds on its start what it
has to take back. If an undo keeps failing, the record stays, as a stopped sandbox that the kubelet can remove.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

import structlog

from acri import errors
from acri.aio.operation import Operation
from acri.aio.tasks import settle
from acri.aio.threads import Kind
from acri.host import cgroups
from acri.model.config import NamespaceMode, PodSandboxConfig
from acri.model.sandbox import Namespaces, Phase, Sandbox
from acri.oci.sandbox_spec import sandbox_spec
from acri.runtime import holders, persist, sandbox_files
from acri.runtime.handlers import Handler
from acri.runtime.node import Node, now_ns
from acri.runtime.sandbox_namespaces import make_namespaces, remove_namespaces
from acri.runtime.sandbox_network import attach, detach
from acri.runtime.sandbox_remove import discard, remove_pod_sandbox
from acri.runtime.validate import check_sandbox_config

__all__ = ["run_pod_sandbox"]

log = structlog.get_logger(__name__)


async def run_pod_sandbox(node: Node, config: PodSandboxConfig, runtime_handler: str) -> str:
    """Make a pod sandbox and answer its id.

    A request with the same metadata while this one runs joins it; the same request after that gets the same sandbox.

    Raises:
        errors.InvalidArgument: a mistake in the configuration, or an unknown handler.
        errors.AlreadyExists: another sandbox that is READY bears this name.
        errors.Unavailable: the pod needs a network and there is none.
    """
    handler = node.handlers.require(runtime_handler)
    check_sandbox_config(config)
    sandbox = _plan(node, config, runtime_handler)
    return await node.operations.join(
        ("RunPodSandbox", sandbox.name_key),
        lambda op: _run(node, op, sandbox, handler),
        request=(config, runtime_handler),
    )


def _plan(node: Node, config: PodSandboxConfig, runtime_handler: str) -> Sandbox:
    """The sandbox as it shall be; what can be wrong with the request is found before anything is made."""
    sandbox_id = secrets.token_hex(32)
    linux = config.linux
    sandbox = Sandbox(
        id=sandbox_id,
        config=config,
        runtime_handler=runtime_handler,
        created_at_ns=now_ns(),
        phase=Phase.CREATING,
        cgroup_parent=cgroups.check_parent(
            node.cgroup_driver, linux.cgroup_parent if linux and linux.cgroup_parent else node.default_cgroup_parent
        ),
    )
    sandbox_files.hostname_of(sandbox)
    options = sandbox.namespace_options
    pins = node.paths.sandbox(sandbox_id).namespaces
    return replace(
        sandbox,
        namespaces=Namespaces(
            net="" if sandbox.host_network else pins.net,
            uts="" if sandbox.host_network else pins.uts,
            ipc="" if options.ipc == NamespaceMode.NODE else pins.ipc,
            pid=pins.pid if options.pid == NamespaceMode.POD else "",
        ),
        network_attached=not sandbox.host_network,
    )


async def _run(node: Node, op: Operation, sandbox: Sandbox, handler: Handler) -> str:
    if sandbox.network_attached:
        await op.step("network", lambda: _need_network(node))
    twin = node.sandboxes.by_name(sandbox.name_key)
    if twin is not None:
        if twin.value.phase is Phase.READY:
            return _same(twin.value, sandbox)
        await op.step("remove stale", lambda: remove_pod_sandbox(node, twin.value.id))

    paths = node.paths.sandbox(sandbox.id)
    spec = sandbox_spec(sandbox)
    await op.step(
        "record",
        lambda: persist.create_sandbox(node, sandbox, spec, handler),
        undo=lambda: _take_back_record(node, op, sandbox),
    )
    _, holder = await settle(
        op.step(
            "files",
            lambda: node.threads.run(Kind.FILE, sandbox_files.make, node.kernel, sandbox, paths),
            undo=lambda: node.threads.run(Kind.TEARDOWN, sandbox_files.remove, node.kernel, paths),
        ),
        op.step(
            "namespaces",
            lambda: make_namespaces(node, sandbox),
            undo=lambda: remove_namespaces(node, sandbox),
        ),
    )
    ips: tuple[str, ...] = ()
    if sandbox.network_attached:
        ips = await op.step("cni add", lambda: attach(node, sandbox), undo=lambda: detach(node, sandbox))
    # Under a name of its own: the undos above go by what was planned, and find a holder by its name.
    ready = replace(sandbox, phase=Phase.READY, holder=holder, ips=ips)
    if not ready.host_network:
        await op.step("hosts", lambda: node.threads.run(Kind.FILE, sandbox_files.write_hosts, ready, paths))
    await op.step("ready", lambda: persist.write_record(node, ready))
    node.sandboxes.put(ready)
    op.commit()
    holders.watch(node, ready)
    log.info(
        "pod sandbox ready",
        sandbox_id=ready.id,
        pod=ready.metadata.name,
        namespace=ready.metadata.namespace,
        ips=ips,
    )
    return ready.id


def _same(existing: Sandbox, wanted: Sandbox) -> str:
    """A retry of the request that made `existing` gets its id; anything else under this name is a conflict."""
    if existing.config == wanted.config and existing.runtime_handler == wanted.runtime_handler:
        return existing.id
    raise errors.AlreadyExists(
        f"pod sandbox {existing.id} has the same name, namespace, uid and attempt, is READY and was made from another "
        "configuration; stop and remove it, or use another attempt"
    )


async def _need_network(node: Node) -> None:
    status = await node.networks.status()
    if not status.ready:
        raise errors.Unavailable(f"the pod network is not ready: {status.message}")


async def _take_back_record(node: Node, op: Operation, sandbox: Sandbox) -> None:
    """The last undo: forget the sandbox; where something of it is still there, keep it for the kubelet to remove."""
    left = replace(sandbox, phase=Phase.STOPPED)
    if op.leftovers:
        node.sandboxes.put(left)
        await persist.save(node, left)
        return
    try:
        await discard(node, sandbox.id)
    except errors.AcriError:
        node.sandboxes.put(left)
        raise
