# SPDX-License-Identifier: Apache-2.0
"""What an image is to a container runtime: its identity, and the part of its configuration that a container needs.

References:
    OCI image-spec, config.md (property names and meaning).
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Image", "ImageConfig"]


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
        """The user of `user` by name, "" where it is a number or not given (CRI's Image.username)."""
        name = self.user.partition(":")[0]
        return "" if _number(name) is not None else name

    @property
    def user_id(self) -> int | None:
        """The user of `user` by number, None where it is a name or not given (CRI's Image.uid)."""
        return _number(self.user.partition(":")[0])


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is here whole.

    `id` is the config digest (`sha256:…`): the one string that PullImage answers, Image.id lists and containers name
    (kubelet-cri.md 5.1). `size` is the bytes of its blobs in the content store, config and manifest included.
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
    # As strconv.ParseInt reads it: int() would take "1_000" and other scripts' digits, too.
    return int(text) if text.isascii() and text.removeprefix("-").isdigit() else None
