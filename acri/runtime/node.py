# SPDX-License-Identifier: Apache-2.0
"""What every operation works with: this node's settings, peers, threads and stores, in one place.

`Live` is the part of a container that is not in its record: open logs, the event that it has exited. It is made anew
after a restart.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from acri.aio.operation import Operations
from acri.aio.process import Processes
from acri.aio.tasks import TaskOwner
from acri.aio.threads import Threads
from acri.cni.network import Networks
from acri.config import Settings
from acri.containerd.client import Containerd
from acri.containerd.types import Mount
from acri.host.facts import HostFacts
from acri.host.kernel import Kernel
from acri.images.service import ImageService
from acri.logs.pump import ContainerLog, LogKit
from acri.model.container import Container, Exit
from acri.model.sandbox import Sandbox
from acri.runtime.fifo_keeper import FifoKeeper
from acri.runtime.handlers import Handlers
from acri.runtime.health import Health
from acri.runtime.image_users import ImageUsers
from acri.runtime.paths import Paths
from acri.store import Entry, Store

__all__ = ["Live", "Node", "now_ns"]

EXEC_STARTS_AT_ONCE = 4


def now_ns() -> int:
    """CRI time: nanoseconds since the epoch."""
    return time.time_ns()


@dataclass(slots=True)
class Live:
    """What a container has besides its record, while acri runs."""

    log: ContainerLog | None = None
    exited: bool = False
    ending: Exit | None = None
    """How it ended, from the moment that this is known until it is recorded, shown and done."""
    rootfs: tuple[Mount, ...] = ()
    """What `Snapshots.Prepare` answered, until the start; empty after a restart of acri: ask again."""
    process: bytes = b""
    """The spec's `process` as JSON, kept from the first exec on."""
    oom_killed: bool = False
    stop_signal_sent: bool = False
    kill_at: float = float("inf")
    """When StopContainer loses its patience, on `time.monotonic()`'s clock; a later, shorter request moves it."""
    wake: asyncio.Event | None = None
    """Wakes StopContainer, where one waits: `kill_at` was moved, or the container has exited."""


@dataclass(slots=True, kw_only=True)
class Node:
    settings: Settings
    paths: Paths
    containerd: Containerd
    kernel: Kernel
    facts: HostFacts
    threads: Threads
    processes: Processes
    tasks: TaskOwner
    operations: Operations
    networks: Networks
    health: Health
    log_kit: LogKit
    fifo_keeper: FifoKeeper
    images: ImageService
    image_users: ImageUsers
    handlers: Handlers
    cgroup_driver: str
    default_cgroup_parent: str
    cgroup_options: tuple[str, ...]
    sandboxes: Store[Sandbox]
    containers: Store[Container]
    live: dict[str, Live] = field(default_factory=dict)
    holder_fds: dict[str, int] = field(default_factory=dict)
    """pidfds of the holders that are watched, by sandbox id."""

    exec_turns: dict[str, asyncio.Semaphore] = field(default_factory=dict)
    """Turns to start an exec, by sandbox id: see `exec_turn`."""

    leftovers: list[Container] = field(default_factory=list)
    """Containers that were never listed and could not be taken back whole; tried again with every resync."""

    told_oom_score: bool = False
    """The warning that OOM scores are raised was given."""

    def containers_of(self, sandbox_id: str) -> list[Entry[Container]]:
        """Entries of all containers of a pod sandbox, oldest first."""
        return [entry for entry in self.containers if entry.value.sandbox_id == sandbox_id]

    def live_of(self, container_id: str) -> Live:
        """The container's companion, made when first asked for."""
        return self.live.setdefault(container_id, Live())

    def exec_turn(self, sandbox_id: str) -> asyncio.Semaphore:
        """What to hold while an exec starts in a pod.

        The pod's containers share one shim. containerd 1.6's starts execs one after the other, under a lock that the
        handling of exits wants too; with a dozen starts waiting, the exits of runc and of earlier execs fill its queue
        of 32, and it never moves again (seen with 1.6.20 and 30 execs; the class of containerd #2709). A few at once
        are safe, and not slower.
        """
        return self.exec_turns.setdefault(sandbox_id, asyncio.Semaphore(EXEC_STARTS_AT_ONCE))
