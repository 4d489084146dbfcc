# SPDX-License-Identifier: Apache-2.0
"""The processes of a `Place`, told from all others by what cannot be a coincidence, and ended one by one.

    acri, containerd   the command line ends in `--config` and this place's own file
    shim               runs `containerd-shim…` with `-address` and this place's socket
    holder             `acri-holder ID` with the id of one of this place's pod sandboxes
    container          in a cgroup below the place's own, or in one named by the id of one of its containers

A process is a pid together with its start time; signals go through a pidfd that was opened before both were read again,
so that they cannot reach another process that got the pid meanwhile.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from acri.testing.place import Place

__all__ = ["Process", "find", "kill_all", "known_ids"]

_ID = re.compile(r"[0-9a-f]{64}")
_END_S = 10.0


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a place. `start_time` in clock ticks since boot (proc_pid_stat(5), field 22)."""

    pid: int
    start_time: int
    kind: str
    command: tuple[str, ...]
    cgroups: tuple[str, ...]
    """Its cgroup's path in each hierarchy."""

    def __str__(self) -> str:
        return f"{self.kind} {self.pid} ({' '.join(self.command)[:80]})"


def known_ids(place: Place) -> frozenset[str]:
    """Ids of the place's pod sandboxes and containers, from the directories that acri and containerd keep per id."""
    directories = [
        place.below("acri", part, kind) for part in ("root", "state") for kind in ("sandboxes", "containers", "ns")
    ]
    directories += [str(path) for path in Path(place.containerd_state, "io.containerd.runtime.v2.task").glob("*")]
    return frozenset(name for path in directories for name in _names(path) if _ID.fullmatch(name))


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def find(place: Place) -> list[Process]:
    """All processes of the place that run now; zombies and this process itself are none."""
    ids = known_ids(place)
    found = []
    for name in _names("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            process = _look_at(place, int(name), ids)
            if process is not None:
                found.append(process)
    return found


def _look_at(place: Place, pid: int, ids: frozenset[str]) -> Process | None:
    try:
        state, start_time = _stat(pid)
        command = tuple(Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0"))
        lines = Path(f"/proc/{pid}/cgroup").read_text("utf-8", errors="replace").splitlines()
    except OSError:  # it has ended
        return None
    cgroups = tuple(line.split(":", 2)[2] for line in lines)
    kind = "" if state in "ZXx" else _kind(place, command, cgroups, ids)
    return Process(pid, start_time, kind, command, cgroups) if kind else None


def _kind(place: Place, command: tuple[str, ...], cgroups: tuple[str, ...], ids: frozenset[str]) -> str:
    for kind, path in (("acri", place.acri_config), ("containerd", place.containerd_config)):
        if command[-2:] == ("--config", path):
            return kind
    name = os.path.basename(command[0])
    if name.startswith("containerd-shim") and place.containerd_socket in _after(command, "-address"):
        return "shim"
    if name == "acri-holder" and command[1:2] and command[1] in ids:
        return "holder"
    for path in cgroups:
        parts = path.split("/")
        if place.cgroup.strip("/") in parts or place.slice in parts or ids.intersection(_ID.findall(path)):
            return "container process"
    return ""


def _after(command: tuple[str, ...], flag: str) -> list[str]:
    return [command[index + 1] for index, word in enumerate(command[:-1]) if word == flag]


def _stat(pid: int) -> tuple[str, int]:
    # The name in parentheses may contain anything, also parentheses and blanks.
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[19])


def kill_all(place: Place) -> list[Process]:
    """SIGKILL every process of the place until there is none, for ten seconds at most; answers those that were there.

    acri and containerd end first, so that they start nothing new while the others go.
    """
    killed: dict[tuple[int, int], Process] = {}
    deadline = time.monotonic() + _END_S
    while (running := find(place)) and time.monotonic() < deadline:
        running.sort(key=lambda process: process.kind not in ("acri", "containerd"))
        for process in running:
            killed.setdefault((process.pid, process.start_time), process)
            _kill(process)
        time.sleep(0.02)
    return list(killed.values())


def _kill(process: Process) -> None:
    with _pidfd(process) as fd:
        if fd is not None:
            try:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            except ProcessLookupError:
                pass


@contextmanager
def _pidfd(process: Process) -> Iterator[int | None]:
    """A pidfd for exactly this process, None if it has ended."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        try:
            same = _stat(process.pid)[1] == process.start_time
        except OSError:
            same = False
        yield fd if same else None
    finally:
        os.close(fd)
