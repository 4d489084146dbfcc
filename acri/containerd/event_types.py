# SPDX-License-Identifier: Apache-2.0
"""containerd's events as values, and their decoding by type URL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import structlog

from acri.proto.containerd import events as pb
from acri.proto.containerd import types as wire
from acri.proto.containerd.services.images import v1 as images_pb
from acri.wire import WireError, decode
from acri.wire.wellknown import timestamp_ns, type_name

__all__ = [
    "TOPICS",
    "ContainerChanged",
    "Event",
    "EventValue",
    "ImageChanged",
    "TaskCreated",
    "TaskDeleted",
    "TaskExecAdded",
    "TaskExecStarted",
    "TaskExited",
    "TaskOom",
    "TaskPaused",
    "TaskStarted",
    "decode_event",
]

TOPICS = ('topic~="^/tasks/"', 'topic~="^/containers/"', 'topic~="^/images/"')
"""Filters for all that is decoded here."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TaskCreated:
    container_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class TaskStarted:
    container_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class TaskExited:
    """`exec_id` is "" for the container's first process (on the wire it bears the container's id there)."""

    container_id: str
    exec_id: str
    pid: int
    exit_status: int
    exited_at_ns: int


@dataclass(frozen=True, slots=True)
class TaskDeleted:
    """As TaskExited. When a shim died, containerd sends both by itself, with exit status 137."""

    container_id: str
    exec_id: str
    pid: int
    exit_status: int
    exited_at_ns: int


@dataclass(frozen=True, slots=True)
class TaskOom:
    """A process in the container's cgroup was killed for its memory; it need not be the first one."""

    container_id: str


@dataclass(frozen=True, slots=True)
class TaskExecAdded:
    container_id: str
    exec_id: str


@dataclass(frozen=True, slots=True)
class TaskExecStarted:
    container_id: str
    exec_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class TaskPaused:
    """Or resumed."""

    container_id: str
    paused: bool


@dataclass(frozen=True, slots=True)
class ContainerChanged:
    """A container record; `change` is "create", "update" or "delete"."""

    container_id: str
    change: str


@dataclass(frozen=True, slots=True)
class ImageChanged:
    """An image record; `change` is "create", "update" or "delete"."""

    name: str
    change: str


EventValue: TypeAlias = (
    TaskCreated
    | TaskStarted
    | TaskExited
    | TaskDeleted
    | TaskOom
    | TaskExecAdded
    | TaskExecStarted
    | TaskPaused
    | ContainerChanged
    | ImageChanged
)


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, when and where. `event` is None for a kind that acri does not know."""

    topic: str
    namespace: str
    timestamp_ns: int
    event: EventValue | None


def _exec_id(container_id: str, process_id: str) -> str:
    return "" if process_id == container_id else process_id


def _exited(e: pb.TaskExit) -> TaskExited:
    exec_id = _exec_id(e.container_id, e.id)
    return TaskExited(e.container_id, exec_id, e.pid, e.exit_status, timestamp_ns(e.exited_at))


def _deleted(e: pb.TaskDelete) -> TaskDeleted:
    exec_id = _exec_id(e.container_id, e.id)
    return TaskDeleted(e.container_id, exec_id, e.pid, e.exit_status, timestamp_ns(e.exited_at))


_DECODERS: Mapping[str, tuple[type[Any], Callable[[Any], EventValue]]] = {
    "containerd.events.TaskCreate": (pb.TaskCreate, lambda e: TaskCreated(e.container_id, e.pid)),
    "containerd.events.TaskStart": (pb.TaskStart, lambda e: TaskStarted(e.container_id, e.pid)),
    "containerd.events.TaskExit": (pb.TaskExit, _exited),
    "containerd.events.TaskDelete": (pb.TaskDelete, _deleted),
    "containerd.events.TaskOOM": (pb.TaskOom, lambda e: TaskOom(e.container_id)),
    "containerd.events.TaskExecAdded": (pb.TaskExecAdded, lambda e: TaskExecAdded(e.container_id, e.exec_id)),
    "containerd.events.TaskExecStarted": (
        pb.TaskExecStarted,
        lambda e: TaskExecStarted(e.container_id, e.exec_id, e.pid),
    ),
    "containerd.events.TaskPaused": (pb.TaskPaused, lambda e: TaskPaused(e.container_id, True)),
    "containerd.events.TaskResumed": (pb.TaskResumed, lambda e: TaskPaused(e.container_id, False)),
    "containerd.events.ContainerCreate": (pb.ContainerCreate, lambda e: ContainerChanged(e.id, "create")),
    "containerd.events.ContainerUpdate": (pb.ContainerUpdate, lambda e: ContainerChanged(e.id, "update")),
    "containerd.events.ContainerDelete": (pb.ContainerDelete, lambda e: ContainerChanged(e.id, "delete")),
    "containerd.services.images.v1.ImageCreate": (images_pb.ImageCreate, lambda e: ImageChanged(e.name, "create")),
    "containerd.services.images.v1.ImageUpdate": (images_pb.ImageUpdate, lambda e: ImageChanged(e.name, "update")),
    "containerd.services.images.v1.ImageDelete": (images_pb.ImageDelete, lambda e: ImageChanged(e.name, "delete")),
}


def decode_event(envelope: wire.Envelope) -> Event:
    """An event that cannot be decoded is logged and becomes one of unknown kind: the stream must go on."""
    value: EventValue | None = None
    packed = envelope.event
    if packed is not None and (known := _DECODERS.get(type_name(packed))):
        cls, build = known
        try:
            value = build(decode(cls, packed.value))
        except WireError as error:
            log.warning("event undecodable", topic=envelope.topic, type=packed.type_url, error=str(error))
    return Event(envelope.topic, envelope.namespace, timestamp_ns(envelope.timestamp), value)
