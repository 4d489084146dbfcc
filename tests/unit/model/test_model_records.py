# SPDX-License-Identifier: Apache-2.0
"""Records survive the way into containerd and back; presence is kept."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acri import errors
from acri.model import records
from acri.model.config import (
    ContainerConfig,
    ContainerMetadata,
    LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext,
    NamespaceMode,
    NamespaceOption,
    PodSandboxConfig,
    PodSandboxMetadata,
)
from acri.model.container import Container, ContainerState, Exit, User
from acri.model.sandbox import Holder, Namespaces, Phase, Sandbox


def values_of(cls: type):
    """Any instance of a model class, by its type hints."""
    return st.from_type(cls)


text = st.text(st.characters(codec="utf-8"), max_size=20)
st.register_type_strategy(str, text)


@given(values_of(PodSandboxConfig), st.sampled_from(Phase), st.none() | values_of(Holder), values_of(Namespaces))
def test_any_sandbox_is_read_as_it_was_written(config, phase, holder, namespaces):
    sandbox = Sandbox("a" * 64, config, "runc", 1, phase, namespaces, holder, ("10.0.0.1", "fd00::1"), True, "/acri")
    assert records.read_sandbox(records.write(sandbox)) == sandbox


@given(values_of(ContainerConfig), values_of(User), st.none() | values_of(Exit))
def test_any_container_is_read_as_it_was_written(config, user, end):
    container = Container("c" * 64, "s" * 64, config, "sha256:1", "x@sha256:2", 1, "overlayfs", user, 15, exit=end)
    assert records.read_container(records.write(container)) == container


def test_an_empty_message_is_not_an_absent_one():
    def with_options(options):
        context = LinuxSandboxSecurityContext(namespace_options=options)
        config = PodSandboxConfig(
            PodSandboxMetadata("n", "u", "ns"), linux=LinuxPodSandboxConfig(security_context=context)
        )
        return Sandbox("a", config, "", 1, Phase.READY)

    for options in (None, NamespaceOption(), NamespaceOption(pid=NamespaceMode.CONTAINER)):
        read = records.read_sandbox(records.write(with_options(options)))
        assert read.config.linux.security_context.namespace_options == options


def test_unknown_fields_of_a_later_release_are_ignored():
    document = json.loads(records.write(Sandbox("a", PodSandboxConfig(), "", 1, Phase.READY)))
    document["sandbox"]["news"] = {"x": 1}
    assert records.read_sandbox(json.dumps(document).encode()).id == "a"


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"\xff", b'{"version":2,"sandbox":{}}', b'{"version":1,"sandbox":{}}']
)
def test_a_record_that_cannot_be_read_is_one_error(data: bytes):
    with pytest.raises(errors.Internal, match="sandbox record"):
        records.read_sandbox(data)


def test_labels_name_the_object_and_leave_out_what_containerd_refuses():
    config = ContainerConfig(
        ContainerMetadata("web"), labels={"io.kubernetes.pod.uid": "u", "big": "x" * 5000, records.KIND_LABEL: "forged"}
    )
    container = Container("c", "s", config, "", "", 1, "overlayfs", User(0, 0), 15)
    assert records.containerd_labels(container) == {
        "io.kubernetes.pod.uid": "u",
        records.KIND_LABEL: records.CONTAINER,
        records.SANDBOX_LABEL: "s",
    }


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, ContainerState.CREATED),
        ({"started_at_ns": 1}, ContainerState.RUNNING),
        ({"started_at_ns": 1, "unknown": True}, ContainerState.UNKNOWN),
        ({"started_at_ns": 1, "exit": Exit(0, 2, "Completed")}, ContainerState.EXITED),
        ({"exit": Exit(128, 2, "StartError")}, ContainerState.EXITED),
    ],
)
def test_the_state_follows_from_the_time_stamps(fields, state):
    config = ContainerConfig(ContainerMetadata("web"))
    assert Container("c", "s", config, "", "", 1, "overlayfs", User(0, 0), 15, **fields).state is state
