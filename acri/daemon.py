# SPDX-License-Identifier: Apache-2.0
"""The daemon: builds the object graph, starts it, serves until told to end, ends in order.

    locked ─▶ containerd answers ─▶ state rebuilt ─▶ events held ─▶ socket bound ─▶ READY=1 ─▶ serving
                                                                                                  │ SIGTERM, SIGINT
    ended ◀─ containerd closed ◀─ logs closed ◀─ operations drained ◀─ calls drained ◀────────────┘

Nothing is served before the stores are rebuilt: a kubelet that sees an empty list would take its pods for gone. Ending
acri ends no container: logs wait in their FIFOs for the next acri.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import gc as cyclic_gc
import os
import signal
import time
from collections.abc import Awaitable

import structlog

import acri
from acri import errors
from acri.aio import lag
from acri.aio.notify import Notifier, inherited
from acri.aio.operation import Operations
from acri.aio.process import Processes
from acri.aio.tasks import TaskOwner
from acri.aio.threads import Kind, Threads
from acri.api import convert
from acri.api.services import cri_router
from acri.cni.network import Networks
from acri.config import Settings
from acri.containerd.client import Containerd
from acri.events.stream import EventStream
from acri.host import cgroups
from acri.host import facts as host_facts
from acri.host.kernel import LinuxKernel
from acri.images.service import ImageService
from acri.logs.pump import LogKit
from acri.model.container import Container
from acri.model.sandbox import Sandbox
from acri.rpc import unix
from acri.rpc.server import Server
from acri.runtime import gc, holders, recovery, task_events
from acri.runtime.fifo_keeper import FifoKeeper
from acri.runtime.handlers import Handlers
from acri.runtime.health import Health
from acri.runtime.image_users import ImageUsers
from acri.runtime.node import Node
from acri.runtime.paths import Paths
from acri.store import Store
from acri.wire import WireCodec

__all__ = ["Daemon"]

log = structlog.get_logger(__name__)

DRAIN_CALLS_S = 5.0
DRAIN_OPERATIONS_S = 30.0
CONTAINERD_PATIENCE_S = 10.0
"""How long a start waits for a containerd that is starting too."""


class Daemon:
    """One acri. `start` and `stop` are for embedding (test suites); `run` is a process's whole life."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._tasks = TaskOwner()
        self._notifier = Notifier()
        self._inherited = inherited()
        self._locks: list[DirectoryLock] = []
        self._server: Server | None = None
        self._node: Node | None = None

    @property
    def node(self) -> Node:
        """The running daemon's parts. Only between `start` and `stop`."""
        assert self._node is not None, "the daemon is not started"
        return self._node

    async def run(self) -> None:
        """Start, serve until SIGTERM or SIGINT, stop.

        Raises:
            errors.ConfigError: socket or directories are used by another acri, containerd is not there.
        """
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        starting = self._tasks.spawn(self.start(), name="start", quiet=True)
        told = self._tasks.spawn(ended.wait(), name="end of service", quiet=True)
        try:
            await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                self._notifier.ready(f"serving CRI on {self.settings.socket}")
                await told
            else:  # told to end before it served
                starting.cancel()
                await asyncio.wait({starting})
            self._notifier.stopping()
        finally:
            await self.stop()

    async def start(self) -> None:
        """Everything up to serving; raises as `run`."""
        began = time.monotonic()
        for directory in (self.settings.root_dir, self.settings.state_dir):
            self._locks.append(DirectoryLock.take(directory))
        node = self._node = build_node(self.settings, self._tasks, self._notifier, self._inherited.stored)
        version = await _await_containerd(node)
        # Containers are descendants of containerd: what it may do is what they can be given.
        peer = await unix.peer_pid(self.settings.containerd.address)
        node.facts = await node.threads.run(Kind.FILE, host_facts.gather, peer if peer > 0 else "self")
        await node.images.load()
        await node.image_users.clear_leftovers()
        found = await recovery.recover(node)
        await node.fifo_keeper.release_unused()
        await gc.remove_orphans(node, found.ids)
        events = EventStream(
            node.containerd,
            self._tasks,
            topics=task_events.TOPICS,
            on_event=functools.partial(task_events.dispatch, node),
            on_gap=functools.partial(recovery.resync, node),
        )
        self._tasks.spawn(events.run(), name="event stream")
        await events.subscribed.wait()
        self._tasks.spawn(node.health.run(), name="health")
        holders.watch_all(node)
        self._tasks.spawn(gc.collect_networks(node, found.ids), name="collect networks")
        self._tasks.spawn(gc.collect_shims(node), name="collect shims")
        self._tasks.spawn(lag.watch(), name="loop lag")
        self._server = await self._serve(node)
        # What is here now stays: a full pass of the garbage collector over it would stop the loop for 20 ms.
        cyclic_gc.collect()
        cyclic_gc.freeze()
        log.info(
            "serving",
            socket=self.settings.socket,
            version=acri.__version__,
            containerd=version,
            cgroup_driver=node.cgroup_driver,
            sandboxes=len(node.sandboxes),
            containers=len(node.containers),
            seconds=round(time.monotonic() - began, 3),
        )

    async def _serve(self, node: Node) -> Server:
        server = Server(cri_router(node), codec=WireCodec())
        if self._inherited.sockets:
            await server.serve_socket(self._inherited.sockets[0])
        else:
            _make_directory(os.path.dirname(self.settings.socket))
            await server.bind_unix(self.settings.socket)
        return server

    async def stop(self) -> None:
        """End in order; containers run on. What one part makes of its end does not keep the others from theirs."""
        node = self._node
        if self._server is not None:
            await _ended("server", self._server.drain(DRAIN_CALLS_S))
        if node is not None:
            await _ended("operations", node.operations.drain(DRAIN_OPERATIONS_S))
        await _ended("background tasks", self._tasks.close())
        if node is not None:
            for container_id, live in node.live.items():
                if live.log is not None:
                    await _ended(f"log of {container_id}", live.log.close())
            node.log_kit.close()
            await _ended("networks", node.networks.close())
            await _ended("images", node.images.close())
            await _ended("image users", node.image_users.close())
            await _ended("containerd", node.containerd.close())
            node.threads.close()
        for lock in self._locks:
            lock.release()
        log.info("ended")


async def _ended(part: str, end: Awaitable[object]) -> None:
    try:
        await end
    except Exception:
        log.exception("part did not end well", part=part)


def _make_directory(path: str) -> None:
    try:
        os.makedirs(path, mode=0o711, exist_ok=True)
    except OSError as error:
        raise errors.ConfigError(f"{path} cannot be made: {error.strerror}") from None


async def _await_containerd(node: Node) -> str:
    """containerd's version, waiting a little for one that is starting.

    Raises:
        errors.ConfigError: it does not answer.
    """
    deadline = time.monotonic() + CONTAINERD_PATIENCE_S
    while True:
        try:
            return (await node.containerd.version()).version
        except errors.AcriError as error:
            if time.monotonic() > deadline:
                raise errors.ConfigError(f"containerd is not reachable: {error.message}") from None
            await asyncio.sleep(0.1)


def build_node(settings: Settings, tasks: TaskOwner, notifier: Notifier, stored_fifos: dict[str, int]) -> Node:
    """The object graph below the services; nothing is started and nothing is asked."""
    threads = Threads()
    processes = Processes(threads)
    kernel = LinuxKernel()
    facts = host_facts.gather()
    driver = cgroups.choose_driver(settings.cgroups.driver, facts.cgroups, systemd=facts.systemd)
    containerd = Containerd(settings.containerd.address, settings.containerd.namespace)
    operations = Operations()
    paths = Paths(settings)
    networks = Networks(
        settings.cni.conf_dir,
        settings.cni.bin_dirs,
        settings.cni.cache_dir,
        run=processes.run,
        run_in_thread=functools.partial(threads.run, Kind.FILE),
        timeout=settings.cni.timeout,
        owner=f"acri {settings.root_dir}",
    )
    return Node(
        settings=settings,
        paths=paths,
        containerd=containerd,
        kernel=kernel,
        facts=facts,
        threads=threads,
        processes=processes,
        tasks=tasks,
        operations=operations,
        networks=networks,
        health=Health(containerd, networks, tasks),
        log_kit=LogKit(functools.partial(threads.run, Kind.LOG), kernel.tee, tasks),
        fifo_keeper=FifoKeeper(notifier, threads, stored_fifos),
        images=ImageService(settings, containerd, threads, operations),
        image_users=ImageUsers(containerd, kernel, threads, f"{settings.state_dir}/scratch"),
        handlers=Handlers(settings, systemd_cgroup=driver == "systemd"),
        cgroup_driver=driver,
        cgroup_options=cgroups.delegation_options(),
        default_cgroup_parent=settings.cgroups.parent or cgroups.default_parent(driver),
        sandboxes=Store[Sandbox]("pod sandbox", convert.sandbox_frame),
        containers=Store[Container]("container", convert.container_frame),
    )


class DirectoryLock:
    """One acri per root and state directory: a second one would take the first one's pods for leftovers."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, directory: str) -> DirectoryLock:
        """Take the lock. Raises `errors.ConfigError` if another process has it, or the directory cannot be made."""
        _make_directory(directory)
        path = f"{directory}/lock"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise errors.ConfigError(f"{path} cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(fd, 32, 0).decode(errors="replace").strip()
            os.close(fd)
            raise errors.ConfigError(f"{directory} is used by another acri (pid {owner or 'unknown'})") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return cls(fd)

    def release(self) -> None:
        os.close(self._fd)
