# SPDX-License-Identifier: Apache-2.0
"""Records survive the way into containerd and back; presence is kept."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acri import errors
from acri.model import records
from acri.model.config import (
    ContainerConfig,
    ContainerMetadata,
    DNSConfig,
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
# One for the whole process: test_api_convert.py registers the same, with what every field on the wire can carry.
st.register_type_strategy(int, st.integers(0, 2**31 - 1))


@given(values_of(PodSandboxConfig), st.sampled_from(Phase), st.none() | values_of(Holder), values_of(Namespaces))
def test_any_sandbox_is_read_as_it_was_written(config, phase, holder, namespaces):
    config = replace(config, metadata=config.metadata or PodSandboxMetadata("n", "u", "ns"))
    sandbox = Sandbox("a" * 64, config, "runc", 1, phase, namespaces, holder, ("10.0.0.1", "fd00::1"), True, "/acri")
    assert records.read_sandbox(records.write(sandbox)) == sandbox


@given(values_of(ContainerConfig), values_of(User), st.none() | values_of(Exit))
def test_any_container_is_read_as_it_was_written(config, user, end):
    config = replace(config, metadata=config.metadata or ContainerMetadata("c"))
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
    document = written()
    document["sandbox"]["news"] = {"x": 1}
    assert records.read_sandbox(json.dumps(document).encode()).id == "a"


def written() -> dict:
    """A sandbox's record, every part of it there."""
    options = NamespaceOption(pid=NamespaceMode.CONTAINER)
    config = PodSandboxConfig(
        PodSandboxMetadata("n", "u", "ns", 1),
        dns_config=DNSConfig(("1.1.1.1",)),
        labels={"a": "b"},
        linux=LinuxPodSandboxConfig(security_context=LinuxSandboxSecurityContext(namespace_options=options)),
    )
    sandbox = Sandbox(
        "a", config, "runc", 1, Phase.READY, Namespaces("/n"), Holder(1, 2), ("10.0.0.1",), network_attached=True
    )
    return json.loads(records.write(sandbox))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"1",
        b"\xff",
        b'{"version":2,"sandbox":{}}',
        b'{"version":[],"sandbox":{}}',
        b'{"version":1,"sandbox":{}}',
        b'{"version":1,"sandbox":[]}',
        b'{"version":1,"sandbox":null}',
        b'{"version":1,"container":{}}',
        b'{"version":1,"sandbox":' + b"[" * 100_000,
    ],
)
def test_a_record_that_cannot_be_read_is_one_error(data: bytes):
    with pytest.raises(errors.Internal, match="sandbox record"):
        records.read_sandbox(data)


def places(plain: object, path: tuple = ()):
    """Paths of all values in a document."""
    if path:
        yield path
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(list(places(written()))), JSON)
def test_a_wrong_value_anywhere_is_read_or_refused(path: tuple, value: object):
    document = written()
    at = document
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    data = json.dumps(document).encode()
    try:
        read = records.read_sandbox(data)
    except errors.Internal:
        return
    # What was read has the right types all through: it can be used like any other.
    assert read.name_key
    assert records.read_sandbox(records.write(read)) == read


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("config", "metadata"), None),
        (("config",), None),
        (("config",), []),
        (("config", "metadata"), ["n"]),
        (("config", "metadata", "name"), 1),
        (("config", "metadata", "attempt"), True),
        (("config", "labels"), {"a": 1}),
        (("config", "labels"), [["a", "b"]]),
        (("ips",), "10.0.0.1"),
        (("ips",), {"10.0.0.1": 1}),
        (("phase",), []),
        (("phase",), "later"),
        (("holder",), {"pid": 1}),
        (("id",), ""),
        (("created_at_ns",), 1.5),
        (("created_at_ns",), 2**64),
        (("config", "metadata", "name"), "\ud800"),
    ],
)
def test_a_wrong_value_is_refused(path: tuple, value: object):
    document = written()
    at = document["sandbox"]
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(errors.Internal, match="sandbox record cannot be read"):
        records.read_sandbox(json.dumps(document).encode())


def test_a_container_without_metadata_is_refused():
    container = Container("c", "s", ContainerConfig(), "", "", 1, "overlayfs", User(0, 0), 15)
    with pytest.raises(errors.Internal, match="no metadata"):
        records.read_container(records.write(container))


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
