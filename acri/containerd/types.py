# SPDX-License-Identifier: Apache-2.0
"""containerd's objects as values. Times are int nanoseconds since the epoch, 0 for "never"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from acri.proto.containerd.runc import v1 as runc
from acri.wire import encode, new

__all__ = [
    "GC_EXPIRE",
    "GC_REF_CONTENT",
    "GC_REF_SNAPSHOT",
    "GC_ROOT",
    "PROCESS_TYPE_URL",
    "RESOURCES_TYPE_URL",
    "RUNC_CHECKPOINT_TYPE_URL",
    "RUNC_OPTIONS_TYPE_URL",
    "SPEC_TYPE_URL",
    "UNCOMPRESSED",
    "AnyValue",
    "ContainerObject",
    "ContentInfo",
    "ContentStatus",
    "Descriptor",
    "ImageObject",
    "LeaseInfo",
    "LeaseResource",
    "Mount",
    "NamespaceInfo",
    "PluginInfo",
    "ProcessInfo",
    "ServerInfo",
    "SnapshotInfo",
    "SnapshotKind",
    "TaskExit",
    "TaskInfo",
    "TaskStatus",
    "Usage",
    "VersionInfo",
    "runc_options",
]

# What the bytes in an Any are. Go types that containerd registered are JSON under a URL; protobuf messages go by their
# bare name, without "type.googleapis.com/" (github.com/containerd/typeurl).
SPEC_TYPE_URL = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
PROCESS_TYPE_URL = "types.containerd.io/opencontainers/runtime-spec/1/Process"
RESOURCES_TYPE_URL = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
RUNC_OPTIONS_TYPE_URL = "containerd.runc.v1.Options"
RUNC_CHECKPOINT_TYPE_URL = "containerd.runc.v1.CheckpointOptions"

# Labels that containerd's garbage collector follows (its docs/garbage-collection.md).
GC_EXPIRE = "containerd.io/gc.expire"
"""On a lease: RFC 3339, when it ends by itself."""
GC_ROOT = "containerd.io/gc.root"
"""On content or a snapshot: keep, with all it refers to."""
GC_REF_CONTENT = "containerd.io/gc.ref.content"
"""On content, with a suffix: `.m.N` manifests of an index, `.config`, `.l.N` layers of a manifest; value: a digest."""
GC_REF_SNAPSHOT = "containerd.io/gc.ref.snapshot"
"""On content (an image's config) or a container, with `.SNAPSHOTTER`: the snapshot that it keeps."""
UNCOMPRESSED = "containerd.io/uncompressed"
"""On a layer: the digest of its tar, once it was unpacked."""


@dataclass(frozen=True, slots=True)
class AnyValue:
    """Bytes and what they are."""

    type_url: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount(2) as snapshots answer it and tasks take it. `target` is relative to the root, usually empty."""

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Descriptor:
    """An OCI content descriptor; `size` in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ContainerObject:
    """A container record. `sandbox` is never set: on 1.7 and 2.0 it makes Create ask for a live shim of that id."""

    id: str
    labels: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    runtime_name: str = ""
    runtime_options: AnyValue | None = None
    spec: AnyValue | None = None
    snapshotter: str = ""
    snapshot_key: str = ""
    created_at_ns: int = 0
    updated_at_ns: int = 0
    extensions: Mapping[str, AnyValue] = field(default_factory=dict)


class TaskStatus(IntEnum):
    """containerd.v1.types.Status."""

    UNKNOWN = 0
    CREATED = 1
    RUNNING = 2
    STOPPED = 3
    PAUSED = 4
    PAUSING = 5

    @classmethod
    def _missing_(cls, value: object) -> TaskStatus:
        return cls.UNKNOWN  # a state of a later release


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A process of a container. `id` is the exec id, or the container id for the first process."""

    id: str
    container_id: str
    pid: int
    status: TaskStatus
    exit_status: int
    exited_at_ns: int
    stdin: str
    stdout: str
    stderr: str
    terminal: bool


@dataclass(frozen=True, slots=True)
class TaskExit:
    """How a process ended. `exit_status` is 128 + N for signal N; `pid` is 0 where containerd does not say."""

    exit_status: int
    exited_at_ns: int
    pid: int = 0


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process in the container's cgroup, by its pid on the host."""

    pid: int
    info: AnyValue | None = None


class SnapshotKind(IntEnum):
    """containerd.services.snapshots.v1.Kind."""

    UNKNOWN = 0
    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3

    @classmethod
    def _missing_(cls, value: object) -> SnapshotKind:
        return cls.UNKNOWN


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    name: str
    parent: str
    kind: SnapshotKind
    labels: Mapping[str, str]
    created_at_ns: int
    updated_at_ns: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What a snapshot takes by itself, without its parents: bytes and inodes."""

    size: int
    inodes: int


@dataclass(frozen=True, slots=True)
class ImageObject:
    """A name for a blob."""

    name: str
    target: Descriptor | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at_ns: int = 0
    updated_at_ns: int = 0


@dataclass(frozen=True, slots=True)
class ContentInfo:
    """A blob; `size` in bytes."""

    digest: str
    size: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at_ns: int = 0
    updated_at_ns: int = 0


@dataclass(frozen=True, slots=True)
class ContentStatus:
    """A write under way: `offset` bytes are there, of `total` (0: not known)."""

    ref: str
    offset: int
    total: int
    expected: str
    started_at_ns: int
    updated_at_ns: int


@dataclass(frozen=True, slots=True)
class LeaseInfo:
    id: str
    created_at_ns: int
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LeaseResource:
    """What a lease holds. `type`: "content", "ingests" or "snapshots/SNAPSHOTTER"."""

    id: str
    type: str


@dataclass(frozen=True, slots=True)
class NamespaceInfo:
    name: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin of containerd. `error` is why it is not usable, empty if it is."""

    type: str
    id: str
    platforms: tuple[str, ...]
    exports: Mapping[str, str]
    capabilities: tuple[str, ...]
    error: str


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """`pid` and `deprecations` (id → message) are empty on 1.6."""

    uuid: str
    pid: int
    deprecations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class VersionInfo:
    version: str
    revision: str


def runc_options(
    *,
    binary_name: str = "",
    systemd_cgroup: bool = False,
    root: str = "",
    shim_cgroup: str = "",
    io_uid: int = 0,
    io_gid: int = 0,
    no_pivot_root: bool = False,
) -> AnyValue:
    """Options of io.containerd.runc.v2. `io_uid`, `io_gid`: host ids of the owner of the FIFOs (user namespaces).

    Those given at task creation replace those of the container whole, so always give all.
    """
    options = new(
        runc.Options,
        binary_name=binary_name,
        systemd_cgroup=systemd_cgroup,
        root=root,
        shim_cgroup=shim_cgroup,
        io_uid=io_uid,
        io_gid=io_gid,
        no_pivot_root=no_pivot_root,
    )
    return AnyValue(RUNC_OPTIONS_TYPE_URL, encode(options))
