# SPDX-License-Identifier: Apache-2.0
"""A pod sandbox on its network: CNI ADD and DEL with what the kubelet said of the pod."""

from __future__ import annotations

from acri.cni.attachment import Attachment, Dns, PortMapping
from acri.model.sandbox import Sandbox
from acri.runtime.node import Node

__all__ = ["attach", "detach"]


async def attach(node: Node, sandbox: Sandbox) -> tuple[str, ...]:
    """CNI ADD; answers the pod's addresses, the primary one first."""
    result = await node.networks.setup(_attachment(sandbox, sandbox.namespaces.net))
    return result.ips


async def detach(node: Node, sandbox: Sandbox) -> None:
    """CNI DEL, as often as needed. Where the namespace is gone the plugins get none and free what they hold outside."""
    await node.networks.teardown(_attachment(sandbox, sandbox.namespaces.net), attached=bool(sandbox.ips))


def _attachment(sandbox: Sandbox, netns_path: str) -> Attachment:
    metadata = sandbox.metadata
    dns = sandbox.config.dns_config
    return Attachment(
        sandbox_id=sandbox.id,
        netns_path=netns_path,
        name=metadata.name,
        namespace=metadata.namespace,
        uid=metadata.uid,
        port_mappings=tuple(
            PortMapping(port.protocol.name.lower(), port.container_port, port.host_port, port.host_ip)
            for port in sandbox.config.port_mappings
        ),
        dns=Dns(dns.servers, dns.searches, dns.options) if dns else None,
        cgroup_path=sandbox.cgroup_parent,
    )
