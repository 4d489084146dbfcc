# SPDX-License-Identifier: Apache-2.0
"""Status: can pods be run now, and if not, why.

The kubelet asks every 5 s and stops working while RuntimeReady is false; with NetworkReady false it runs pods on the
host's network only. Both conditions are always there (kubelet-cri.md 1.3).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from acri import errors
from acri.model.records import to_plain
from acri.runtime.node import Node

__all__ = ["Condition", "HandlerFeatures", "RuntimeStatus", "runtime_status"]

CONTAINERD_ANSWER_S = 3.0


@dataclass(frozen=True, slots=True)
class Condition:
    """CRI's RuntimeCondition; reason is one CamelCase word, message a sentence, both empty when all is well."""

    type: str
    status: bool
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class HandlerFeatures:
    name: str
    recursive_read_only_mounts: bool
    user_namespaces: bool


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    conditions: tuple[Condition, ...]
    handlers: tuple[HandlerFeatures, ...]
    info: dict[str, str] = field(default_factory=dict)


async def runtime_status(node: Node, *, verbose: bool) -> RuntimeStatus:
    """The node's conditions; `verbose` adds what `crictl info` prints, each value a JSON document."""
    network = await node.networks.status()
    conditions = (
        await _runtime_ready(node),
        Condition("NetworkReady", network.ready, network.reason, network.message),
    )
    return RuntimeStatus(conditions, _handlers(node), _info(node) if verbose else {})


async def _runtime_ready(node: Node) -> Condition:
    try:
        await node.containerd.version()
    except errors.AcriError as error:
        return Condition("RuntimeReady", False, "ContainerdNotReachable", error.message)
    return Condition("RuntimeReady", True)


def _handlers(node: Node) -> tuple[HandlerFeatures, ...]:
    """All handlers by name, and the default one under the empty name too: the kubelet looks there for most pods.

    Features are claimed only once they work; what is not claimed, the kubelet refuses with a clear sentence.
    """
    names = ["", *sorted(handler.name for handler in node.handlers)]
    return tuple(HandlerFeatures(name, recursive_read_only_mounts=False, user_namespaces=False) for name in names)


def _info(node: Node) -> dict[str, str]:
    operations = [operation.describe() for operation in node.operations.running()]
    return {"config": json.dumps(to_plain(node.settings)), "operations": json.dumps(operations)}
