# SPDX-License-Identifier: Apache-2.0
"""containerd's shims, as the process table shows them.

A shim is started as `containerd-shim-… -namespace NS -id ID -address SOCKET`; containerd finds it again by the id, that
of the first container it served. Killing one that serves anything would orphan its containers, so only shims without a
single child are of interest here.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from acri import errors
from acri.host import holder
from acri.host.kernel import Kernel

__all__ = ["Shim", "end", "idle"]

_PROGRAM = b"containerd-shim"


@dataclass(frozen=True, slots=True)
class Shim:
    """A shim process, told from a successor with the same pid by its start time (clock ticks since boot)."""

    pid: int
    start_time: int
    container_id: str


def idle(address: str, namespace: str) -> list[Shim]:
    """Shims of the containerd at `address`, in its `namespace`, that have no child process."""
    address = os.path.realpath(address)
    processes = list(_processes())
    parents = {parent for _, parent, _, _ in processes}
    found = []
    for pid, _, start_time, words in processes:
        if not os.path.basename(words[0]).startswith(_PROGRAM):
            continue
        options = dict(zip(words[1::2], words[2::2], strict=False))
        if (
            os.path.realpath(os.fsdecode(options.get(b"-address", b""))) == address
            and options.get(b"-namespace") == os.fsencode(namespace)
            and pid not in parents
        ):
            found.append(Shim(pid, start_time, os.fsdecode(options.get(b"-id", b""))))
    return found


def end(kernel: Kernel, shim: Shim) -> None:
    """Kill a shim; one that is gone is fine."""
    try:
        fd = holder.pidfd(kernel, shim)
    except errors.NotFound:
        return
    try:
        kernel.pidfd_send_signal(fd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)


def _processes() -> Iterator[tuple[int, int, int, list[bytes]]]:
    """Pid, parent, start time and command line of every process that has one."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read(4096).split(b"\0")[:-1]
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it ended
            continue
        yield int(name), int(fields[1]), int(fields[19]), words or [b""]
