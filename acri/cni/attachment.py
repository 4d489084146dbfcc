# SPDX-License-Identifier: Apache-2.0
"""An attachment: one sandbox on one network, and what the runtime tells the plugins about it.

Two channels exist beside the configuration (CNI CONVENTIONS.md). CNI_ARGS goes to every plugin as text. Capability
arguments go as JSON, each only to the plugins whose configuration asks for it. A pod's names come from whoever calls
CRI: they are checked, since a ';' in one would be another argument to a program that runs as root.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from acri import errors

__all__ = ["IFNAME", "Attachment", "Bandwidth", "Dns", "PortMapping", "capability_args", "cni_args", "validate"]

_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_IFNAME = re.compile(r"[^\s/:]{1,15}")
_MAX_BURST_BITS = 2**32 - 1

IFNAME = "eth0"
"""The interface of a pod's own network, by the name that every Kubernetes runtime gives it."""


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A port of the host that leads to one of the pod. `host_port` 0 asks for none and is left out."""

    protocol: str
    """"tcp", "udp" or "sctp", in any case."""
    container_port: int
    host_port: int
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Limits in bits per second, seen from the pod; 0 is no limit. Bursts in bits, as large as the plugin takes."""

    ingress_rate: int = 0
    egress_rate: int = 0
    ingress_burst: int = _MAX_BURST_BITS
    egress_burst: int = _MAX_BURST_BITS


@dataclass(frozen=True, slots=True)
class Dns:
    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Attachment:
    """All that the plugins may want to know of a sandbox. For DEL only `sandbox_id`, `ifname` and, while it exists,
    `netns_path` are needed: the rest is in the result cache."""

    sandbox_id: str
    netns_path: str
    name: str = ""
    namespace: str = ""
    uid: str = ""
    port_mappings: tuple[PortMapping, ...] = ()
    dns: Dns | None = None
    bandwidth: Bandwidth | None = None
    cgroup_path: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    ips: tuple[str, ...] = ()
    ip_ranges: tuple[tuple[Mapping[str, str], ...], ...] = ()
    mac: str = ""
    infiniband_guid: str = ""
    ifname: str = IFNAME


def validate(attachment: Attachment) -> None:
    """Check what came from the caller.

    Raises:
        errors.InvalidArgument: one sentence naming the field.
    """
    if not _ID.fullmatch(attachment.sandbox_id):
        raise errors.InvalidArgument(f"sandbox id {attachment.sandbox_id!r} is not one that CNI allows")
    if not _IFNAME.fullmatch(attachment.ifname) or attachment.ifname in (".", ".."):
        raise errors.InvalidArgument(f"interface name {attachment.ifname!r} is not one that Linux allows")
    for what in ("name", "namespace", "uid"):
        value = getattr(attachment, what)
        if ";" in value or not value.isprintable():
            raise errors.InvalidArgument(f"pod sandbox {what} {value!r} has a character that CNI_ARGS cannot carry")
    for mapping in attachment.port_mappings:
        if mapping.host_port:
            _validate_port(mapping)


def _validate_port(mapping: PortMapping) -> None:
    shown = f"port mapping {mapping.host_port}:{mapping.container_port}/{mapping.protocol}"
    for what, port in (("host port", mapping.host_port), ("container port", mapping.container_port)):
        if not 1 <= port <= 65535:
            raise errors.InvalidArgument(f"{shown}: {what} {port} is not between 1 and 65535")
    if mapping.protocol.lower() not in ("tcp", "udp", "sctp"):
        raise errors.InvalidArgument(f"{shown}: protocol must be TCP, UDP or SCTP")
    if mapping.host_ip:
        try:
            ipaddress.ip_address(mapping.host_ip)
        except ValueError:
            raise errors.InvalidArgument(f"{shown}: host IP {mapping.host_ip!r} is no IP address") from None


def cni_args(attachment: Attachment) -> tuple[tuple[str, str], ...]:
    """CNI_ARGS as every Kubernetes runtime sends them; plugins that know only some are told to ignore the others."""
    return (
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", attachment.namespace),
        ("K8S_POD_NAME", attachment.name),
        ("K8S_POD_INFRA_CONTAINER_ID", attachment.sandbox_id),
        ("K8S_POD_UID", attachment.uid),
    )


def capability_args(attachment: Attachment) -> dict[str, Any]:
    """Capability arguments by their conventional names; what the sandbox does not ask for is not in it."""
    args: dict[str, Any] = {}
    ports = [_port_arg(mapping) for mapping in attachment.port_mappings if mapping.host_port]
    if ports:
        args["portMappings"] = ports
    bandwidth = _bandwidth_arg(attachment.bandwidth)
    if bandwidth:
        args["bandwidth"] = bandwidth
    if attachment.dns is not None and attachment.dns != Dns():
        dns = attachment.dns
        args["dns"] = {"servers": list(dns.servers), "searches": list(dns.searches), "options": list(dns.options)}
    if attachment.ip_ranges:
        args["ipRanges"] = [[dict(item) for item in pool] for pool in attachment.ip_ranges]
    if attachment.annotations:
        args["io.kubernetes.cri.pod-annotations"] = dict(attachment.annotations)
    plain: dict[str, Any] = {
        "ips": list(attachment.ips),
        "mac": attachment.mac,
        "infinibandGUID": attachment.infiniband_guid,
        "cgroupPath": attachment.cgroup_path,
    }
    return args | {key: value for key, value in plain.items() if value}


def _port_arg(mapping: PortMapping) -> dict[str, Any]:
    arg: dict[str, Any] = {
        "hostPort": mapping.host_port,
        "containerPort": mapping.container_port,
        "protocol": mapping.protocol.lower(),
    }
    if mapping.host_ip:
        arg["hostIP"] = mapping.host_ip
    return arg


def _bandwidth_arg(bandwidth: Bandwidth | None) -> dict[str, int]:
    """A rate goes with its burst: the plugin refuses one without the other."""
    if bandwidth is None:
        return {}
    arg: dict[str, int] = {}
    if bandwidth.ingress_rate:
        arg |= {"ingressRate": bandwidth.ingress_rate, "ingressBurst": bandwidth.ingress_burst}
    if bandwidth.egress_rate:
        arg |= {"egressRate": bandwidth.egress_rate, "egressBurst": bandwidth.egress_burst}
    return arg
