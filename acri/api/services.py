# SPDX-License-Identifier: Apache-2.0
"""CRI's services as one routing table."""

from __future__ import annotations

from acri.api.image_service import ImageService
from acri.api.runtime_service import RuntimeService
from acri.proto.runtime import v1 as cri
from acri.rpc.router import Cardinality, Method, Router
from acri.runtime.node import Node

__all__ = ["cri_router"]


def cri_router(node: Node) -> Router:
    """Every RPC of `runtime.v1`; those without a handler answer UNIMPLEMENTED."""
    router = Router()
    router.add_service(_methods("RuntimeService"), RuntimeService(node))
    router.add_service(_methods("ImageService"), ImageService(node.images))
    return router


def _methods(service: str) -> list[Method]:
    """The RPCs of one service, from the generated table."""
    return [
        Method(path, _CARDINALITY[row.server_streaming], row.request, row.reply)
        for path, row in cri.METHODS.items()
        if path.startswith(f"/runtime.v1.{service}/")
    ]


_CARDINALITY = {False: Cardinality.UNARY_UNARY, True: Cardinality.UNARY_STREAM}
