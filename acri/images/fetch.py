# SPDX-License-Identifier: Apache-2.0
"""A blob from a registry into containerd's content store.

    wait for the blob's lock ─▶ open the write ─┬─ there already ─▶ leased, done
                                                └─▶ stream ─┬─ all there ─▶ commit (containerd verifies) ─▶ done
                                                     ▲      └─ broke off ─▶ ask for the rest, from a host that works ─┐
                                                     └────────────────────────────────────────────────────────────────┘
                                                            wrong bytes ─▶ throw away, next host

Several pulls may want the same blob: the first fetches it, the others wait and find it. Bytes are hashed once, by
containerd, which refuses to commit anything but the expected digest and size; acri does not hash them again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

import structlog

from acri import errors
from acri.containerd.client import Containerd
from acri.images.hosts import Host
from acri.images.http import TransportError
from acri.images.locks import KeyedLocks
from acri.images.manifest import Descriptor
from acri.images.progress import Progress
from acri.images.registry import Registry

if TYPE_CHECKING:
    from acri.containerd.content_writer import ContentWriter

__all__ = ["Fetcher"]

BLOCK_BYTES = 1 << 20
"""Bytes of one message to containerd; see `containerd.content_writer`."""
_TRIES = 4
_DELAY_S = 0.25

log = structlog.get_logger(__name__)


class Fetcher:
    """Fetches blobs for all pulls of the daemon.

    Args:
        give_up_s: seconds without a byte after which a blob is given up; 0 waits for ever.
    """

    def __init__(self, containerd: Containerd, give_up_s: float) -> None:
        self._content = containerd.content
        self._give_up_s = give_up_s
        self._locks = KeyedLocks()

    async def fetch(
        self, registry: Registry, blob: Descriptor, lease: str, labels: Mapping[str, str], progress: Progress
    ) -> None:
        """Have `blob` in the content store, held by `lease`.

        A write that fails stays under `ingest_ref(lease, digest)`: who ends the pull aborts it.

        Raises:
            errors.ImagePullError: no host gives the right bytes; the text names blob, host and reason.
            errors.AcriError: containerd cannot store it.
        """
        async with self._locks.hold(blob.digest):
            avoid: set[Host] = set()
            while True:
                hosts: set[Host] = set()
                ref = ingest_ref(lease, blob.digest)
                try:
                    async with self._content.write(ref, total=blob.size, expected=blob.digest, lease=lease) as writer:
                        progress.present(blob, writer.offset)
                        await self._stream(registry, blob, writer, avoid, hosts, progress)
                        await writer.commit(blob.size, labels=labels)
                    progress.finished(blob)
                    return
                except errors.AlreadyExists:
                    progress.skipped(blob)
                    return
                except errors.FailedPrecondition as error:
                    if not hosts - avoid:
                        raise
                    log.warning("wrong bytes from a registry", digest=blob.digest, error=error.message)
                    avoid |= hosts
                    await self._abort(ref)
                    progress.restarted(blob)
                    if not registry.has_other(blob, avoid):
                        names = ", ".join(sorted(host.name for host in avoid))
                        raise errors.ImagePullError(
                            f"blob {blob.digest} from {names} is not what its digest and size say"
                        ) from None

    async def _stream(
        self,
        registry: Registry,
        blob: Descriptor,
        writer: ContentWriter,
        avoid: set[Host],
        hosts: set[Host],
        progress: Progress,
    ) -> None:
        """Write what is missing of `blob`; adds to `hosts` whoever gave some of it."""
        tries, heard = 0, time.monotonic()
        while writer.offset < blob.size:
            before = writer.offset
            try:
                await self._copy(registry, blob, writer, avoid, hosts, progress)
            except TransportError as error:
                failure = error
            else:
                failure = TransportError("broken", f"it ended after {writer.offset} of {blob.size} bytes")
                if writer.offset >= blob.size:
                    return
            if writer.offset > before:
                tries, heard = 0, time.monotonic()
            if failure.kind == "stalled":
                if self._give_up_s and time.monotonic() - heard >= self._give_up_s:
                    raise self._broken(blob, hosts, f"no byte for {self._give_up_s:.0f} s", writer.offset)
                continue
            tries += 1
            if tries > _TRIES or failure.kind not in ("broken", "connect"):
                raise self._broken(blob, hosts, str(failure), writer.offset)
            log.info("blob is resumed", digest=blob.digest, offset=writer.offset, error=str(failure))
            await asyncio.sleep(_DELAY_S * 2 ** (tries - 1) if writer.offset == before else 0)

    async def _copy(
        self,
        registry: Registry,
        blob: Descriptor,
        writer: ContentWriter,
        avoid: set[Host],
        hosts: set[Host],
        progress: Progress,
    ) -> None:
        """One request's worth. Raises `TransportError` when it breaks off; what came until then is written."""
        failure: TransportError | None = None
        block = bytearray()
        async with registry.blob(blob, writer.offset, avoid) as body, aclosing(body.chunks) as chunks:
            hosts.add(body.host)
            progress.host = body.host.name
            skip = writer.offset - body.offset
            room = blob.size - writer.offset
            try:
                async for chunk in chunks:
                    if skip:
                        chunk, skip = chunk[skip:], max(0, skip - len(chunk))
                    room -= len(chunk)
                    if room < 0:
                        raise errors.FailedPrecondition(f"blob {blob.digest} has more than {blob.size} bytes")
                    progress.advanced(blob, len(chunk))
                    block += chunk
                    if len(block) >= BLOCK_BYTES:
                        await writer.write(memoryview(block)[:BLOCK_BYTES])
                        block = block[BLOCK_BYTES:]
            except TransportError as error:
                failure = error
        if block:  # a connection that broke has still brought these
            await writer.write(block)
        if failure is not None:
            raise failure

    def _broken(self, blob: Descriptor, hosts: set[Host], why: str, offset: int) -> errors.ImagePullError:
        names = ", ".join(sorted(host.name for host in hosts)) or "no host"
        return errors.ImagePullError(
            f"RegistryUnavailable: blob {blob.digest} from {names}: {why} (at byte {offset} of {blob.size})"
        )

    async def _abort(self, ref: str) -> None:
        try:
            await self._content.abort(ref)
        except errors.NotFound:
            pass


def ingest_ref(lease: str, digest: str) -> str:
    """The name of a pull's own write of a blob: never that of another program or another pull."""
    return f"{lease}-{digest}"
