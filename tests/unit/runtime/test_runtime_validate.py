# SPDX-License-Identifier: Apache-2.0
"""Bad requests are refused with one sentence before anything is made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acri import errors
from acri.model import config as model
from acri.runtime import validate


def pod(**fields) -> model.PodSandboxConfig:
    return model.PodSandboxConfig(**{"metadata": model.PodSandboxMetadata("web", "uid", "default"), **fields})


def with_context(**fields) -> model.PodSandboxConfig:
    return pod(linux=model.LinuxPodSandboxConfig(security_context=model.LinuxSandboxSecurityContext(**fields)))


def with_options(**fields) -> model.PodSandboxConfig:
    return with_context(namespace_options=model.NamespaceOption(**fields))


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (model.PodSandboxConfig(), "config.metadata is missing"),
        (pod(metadata=model.PodSandboxMetadata("", "u", "n")), "config.metadata.name is empty"),
        (pod(metadata=model.PodSandboxMetadata("a", "", "n")), "config.metadata.uid is empty"),
        (pod(metadata=model.PodSandboxMetadata("a", "u", "")), "config.metadata.namespace is empty"),
        (pod(metadata=model.PodSandboxMetadata("../a", "u", "n")), "has a slash or a control character"),
        (pod(metadata=model.PodSandboxMetadata("..", "u", "n")), "or is '.' or '..'"),
        (pod(metadata=model.PodSandboxMetadata("a\nb", "u", "n")), "control character"),
        (pod(hostname="web\n10.0.0.1 bank"), "config.hostname 'web.n10.0.0.1 bank' has other characters"),
        (pod(hostname="web\n"), "config.hostname"),
        (pod(hostname="a b"), "config.hostname"),
        (pod(hostname="../etc"), "config.hostname"),
        (pod(hostname="\x00"), "config.hostname"),
        (pod(hostname="$(id)"), "config.hostname"),
        (pod(hostname="bücher"), "config.hostname"),
        (pod(log_directory="relative"), "not an absolute path"),
        (pod(log_directory="/var/../etc"), "not an absolute path"),
        (pod(port_mappings=(model.PortMapping(host_port=70000, container_port=1),)), "outside 0–65535"),
        (pod(port_mappings=(model.PortMapping(host_port=-1, container_port=1),)), "outside 0–65535"),
        (pod(port_mappings=(model.PortMapping(host_port=80),)), "has no container port"),
        (with_context(run_as_group=1), "run_as_group needs run_as_user"),
        (with_options(network=model.NamespaceMode.CONTAINER), "network namespace mode CONTAINER"),
        (with_options(ipc=model.NamespaceMode.TARGET), "ipc namespace mode TARGET"),
        (with_options(pid=model.NamespaceMode.TARGET), "cannot target another container"),
    ],
)
def test_a_bad_pod_is_refused(config: model.PodSandboxConfig, complaint: str):
    with pytest.raises(errors.InvalidArgument, match=complaint):
        validate.check_sandbox_config(config)


def test_pods_as_a_kubelet_sends_them_pass():
    validate.check_sandbox_config(pod())
    validate.check_sandbox_config(
        pod(log_directory="/var/log/pods/x", port_mappings=(model.PortMapping(container_port=80),))
    )
    validate.check_sandbox_config(with_options(pid=model.NamespaceMode.CONTAINER))
    for hostname in ("", "web-0", "web-0.svc.default.svc.cluster.local", "Node_7", "w" * 63):
        validate.check_sandbox_config(pod(hostname=hostname))


@pytest.mark.parametrize(
    ("directory", "path", "joined"),
    [
        ("", "c/0.log", ""),
        ("/var/log/pods/p", "", ""),
        ("/var/log/pods/p", "c/0.log", "/var/log/pods/p/c/0.log"),
        ("/var/log/pods/p/", "./c//0.log", "/var/log/pods/p/c/0.log"),
    ],
)
def test_the_log_path_is_joined(directory: str, path: str, joined: str):
    assert validate.log_path(pod(log_directory=directory), model.ContainerConfig(log_path=path)) == joined


@given(st.lists(st.sampled_from(["..", ".", "a", "", "0.log"]), min_size=1, max_size=6), st.booleans())
def test_no_log_path_leads_out_of_the_pods_directory(parts: list[str], absolute: bool):
    path = ("/" if absolute else "") + "/".join(parts)
    try:
        joined = validate.log_path(pod(log_directory="/logs/p"), model.ContainerConfig(log_path=path))
    except errors.InvalidArgument:
        return
    assert not joined or joined.startswith("/logs/p/")
    assert ".." not in joined.split("/")
