# SPDX-License-Identifier: Apache-2.0
"""ImageService: everything that the rest of acri does with images.

Lists and look-ups answer from memory (`catalog`), which `load` fills and which follows every change: acri's own at
once, other programs' by containerd's events (`refresh`). Changes are joined operations: two requests for the same pull
are one.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping

from acri import errors
from acri.aio.operation import Operation, Operations
from acri.aio.threads import Threads
from acri.config import Settings
from acri.containerd.client import Containerd
from acri.images import reference
from acri.images.auth import RegistryAuth, credentials_of, fingerprint
from acri.images.catalog import Catalog
from acri.images.contents import Contents, snapshot_label
from acri.images.manifest import Descriptor
from acri.images.platforms import host_platform
from acri.images.progress import Progress
from acri.images.pull import LEASE_PREFIX, Puller, PullRequest
from acri.images.records import Records
from acri.images.unpack import Unpacker
from acri.images.usage import FsInfo, FsUsage
from acri.model.image import Image

__all__ = ["FsInfo", "ImageService"]


class ImageService:
    """One instance per daemon: `load` before the first request, `close` at the end."""

    def __init__(self, settings: Settings, containerd: Containerd, threads: Threads, operations: Operations) -> None:
        self._settings = settings
        self._containerd = containerd
        self._operations = operations
        platform = host_platform()
        self._catalog = Catalog()
        self._contents = Contents(containerd, platform)
        self._unpacker = Unpacker(containerd)
        self._records = Records(containerd, self._catalog, self._contents, settings.images.pinned)
        self._puller = Puller(settings, containerd, threads, self._records, self._unpacker, self._contents, platform)
        self._recovered = False
        self._usage = FsUsage(containerd, threads, settings.containerd.snapshotter)

    async def load(self) -> None:
        """Read all of containerd's image records: at start, and after its event stream broke.

        The first time it also removes what pulls of an earlier life left. Raises `errors.Unavailable`.
        """
        if not self._recovered:
            await self._puller.recover()
            self._recovered = True
        await self._records.load()

    async def close(self) -> None:
        """Close connections to registries. Operations have ended before."""
        await self._puller.close()

    async def refresh(self, name: str) -> None:
        """A program other than acri may have changed the image record `name` (containerd's image events)."""
        await self._records.refresh(name)

    async def pull(
        self,
        text: str,
        auth: RegistryAuth | None = None,
        *,
        annotations: Mapping[str, str] | None = None,
        runtime_handler: str = "",
    ) -> str:
        """Pull an image; answers its id (`sha256:…`, the configuration's digest). CRI: PullImage.

        Asks the registry even if the image is here. Joined with a pull of the same reference, credentials and
        snapshotter that is under way; when the last caller leaves, the pull is given up and nothing of it is left.

        Args:
            annotations: the pod's; for snapshotters that read them.
            runtime_handler: whose snapshotter the image is unpacked for.

        Raises:
            errors.InvalidArgument: `text` is no reference, or the handler is not configured.
            errors.ImagePullError: with one sentence that says which image, host, path and why.
            errors.FailedPrecondition: hosts.toml cannot be read.
            errors.DeadlineExceeded: the caller's time is over; the pull is given up unless another waits for it.
        """
        if reference.is_image_id(text):
            raise errors.InvalidArgument(f"{text} is an image id: only a name can be pulled")
        wanted = reference.parse(text)
        credentials = credentials_of(auth, wanted.domain)
        snapshotter = self.snapshotter_of(runtime_handler)
        key = f"{wanted.canonical} {snapshotter} {fingerprint(credentials)}"
        request = PullRequest(wanted, credentials, snapshotter)
        return await self._operations.join(
            ("PullImage", key), lambda op: self._puller.run(op, request), cancel_when_abandoned=True
        )

    def find(self, text: str) -> Image | None:
        """The image that `text` names: id, unique prefix of an id, tag or digest. None if it is not here.

        Raises:
            errors.InvalidArgument: `text` can name no image, or several.
        """
        return self._catalog.find(text)

    def list(self) -> Iterable[Image]:
        """All images."""
        return self._catalog.list()

    def pulls(self) -> Iterable[Progress]:
        """The pulls that run now."""
        return list(self._puller.pulls.values())

    async def remove(self, text: str) -> None:
        """Remove the image that `text` names, with all its references; its space is free afterwards. CRI: RemoveImage.

        An image that is not here is fine. One that containers use may be removed: their snapshots stay.
        """
        image = self._catalog.find(text)
        if image is None:
            return
        image_id = image.id

        async def work(operation: Operation) -> None:
            await operation.step("records", lambda: self._records.remove(image_id))

        await self._operations.join(("RemoveImage", image_id), work)

    async def rootfs_parent(self, image: Image, snapshotter: str = "") -> str:
        """The snapshot that a container of `image` stands on; unpacked now if it is not yet. "" without layers.

        Raises:
            errors.FailedPrecondition: it has to be unpacked and is not whole.
        """
        where = snapshotter or self._settings.containerd.snapshotter
        if not image.chain_id or await self._unpacker.present(where, image.config.diff_ids) == len(
            image.config.diff_ids
        ):
            return image.chain_id
        key = ("UnpackImage", f"{image.id} {where}")
        await self._operations.join(key, lambda op: op.step("unpack", lambda: self._unpack(image, where)))
        return image.chain_id

    async def read_config(self, image: Image) -> bytes:
        """The image's whole configuration, JSON, from the content store."""
        return await self._containerd.content.read_all(image.id, 8 << 20)

    async def fs_info(self) -> FsInfo:
        """What images and containers take on disk; works before there is any. CRI: ImageFsInfo."""
        return await self._usage.get()

    def snapshotter_of(self, runtime_handler: str) -> str:
        """The snapshotter for containers of a runtime handler, "" meaning the default one.

        Raises:
            errors.InvalidArgument: it is not configured.
        """
        handler = self._settings.runtime.handlers.get(runtime_handler or self._settings.runtime.default_handler)
        if handler is None:
            raise errors.InvalidArgument(f"runtime handler {runtime_handler!r} is not configured")
        return handler.snapshotter or self._settings.containerd.snapshotter

    async def _unpack(self, image: Image, snapshotter: str) -> None:
        """Unpack what another program brought without unpacking it, or for another snapshotter."""
        target = Descriptor("", image.manifest_digest, 0)
        try:
            parts = await self._contents.read(target)
            layers, diff_ids = parts.manifest.layers, parts.config.diff_ids
            start = await self._unpacker.present(snapshotter, diff_ids)

            async def ready(at: int) -> None:
                await self._containerd.content.info(layers[at].digest)

            async with self._containerd.leases.lease(f"{LEASE_PREFIX}{secrets.token_hex(8)}") as lease:
                await self._unpacker.unpack(snapshotter, layers, diff_ids, start=start, lease=lease, ready=ready)
                labels = snapshot_label(snapshotter, image.chain_id)
                await self._containerd.content.update(image.id, labels, [f"labels.{key}" for key in labels])
        except errors.NotFound as error:
            raise errors.FailedPrecondition(
                f"image {image.reference} is not whole here, pull it again: {error.message}"
            ) from None
