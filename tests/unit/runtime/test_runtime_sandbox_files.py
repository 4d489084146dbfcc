# SPDX-License-Identifier: Apache-2.0
"""hostname, hosts and resolv.conf of a pod."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from acri import config, errors
from acri.host.kernel import LinuxKernel
from acri.model.config import (
    DNSConfig,
    LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext,
    NamespaceMode,
    NamespaceOption,
    PodSandboxConfig,
    PodSandboxMetadata,
)
from acri.model.sandbox import Phase, Sandbox
from acri.runtime import sandbox_files
from acri.runtime.paths import Paths, SandboxPaths


def sandbox(hostname: str = "") -> Sandbox:
    made = PodSandboxConfig(PodSandboxMetadata("n", "u", "ns"), hostname=hostname)
    return Sandbox("s", made, "", 1, Phase.CREATING)


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


def paths_below(directory: Path) -> SandboxPaths:
    settings = config.Settings(state_dir=str(directory / "run"), root_dir=str(directory / "lib"))
    return Paths(settings).sandbox("s")


def on_host(hostname: str = "web") -> Sandbox:
    """One that needs no mount: host network and host IPC."""
    options = NamespaceOption(network=NamespaceMode.NODE, ipc=NamespaceMode.NODE)
    context = LinuxSandboxSecurityContext(namespace_options=options)
    linux = LinuxPodSandboxConfig(security_context=context)
    made = PodSandboxConfig(PodSandboxMetadata("n", "u", "ns"), hostname=hostname, linux=linux)
    return Sandbox("s", made, "", 1, Phase.CREATING)


def test_files_are_made_and_removed_and_both_may_be_repeated(tmp_path: Path):
    paths, kernel = paths_below(tmp_path), LinuxKernel()
    for _ in range(2):
        sandbox_files.make(kernel, on_host(), paths)
        sandbox_files.write_hosts(dataclasses.replace(on_host(), ips=("10.0.0.2",)), paths)
    assert Path(paths.hostname).read_text() == "web\n"
    assert Path(paths.resolv_conf).read_bytes() == Path("/etc/resolv.conf").read_bytes()
    assert Path(paths.hosts).read_text().endswith("10.0.0.2\tweb\n")
    for _ in range(2):
        sandbox_files.remove(kernel, paths)
    assert not os.path.exists(paths.root)
    assert not os.path.exists(paths.state)


def test_a_host_file_that_is_no_text_is_copied_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sandbox_files, "_host_file", lambda path: b"search \xff\n")
    sandbox_files.make(LinuxKernel(), on_host(), paths_below(tmp_path))
    assert Path(paths_below(tmp_path).resolv_conf).read_bytes() == b"search \xff\n"


def test_what_the_host_refuses_is_named_with_its_path(tmp_path: Path):
    paths = paths_below(tmp_path)
    os.makedirs(paths.hosts)
    with pytest.raises(errors.AcriError, match=f"write {paths.hosts}: Is a directory"):
        sandbox_files.write_hosts(on_host(), paths)
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(errors.AcriError, match=f"make the directory {paths.state}: Not a directory"):
        sandbox_files.make(LinuxKernel(), on_host(), paths)
