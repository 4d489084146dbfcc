# SPDX-License-Identifier: Apache-2.0
"""Short programs, run by `subprocess` in a thread.

uvloop's own subprocess support forks on the loop's thread, which costs 15 ms at 300 MiB resident; CPython's uses vfork
(`subprocess._USE_VFORK`). `preexec_fn`, `user=` and `group=` would switch vfork off and are not used.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from acri import errors
from acri.aio.threads import Kind, Threads

__all__ = ["Completed", "Processes"]

# A killed program's pipes may be held by a child that left its process group.
_REAP_S = 2.0


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that has ended. `returncode` is negative for a signal, as in `subprocess`."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Processes:
    """Runs programs in the process pool of a `Threads`."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float,
        cwd: str | None = None,
    ) -> Completed:
        """Run `argv` to its end in a process group of its own.

        Raises:
            errors.DeadlineExceeded: it ran longer than `timeout` seconds; the whole process group was killed.
            FileNotFoundError, PermissionError: it could not be started.
        """
        return await self._threads.run(Kind.PROCESS, _run, tuple(argv), stdin, env, timeout, cwd)


def _run(
    argv: tuple[str, ...], stdin: bytes, env: Mapping[str, str] | None, timeout: float, cwd: str | None
) -> Completed:
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        cwd=cwd,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(stdin, timeout)
        except subprocess.TimeoutExpired:
            _kill_group(process)
            raise errors.DeadlineExceeded(f"{argv[0]} did not end within {timeout:g} s and was killed") from None
        except BaseException:
            _kill_group(process)
            raise
    return Completed(process.returncode, stdout, stderr)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        process.communicate(timeout=_REAP_S)
    except (subprocess.TimeoutExpired, ValueError, OSError):
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        process.wait()
