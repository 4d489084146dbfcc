# SPDX-License-Identifier: Apache-2.0
"""PullImage: from a reference to records that name a whole, unpacked image.

    lease ─▶ resolve ─▶ manifest ─▶ config ─▶ layers ─▶ records
                                              (in parallel; each is unpacked as soon as it and all below are here)

Everything that is made is held by the pull's lease, and nothing has a name before the last step. So the undo of it all
is: abort what was being written, delete the lease, let containerd collect (synchronously). A lease of a pull that was
killed is deleted at the next start (`recover`) and ends by itself after a day.

The registry is always asked, with the caller's credentials, even if the image is here: a kubelet that verifies
credentials relies on it (KEP-2535, ensure secret pulled images). Blobs and snapshots that are here are not fetched
again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from acri import errors
from acri.aio.operation import Operation
from acri.aio.threads import Kind, Threads
from acri.config import Settings
from acri.containerd.client import Containerd
from acri.images import hosts, manifest
from acri.images.auth import Credentials
from acri.images.contents import MAX_NESTING, Contents, Parts, content_labels, snapshot_label
from acri.images.fetch import Fetcher, ingest_ref
from acri.images.http import Http
from acri.images.manifest import Descriptor, Manifest
from acri.images.platforms import Platform
from acri.images.progress import Progress
from acri.images.records import Records
from acri.images.reference import Reference
from acri.images.registry import Registry
from acri.images.unpack import Unpacker

__all__ = ["LEASE_PREFIX", "PullRequest", "Puller"]

T = TypeVar("T")

LEASE_PREFIX = "acri-pull-"
"""Of every lease of this room: what bears it and is there when acri starts belongs to nobody."""
_LEASE_S = 24 * 3600.0
_SOURCE = "containerd.io/distribution.source"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What to pull, as whom, for which snapshotter."""

    reference: Reference
    credentials: Credentials
    snapshotter: str


@dataclass(slots=True)
class _Pull:
    """One pull under way."""

    request: PullRequest
    operation: Operation
    progress: Progress
    lease: str
    registry: Registry | None = None
    written: set[str] = field(default_factory=set)
    """Names of the writes that were begun."""

    @property
    def source_label(self) -> dict[str, str]:
        """Where a blob came from: lets other programs mount it across repositories when they push."""
        return {f"{_SOURCE}.{self.request.reference.domain}": self.request.reference.path}


class Puller:
    """Runs pulls. `pulls`: the progress of those that run now."""

    def __init__(
        self, settings: Settings, containerd: Containerd, threads: Threads, records: Records, unpacker: Unpacker,
        contents: Contents, platform: Platform,
    ) -> None:  # fmt: skip
        self._settings = settings.images
        self._containerd = containerd
        self._threads = threads
        self._records = records
        self._unpacker = unpacker
        self._contents = contents
        self._platform = platform
        give_up_s = settings.images.pull_progress_timeout
        self._http = Http(threads, min(30.0, give_up_s or 30.0))
        self._fetcher = Fetcher(containerd, give_up_s)
        self.pulls: dict[str, Progress] = {}

    async def close(self) -> None:
        """Close connections to registries."""
        await self._http.close()

    async def recover(self) -> None:
        """Remove what pulls of an earlier life left behind."""
        for status in await self._containerd.content.statuses():
            if status.ref.startswith(LEASE_PREFIX):
                await _missing_is_fine(self._containerd.content.abort(status.ref))
        for lease in await self._containerd.leases.list():
            if lease.id.startswith(LEASE_PREFIX):
                log.info("interrupted pull is removed", lease=lease.id)
                await _missing_is_fine(self._containerd.leases.delete(lease.id))

    async def run(self, operation: Operation, request: PullRequest) -> str:
        """Pull; answers the image id. A function for `Operations.join`.

        Raises:
            errors.ImagePullError: the registry does not give it, or it is no image for this machine.
            errors.AcriError: containerd cannot store or unpack it.
        """
        progress = Progress(request.reference.canonical)
        pull = _Pull(request, operation, progress, f"{LEASE_PREFIX}{secrets.token_hex(8)}")
        self.pulls[pull.lease] = progress
        try:
            parts = await self._get(pull)
            content = parts.content()
            target, made = parts.path[0], list[str]()
            await operation.step(
                "records",
                lambda: self._records.write(request.reference, target, content, made),
                undo=lambda: self._records.withdraw(made),
            )
            operation.commit()
        finally:
            del self.pulls[pull.lease]
        await self._release(pull.lease)
        log.info(
            "image pulled",
            image=request.reference.canonical,
            image_id=content.image_id,
            size=content.size,
            fetched=progress.fetched,
            seconds=round(progress.seconds, 3),
            host=progress.host,
        )
        return content.image_id

    async def _get(self, pull: _Pull) -> Parts:
        """All steps up to the point where the image is whole but has no name."""
        step, request = pull.operation.step, pull.request
        leases = self._containerd.leases
        await step("lease", lambda: leases.create(pull.lease, expire_s=_LEASE_S), undo=lambda: self._discard(pull))
        target, data = await self._step(pull, "resolve", lambda: self._resolve(pull))
        path, found = await self._step(pull, "manifest", lambda: self._manifest(pull, target, data))
        parts = await self._step(pull, "config", lambda: self._config(pull, path, found))
        await self._step(pull, "layers", lambda: self._layers(pull, parts))
        log.debug("image fetched", image=request.reference.canonical, lease=pull.lease)
        return parts

    async def _step(self, pull: _Pull, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """A step whose errors name the image."""
        pull.progress.phase = name
        try:
            return await pull.operation.step(name, work)
        except errors.ImagePullError as error:
            image = str(pull.request.reference)
            if image in error.message:
                raise
            prefix = "RegistryUnavailable: "
            kept = prefix if error.message.startswith(prefix) else ""
            raise errors.ImagePullError(f"{kept}image {image}: {error.message.removeprefix(prefix)}") from None

    async def _resolve(self, pull: _Pull) -> tuple[Descriptor, bytes | None]:
        wanted = pull.request.reference
        served_by = await self._threads.run(Kind.FILE, hosts.find, wanted.domain, self._settings.certs_dir)
        pull.registry = Registry(self._http, served_by, wanted, pull.request.credentials)
        return await pull.registry.resolve()

    async def _manifest(self, pull: _Pull, target: Descriptor, data: bytes | None) -> tuple[list[Descriptor], Manifest]:
        """From the target over indexes to the manifest for this platform; all of them stored."""
        path = [target]
        for _ in range(MAX_NESTING + 1):
            here = path[-1]
            if data is None:
                data = await self._contents.find(here.digest, manifest.MAX_BYTES)
            if data is None:
                data = await _of(pull).manifest(here)
            found = manifest.parse(data, here.media_type)
            if isinstance(found, Manifest):
                await self._put(pull, data, here.digest, content_labels(found))
                return path, found
            chosen = manifest.select(found, self._platform)
            await self._put(pull, data, here.digest, content_labels(found, [chosen]))
            path.append(chosen)
            data = None
        raise errors.ImagePullError(f"its indexes are nested more than {MAX_NESTING} deep")

    async def _config(self, pull: _Pull, path: list[Descriptor], found: Manifest) -> Parts:
        data = await self._contents.find(found.config.digest, manifest.MAX_CONFIG_BYTES)
        if data is None:
            data = await _of(pull).config(found.config)
        parts = Parts(tuple(path), found, manifest.parse_config(data))
        config = parts.config
        if len(config.diff_ids) != len(found.layers):
            raise errors.ImagePullError(
                f"its manifest has {len(found.layers)} layers, its configuration {len(config.diff_ids)}"
            )
        if config.architecture and Platform.of(config.os, config.architecture) != self._platform:
            log.info("image of another platform", image=str(pull.request.reference), architecture=config.architecture)
        labels = snapshot_label(pull.request.snapshotter, parts.content().chain_id)
        await self._put(pull, data, found.config.digest, labels)
        return parts

    async def _layers(self, pull: _Pull, parts: Parts) -> None:
        """Fetch what is not unpacked yet; unpack beside it."""
        layers, diff_ids, snapshotter = parts.manifest.layers, parts.config.diff_ids, pull.request.snapshotter
        start = await self._unpacker.present(snapshotter, diff_ids)
        slots = asyncio.Semaphore(self._settings.max_concurrent_downloads)
        pull.progress.begin(layers, start)

        async def fetch(layer: Descriptor) -> None:
            async with slots:
                pull.written.add(ingest_ref(pull.lease, layer.digest))
                await self._fetcher.fetch(_of(pull), layer, pull.lease, pull.source_label, pull.progress)

        async def ready(at: int) -> None:
            pull.progress.layers_unpacked = at
            await fetched[at - start]

        # A structured group: its tasks end before this step does, whatever happens.
        try:
            async with asyncio.TaskGroup() as group:
                fetched = [group.create_task(fetch(layer)) for layer in layers[start:]]
                await self._unpacker.unpack(snapshotter, layers, diff_ids, start=start, lease=pull.lease, ready=ready)
        except BaseExceptionGroup as group_error:
            raise _first(group_error) from None

    async def _put(self, pull: _Pull, data: bytes, digest: str, labels: dict[str, str]) -> None:
        ref = ingest_ref(pull.lease, digest)
        pull.written.add(ref)
        await self._contents.put(ref, data, digest, {**pull.source_label, **labels}, pull.lease)

    async def _discard(self, pull: _Pull) -> None:
        """The undo of a whole pull."""
        for ref in sorted(pull.written):
            await _missing_is_fine(self._containerd.content.abort(ref))
            pull.written.discard(ref)
        await _missing_is_fine(self._containerd.leases.delete(pull.lease, sync=True))

    async def _release(self, lease: str) -> None:
        try:
            await self._containerd.leases.delete(lease)
        except errors.AcriError as error:  # the image is there; the lease ends by itself
            log.warning("lease left to expire", lease=lease, error=error.message)


def _of(pull: _Pull) -> Registry:
    assert pull.registry is not None, "resolve comes first"
    return pull.registry


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a task group that is one."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _missing_is_fine(call: Awaitable[object]) -> None:
    try:
        await call
    except errors.NotFound:
        pass
