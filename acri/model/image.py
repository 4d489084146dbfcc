# SPDX-License-Identifier: Apache-2.0
"""What an image is to a container runtime: its identity, and the part of its configuration that a container needs.

References:
    OCI image-spec, config.md (property names and meaning).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = ["Image", "ImageConfig"]

_MAX_INT64 = (1 << 63) - 1
_DIGITS = re.compile("[0-9]{1,19}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The `config` object of an OCI image configuration, with the layers' uncompressed digests."""

    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    exposed_ports: tuple[str, ...] = ()
    diff_ids: tuple[str, ...] = ()
    architecture: str = ""
    os: str = ""

    @property
    def user_name(self) -> str:
        """The user of `user` by name, "" where it is a number or not given (CRI's Image.username).

        What is neither a name nor a number that CRI can carry counts as a name: a kubelet refuses to run such an image
        as non-root, and `acri.oci.users` refuses to run it at all.
        """
        name = self.user.partition(":")[0]
        # Lone surrogates pass through JSON, but no message can carry them.
        return "" if _number(name) is not None else name.encode("utf-8", "replace").decode()

    @property
    def user_id(self) -> int | None:
        """The user of `user` by number, None where it is a name or not given (CRI's Image.uid)."""
        return _number(self.user.partition(":")[0])


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is here whole.

    `id` is the config digest (`sha256:…`): the one string that PullImage answers, Image.id lists and containers name,
    since a kubelet's image garbage collection compares them as text. `size` is the bytes of its blobs in the content
    store, config and manifest included.
    """

    id: str
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    size: int
    chain_id: str
    config: ImageConfig
    manifest_digest: str
    pinned: bool = False

    @property
    def reference(self) -> str:
        """The repo digest where there is one (CRI's image_ref), else the id."""
        return self.repo_digests[0] if self.repo_digests else self.id


def _number(text: str) -> int | None:
    """A user id as CRI's Int64Value carries it, None for everything else.

    A negative one is none: the kubelet would take it for "not root", while -1 is "leave it as it is" to setresuid(2).
    """
    # int() would take "1_000" and other scripts' digits, too, and refuse thousands of digits.
    if not _DIGITS.fullmatch(text):
        return None
    number = int(text)
    return number if number <= _MAX_INT64 else None
