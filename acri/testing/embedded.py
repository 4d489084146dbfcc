# SPDX-License-Identifier: Apache-2.0
"""`Embedded`: a private containerd with acri in front of it, both under one directory, kept running.

    new ──start──▶ claimed ─▶ swept ─▶ both started ─▶ acri says READY=1 ─▶ old pods removed ─▶ ready
                                                                                                  │ stop
    ended ◀─ released ◀─ nothing left on the host ◀─ containerd ended ◀─ acri ended ◀─ pods removed

A child that dies in between is started again, and containers run on meanwhile: their shims hold them, and the
descriptors that acri stored here (`FdStore`) hold their output. acri waits for containerd by itself, so both start at
once.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import sysconfig
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

import acri
from acri import errors
from acri.aio.fdstore import FdStore
from acri.aio.tasks import TaskOwner
from acri.aio.threads import Kind, Threads
from acri.config import Settings
from acri.errors import ConfigError
from acri.testing import containerd, rendezvous, settings, sweep
from acri.testing.child import Child
from acri.testing.cri import CriClient
from acri.testing.place import Place
from acri.testing.rendezvous import Claim

__all__ = ["Embedded", "Options"]

READY_S = 60.0
ACRI_STOP_S = 45.0
"""More than acri itself allows its running operations (`acri.daemon`)."""
CONTAINERD_STOP_S = 20.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """What to run. Paths are made absolute by `Embedded`.

    directory       all state; need not exist
    containerd_bin  program; None: `containerd` on PATH
    certs_dir       certs.d directory for acri; None: what the configuration says
    cni_conf_dir    network configurations; None: a bridge network of its own
    config          acri's configuration, over which what makes the place private is put
    temporary       nobody will start in the directory again
    """

    directory: str
    containerd_bin: str | None = None
    certs_dir: str | None = None
    cni_conf_dir: str | None = None
    config: Path | None = None
    temporary: bool = False


class Embedded:
    """Make it inside the running loop; `start` once, then `stop`, also where the start failed or was cancelled."""

    def __init__(self, options: Options) -> None:
        self.place = Place.at(options.directory)
        self._options = options
        self._threads = Threads()
        self._tasks = TaskOwner()
        self._ready = asyncio.Event()
        self._claim: Claim | None = None
        self._store: FdStore | None = None
        self._children: list[Child] = []
        self._hurry = asyncio.Event()

    @property
    def address(self) -> str:
        """For `--container-runtime-endpoint` and `crictl -r`."""
        return f"unix://{self.place.acri_socket}"

    @property
    def subnet(self) -> str:
        """Of the place's own network."""
        return self._claim.subnet if self._claim is not None else ""

    @property
    def acri(self) -> Child:
        return next(child for child in self._children if child.name == "acri")

    @property
    def containerd(self) -> Child:
        return next(child for child in self._children if child.name == "containerd")

    @property
    def stored_fds(self) -> int:
        """How many descriptors acri has stored here."""
        return len(self._store) if self._store is not None else 0

    def hurry(self) -> None:
        """Let a `stop` that is under way skip what takes time: pods are killed instead of removed in order."""
        self._hurry.set()

    async def start(self) -> None:
        """Start both and wait until acri serves; what an earlier run left is removed first.

        Raises:
            ConfigError: the directory is in use, a program is missing, the user's file is wrong, or a child does not
                come up; the text says which, and what it said last.
        """
        program = await self._in_thread(containerd.find, self._options.containerd_bin)
        text, parsed = await self._in_thread(self._configuration)
        missing = await self._in_thread(
            containerd.missing_programs, parsed.cni.bin_dirs, network=self._options.cni_conf_dir is None
        )
        if missing:
            raise ConfigError("; ".join(missing))
        self._claim = await self._in_thread(rendezvous.claim, self.place, temporary=self._options.temporary)
        removed = await self._in_thread(sweep.sweep, self.place)
        if removed:
            log.warning("removed what an earlier acri up had left", directory=self.place.directory, found=removed)
        await self._in_thread(self._write_files, text)
        self._store = FdStore(self.place.notify_socket, self._notified)
        await self._start_children(program)
        await self._await_ready()
        await self._remove_pods()

    def _configuration(self) -> tuple[str, Settings]:
        for name, path in (("--certs-dir", self._options.certs_dir), ("--cni-conf-dir", self._options.cni_conf_dir)):
            if path is not None and not os.path.isdir(path):
                raise ConfigError(f"{name} {path} is not a directory")
        return settings.acri_toml(
            self.place,
            certs_dir=_absolute(self._options.certs_dir),
            cni_conf_dir=_absolute(self._options.cni_conf_dir),
            user_file=self._options.config,
        )

    def _write_files(self, text: str) -> None:
        place = self.place
        for directory in ("logs", "containerd", "acri", "cni", "cni/net.d"):
            os.makedirs(place.below(directory), mode=0o711, exist_ok=True)
        Path(place.acri_config).write_text(text, "utf-8")
        Path(place.containerd_config).write_text(containerd.config_toml(place), "utf-8")
        if self._options.cni_conf_dir is None:
            network = settings.conflist(place, self.subnet)
            Path(place.below("cni", "net.d", "10-acri-up.conflist")).write_text(network, "utf-8")

    async def _start_children(self, program: str) -> None:
        environment = _environment()
        # containerd looks for its shim on PATH first: the one beside it belongs to it, an older one there does not.
        beside = os.pathsep.join((os.path.dirname(program), environment.get("PATH", os.defpath)))
        store = self._store
        assert store is not None
        self._children = [
            Child(
                "containerd",
                (program, "--config", self.place.containerd_config),
                self.place.below("logs", "containerd.log"),
                self._threads,
                self._tasks,
                environment={**environment, "PATH": beside},
            ),
            Child(
                "acri",
                (sys.executable, "-P", "-m", "acri", "serve", "--config", self.place.acri_config),
                self.place.below("logs", "acri.log"),
                self._threads,
                self._tasks,
                environment={**environment, "NOTIFY_SOCKET": self.place.notify_socket},
                inherited=store.stored,
            ),
        ]
        for child in self._children:
            try:
                await child.start()
            except OSError as error:
                raise ConfigError(f"{child.name} cannot be started: {error}") from None

    async def _await_ready(self) -> None:
        ready = self._tasks.spawn(self._ready.wait(), name="acri is ready", quiet=True)
        ends: set[asyncio.Future[Any]] = {child.first_end for child in self._children}
        done, _ = await asyncio.wait({ready, *ends}, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        for child in self._children:
            if child.first_end.done():
                said = await self._in_thread(child.last_line)
                raise ConfigError(
                    f"{child.name} ended with code {child.first_end.result()}: {said or 'it said nothing'}"
                )
        if ready in done:
            return
        raise ConfigError(f"acri was not ready within {READY_S:g} s: see {self.place.below('logs')}")

    def _notified(self, message: dict[str, str]) -> None:
        if message.get("READY") == "1":
            self._ready.set()
            for child in self._children:
                child.keep_running = True

    async def stop(self) -> list[str]:
        """Remove all pods, end both children, give the directory up; answers what is wrong or left, a line each.

        The directory itself stays, with its images and logs.
        """
        if self._claim is None:  # it did not even get the directory
            self._threads.close()
            return []
        wrong: list[str] = []
        if self._ready.is_set() and not await self._unless_hurried(self._remove_pods(wrong)):
            wrong.append(
                "pods were killed instead of removed; the next acri up in this directory frees their addresses"
            )
        for name, timeout in (("acri", ACRI_STOP_S), ("containerd", CONTAINERD_STOP_S)):
            for child in self._children:
                if child.name == name and not await self._unless_hurried(child.stop(timeout)):
                    child.kill()
                    await child.stop(timeout)
        if self._store is not None:
            self._store.close()
        wrong += await self._in_thread(self._clean_up)
        await self._in_thread(self._claim.release, clean=not wrong)
        await self._tasks.close()
        self._threads.close()
        return wrong

    async def _remove_pods(self, failures: list[str] | None = None) -> None:
        async with CriClient(self.place.acri_socket) as client:
            try:
                failed = await client.remove_all_pods()
            except errors.AcriError as error:
                failed = [f"pods were not removed: {error.message}"]
        if failures is not None:
            failures += failed
        elif failed:
            log.error("old pods were not removed", failed=failed)

    def _clean_up(self) -> list[str]:
        """Remove what stays by design (bridge, pin directories, cgroup parent); whatever else there is is a leak."""
        sweep.remove_expected(self.place)
        leaked = sweep.leftovers(self.place)
        if not leaked:
            sweep.sweep(self.place)  # directories of runtime state, sockets
            return []
        log.error("left behind on the host; removing it", found=leaked)
        sweep.sweep(self.place)
        return [f"left behind: {line}" for line in sweep.leftovers(self.place)]

    async def _unless_hurried(self, work: Coroutine[Any, Any, None]) -> bool:
        """Whether `work` ran to its end before somebody was in a hurry."""
        if self._hurry.is_set():
            work.close()
            return False
        running = self._tasks.spawn(work, name="stop")
        hurried = self._tasks.spawn(self._hurry.wait(), name="hurry", quiet=True)
        done, _ = await asyncio.wait({running, hurried}, return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        hurried.cancel()
        return running in done

    async def _in_thread(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return await self._threads.run(Kind.FILE, functools.partial(fn, *args, **kwargs))


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def _environment() -> dict[str, str]:
    """This process's, without what a service manager told it, and so that a child finds this very acri."""
    dropped = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    root = str(Path(acri.__file__).resolve().parents[1])
    if root not in sysconfig.get_paths().values():  # run from a source tree
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    return environment
