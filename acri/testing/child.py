# SPDX-License-Identifier: Apache-2.0
"""One child program that is kept running once it has come up.

    stopped ──start──▶ running ──ends by itself──▶ waiting (0.1 s, doubling to 10 s) ──▶ running …
                          │     └─ before `keep_running` was set: stopped
                          └──────stop (SIGTERM, then SIGKILL)──────▶ stopped

A child that ran for half a minute is taken for healthy: its next restart is quick again. Its output is appended to a
log file. Threads start it and wait for its end; the thread that started it lives on, because the child's
PR_SET_PDEATHSIG follows that thread.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from acri.aio.tasks import TaskOwner
from acri.aio.threads import Kind, Threads

__all__ = ["Child"]

FIRST_PAUSE_S = 0.1
LAST_PAUSE_S = 10.0
HEALTHY_S = 30.0

log = structlog.get_logger(__name__)


class Child:
    """A program with a log file, restarted when it ends by itself.

    Args:
        name: for log lines.
        command: program (absolute path) and arguments.
        log_path: where its stdout and stderr go.
        environment: instead of this process's own; made anew for every start.
        inherited: name and descriptor of what is handed over as LISTEN_FDS; asked at every start.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log_path: str,
        threads: Threads,
        tasks: TaskOwner,
        *,
        environment: Mapping[str, str],
        inherited: Callable[[], Sequence[tuple[str, int]]] = tuple,
    ) -> None:
        self.name = name
        self.restarts = 0
        self.keep_running = False
        """Whether it is started again. Off at first: what cannot even start will not start the second time."""
        self._command = tuple(command)
        self._log_path = log_path
        self._threads = threads
        self._tasks = tasks
        self._environment = dict(environment)
        self._inherited = inherited
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False
        self.first_end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The exit code of the first run, once it has ended: who waits for a start wants to know."""

    @property
    def pid(self) -> int:
        """Of the run at hand; 0 while there is none."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def start(self) -> None:
        """Start it and keep it running. Raises OSError if the program cannot be started."""
        self._process = await self._threads.run(Kind.PROCESS, self._spawn)
        self._keeper = self._tasks.spawn(self._keep(), name=f"keep {self.name}")

    async def stop(self, timeout: float) -> None:
        """SIGTERM, SIGKILL after `timeout` seconds; returns when it has ended. Stopped already is fine."""
        self._stopping = True
        if self._keeper is not None:
            self._signal(signal.SIGTERM)
            _, running = await asyncio.wait({self._keeper}, timeout=timeout)
            if running:
                log.warning("did not end in time; killed", child=self.name, seconds=timeout)
                self.kill()
                await asyncio.wait(running)
            self._keeper = None

    def kill(self) -> None:
        """SIGKILL, without a wait."""
        self._stopping = True
        self._signal(signal.SIGKILL)

    def last_line(self) -> str:
        """The last line of its log: mostly why it ended. Reads a file."""
        try:
            with open(self._log_path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
                lines = file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1] if lines else ""

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _spawn(self) -> subprocess.Popen[bytes]:
        inherited = self._inherited()
        names = {"LISTEN_FDNAMES": ":".join(name for name, _ in inherited)} if inherited else {}
        fds = [fd for _, fd in inherited]
        shim = (sys.executable, "-P", "-m", "acri.testing.listen_exec", str(os.getpid()), ",".join(map(str, fds)))
        with open(self._log_path, "ab") as output:
            return subprocess.Popen(
                (*shim, *self._command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**self._environment, **names},
                pass_fds=fds,
                cwd="/",
                start_new_session=True,  # a Ctrl-C at the terminal is for the parent, which ends its children in order
            )

    async def _keep(self) -> None:
        pause = FIRST_PAUSE_S
        while self._process is not None:
            began = time.monotonic()
            code = await self._threads.fresh(self._process.wait)
            if not self.first_end.done():
                self.first_end.set_result(code)
            if self._stopping or not self.keep_running:
                return
            if time.monotonic() - began > HEALTHY_S:
                pause = FIRST_PAUSE_S
            log.warning("child ended; restarting it", child=self.name, code=code, pause_s=pause, log=self._log_path)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE_S)
            if self._stopping:
                return
            self.restarts += 1
            self._process = await self._threads.run(Kind.PROCESS, self._spawn)
            if self._stopping:  # `stop` came while it was started and has signalled its predecessor
                self._signal(signal.SIGTERM)
