# SPDX-License-Identifier: Apache-2.0
"""/etc/passwd and /etc/group of images, read once per image.

A container's user is resolved against the image's own files (containerd and CRI-O do the same). A new container's root
file system equals its image's, so they are read from a read-only view of the image: mounted in a thread with a mount
namespace of its own, which takes the mount with it when it ends. Symbolic links cannot lead out of the image.
"""

from __future__ import annotations

from collections import OrderedDict

from acri import errors
from acri.aio.threads import Threads
from acri.containerd.client import Containerd
from acri.host.kernel import Kernel
from acri.host.rootfs import read_from_rootfs
from acri.oci.users import Limits, UserFiles

__all__ = ["ImageUsers"]

_KEPT_IMAGES = 64
_LEASE_S = 600.0


class ImageUsers:
    """A small cache by chain id: the same layers have the same files."""

    def __init__(self, containerd: Containerd, kernel: Kernel, threads: Threads, scratch_dir: str) -> None:
        self._containerd = containerd
        self._kernel = kernel
        self._threads = threads
        self._scratch_dir = scratch_dir
        self._files: OrderedDict[str, UserFiles] = OrderedDict()

    async def get(self, chain_id: str, snapshotter: str) -> UserFiles:
        """The files of the image whose top layer is `chain_id`."""
        files = self._files.get(chain_id)
        if files is None:
            files = self._files[chain_id] = await self._read(chain_id, snapshotter)
            if len(self._files) > _KEPT_IMAGES:
                self._files.popitem(last=False)
        self._files.move_to_end(chain_id)
        return files

    async def _read(self, chain_id: str, snapshotter: str) -> UserFiles:
        if not chain_id:  # an image without layers
            return UserFiles(None, None)
        snapshots = self._containerd.snapshots
        async with self._containerd.leases.lease(expire_s=_LEASE_S) as lease:
            key = f"acri-users-{lease}"
            mounts = await snapshots.view(snapshotter, key, chain_id, lease=lease)
            try:
                found = await self._threads.fresh(
                    read_from_rootfs,
                    self._kernel,
                    mounts,
                    ["/etc/passwd", "/etc/group"],
                    Limits().file + 1,
                    self._scratch_dir,
                )
            finally:
                try:
                    await snapshots.remove(snapshotter, key)
                except errors.NotFound:
                    pass
        return UserFiles(found["/etc/passwd"], found["/etc/group"])
