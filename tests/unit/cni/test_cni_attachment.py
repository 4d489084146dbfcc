# SPDX-License-Identifier: Apache-2.0
"""What plugins are told about a sandbox."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acri import errors
from acri.cni import attachment as cni_attachment
from acri.cni.attachment import Attachment, Bandwidth, Dns, PortMapping


def test_cni_args() -> None:
    attachment = Attachment("abc", "/run/netns/x", name="pod", namespace="ns", uid="u-1")
    assert ";".join(f"{key}={value}" for key, value in cni_attachment.cni_args(attachment)) == (
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1"
    )


def test_every_capability_by_its_conventional_name() -> None:
    attachment = Attachment(
        "abc",
        "",
        port_mappings=(
            PortMapping("TCP", 80, 8080),
            PortMapping("SCTP", 81, 0),
            PortMapping("udp", 53, 5353, "127.0.0.1"),
        ),
        dns=Dns(("10.0.0.10",), ("svc.local",), ("ndots:5",)),
        bandwidth=Bandwidth(ingress_rate=1000),
        cgroup_path="/kubepods/pod1",
        annotations={"a": "b"},
        ips=("10.0.0.9/24",),
        ip_ranges=(({"subnet": "10.0.0.0/24"},),),
        mac="c2:11:22:33:44:55",
        infiniband_guid="c2:11:22:33:44:55:66:77",
    )
    assert cni_attachment.capability_args(attachment) == {
        "portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"},
        ],
        "dns": {"servers": ["10.0.0.10"], "searches": ["svc.local"], "options": ["ndots:5"]},
        "bandwidth": {"ingressRate": 1000, "ingressBurst": 2**32 - 1},
        "cgroupPath": "/kubepods/pod1",
        "io.kubernetes.cri.pod-annotations": {"a": "b"},
        "ips": ["10.0.0.9/24"],
        "ipRanges": [[{"subnet": "10.0.0.0/24"}]],
        "mac": "c2:11:22:33:44:55",
        "infinibandGUID": "c2:11:22:33:44:55:66:77",
    }


def test_nothing_asked_nothing_sent() -> None:
    attachment = Attachment("abc", "", port_mappings=(PortMapping("tcp", 80, 0),), dns=Dns(), bandwidth=Bandwidth())
    cni_attachment.validate(attachment)
    assert cni_attachment.capability_args(attachment) == {}


@pytest.mark.parametrize(
    ("attachment", "reason"),
    [
        (Attachment("", ""), "sandbox id"),
        (Attachment("../x", ""), "sandbox id"),
        (Attachment("abc", "", name="a;CNI_COMMAND=DEL"), "name"),
        (Attachment("abc", "", namespace="a\0b"), "namespace"),
        (Attachment("abc", "", uid="a\nb"), "uid"),
        (Attachment("abc", "", ifname="a/b"), "interface name"),
        (Attachment("abc", "", ifname=".."), "interface name"),
        (Attachment("abc", "", ifname="x" * 16), "interface name"),
        (Attachment("abc", "", port_mappings=(PortMapping("tcp", 80, 65536),)), "host port 65536"),
        (Attachment("abc", "", port_mappings=(PortMapping("tcp", 0, 80),)), "container port 0"),
        (Attachment("abc", "", port_mappings=(PortMapping("icmp", 80, 80),)), "protocol must be"),
        (Attachment("abc", "", port_mappings=(PortMapping("tcp", 80, 80, "here"),)), "no IP address"),
    ],
)
def test_bad_input_is_named(attachment: Attachment, reason: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=reason):
        cni_attachment.validate(attachment)


@given(st.text(), st.text(), st.text())
def test_what_is_let_through_makes_no_further_argument(name: str, namespace: str, uid: str) -> None:
    attachment = Attachment("abc", "", name=name, namespace=namespace, uid=uid)
    try:
        cni_attachment.validate(attachment)
    except errors.InvalidArgument:
        return
    text = ";".join(f"{key}={value}" for key, value in cni_attachment.cni_args(attachment))
    assert text.count(";") == 4
    assert "\0" not in text
