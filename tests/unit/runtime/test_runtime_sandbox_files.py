# SPDX-License-Identifier: Apache-2.0
"""hostname, hosts and resolv.conf of a pod."""

from __future__ import annotations

import pytest

from acri import errors
from acri.model.config import DNSConfig, PodSandboxConfig, PodSandboxMetadata
from acri.model.sandbox import Phase, Sandbox
from acri.runtime import sandbox_files


def sandbox(hostname: str = "") -> Sandbox:
    config = PodSandboxConfig(PodSandboxMetadata("n", "u", "ns"), hostname=hostname)
    return Sandbox("s", config, "", 1, Phase.CREATING)


@pytest.mark.parametrize(
    ("dns", "content"),
    [
        (DNSConfig(), ""),
        (DNSConfig(servers=("10.0.0.10",)), "nameserver 10.0.0.10\n"),
        (
            DNSConfig(("1.1.1.1", "fd00::1"), ("a.local", "b.local"), ("ndots:5", "edns0")),
            "search a.local b.local\nnameserver 1.1.1.1\nnameserver fd00::1\noptions ndots:5 edns0\n",
        ),
    ],
)
def test_resolv_conf(dns: DNSConfig, content: str):
    assert sandbox_files.resolv_conf_content(dns) == content


def test_a_line_break_in_dns_is_refused():
    with pytest.raises(errors.InvalidArgument, match="line break"):
        sandbox_files.resolv_conf_content(DNSConfig(servers=("1.1.1.1\nnameserver 6.6.6.6",)))


def test_hosts_has_every_address():
    content = sandbox_files.hosts_content("web", ("10.0.0.2", "fd00::2"))
    assert content.startswith("127.0.0.1\tlocalhost\n")
    assert content.endswith("10.0.0.2\tweb\nfd00::2\tweb\n")


def test_a_hostname_that_the_kernel_would_refuse_is_refused():
    assert sandbox_files.hostname_of(sandbox("w" * 64)) == "w" * 64
    with pytest.raises(errors.InvalidArgument, match="more than 64 bytes"):
        sandbox_files.hostname_of(sandbox("w" * 65))
