# SPDX-License-Identifier: Apache-2.0
"""A private containerd for tests: its own root, state and socket, its CRI plugin off, gone without a trace afterwards.

    with ContainerdProcess() as containerd:      # waits until it answers
        Containerd(containerd.address, …)

`kill` and `start` restart it under its clients and tasks. Everything is ended by pid: containerd's own, and those of
shims whose command line names this socket.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

__all__ = ["ContainerdProcess"]

_CONFIG = """\
version = 2
root = "{root}"
state = "{state}"
disabled_plugins = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{address}"

[ttrpc]
address = "{address}.ttrpc"
"""


class ContainerdProcess:
    """One containerd. `binary`: None takes `containerd` from PATH."""

    def __init__(self, binary: str | None = None) -> None:
        self.binary = binary or shutil.which("containerd") or ""
        self.directory = Path(tempfile.mkdtemp(prefix="acri-c", dir="/tmp"))
        self.address = str(self.directory / "c.sock")  # short: a socket's path has 107 bytes
        self.log_path = self.directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        config = _CONFIG.format(root=self.directory / "root", state=self.directory / "state", address=self.address)
        (self.directory / "config.toml").write_text(config)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, timeout: float = 30.0) -> None:
        """Start it and wait until its socket takes connections. RuntimeError with the log's end if it does not."""
        with open(self.log_path, "ab") as log:
            command = [self.binary, "--config", str(self.directory / "config.toml")]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = self.log_path.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.binary} did not start: {tail}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(self.address)
            except OSError:
                return False
        return True

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End containerd only: shims and their containers go on, as in a restart."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(30)

    def pause(self) -> None:
        """Freeze it: it takes connections and answers nothing (until it is killed, or gets SIGCONT)."""
        os.kill(self.pid, signal.SIGSTOP)

    def stop(self) -> None:
        """End containerd and all that is left of it: shims, their containers, mounts, the directory."""
        if self._process is not None:
            self.kill(signal.SIGTERM)
        for shim in self.shims():
            for pid in [*_descendants(shim), shim]:
                _end(pid)
        for point in self.mounts():
            subprocess.run(["umount", "-l", point], check=False, capture_output=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def shims(self) -> list[int]:
        """Pids of this containerd's shims, wherever they are in the process tree."""
        found = []
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            try:
                words = Path(entry.path, "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"containerd-shim" in words[0] and self.address.encode() in words:
                found.append(int(entry.name))
        return found

    def mounts(self) -> list[str]:
        """Mount points below the directory, deepest first."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        points = [line.split()[4] for line in lines]
        return sorted((p for p in points if p.startswith(f"{self.directory}/")), reverse=True)

    def __enter__(self) -> ContainerdProcess:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _descendants(pid: int) -> list[int]:
    try:
        children = [int(p) for t in os.listdir(f"/proc/{pid}/task") for p in _children(pid, t)]
    except OSError:
        return []
    return [p for child in children for p in (*_descendants(child), child)]


def _children(pid: int, thread: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
    except OSError:
        return []


def _end(pid: int, timeout: float = 10.0) -> None:
    """SIGKILL, and wait until it has gone (it is no child of ours)."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.01)
