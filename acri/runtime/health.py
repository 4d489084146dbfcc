# SPDX-License-Identifier: Apache-2.0
"""Whether pods can be run now: what Status answers.

    look: containerd's Version ∥ the network's state ──▶ remembered
     ▲ every 10 s, and when Status asks (who waits at most a second, and takes what is remembered then)

So Status answers at once even while containerd or a network plugin hangs, and a network that was just configured is
seen by the next Status. A containerd that keeps its connection but has not answered for a minute is cut off: calls
without a deadline (event stream, exec waits) wake up and start anew on a new connection.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from acri import errors
from acri.aio.tasks import TaskOwner
from acri.cni.network import Networks
from acri.containerd.client import Containerd

__all__ = ["Condition", "Health"]

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 10.0
ANSWER_WITHIN_S = 1.0
CONTAINERD_ANSWERS_WITHIN_S = 5.0
SILENT_LOOKS = 6
"""After so many looks without an answer the connection is given up, with all calls on it."""


@dataclass(frozen=True, slots=True)
class Condition:
    """CRI's RuntimeCondition; reason is one CamelCase word, message a sentence, both empty when all is well."""

    type: str
    status: bool
    reason: str = ""
    message: str = ""


class Health:
    """Looks after containerd and the network, and remembers what it saw."""

    def __init__(self, containerd: Containerd, networks: Networks, tasks: TaskOwner) -> None:
        self._containerd = containerd
        self._networks = networks
        self._tasks = tasks
        self._silent_looks = 0
        self._look: asyncio.Task[None] | None = None
        self._runtime = Condition("RuntimeReady", False, "NotAskedYet", "containerd was not asked yet")
        self._network = Condition("NetworkReady", False, "NotAskedYet", "the network was not looked at yet")

    async def conditions(self) -> tuple[Condition, Condition]:
        """RuntimeReady and NetworkReady, as fresh as a second's patience allows."""
        await asyncio.wait({self._looking()}, timeout=ANSWER_WITHIN_S)
        return self._runtime, self._network

    async def run(self) -> None:
        """Look every 10 s until cancelled."""
        while True:
            await asyncio.wait({self._looking()})
            await asyncio.sleep(LOOK_EVERY_S)

    def _looking(self) -> asyncio.Task[None]:
        """The look that is under way, or a new one."""
        if self._look is None or self._look.done():
            self._look = self._tasks.spawn(self._both(), name="health")
        return self._look

    async def _both(self) -> None:
        await asyncio.gather(self._see_containerd(), self._see_network())

    async def _see_containerd(self) -> None:
        try:
            async with asyncio.timeout(CONTAINERD_ANSWERS_WITHIN_S):
                await self._containerd.version()
        except (errors.AcriError, TimeoutError) as error:
            text = error.message if isinstance(error, errors.AcriError) else "containerd does not answer"
            if self._runtime.status:
                log.error("containerd is lost", error=text)
            self._silent_looks = (
                self._silent_looks + 1 if isinstance(error, TimeoutError | errors.DeadlineExceeded) else 0
            )
            if self._silent_looks == SILENT_LOOKS:
                self._containerd.reset()
            self._runtime = Condition("RuntimeReady", False, "ContainerdNotReachable", text)
        else:
            if not self._runtime.status:
                log.info("containerd answers")
            self._silent_looks = 0
            self._runtime = Condition("RuntimeReady", True)

    async def _see_network(self) -> None:
        status = await self._networks.status()
        self._network = Condition("NetworkReady", status.ready, status.reason, status.message)
