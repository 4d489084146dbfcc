# SPDX-License-Identifier: Apache-2.0
"""CRI's services as one routing table."""

from __future__ import annotations

from acri.api.image_service import ImageService
from acri.api.runtime_service import RuntimeService
from acri.proto.runtime import v1 as cri
from acri.rpc.router import Router, methods_of
from acri.runtime.node import Node

__all__ = ["cri_router"]


def cri_router(node: Node) -> Router:
    """Every RPC of `runtime.v1`; those without a handler answer UNIMPLEMENTED."""
    router = Router()
    router.add_service(methods_of(cri.METHODS, "runtime.v1.RuntimeService"), RuntimeService(node))
    router.add_service(methods_of(cri.METHODS, "runtime.v1.ImageService"), ImageService(node.images))
    return router
