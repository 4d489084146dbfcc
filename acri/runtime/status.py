# SPDX-License-Identifier: Apache-2.0
"""Status: can pods be run now, and if not, why.

The kubelet asks every 5 s and stops working while RuntimeReady is false; with NetworkReady false it runs pods on the
host's network only. Both conditions are always there (cri-api, RuntimeCondition: required).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from acri.model.records import to_plain
from acri.runtime.health import Condition
from acri.runtime.node import Node

__all__ = ["HandlerFeatures", "RuntimeStatus", "runtime_status"]


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
    conditions = await node.health.conditions()
    return RuntimeStatus(conditions, _handlers(node), _info(node) if verbose else {})


def _handlers(node: Node) -> tuple[HandlerFeatures, ...]:
    """All handlers by name, and the default one under the empty name too: the kubelet looks there for most pods.

    Features are claimed only once they work; what is not claimed, the kubelet refuses with a clear sentence.
    """
    names = ["", *sorted(handler.name for handler in node.handlers)]
    return tuple(HandlerFeatures(name, recursive_read_only_mounts=False, user_namespaces=False) for name in names)


def _info(node: Node) -> dict[str, str]:
    operations = [operation.describe() for operation in node.operations.running()]
    return {"config": json.dumps(to_plain(node.settings)), "operations": json.dumps(operations)}
