# SPDX-License-Identifier: Apache-2.0
"""CreateContainer: everything up to the process, which StartContainer makes.

    image, user, spec ─▶ record ─▶ snapshot ∥ fifos ─▶ in the store
                           └────────────┴── any failure: undone in reverse

Whatever can be wrong with the request is found before the record is written. The record names the snapshot before that
is made, so containerd's garbage collector never sees a snapshot without an owner.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import structlog

from acri import errors
from acri.aio.operation import Operation
from acri.aio.tasks import settle
from acri.aio.threads import Kind
from acri.model.config import ContainerConfig, NamespaceMode
from acri.model.container import Container, ContainerState, User
from acri.model.image import Image
from acri.model.sandbox import Phase, Sandbox
from acri.oci import cgroup_path, seccomp, security, signals, spec, users
from acri.oci.mounts import ContainerPaths as PodFiles
from acri.runtime import container_io, container_remove, host_inputs, persist, sandbox_files
from acri.runtime.handlers import Handler
from acri.runtime.node import Node, now_ns
from acri.runtime.validate import check_container_config, log_path

__all__ = ["create_container"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked for, with everything that it names looked up."""

    sandbox: Sandbox
    config: ContainerConfig
    image: Image
    handler: Handler
    snapshotter: str
    log_path: str


async def create_container(node: Node, sandbox_id: str, config: ContainerConfig) -> str:
    """Create a container in a READY pod sandbox and answer its id.

    A request with the same sandbox, name and attempt while this one runs joins it; the same request after that, while
    the container is not started, gets the same container.

    Raises:
        errors.NotFound: unknown sandbox or image (nothing is pulled here).
        errors.FailedPrecondition: the sandbox is not READY.
        errors.InvalidArgument: a mistake in the configuration.
        errors.AlreadyExists: a container of that name and attempt runs.
    """
    sandbox = node.sandboxes.require(sandbox_id).value
    _need_ready(node, sandbox.id)
    check_container_config(config)
    assert config.image is not None, "checked"
    assert config.metadata is not None, "checked"
    image = node.images.find(config.image.image)
    if image is None:
        raise errors.NotFound(f"image {config.image.image!r} is not on this node; pull it first")
    handler = node.handlers.require(sandbox.runtime_handler)
    request = _Request(
        sandbox,
        config,
        image,
        handler,
        handler.settings.snapshotter or node.settings.containerd.snapshotter,
        log_path(sandbox.config, config),
    )
    spec.check(sandbox, config, image.config, node.facts)
    key = ("CreateContainer", (sandbox.id, config.metadata.name, config.metadata.attempt))
    return await node.operations.join(key, lambda op: _create(node, op, request), request=config)


def _need_ready(node: Node, sandbox_id: str) -> None:
    entry = node.sandboxes.get(sandbox_id)
    if entry is None or entry.value.phase is not Phase.READY:
        raise errors.FailedPrecondition(f"pod sandbox {sandbox_id} is not READY; no container can be created in it")


async def _create(node: Node, op: Operation, request: _Request) -> str:
    twin = await _settle_twin(node, op, request)
    if twin is not None:
        return twin
    parent = await op.step("image", lambda: node.images.rootfs_parent(request.image, request.snapshotter))
    container, built = await op.step("spec", lambda: _plan(node, request))
    if built.oom_score_adj_raised and not node.told_oom_score:
        node.told_oom_score = True
        log.warning(
            "oom_score_adj raised: without CAP_SYS_RESOURCE a lower one than acri's own cannot be set",
            lowest=node.facts.oom_score_adj_min,
        )
    await op.step(
        "record",
        lambda: persist.create_container(node, container, built.spec, request.handler, request.image.reference),
        undo=lambda: _take_back_record(node, op, container),
    )
    rootfs, _ = await settle(
        op.step(
            "snapshot",
            lambda: node.containerd.snapshots.prepare(container.snapshotter, container.id, parent),
            undo=lambda: container_remove.remove_snapshot(node, container),
        ),
        op.step(
            "fifos",
            lambda: container_io.make_fifos(node, container),
            undo=lambda: container_remove.remove_files(node, container.id),
        ),
    )
    # No await from here on: a StopPodSandbox that came meanwhile is seen, one that comes later sees the container.
    _need_ready(node, request.sandbox.id)
    node.containers.put(container)
    node.live_of(container.id).rootfs = rootfs
    op.commit()
    log.info(
        "container created",
        container_id=container.id,
        sandbox_id=container.sandbox_id,
        name=container.metadata.name,
        attempt=container.metadata.attempt,
        image=request.image.reference,
    )
    return container.id


async def _take_back_record(node: Node, op: Operation, container: Container) -> None:
    """The last undo. What could not be taken back is remembered: it was never listed, so nobody else removes it."""
    node.leftovers.append(container)
    if not op.leftovers:
        await container_remove.discard(node, container.id)
        node.leftovers.remove(container)


async def _settle_twin(node: Node, op: Operation, request: _Request) -> str | None:
    """A container that bears the name already: the same one is answered, a dead or different one makes room."""
    metadata = request.config.metadata
    assert metadata is not None, "checked"
    entry = node.containers.by_name((request.sandbox.id, metadata.name, metadata.attempt))
    if entry is None:
        return None
    twin = entry.value
    if twin.state is ContainerState.CREATED and twin.config == request.config:
        return twin.id
    if twin.state in (ContainerState.RUNNING, ContainerState.UNKNOWN):
        raise errors.AlreadyExists(
            f"container {twin.id} with name {metadata.name!r}, attempt {metadata.attempt} is {twin.state.name} in pod "
            f"sandbox {request.sandbox.id}; stop and remove it, or use another attempt"
        )
    await op.step("remove stale", lambda: container_remove.remove_container(node, twin.id))
    return None


async def _plan(node: Node, request: _Request) -> tuple[Container, spec.Built]:
    """The container and its spec; nothing is made yet but missing mount sources."""
    config, sandbox, image = request.config, request.sandbox, request.image
    user = await _resolve_user(node, request)
    container_id = secrets.token_hex(32)
    container = Container(
        id=container_id,
        sandbox_id=sandbox.id,
        config=config,
        image_id=image.id,
        image_ref=image.reference,
        created_at_ns=now_ns(),
        snapshotter=request.snapshotter,
        user=user,
        stop_signal=signals.stop_signal(config.stop_signal, image.config.stop_signal),
        log_path=request.log_path,
        resources=config.linux.resources if config.linux else None,
        cgroups_path=cgroup_path.cgroups_path(sandbox.cgroup_parent, container_id),
    )
    context = security.security_context(config)
    seccomp_path = seccomp.localhost_path(context)
    pod = node.paths.sandbox(sandbox.id)
    run = node.threads.run
    inputs = spec.SpecInputs(
        container_id=container.id,
        sandbox=sandbox,
        config=config,
        image=image.config,
        user=user,
        host=node.facts,
        paths=PodFiles(
            hostname=pod.hostname,
            hosts=pod.hosts,
            resolv_conf=pod.resolv_conf,
            shm="/dev/shm" if sandbox.namespace_options.ipc is NamespaceMode.NODE else pod.shm,
        ),
        hostname=sandbox_files.hostname_of(sandbox),
        cgroups_path=container.cgroups_path,
        cgroup_options=node.cgroup_options,
        settings=spec.SpecSettings(
            privileged_without_host_devices=request.handler.settings.privileged_without_host_devices
        ),
        target_pid_path=await _target_pid_path(node, sandbox, config),
        mounts=await run(Kind.HOST_FILE, host_inputs.resolve_mounts, config.mounts) if config.mounts else (),
        devices=await run(Kind.HOST_FILE, host_inputs.resolve_devices, config.devices) if config.devices else (),
        host_devices=await run(Kind.HOST_FILE, host_inputs.host_devices) if context.privileged else (),
        localhost_seccomp=(
            await run(Kind.HOST_FILE, host_inputs.read_seccomp_profile, seccomp_path) if seccomp_path else None
        ),
    )
    return container, spec.build(inputs)


async def _resolve_user(node: Node, request: _Request) -> User:
    files = users.UserFiles()
    if users.needs_files(request.config, request.image.config):
        files = await node.image_users.get(request.image.chain_id, request.snapshotter)
    return users.resolve(request.config, request.image.config, files)


async def _target_pid_path(node: Node, sandbox: Sandbox, config: ContainerConfig) -> str:
    """The PID namespace that an ephemeral container joins: its target's, which must run in the same pod."""
    options = security.security_context(config).namespace_options
    if options is None or options.pid is not NamespaceMode.TARGET:
        return ""
    target = node.containers.require(options.target_id).value
    if target.sandbox_id != sandbox.id:
        raise errors.InvalidArgument(f"target container {target.id} is not in pod sandbox {sandbox.id}")
    if target.state is not ContainerState.RUNNING:
        raise errors.FailedPrecondition(f"target container {target.id} is {target.state.name}, not RUNNING")
    task = await node.containerd.tasks.get(target.id)
    return f"/proc/{task.pid}/ns/pid"
