# SPDX-License-Identifier: Apache-2.0
"""`acri demo`: a pod's life on a private acri, shown step by step, and the proof that nothing of it is left.

    programs there? ─▶ acri up in a temporary directory ─▶ the pod's steps ─▶ the removing steps ─▶ acri up ends
                                                             └─ one fails ──▶ ┘      (always)        (always)

The image comes from a registry in this process. Exit code 0 only if every step saw what it should.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from acri import errors
from acri.cli import report
from acri.errors import ConfigError

if TYPE_CHECKING:  # imported late, when it is clear that the demo can run
    from acri.aio.threads import Threads
    from acri.testing.cri import Timing
    from acri.testing.embedded import Embedded

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Needs root, containerd, runc, the CNI plugins, iptables and busybox-static; `make demo` installs what is "
        "missing. Everything happens in a temporary directory and a network of its own; nothing else is touched."
    )
    parser.add_argument("--containerd-bin", metavar="PATH", help="containerd to run (default: the first on PATH)")


def run(options: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise ConfigError("must run as root: it makes namespaces, mounts and cgroups")
    _check_programs(options.containerd_bin)
    from acri.cli import log

    log.setup("warning", "auto")
    return asyncio.run(_demo(options.containerd_bin))


def _check_programs(containerd_bin: str | None) -> None:
    """Everything that is missing, in one message. Raises ConfigError."""
    from acri.testing import containerd, image

    missing = containerd.missing_programs()
    finders: tuple[Callable[[], str], ...] = (lambda: containerd.find(containerd_bin), image.find_busybox)
    for find in finders:
        try:
            find()
        except ConfigError as error:
            missing.append(str(error))
    if missing:
        raise ConfigError("; ".join(missing))


async def _demo(containerd_bin: str | None) -> int:
    from acri.aio.threads import Kind, Threads

    shown = _Shown(report.make())
    began = time.monotonic()
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    threads = Threads()
    directory = await threads.run(Kind.FILE, tempfile.mkdtemp, prefix="acri-demo-")
    try:
        timings = await _in(directory, containerd_bin, threads, shown)
    finally:
        threads.close()
    _show_timings(shown.report, timings)
    seconds = time.monotonic() - began
    if shown.failed:
        shown.report.say(f"FAILED after {seconds:.1f} s: {', '.join(shown.failed)}")
        return 1
    shown.report.say(f"All of it was true; {seconds:.1f} s.")
    return 0


async def _in(directory: str, containerd_bin: str | None, threads: Threads, shown: _Shown) -> list[Timing]:
    from acri.aio.threads import Kind
    from acri.testing import image, sweep
    from acri.testing.cri import CriClient
    from acri.testing.embedded import Embedded, Options
    from acri.testing.registry import MemoryRegistry
    from acri.testing.walkthrough import GREETING, IMAGE, Walkthrough

    await threads.run(Kind.FILE, _remove_abandoned)
    made = await threads.run(Kind.DATA, image.busybox, {"www/index.html": f"{GREETING}\n"})
    async with MemoryRegistry({IMAGE.partition("/")[2]: made}) as registry:
        certs_dir = await threads.run(Kind.FILE, registry.write_certs_dir, f"{directory}/certs.d")
        embedded = Embedded(Options(directory, containerd_bin, certs_dir, temporary=True))
        client = CriClient(embedded.place.acri_socket)
        pod = Walkthrough(client, embedded.place, threads)

        async def start() -> str:
            await embedded.start()
            return embedded.address

        try:
            if await shown.step("acri up", start):
                for name, step in pod.shown():
                    if not await shown.step(name, step):
                        break
                for name, step in pod.undone():
                    await shown.step(name, step)
        finally:
            client.close()
            await shown.step("acri up ended", lambda: _stop(embedded))
            await threads.run(Kind.FILE, sweep.remove_directory, embedded.place)
        return client.timings


async def _stop(embedded: Embedded) -> str:
    from acri.testing.walkthrough import Wrong

    wrong = await embedded.stop()
    if wrong:
        raise Wrong("; ".join(wrong))
    return "no process, mount, namespace, cgroup, bridge, iptables rule of it is left"


def _remove_abandoned() -> None:
    """Clean up after demos that were killed. One that cannot be cleaned up is no reason not to show this one."""
    from acri.testing import rendezvous, sweep

    for place in rendezvous.abandoned():
        try:
            claim = rendezvous.claim(place, temporary=True)
        except ConfigError:  # somebody else does it
            continue
        try:
            sweep.sweep(place)
            sweep.remove_directory(place)
        except errors.AcriError:
            claim.release(clean=False)
        else:
            claim.release(clean=True)


def _show_timings(shown: report.Report, timings: list[Timing]) -> None:
    rows: dict[str, list[float]] = {}
    for timing in timings:
        rows.setdefault(timing.rpc, []).append(timing.seconds * 1000)
    shown.table(
        "Time of each RPC, seen by the client",
        ("RPC", "calls", "shortest ms", "longest ms"),
        [(rpc, str(len(ms)), f"{min(ms):.1f}", f"{max(ms):.1f}") for rpc, ms in rows.items()],
    )


class _Shown:
    """Runs steps, shows them, remembers which failed."""

    def __init__(self, where: report.Report) -> None:
        self.report = where
        self.failed: list[str] = []

    async def step(self, name: str, work: Callable[[], Awaitable[str]]) -> bool:
        """Whether `work` saw what it should."""
        from acri.testing.walkthrough import Wrong

        self.report.begin(name)
        began = time.monotonic()
        ok = False
        detail = "interrupted"
        try:
            detail = await work()
            ok = True
        except (Wrong, ConfigError, errors.AcriError, OSError) as error:
            detail = str(error) or type(error).__name__
        finally:
            self.report.end(name, detail, time.monotonic() - began, ok=ok)
            if not ok:
                self.failed.append(name)
        return ok
