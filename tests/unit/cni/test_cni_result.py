# SPDX-License-Identifier: Apache-2.0
"""Results of every spec version, conversions between them, and foreign input."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acri.cni import result as cni_result
from acri.cni.config import VERSIONS
from acri.cni.result import Malformed

MODERN = [version for version in VERSIONS if version not in ("0.1.0", "0.2.0")]
ADDRESSES = st.ip_addresses().map(lambda ip: f"{ip}/{24 if ip.version == 4 else 64}")


def document(version: str, **changes: Any) -> dict[str, Any]:
    return {
        "cniVersion": version,
        "interfaces": [
            {"name": "cni0", "mac": "00:11:22:33:44:55"},
            {"name": "veth1"},
            {"name": "eth0", "mac": "99:88:77:66:55:44", "sandbox": "/run/netns/x", "mtu": 1450},
            {"name": "eth1", "sandbox": "/run/netns/x"},
        ],
        "ips": [
            {"version": "6", "address": "fd00::5/64", "gateway": "fd00::1", "interface": 2},
            {"version": "4", "address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 2},
            {"version": "4", "address": "10.9.0.1/16", "interface": 0},
            {"version": "4", "address": "10.8.0.1/16", "interface": 3},
        ],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fd00::1"}],
        "dns": {"nameservers": ["10.1.0.1"], "search": ["a.b"]},
    } | changes


@pytest.mark.parametrize("version", MODERN)
def test_modern_results(version: str) -> None:
    result = cni_result.parse(document(version), "0.3.1")
    assert result.version == version
    assert result.interfaces[2].mtu == 1450
    assert result.ips[1].gateway == "10.1.0.1"
    assert result.routes[1].gw == "fd00::1"
    assert result.dns.search == ("a.b",)
    assert result.ips_of("eth0") == ("fd00::5", "10.1.0.5")


@pytest.mark.parametrize("version", ["", "0.1.0", "0.2.0"])
def test_the_oldest_form(version: str) -> None:
    old = {
        "ip4": {"ip": "10.1.0.5/16", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
        "ip6": {"ip": "fd00::5/64"},
    }
    result = cni_result.parse(old | ({"cniVersion": version} if version else {}), "0.2.0")
    assert result.ips_of("eth0") == ("10.1.0.5", "fd00::5")
    assert result.routes[0].dst == "0.0.0.0/0"


@pytest.mark.parametrize("source", MODERN)
@pytest.mark.parametrize("target", MODERN)
def test_conversion_between_modern_forms_keeps_everything(source: str, target: str) -> None:
    result = cni_result.parse(document(source) | {"unknown": {"kept": 1}}, source)
    converted = cni_result.in_version(result, target)
    assert converted["cniVersion"] == target
    assert converted["unknown"] == {"kept": 1}
    if source != target:
        assert all(("version" in item) == (target not in ("1.0.0", "1.1.0")) for item in converted["ips"])
    again = cni_result.parse(converted, target)
    assert (again.interfaces, again.ips, again.routes, again.dns) == (
        result.interfaces,
        result.ips,
        result.routes,
        result.dns,
    )


def test_conversion_to_the_oldest_form_and_back() -> None:
    old = cni_result.in_version(cni_result.parse(document("1.0.0"), "1.0.0"), "0.2.0")
    assert old["ip4"] == {"ip": "10.1.0.5/16", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0"}]}
    assert old["ip6"] == {
        "ip": "fd00::5/64",
        "gateway": "fd00::1",
        "routes": [{"dst": "::/0", "gw": "fd00::1"}],
    }
    assert "interfaces" not in old
    new = cni_result.in_version(cni_result.parse(old, "0.2.0"), "0.3.1")
    assert [item["version"] for item in new["ips"]] == ["4", "6"]


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [
        ("ipv4", ("10.0.0.1", "fd00::1", "fd00::2", "10.0.0.2")),
        ("ipv6", ("fd00::1", "fd00::2", "10.0.0.1", "10.0.0.2")),
        ("cni", ("fd00::1", "fd00::2", "10.0.0.1", "10.0.0.2")),
    ],
)
def test_the_primary_address_comes_first(prefer: str, expected: tuple[str, ...]) -> None:
    assert cni_result.order_ips(("fd00::1", "fd00::2", "10.0.0.1", "10.0.0.2"), prefer) == expected


@given(st.lists(st.ip_addresses().map(str), unique=True, max_size=6), st.sampled_from(["ipv4", "ipv6", "cni"]))
def test_ordering_loses_no_address(ips: list[str], prefer: str) -> None:
    ordered = cni_result.order_ips(tuple(ips), prefer)
    assert sorted(ordered) == sorted(ips)
    family = {"ipv4": 4, "ipv6": 6}.get(prefer)
    if any(ipaddress.ip_address(ip).version == family for ip in ips):
        assert ipaddress.ip_address(ordered[0]).version == family


@pytest.mark.parametrize(
    "changes",
    [
        {"cniVersion": "3.0.0"},
        {"cniVersion": 1},
        {"ips": {}},
        {"ips": ["10.0.0.1/8"]},
        {"ips": [{"address": "10.0.0.1"}]},
        {"ips": [{"address": "010.0.0.1/8"}]},
        {"ips": [{"address": "fe80::1%eth0/64"}]},
        {"ips": [{"address": None}]},
        {"ips": [{"address": "10.0.0.1/8", "interface": 9}]},
        {"ips": [{"address": "10.0.0.1/8", "interface": -1}]},
        {"ips": [{"address": "10.0.0.1/8", "interface": True}]},
        {"ips": [{"address": "10.0.0.1/8", "gateway": "x"}]},
        {"interfaces": [{"name": 1}]},
        {"routes": [{"dst": "here"}]},
        {"dns": []},
        {"dns": {"search": "a"}},
    ],
)
def test_a_malformed_result_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        cni_result.parse(document("1.0.0", **changes), "1.0.0")


@pytest.mark.parametrize("stdout", [b"", b"hello", b"[]", b'{"a":1,"a":2}', b'{"a":NaN}', b"\xff", b"[" * 100_000])
def test_output_that_is_no_object_is_refused(stdout: bytes) -> None:
    with pytest.raises(Malformed):
        cni_result.read(stdout)


def test_output_is_bounded_and_null_is_empty() -> None:
    assert cni_result.read(b"null") == {}
    with pytest.raises(Malformed, match="more than 10 bytes"):
        cni_result.read(b'{"abcdefgh": 1}', limit=10)


@given(st.binary(max_size=100))
def test_any_output_is_read_or_refused(stdout: bytes) -> None:
    try:
        cni_result.parse(cni_result.read(stdout), "1.0.0")
    except Malformed:
        pass


@given(
    st.fixed_dictionaries(
        {},
        optional={
            key: st.none() | st.integers() | st.text(max_size=5) | st.lists(st.dictionaries(st.text(), st.integers()))
            for key in ("cniVersion", "interfaces", "ips", "ip4", "ip6", "routes", "dns")
        },
    )
)
def test_any_object_is_a_result_or_malformed(raw: dict[str, Any]) -> None:
    try:
        cni_result.parse(raw, "1.0.0")
    except Malformed:
        pass


@given(st.lists(ADDRESSES, max_size=5, unique=True), st.sampled_from(MODERN), st.sampled_from(MODERN))
def test_addresses_survive_conversion(addresses: list[str], source: str, target: str) -> None:
    result = cni_result.parse({"ips": [{"address": address} for address in addresses]}, source)
    again = cni_result.parse(json.loads(json.dumps(cni_result.in_version(result, target))), target)
    assert again.ips_of("eth0") == result.ips_of("eth0")
