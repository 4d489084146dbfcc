# SPDX-License-Identifier: Apache-2.0
"""How far a pull is, for the texts of errors and log lines. Counted as bytes come; no I/O."""

from __future__ import annotations

import time
from collections.abc import Sequence

from acri.images.manifest import Descriptor

__all__ = ["Progress"]


class Progress:
    """One pull. Sizes in bytes, compressed; times on the monotonic clock."""

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self.started = time.monotonic()
        self.last_byte = self.started
        self.phase = "resolve"
        self.host = ""
        self.total = 0
        self.fetched = 0
        self.layers = 0
        self.layers_here = 0
        self.layers_unpacked = 0
        self._of: dict[str, int] = {}

    def begin(self, layers: Sequence[Descriptor], unpacked: int) -> None:
        """The layers are known, and how many of them are unpacked already."""
        self.layers = len(layers)
        self.layers_unpacked = unpacked
        self.total = sum({layer.digest: layer.size for layer in layers[unpacked:]}.values())

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def present(self, blob: Descriptor, offset: int) -> None:
        """`offset` bytes of `blob` were there when its write began."""
        self._of[blob.digest] = offset

    def advanced(self, blob: Descriptor, count: int) -> None:
        """So many bytes of `blob` came."""
        self.last_byte = time.monotonic()
        self.fetched += count
        self._of[blob.digest] = self._of.get(blob.digest, 0) + count

    def restarted(self, blob: Descriptor) -> None:
        self._of[blob.digest] = 0

    def finished(self, blob: Descriptor) -> None:
        self._of[blob.digest] = blob.size
        self.layers_here += 1

    def skipped(self, blob: Descriptor) -> None:
        """It was there already, or came by another pull."""
        self.finished(blob)

    @property
    def done(self) -> int:
        """Bytes of the layers that are here, fetched by whomever."""
        return sum(self._of.values())

    @property
    def rate(self) -> float:
        """Bytes per second that this pull has fetched, on average."""
        return self.fetched / max(self.seconds, 0.001)
