# SPDX-License-Identifier: Apache-2.0
"""Second read ends of container output, held by the service manager while acri is away.

When a container exits, its shim closes both ends of its FIFOs; without another reader the kernel then drops what is in
them. A running acri is that reader. While it is restarted, systemd's fd store is (or the parent process, under
`acri up`): each read end is left there when it is opened and taken back when the log is complete.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from acri.aio.notify import Notifier
from acri.aio.threads import Kind, Threads

__all__ = ["FifoKeeper"]

STREAMS = ("stdout", "stderr")


class FifoKeeper:
    """Names read ends `<container id>-<stream>` and keeps them with the manager; without one it does nothing."""

    def __init__(self, notifier: Notifier, threads: Threads, stored: dict[str, int]) -> None:
        self._notifier = notifier
        self._threads = threads
        self._stored = stored

    async def keep(self, container_id: str, stream: str, fd: int) -> None:
        """Leave a duplicate of a read end with the manager, unless one of an earlier acri is there."""
        name = f"{container_id}-{stream}"
        if not self._notifier.present:
            return
        earlier = self._stored.pop(name, None)
        if earlier is not None:
            os.close(earlier)  # the manager has its own
        else:
            await self._threads.run(Kind.FILE, self._notifier.store, name, fd)

    async def release(self, container_id: str) -> None:
        """The container's log is complete, or nobody wants it."""
        if self._notifier.present:
            await self._threads.run(Kind.FILE, self._forget, [f"{container_id}-{stream}" for stream in STREAMS])

    async def release_unused(self) -> None:
        """After recovery: what belongs to no container that runs."""
        await self._threads.run(Kind.FILE, self._forget, list(self._stored))

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            self._notifier.forget(name)
            fd = self._stored.pop(name, None)
            if fd is not None:
                os.close(fd)
