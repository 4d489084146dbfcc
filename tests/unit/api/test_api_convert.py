# SPDX-License-Identifier: Apache-2.0
"""Wire ↔ model: every field both ways, presence kept, mistakes named."""

from __future__ import annotations

import dataclasses
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acri import errors
from acri.api import convert
from acri.model import config as model
from acri.model.container import Container, Exit, User
from acri.model.image import Image, ImageConfig
from acri.model.sandbox import Phase, Sandbox
from acri.proto.runtime import v1 as cri
from acri.wire import decode, encode

# Model class → wire class, for everything that comes in with a request.
PAIRS = [
    (model.PodSandboxConfig, cri.PodSandboxConfig),
    (model.ContainerConfig, cri.ContainerConfig),
    (model.LinuxContainerResources, cri.LinuxContainerResources),
    (model.ImageSpec, cri.ImageSpec),
]
# Fields of CRI that acri does not carry on purpose: another operating system's, or not of Linux pods.
LEFT_OUT = {"windows", "gpu"}

st.register_type_strategy(str, st.text(st.characters(codec="utf-8"), max_size=8))
st.register_type_strategy(int, st.integers(0, 2**31 - 1))


@pytest.mark.parametrize(("model_class", "wire_class"), PAIRS)
def test_no_field_of_a_request_is_lost(model_class, wire_class):
    """Field by field, all the way down: a field that upstream adds fails here until somebody decides about it."""
    missing = []

    def compare(ours, theirs, path: str) -> None:
        hints = typing.get_type_hints(theirs)
        own = {field.name for field in dataclasses.fields(ours)}
        for field in dataclasses.fields(theirs):
            if field.name not in own and field.name not in LEFT_OUT:
                missing.append(f"{path}.{field.name}")
        inner = typing.get_type_hints(ours)
        for name in own & hints.keys():
            ours_inner = next(
                (c for c in (inner[name], *typing.get_args(inner[name])) if dataclasses.is_dataclass(c)), None
            )
            theirs_inner = next(
                (c for c in (hints[name], *typing.get_args(hints[name])) if dataclasses.is_dataclass(c)), None
            )
            if ours_inner and theirs_inner:
                compare(ours_inner, theirs_inner, f"{path}.{name}")

    compare(model_class, wire_class, wire_class.__name__)
    assert missing == []


@pytest.mark.parametrize(("model_class", "wire_class"), PAIRS)
@given(data=st.data())
def test_any_value_survives_the_wire(model_class, wire_class, data):
    value = data.draw(st.from_type(model_class))
    if isinstance(value, model.ContainerConfig):
        value = dataclasses.replace(value, envs=())  # bytes on the wire, and never sent back
    message = convert.to_wire(wire_class, value)
    assert convert.from_wire(model_class, decode(wire_class, encode(message))) == value


def test_presence_is_kept():
    empty = cri.PodSandboxConfig(linux=cri.LinuxPodSandboxConfig(security_context=cri.LinuxSandboxSecurityContext()))
    read = convert.from_wire(model.PodSandboxConfig, decode(cri.PodSandboxConfig, encode(empty)))
    assert read.metadata is None
    assert read.linux is not None
    assert read.linux.security_context == model.LinuxSandboxSecurityContext()
    assert read.linux.security_context.run_as_user is None


def test_user_zero_is_not_no_user():
    context = cri.LinuxContainerSecurityContext(run_as_user=cri.Int64Value(value=0))
    read = convert.from_wire(model.LinuxContainerSecurityContext, context)
    assert read.run_as_user == 0
    assert read.run_as_group is None


def test_an_unknown_enum_value_is_refused_with_the_known_ones():
    with pytest.raises(errors.InvalidArgument, match=r"network: 9 is not one of POD=0, CONTAINER=1, NODE=2, TARGET=3"):
        convert.from_wire(model.NamespaceOption, decode(cri.NamespaceOption, b"\x08\x09"))


def test_an_environment_value_that_is_not_text_is_refused():
    with pytest.raises(errors.InvalidArgument, match="not UTF-8"):
        convert.from_wire(model.KeyValue, cri.KeyValue(key="A", value=b"\xff"))


def sandbox(**changes) -> Sandbox:
    config = model.PodSandboxConfig(
        model.PodSandboxMetadata("n", "u", "ns", 3), labels={"a": "b"}, annotations={"c": "d"}
    )
    return dataclasses.replace(Sandbox("s" * 64, config, "runc", 5, Phase.READY), **changes)


def container(**changes) -> Container:
    config = model.ContainerConfig(
        model.ContainerMetadata("c", 2),
        model.ImageSpec("busybox", user_specified_image="busybox"),
        annotations={"h": "1"},
    )
    value = Container("c" * 64, "s" * 64, config, "sha256:1", "b@sha256:2", 6, "overlayfs", User(1, 2, (2, 3)), 15)
    return dataclasses.replace(value, **changes)


def test_list_items_are_framed_for_their_answers():
    listed = decode(
        cri.ListPodSandboxResponse, convert.sandbox_frame(sandbox()) + convert.sandbox_frame(sandbox(id="t"))
    )
    assert [item.id for item in listed.items] == ["s" * 64, "t"]
    item = listed.items[0]
    assert (item.metadata.name, item.metadata.attempt, item.created_at) == ("n", 3, 5)
    assert (item.labels, item.annotations, item.runtime_handler) == ({"a": "b"}, {"c": "d"}, "runc")
    only = decode(cri.ListContainersResponse, convert.container_frame(container())).containers[0]
    assert only.image.image == "busybox"
    assert (only.image_id, only.image_ref, only.pod_sandbox_id) == ("sha256:1", "b@sha256:2", "s" * 64)


@pytest.mark.parametrize(("phase", "state"), [(Phase.READY, 0), (Phase.STOPPED, 1), (Phase.CREATING, 1)])
def test_only_a_ready_sandbox_is_ready(phase: Phase, state: int):
    assert convert.sandbox_status(sandbox(phase=phase)).state == state


def test_a_sandbox_status_answers_what_the_kubelet_compares():
    node = model.NamespaceOption(network=model.NamespaceMode.NODE)
    context = model.LinuxSandboxSecurityContext(namespace_options=node)
    config = model.PodSandboxConfig(
        model.PodSandboxMetadata("n", "u", "ns"), linux=model.LinuxPodSandboxConfig(security_context=context)
    )
    on_host = convert.sandbox_status(sandbox(config=config))
    assert on_host.network is None
    assert on_host.linux.namespaces.options.network == 2
    own = convert.sandbox_status(sandbox(ips=("10.0.0.2", "fd00::2")))
    assert own.network.ip == "10.0.0.2"
    assert [ip.ip for ip in own.network.additional_ips] == ["fd00::2"]
    assert own.linux.namespaces.options.network == 0


def test_a_container_status_has_exit_data_only_when_exited():
    running = convert.container_status(container(started_at_ns=7), None)
    assert (running.state, running.started_at, running.finished_at, running.reason) == (1, 7, 0, "")
    exited = convert.container_status(container(started_at_ns=7, exit=Exit(137, 9, "OOMKilled", "m")), None)
    assert (exited.state, exited.exit_code, exited.finished_at) == (2, 137, 9)
    assert (exited.reason, exited.message) == ("OOMKilled", "m")
    assert (exited.user.linux.uid, exited.user.linux.gid, exited.user.linux.supplemental_groups) == (1, 2, [2, 3])
    assert exited.image.image == "busybox"


def image(user: str = "") -> Image:
    return Image(
        "sha256:1", ("busybox:latest",), ("busybox@sha256:2",), 7, "sha256:3", ImageConfig(user=user), "sha256:2"
    )


@pytest.mark.parametrize(
    ("user", "uid", "username"),
    [
        ("", None, ""),
        ("0", 0, ""),
        ("1000", 1000, ""),
        ("1000:1000", 1000, ""),
        ("www", None, "www"),
        ("www:www", None, "www"),
    ],
)
def test_an_images_user_is_a_number_or_a_name(user: str, uid: int | None, username: str):
    message = convert.image_message(image(user))
    assert (message.uid.value if message.uid is not None else None, message.username) == (uid, username)


def test_a_container_status_names_the_images_tag():
    assert convert.container_status(container(), image()).image.image == "busybox:latest"
