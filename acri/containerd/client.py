# SPDX-License-Identifier: Apache-2.0
"""`Containerd`: all services of one containerd, in one containerd namespace."""

from __future__ import annotations

from types import TracebackType

from acri.containerd.calls import Calls
from acri.containerd.containers import Containers
from acri.containerd.content import Content
from acri.containerd.deadlines import Deadlines
from acri.containerd.diff import Diff
from acri.containerd.events import Events
from acri.containerd.images import Images
from acri.containerd.introspection import Introspection
from acri.containerd.leases import Leases
from acri.containerd.namespaces import Namespaces
from acri.containerd.snapshots import Snapshots
from acri.containerd.tasks import Tasks
from acri.containerd.types import VersionInfo

__all__ = ["Containerd"]


class Containerd:
    """Make it inside the running loop; `close` it, or use it as `async with`. It connects at the first call, and again
    after containerd was restarted.

    Args:
        address: containerd's gRPC socket.
        namespace: containerd namespace of all that is made and seen.

    Every call may raise, beside what its service says: errors.Unavailable (not reached within the deadline; nothing was
    done), errors.OutcomeUnknown (it went away meanwhile; re-read before repeating), errors.DeadlineExceeded.
    """

    def __init__(self, address: str, namespace: str = "k8s.io", *, deadlines: Deadlines | None = None) -> None:
        limits = deadlines or Deadlines()
        self._calls = Calls(address, namespace)
        self.address = address
        self.namespace = namespace
        self.containers = Containers(self._calls, limits)
        self.tasks = Tasks(self._calls, limits)
        self.snapshots = Snapshots(self._calls, limits)
        self.content = Content(self._calls, limits)
        self.diff = Diff(self._calls, limits)
        self.images = Images(self._calls, limits)
        self.leases = Leases(self._calls, limits)
        self.events = Events(self._calls, limits)
        self.namespaces = Namespaces(self._calls, limits)
        self.introspection = Introspection(self._calls, limits)

    def __repr__(self) -> str:
        return f"Containerd({self.address!r}, {self.namespace!r})"

    async def version(self) -> VersionInfo:
        """Answers within 5 s from any containerd that is well."""
        return await self.introspection.version()

    def reset(self) -> None:
        """Break every call and connection; the next call connects anew. For a containerd that `version` finds stuck:
        wakes those who wait for exits and events without a deadline."""
        self._calls.reset()

    async def close(self) -> None:
        """Break every call; later ones raise Unavailable."""
        self._calls.close()

    async def __aenter__(self) -> Containerd:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
