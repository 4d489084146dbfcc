# SPDX-License-Identifier: Apache-2.0
"""Writing sandboxes and containers to containerd, the one truth, and then to the stores, its index.

`create` writes the containerd object, `save` replaces the record in it, `delete` takes it away. Each is one call.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import structlog

from acri import errors
from acri.containerd.types import SPEC_TYPE_URL, AnyValue, ContainerObject
from acri.model import records
from acri.model.container import Container
from acri.model.sandbox import Sandbox
from acri.runtime.handlers import Handler
from acri.runtime.node import Node

__all__ = ["create_container", "create_sandbox", "delete", "save", "write_record"]

log = structlog.get_logger(__name__)


async def create_sandbox(node: Node, sandbox: Sandbox, spec: dict[str, Any], handler: Handler) -> None:
    """Write the containerd object of a new sandbox. It has no snapshot and, without an infra container, no task."""
    await node.containerd.containers.create(_object(sandbox, spec, handler))


async def create_container(
    node: Node, container: Container, spec: dict[str, Any], handler: Handler, image: str
) -> None:
    """Write the containerd object of a new container; `image` is a containerd image name, for cAdvisor and `ctr`.

    The object names the snapshot before that exists: from then on containerd's garbage collector knows to whom the
    snapshot belongs, and no lease is needed.
    """
    base = _object(container, spec, handler)
    await node.containerd.containers.create(
        replace(base, image=image, snapshotter=container.snapshotter, snapshot_key=container.id)
    )


async def write_record(node: Node, value: Sandbox | Container, *, gone_ok: bool = False) -> None:
    """Replace the record in containerd only.

    `gone_ok`: an object that somebody else deleted is only worth a warning, as for everything that ends one: what is
    left on this host has to go all the same.
    """
    try:
        await node.containerd.containers.update(
            ContainerObject(id=value.id, extensions={records.EXTENSION: _record(value)}),
            fieldpaths=(f"extensions.{records.EXTENSION}",),
        )
    except errors.NotFound:
        if not gone_ok:
            raise
        log.warning("containerd's object is gone; somebody deleted it", object_id=value.id)


async def save(node: Node, value: Sandbox | Container) -> None:
    """Replace the record of an object that is listed: first in containerd, then in the store."""
    await write_record(node, value, gone_ok=True)
    if isinstance(value, Sandbox):
        node.sandboxes.replace(value)
    else:
        node.containers.replace(value)


async def delete(node: Node, object_id: str) -> None:
    """Delete the containerd object; one that is gone already is fine."""
    try:
        await node.containerd.containers.delete(object_id)
    except errors.NotFound:
        pass


def _object(value: Sandbox | Container, spec: dict[str, Any], handler: Handler) -> ContainerObject:
    return ContainerObject(
        id=value.id,
        labels=records.containerd_labels(value),
        runtime_name=handler.settings.type,
        runtime_options=handler.options,
        spec=AnyValue(SPEC_TYPE_URL, json.dumps(spec, separators=(",", ":")).encode()),
        extensions={records.EXTENSION: _record(value)},
    )


def _record(value: Sandbox | Container) -> AnyValue:
    kind = records.SANDBOX if isinstance(value, Sandbox) else records.CONTAINER
    return AnyValue(records.type_url(kind), records.write(value))
