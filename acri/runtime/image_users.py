# SPDX-License-Identifier: Apache-2.0
"""/etc/passwd and /etc/group of images, read once per image.

A container's user is resolved against the image's own files (containerd and CRI-O do the same). A new container's root
file system equals its image's, so they are read from a read-only view of the image: mounted in a thread with a mount
namespace of its own, which takes the mount with it when it ends. Symbolic links cannot lead out of the image.

    lease ─▶ view ─▶ read in a thread ─▶ view removed ─▶ lease removed
      └───────┴──────────┴── any failure: the same removals

A read belongs to nobody in particular: all who want the same image's files meanwhile wait for the one read, and it goes
on when they give up, since a thread that hangs in the kernel cannot be stopped. What a killed acri leaves is found by
the lease's name at the next start, and is containerd's to collect when the lease is over.
"""

from __future__ import annotations

import asyncio
import contextvars
import secrets
from collections import OrderedDict
from collections.abc import Awaitable

import structlog

from acri import errors
from acri.aio import deadline
from acri.aio.tasks import TaskOwner
from acri.aio.threads import Threads
from acri.containerd.client import Containerd
from acri.host.kernel import Kernel
from acri.host.rootfs import read_from_rootfs
from acri.oci.users import Limits, UserFiles

__all__ = ["PREFIX", "ImageUsers"]

PREFIX = "acri-users-"
"""What the ids of leases and the keys of views begin with; a view bears its lease's id."""
PATIENCE_S = 30.0
"""How long one caller waits for the files of an image."""

_KEPT_IMAGES = 64
_LEASE_S = 600.0
_SNAPSHOTS = "snapshots/"

log = structlog.get_logger(__name__)


class ImageUsers:
    """A small cache by chain id: the same layers have the same files."""

    def __init__(self, containerd: Containerd, kernel: Kernel, threads: Threads, scratch_dir: str) -> None:
        self._containerd = containerd
        self._kernel = kernel
        self._threads = threads
        self._scratch_dir = scratch_dir
        self._tasks = TaskOwner()
        self._files: OrderedDict[str, UserFiles] = OrderedDict()
        self._reads: dict[str, asyncio.Task[UserFiles]] = {}

    async def get(self, chain_id: str, snapshotter: str) -> UserFiles:
        """The files of the image whose top layer is `chain_id`, unpacked in `snapshotter`.

        Raises:
            errors.DeadlineExceeded: the read takes longer than `PATIENCE_S`; it goes on.
            errors.NotFound: there is no such snapshot.
            errors.AcriError: the image cannot be mounted or read.
        """
        if not chain_id:  # an image without layers
            return UserFiles(None, None)
        files = self._files.get(chain_id)
        if files is not None:
            self._files.move_to_end(chain_id)
            return files
        read = self._reads.get(chain_id) or self._start(chain_id, snapshotter)
        done, _ = await asyncio.wait({read}, timeout=PATIENCE_S)
        if not done:
            raise errors.DeadlineExceeded(
                f"/etc/passwd and /etc/group of image layer {chain_id} could not be read within {PATIENCE_S:.0f} s: "
                f"mounting a view of it in snapshotter {snapshotter}, or reading from it, hangs"
            )
        if read.cancelled():
            raise errors.Aborted("reading the image's users was given up because acri is shutting down")
        return read.result()

    async def clear_leftovers(self) -> None:
        """Remove leases and views of an acri that was killed; before the first request. Raises `errors.AcriError`."""
        leases = self._containerd.leases
        for lease in await leases.list():
            if not lease.id.startswith(PREFIX):
                continue
            log.info("removing what reading an image's users left", lease=lease.id)
            for resource in await leases.resources(lease.id):
                if resource.type.startswith(_SNAPSHOTS) and resource.id.startswith(PREFIX):
                    await self._discard(resource.type.removeprefix(_SNAPSHOTS), resource.id)
            await _missing_is_fine(leases.delete(lease.id))

    async def close(self) -> None:
        """Give up reads that still run; what they hold is removed first."""
        await self._tasks.close()

    def _start(self, chain_id: str, snapshotter: str) -> asyncio.Task[UserFiles]:
        context = contextvars.copy_context()
        context.run(deadline.current.set, None)  # it serves others than this caller, too
        name = f"read users of {chain_id}"
        read = context.run(self._tasks.spawn, self._read(chain_id, snapshotter), name=name, quiet=True)
        self._reads[chain_id] = read
        read.add_done_callback(lambda _: self._reads.pop(chain_id, None))
        return read

    async def _read(self, chain_id: str, snapshotter: str) -> UserFiles:
        async with self._containerd.leases.lease(f"{PREFIX}{secrets.token_hex(8)}", expire_s=_LEASE_S) as lease:
            try:
                mounts = await self._containerd.snapshots.view(snapshotter, lease, chain_id, lease=lease)
                found = await self._threads.fresh(
                    read_from_rootfs,
                    self._kernel,
                    mounts,
                    ["/etc/passwd", "/etc/group"],
                    Limits().file + 1,
                    self._scratch_dir,
                )
            finally:  # also where `view` failed: it may have been made all the same
                await self._discard(snapshotter, lease)
        files = self._files[chain_id] = UserFiles(found["/etc/passwd"], found["/etc/group"])
        if len(self._files) > _KEPT_IMAGES:
            self._files.popitem(last=False)
        return files

    async def _discard(self, snapshotter: str, key: str) -> None:
        """Remove a view. One that stays goes with its lease, so that is no reason to fail."""
        try:
            await _missing_is_fine(self._containerd.snapshots.remove(snapshotter, key))
        except errors.AcriError as error:
            log.warning("view left for containerd to collect", snapshotter=snapshotter, key=key, error=error.message)


async def _missing_is_fine(removal: Awaitable[None]) -> None:
    try:
        await removal
    except errors.NotFound:
        pass
