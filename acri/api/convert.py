# SPDX-License-Identifier: Apache-2.0
"""Wire messages ↔ model values.

The model's configuration classes have CRI's field names, so one reader serves them all: it follows the dataclass's type
hints, compiled once per class. Presence is kept: a message that CRI left out is None. What differs between wire and
model is little: wrapped integers (`Int64Value`) are `int | None`, environment values are bytes on the wire.

The other half makes the list items and statuses that the kubelet reads; list items are framed here and kept by the
stores, so nothing is encoded when the kubelet polls.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable
from enum import IntEnum
from typing import Any, TypeVar, cast

from acri import errors
from acri.model import config as model
from acri.model.container import Container, ContainerState
from acri.model.image import Image
from acri.model.sandbox import Phase, Sandbox
from acri.oci import signals
from acri.proto.runtime import v1 as cri
from acri.wire import encode, frame, new

__all__ = [
    "container_frame",
    "container_status",
    "enum_value",
    "from_wire",
    "image_frame",
    "image_message",
    "sandbox_frame",
    "sandbox_status",
    "to_wire",
]

T = TypeVar("T")
E = TypeVar("E", bound=IntEnum)

# Repeated item fields of the list answers (runtime.v1 ListPodSandboxResponse.items, ListContainersResponse.containers).
_LIST_FIELD = 1
_SANDBOX_STATES = {
    True: cri.PodSandboxState(cri.PodSandboxState.SANDBOX_READY),
    False: cri.PodSandboxState(cri.PodSandboxState.SANDBOX_NOTREADY),
}


def from_wire(cls: type[T], message: Any) -> T:
    """The model value of a wire message.

    Raises:
        errors.InvalidArgument: an enum value that CRI does not have, or text that is not UTF-8.
    """
    return cls(**{name: read(getattr(message, name)) for name, read in _readers(cast(Any, cls))})


@functools.cache
def _readers(cls: Any) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    hints = typing.get_type_hints(cls)
    return tuple((spec.name, _reader(hints[spec.name], spec.name)) for spec in dataclasses.fields(cls))


def _reader(hint: Any, name: str) -> Callable[[Any], Any]:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (arg for arg in typing.get_args(hint) if arg is not type(None))
        if inner is int:
            return lambda item: None if item is None else item.value
        read = _reader(inner, name)
        return lambda item: None if item is None else read(item)
    if origin is tuple:
        read_item = _reader(typing.get_args(hint)[0], name)
        return lambda items: tuple(map(read_item, items))
    if origin is dict:
        return dict
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return functools.partial(from_wire, hint)
    if isinstance(hint, type) and issubclass(hint, IntEnum):
        return functools.partial(enum_value, hint, name)
    if hint is str:
        return functools.partial(_text, name)
    return cast(Callable[[Any], Any], hint)


def enum_value(cls: type[E], name: str, value: int) -> E:
    """The member of `cls` for a number from the wire; `name` is the field that errors name.

    Raises:
        errors.InvalidArgument: CRI has no such value.
    """
    try:
        return cls(int(value))
    except ValueError:
        known = ", ".join(f"{item.name}={item.value}" for item in cls)
        raise errors.InvalidArgument(f"{name}: {int(value)} is not one of {known}") from None


def _text(name: str, value: str | bytes) -> str:
    if isinstance(value, str):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise errors.InvalidArgument(
            f"{name}: {value[:64]!r} is not UTF-8; a runtime spec is JSON and cannot carry it"
        ) from None


def to_wire(cls: type[T], value: Any) -> T:
    """The wire message of class `cls` for a model value; fields that the message lacks are an error of ours."""
    hints = _wire_hints(cast(Any, cls))
    return new(
        cls, **{spec.name: _put(hints[spec.name], getattr(value, spec.name)) for spec in dataclasses.fields(value)}
    )


@functools.cache
def _wire_hints(cls: Any) -> dict[str, Any]:
    return {name: _message_class(hint) for name, hint in typing.get_type_hints(cls).items()}


def _message_class(hint: Any) -> Any:
    """The message class inside `Optional[X]`, `List[X]` or `X`; None for scalars and maps."""
    for candidate in (hint, *typing.get_args(hint)):
        if dataclasses.is_dataclass(candidate):
            return candidate
    return None


def _put(cls: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_wire(cls, value)
    if isinstance(value, tuple):
        return [_put(cls, item) for item in value]
    if cls is cri.Int64Value:
        return None if value is None else new(cri.Int64Value, value=value)
    return value


def _sandbox_state(sandbox: Sandbox) -> cri.PodSandboxState:
    return _SANDBOX_STATES[sandbox.phase is Phase.READY]


def sandbox_frame(sandbox: Sandbox) -> bytes:
    """The sandbox as a framed item of ListPodSandboxResponse."""
    message = new(
        cri.PodSandbox,
        id=sandbox.id,
        metadata=to_wire(cri.PodSandboxMetadata, sandbox.metadata),
        state=_sandbox_state(sandbox),
        created_at=sandbox.created_at_ns,
        labels=sandbox.config.labels,
        annotations=sandbox.config.annotations,
        runtime_handler=sandbox.runtime_handler,
    )
    return frame(_LIST_FIELD, encode(message))


def sandbox_status(sandbox: Sandbox) -> cri.PodSandboxStatus:
    """PodSandboxStatus: what the kubelet compares with the pod (`network`, namespaces) must be what was asked for.

    An address is reported only for a pod with a network of its own: an empty `network.ip` makes the kubelet make the
    pod anew, an absent `network` does not (PodSandboxChanged in pkg/kubelet/kuberuntime/util/util.go).
    """
    network = None
    if sandbox.ips:
        first, *others = sandbox.ips
        network = new(cri.PodSandboxNetworkStatus, ip=first, additional_ips=[new(cri.PodIp, ip=ip) for ip in others])
    return new(
        cri.PodSandboxStatus,
        id=sandbox.id,
        metadata=to_wire(cri.PodSandboxMetadata, sandbox.metadata),
        state=_sandbox_state(sandbox),
        created_at=sandbox.created_at_ns,
        network=network,
        linux=new(
            cri.LinuxPodSandboxStatus,
            namespaces=new(cri.Namespace, options=to_wire(cri.NamespaceOption, sandbox.namespace_options)),
        ),
        labels=sandbox.config.labels,
        annotations=sandbox.config.annotations,
        runtime_handler=sandbox.runtime_handler,
    )


def container_frame(container: Container) -> bytes:
    """The container as a framed item of ListContainersResponse."""
    message = new(
        cri.Container,
        id=container.id,
        pod_sandbox_id=container.sandbox_id,
        metadata=to_wire(cri.ContainerMetadata, container.metadata),
        image=_image_spec(container.config.image),
        image_ref=container.image_ref,
        state=cri.ContainerState(int(container.state)),
        created_at=container.created_at_ns,
        labels=container.config.labels,
        annotations=container.config.annotations,
        image_id=container.image_id,
    )
    return frame(_LIST_FIELD, encode(message))


def _image_spec(spec: model.ImageSpec | None) -> cri.ImageSpec:
    return to_wire(cri.ImageSpec, spec or model.ImageSpec())


def container_status(container: Container, image: Image | None) -> cri.ContainerStatus:
    """ContainerStatus; `image` is None once the image is gone, which must not make the call fail."""
    exited = container.state is ContainerState.EXITED
    end = container.exit
    spec = _image_spec(container.config.image)
    if image is not None and image.repo_tags:
        spec.image = image.repo_tags[0]
    user = container.user
    resources = container.resources
    return new(
        cri.ContainerStatus,
        id=container.id,
        metadata=to_wire(cri.ContainerMetadata, container.metadata),
        state=cri.ContainerState(int(container.state)),
        created_at=container.created_at_ns,
        started_at=container.started_at_ns,
        finished_at=end.finished_at_ns if exited and end else 0,
        exit_code=end.code if exited and end else 0,
        image=spec,
        image_ref=container.image_ref,
        image_id=container.image_id,
        reason=end.reason if exited and end else "",
        message=end.message if exited and end else "",
        labels=container.config.labels,
        annotations=container.config.annotations,
        mounts=[to_wire(cri.Mount, mount) for mount in container.config.mounts],
        log_path=container.log_path,
        resources=new(cri.ContainerResources, linux=to_wire(cri.LinuxContainerResources, resources))
        if resources
        else None,
        user=new(
            cri.ContainerUser,
            linux=new(
                cri.LinuxContainerUser, uid=user.uid, gid=user.gid, supplemental_groups=list(user.supplemental_groups)
            ),
        ),
        stop_signal=cri.Signal(signals.to_cri(container.stop_signal)),
    )


def image_message(image: Image) -> cri.Image:
    """Image for ImageStatus: `uid` or `username`, whichever the image's USER is (cri-api, Image)."""
    user_id = image.config.user_id
    return new(
        cri.Image,
        id=image.id,
        repo_tags=list(image.repo_tags),
        repo_digests=list(image.repo_digests),
        size=image.size,
        uid=None if user_id is None else new(cri.Int64Value, value=user_id),
        username=image.config.user_name,
        spec=new(cri.ImageSpec, image=image.id),
        pinned=image.pinned,
    )


def image_frame(image: Image) -> bytes:
    """The image as a framed item of ListImagesResponse."""
    return frame(_LIST_FIELD, encode(image_message(image)))
