# SPDX-License-Identifier: Apache-2.0
"""Results of ADD: every released form in, one `Result` out; and a result in the form of another version.

Three forms exist (CNI spec, "Result Types" of each release):

    0.1.0, 0.2.0          ip4 / ip6 {ip, gateway, routes}, dns
    0.3.0, 0.3.1, 0.4.0   interfaces, ips [{version "4"|"6", address, gateway, interface}], routes, dns
    1.0.0, 1.1.0          the same without `version`

Between plugins a result travels as the JSON object that the last plugin printed, so that keys acri does not know are
kept; it is rewritten only where its version is not the network's. What a plugin prints is foreign input: sizes, types,
addresses and duplicate keys are checked.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from acri.cni.config import VERSIONS, at_least

__all__ = ["DNS", "IPConfig", "Interface", "Malformed", "Result", "Route", "in_version", "order_ips", "parse", "read"]

MAX_BYTES = 1 << 20


class Malformed(ValueError):
    """A plugin printed something that is no result. `plugin` turns it into an error that names the plugin."""


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface that the network made; `sandbox` is empty for those on the host."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0
    socket_path: str = ""
    pci_id: str = ""


@dataclass(frozen=True, slots=True)
class IPConfig:
    """An address: `address` with its prefix length, `interface` an index into the interfaces, or None."""

    address: str
    gateway: str = ""
    interface: int | None = None

    @property
    def ip(self) -> str:
        """The address alone, in its canonical text form."""
        return self.address.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Route:
    dst: str
    gw: str = ""


@dataclass(frozen=True, slots=True)
class DNS:
    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What a network gave. `raw` is the plugin's object with `cniVersion` filled in."""

    version: str
    interfaces: tuple[Interface, ...]
    ips: tuple[IPConfig, ...]
    routes: tuple[Route, ...]
    dns: DNS
    raw: Mapping[str, Any]

    def ips_of(self, ifname: str) -> tuple[str, ...]:
        """Addresses of the sandbox's interface `ifname`, in the plugin's order, without duplicates.

        An address without an interface index belongs to it too (plugins that list no interfaces); those of host
        interfaces, and of other interfaces in the sandbox, do not.
        """
        found = []
        for item in self.ips:
            if item.interface is None or self.interfaces[item.interface].name == ifname:
                found.append(item.ip)
        return tuple(dict.fromkeys(found))


def order_ips(ips: tuple[str, ...], prefer: str) -> tuple[str, ...]:
    """`ips` with the primary one first: the first of the family `prefer` ("ipv4", "ipv6"), or as they came ("cni").

    The others keep their order. Plugins do not agree on one (kubernetes#95251), and kubelets take the first of
    CRI's addresses for the pod's IP.
    """
    family = {"ipv4": 4, "ipv6": 6}.get(prefer)
    for index, ip in enumerate(ips):
        if ipaddress.ip_address(ip).version == family:
            return (ip, *ips[:index], *ips[index + 1 :])
    return ips


def read(stdout: bytes, *, limit: int = MAX_BYTES) -> dict[str, Any]:
    """The JSON object that a plugin printed; `null` counts as an empty one, as in libcni.

    Raises:
        Malformed: it is larger than `limit`, no JSON, no object, or has a key twice.
    """
    if len(stdout) > limit:
        raise Malformed(f"it printed more than {limit} bytes")
    try:
        document = json.loads(stdout.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise Malformed(f"it printed no JSON ({error})") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise Malformed("it printed JSON that is no object")
    return document


def parse(document: Mapping[str, Any], default_version: str) -> Result:
    """A result of any version; one without `cniVersion` has the network's, `default_version`.

    Raises:
        Malformed: a key has the wrong type, an address is none, or an index points nowhere.
    """
    version = document.get("cniVersion") or default_version
    if version not in VERSIONS:
        raise Malformed(f"its result has the unknown cniVersion {version!r}")
    raw = {**document, "cniVersion": version}
    modern = raw if at_least(version, "0.3.0") else _from_02(raw)
    interfaces = tuple(_interface(item) for item in _objects(modern, "interfaces"))
    ips = tuple(_ip(item, len(interfaces)) for item in _objects(modern, "ips"))
    routes = tuple(_route(item) for item in _objects(modern, "routes"))
    return Result(version, interfaces, ips, routes, _dns(modern.get("dns")), raw)


def in_version(result: Result, version: str) -> dict[str, Any]:
    """`result` as the JSON object of another spec version, for `prevResult` and the cache."""
    if result.version == version:
        return dict(result.raw)
    raw = dict(result.raw) if at_least(result.version, "0.3.0") else _from_02(result.raw)
    raw["cniVersion"] = version
    if not at_least(version, "0.3.0"):
        return _to_02(result, raw)
    ips = [dict(item) for item in _objects(raw, "ips")]
    for item in ips:
        item.pop("version", None)
        if not at_least(version, "1.0.0"):
            item["version"] = str(ipaddress.ip_interface(item["address"]).version)
    if ips:
        raw["ips"] = ips
    return raw


def _from_02(raw: Mapping[str, Any]) -> dict[str, Any]:
    modern = {key: value for key, value in raw.items() if key not in ("ip4", "ip6")}
    ips, routes = [], []
    for key, family in (("ip4", "4"), ("ip6", "6")):
        old = raw.get(key)
        if old is None:
            continue
        if not isinstance(old, dict):
            raise Malformed(f"its result's {key} is no object")
        item = {"version": family, "address": old.get("ip")}
        if old.get("gateway"):
            item["gateway"] = old["gateway"]
        ips.append(item)
        routes += _objects(old, "routes")
    return {**modern, "ips": ips, "routes": routes}


def _to_02(result: Result, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The oldest form has room for one address of each family."""
    old = {key: value for key, value in raw.items() if key not in ("interfaces", "ips", "routes")}
    for key, family in (("ip4", 4), ("ip6", 6)):
        first = next((item for item in result.ips if ipaddress.ip_interface(item.address).version == family), None)
        if first is None:
            continue
        routes = [route for route in result.routes if ipaddress.ip_network(route.dst, strict=False).version == family]
        old[key] = {"ip": first.address} | ({"gateway": first.gateway} if first.gateway else {})
        if routes:
            old[key]["routes"] = [{"dst": route.dst} | ({"gw": route.gw} if route.gw else {}) for route in routes]
    return old


def _interface(item: Mapping[str, Any]) -> Interface:
    return Interface(
        name=_text(item, "name"),
        mac=_text(item, "mac"),
        sandbox=_text(item, "sandbox"),
        mtu=item["mtu"] if isinstance(item.get("mtu"), int) else 0,
        socket_path=_text(item, "socketPath"),
        pci_id=_text(item, "pciID"),
    )


def _ip(item: Mapping[str, Any], interfaces: int) -> IPConfig:
    index = item.get("interface")
    if index is not None and (type(index) is not int or not 0 <= index < interfaces):
        raise Malformed(f"its result has an address of interface {index!r}, and {interfaces} interfaces")
    return IPConfig(_cidr(item.get("address")), _address(item.get("gateway")), index)


def _route(item: Mapping[str, Any]) -> Route:
    dst = item.get("dst")
    try:
        if not isinstance(dst, str) or "/" not in dst:
            raise ValueError
        network = ipaddress.ip_network(dst, strict=False)
    except ValueError:
        raise Malformed(f"its result has the route {dst!r}, which is no network") from None
    return Route(str(network), _address(item.get("gw")))


def _dns(value: object) -> DNS:
    if value is None:
        return DNS()
    if not isinstance(value, dict):
        raise Malformed("its result's dns is no object")
    return DNS(_texts(value, "nameservers"), _text(value, "domain"), _texts(value, "search"), _texts(value, "options"))


def _cidr(value: object) -> str:
    """`ipaddress` refuses leading zeros (CVE-2021-29921); a zone would be one of this host."""
    try:
        if not isinstance(value, str) or "/" not in value or "%" in value:
            raise ValueError
        return str(ipaddress.ip_interface(value))
    except ValueError:
        raise Malformed(f"its result has the address {value!r}, which is none with a prefix length") from None


def _address(value: object) -> str:
    if value is None or value == "":
        return ""
    try:
        if not isinstance(value, str):
            raise ValueError
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise Malformed(f"its result has the gateway {value!r}, which is no address") from None


def _objects(document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Malformed(f"its result's {key} is no list of objects")
    return value


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Malformed(f"its result's {key} is no string")
    return value


def _texts(document: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = document.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Malformed(f"its result's {key} is no list of strings")
    return tuple(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise Malformed("it printed JSON with the same key twice")
    return document


def _no_constant(name: str) -> float:
    raise Malformed(f"it printed {name}, which is no JSON number")
