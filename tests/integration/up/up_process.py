# SPDX-License-Identifier: Apache-2.0
"""One `acri up` under test, and pods on it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from acri.proto.runtime import v1 as cri
from acri.testing import process_table
from acri.testing.cri import CriClient
from acri.testing.place import Place
from acri.wire import new

__all__ = ["IMAGE", "UpProcess", "eventually", "run_container"]

IMAGE = "registry.example/acri/busybox:test"


class UpProcess:
    """`acri up` in a directory; `start` returns once it is ready."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.place = Place.at(directory)
        self.options = options
        self.process: subprocess.Popen[str] | None = None
        self.errors = Path(f"{directory}.stderr")
        self.address = ""

    def spawn(self) -> subprocess.Popen[str]:
        self.end_by_force()
        self.errors.parent.mkdir(parents=True, exist_ok=True)
        with self.errors.open("a") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "acri", "up", "--dir", self.place.directory, *self.options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        return self.process

    async def start(self) -> UpProcess:
        process = self.spawn()
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        assert line.startswith("ready unix:///"), self.errors.read_text()
        self.address = line.split()[1]
        return self

    def client(self) -> CriClient:
        return CriClient(self.address.removeprefix("unix://"))

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait; its exit code. Nothing but the ready line may have been on stdout."""
        process = self.process
        assert process is not None
        assert process.stdout is not None
        process.send_signal(number)
        code = await asyncio.to_thread(process.wait, 60)
        assert process.stdout.read() == ""
        process.stdout.close()
        return code

    def child(self, kind: str) -> int:
        """Pid of the acri or containerd that runs now, 0 for none."""
        return next((found.pid for found in process_table.find(self.place) if found.kind == kind), 0)

    def kill_child(self, kind: str) -> int:
        pid = self.child(kind)
        assert pid
        os.kill(pid, signal.SIGKILL)
        return pid

    def end_by_force(self) -> None:
        process = self.process
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
        if process is not None and process.stdout is not None:
            process.stdout.close()


async def eventually(true: Callable[[], Any], patience_s: float = 30.0) -> Any:
    """What `true` answers once it is true."""
    async with asyncio.timeout(patience_s):
        while not (seen := true()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return seen


async def run_container(client: CriClient, logs: Path, *command: str, name: str = "pod") -> tuple[str, str, str]:
    """A pod with one container that runs `command`: ids of sandbox and container, the pod's IP."""
    await client.call("PullImage", image=new(cri.ImageSpec, image=IMAGE))
    pod = new(
        cri.PodSandboxConfig,
        metadata=new(cri.PodSandboxMetadata, name=name, uid=name, namespace="test"),
        log_directory=str(logs),
        linux=new(cri.LinuxPodSandboxConfig),
    )
    sandbox_id = (await client.call("RunPodSandbox", config=pod)).pod_sandbox_id
    config = new(
        cri.ContainerConfig,
        metadata=new(cri.ContainerMetadata, name="c"),
        image=new(cri.ImageSpec, image=IMAGE),
        command=list(command),
        log_path=f"{name}.log",
        linux=new(cri.LinuxContainerConfig),
    )
    reply = await client.call("CreateContainer", pod_sandbox_id=sandbox_id, config=config, sandbox_config=pod)
    await client.call("StartContainer", container_id=reply.container_id)
    status = (await client.call("PodSandboxStatus", pod_sandbox_id=sandbox_id)).status
    return sandbox_id, reply.container_id, status.network.ip
