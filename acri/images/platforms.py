# SPDX-License-Identifier: Apache-2.0
"""Platforms: what this machine is, in Go's words, and how well an image built for another fits it. Pure.

Names of one thing are made one (`x86_64` is `amd64`), and what is the default is left out (`arm64/v8` is `arm64`), as
the image-spec's index.md asks of readers. A newer processor runs what was built for an older one: `arm/v7` runs `v6`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["Platform", "host_platform", "rank"]

_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "i486": "386",
    "i586": "386",
    "i686": "386",
    "armhf": "arm",
    "armel": "arm",
    "armv7l": "arm",
    "armv6l": "arm",
    "armv8l": "arm",
}
_VARIANTS = {"armhf": "v7", "armel": "v6", "armv7l": "v7", "armv6l": "v6", "armv8l": "v8"}
_DEFAULT_VARIANT = {"amd64": "v1", "arm64": "v8", "arm": "v7"}


@dataclass(frozen=True, slots=True)
class Platform:
    """Operating system, architecture and variant; made by `of`, which normalises. The default variant is ""."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def of(cls, os_name: str, architecture: str, variant: str = "") -> Platform:
        """The normal form."""
        os_name, architecture, variant = os_name.lower(), architecture.lower(), variant.lower()
        variant = variant or _VARIANTS.get(architecture, "")
        architecture = _ARCHITECTURES.get(architecture, architecture)
        if variant.isdigit():
            variant = f"v{variant}"
        if variant == _DEFAULT_VARIANT.get(architecture):
            variant = ""
        return cls(os_name, architecture, variant)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


def host_platform() -> Platform:
    """The platform of this machine's kernel."""
    return Platform.of("linux", os.uname().machine)


def rank(candidate: Platform | None, host: Platform) -> int | None:
    """How good `candidate` is on `host`: 0 is best, None does not run there."""
    if candidate is None or candidate.os != host.os:
        return None
    runs = [(host.architecture, level) for level in range(_level(host), 0, -1)]
    # 64-bit processors run the 32-bit programs of their line; better than nothing, as containerd has it.
    if host.architecture == "amd64":
        runs.append(("386", 0))
    elif host.architecture == "arm64":
        runs += [("arm", level) for level in (8, 7, 6, 5)]
    try:
        return runs.index((candidate.architecture, _level(candidate) if candidate.architecture != "386" else 0))
    except ValueError:
        return 0 if candidate == host else None


def _level(platform: Platform) -> int:
    """The variant as a number: `v7` is 7. Architectures without variants have level 1."""
    variant = platform.variant or _DEFAULT_VARIANT.get(platform.architecture, "v1")
    digits = variant.removeprefix("v").partition(".")[0]
    return int(digits) if digits.isdigit() and len(digits) < 4 else 0
