# SPDX-License-Identifier: Apache-2.0
"""Manifests, indexes and image configurations (OCI image-spec 1.1, Docker schema 2), the choice of a platform. Pure.

What a registry sends is read strictly: a document that could be taken for two kinds is refused (CVE-2021-41190), so is
everything that is no container image, each with the reason. Bounds: `MAX_BYTES` a document, `MAX_LAYERS` layers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from acri import errors
from acri.images.platforms import Platform, rank
from acri.images.reference import is_digest
from acri.model.image import ImageConfig

__all__ = [
    "ACCEPT",
    "MAX_BYTES",
    "MAX_CONFIG_BYTES",
    "MAX_LAYERS",
    "Descriptor",
    "Index",
    "Manifest",
    "chain_ids",
    "parse",
    "parse_config",
    "refuse_schema_1",
    "select",
]

MAX_BYTES = 4 << 20
MAX_CONFIG_BYTES = 8 << 20
MAX_LAYERS = 500
"""overlayfs takes no more lower directories than that."""

_OCI = "application/vnd.oci.image."
_DOCKER = "application/vnd.docker."
OCI_MANIFEST, OCI_INDEX = f"{_OCI}manifest.v1+json", f"{_OCI}index.v1+json"
DOCKER_MANIFEST = f"{_DOCKER}distribution.manifest.v2+json"
DOCKER_LIST = f"{_DOCKER}distribution.manifest.list.v2+json"
_MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
_INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
_SCHEMA_1 = f"{_DOCKER}distribution.manifest.v1+"
ACCEPT = ", ".join((DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX, "*/*"))

_CONFIGS = frozenset({f"{_OCI}config.v1+json", f"{_DOCKER}container.image.v1+json"})
_LAYERS = frozenset(
    [f"{_OCI}layer.{kind}v1.tar{packing}" for kind in ("", "nondistributable.") for packing in ("", "+gzip", "+zstd")]
    + [
        f"{_DOCKER}image.rootfs.{kind}diff.tar{packing}"
        for kind in ("", "foreign.")
        for packing in ("", ".gzip", ".zstd")
    ]
)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What points at a blob. `size` in bytes; `platform` only in an index, None where it does not say."""

    media_type: str
    digest: str
    size: int
    urls: tuple[str, ...] = ()
    platform: Platform | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image for one platform."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """Several images to choose from."""

    manifests: tuple[Descriptor, ...]


def parse(data: bytes, media_type: str) -> Manifest | Index:
    """The document that a registry or the content store holds under `media_type`.

    Raises:
        errors.ImagePullError: it is none that acri can run; the text is the reason, to stand after the image's name.
    """
    media_type = media_type.partition(";")[0].strip()
    refuse_schema_1(media_type)
    if len(data) > MAX_BYTES:
        raise errors.ImagePullError(f"the manifest has {len(data)} bytes; at most {MAX_BYTES} are taken")
    document = _object(data, "manifest")
    stated = document.get("mediaType")
    if document.get("schemaVersion") == 1:
        refuse_schema_1(_SCHEMA_1)
    kind = _kind(media_type, stated, document)
    if "manifests" in document and ("layers" in document or "config" in document):
        raise errors.ImagePullError("its manifest is ambiguous: it has both layers and manifests")
    if kind in _INDEXES:
        return Index(tuple(_descriptor(item) for item in _list(document, "manifests")))
    return _manifest(document)


def refuse_schema_1(media_type: str) -> None:
    """Before its bytes are compared with its digest: in schema 1 they differ, as the digest leaves signatures out.

    Raises:
        errors.ImagePullError: `media_type` is Docker's first kind of manifest.
    """
    if media_type.startswith(_SCHEMA_1):
        raise errors.ImagePullError(
            "its manifest is Docker schema 1, which is no longer supported: push the image again with a current tool"
        )


def parse_config(data: bytes) -> ImageConfig:
    """The part of an image configuration that containers need.

    Raises:
        errors.ImagePullError: not an image configuration.
    """
    document = _object(data, "image configuration")
    config = document.get("config") or {}
    rootfs = document.get("rootfs")
    if not isinstance(config, dict) or not isinstance(rootfs, dict) or rootfs.get("type") != "layers":
        raise errors.ImagePullError("its configuration names no layers (rootfs)")
    diff_ids = _strings(rootfs, "diff_ids")
    if not all(map(is_digest, diff_ids)):
        raise errors.ImagePullError("its configuration has a layer without a digest")
    labels = config.get("Labels") or {}
    return ImageConfig(
        user=_string(config, "User"),
        env=_strings(config, "Env"),
        entrypoint=_strings(config, "Entrypoint"),
        cmd=_strings(config, "Cmd"),
        working_dir=_string(config, "WorkingDir"),
        volumes=tuple(sorted(config.get("Volumes") or {})),
        stop_signal=_string(config, "StopSignal"),
        labels={str(k): str(v) for k, v in labels.items()} if isinstance(labels, dict) else {},
        exposed_ports=tuple(sorted(config.get("ExposedPorts") or {})),
        diff_ids=diff_ids,
        architecture=_string(document, "architecture"),
        os=_string(document, "os"),
    )


def select(index: Index, host: Platform) -> Descriptor:
    """The entry of `index` that runs best on `host`; the first of equals.

    Raises:
        errors.ImagePullError: there is none; the text lists what there is.
    """
    ranked = [(rank(entry.platform, host), at) for at, entry in enumerate(index.manifests) if entry.platform]
    fitting = sorted((r, at) for r, at in ranked if r is not None)
    if fitting:
        return index.manifests[fitting[0][1]]
    # An entry may leave its platform out (then its configuration says it): only where nothing else is to be had.
    unstated = [entry for entry in index.manifests if entry.platform is None]
    if unstated:
        return unstated[0]
    present = sorted({str(e.platform) for e in index.manifests if e.platform and e.platform.os != "unknown"})
    raise errors.ImagePullError(f"no image for platform {host}; there is {', '.join(present) or 'none at all'}")


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """The chain id of each layer, bottom first: it names the snapshot of it and all below (OCI config.md)."""
    chain: list[str] = []
    for diff_id in diff_ids:
        text = f"{chain[-1]} {diff_id}" if chain else ""
        chain.append("sha256:" + hashlib.sha256(text.encode()).hexdigest() if text else diff_id)
    return chain


def _kind(media_type: str, stated: Any, document: dict[str, Any]) -> str:
    known = _MANIFESTS | _INDEXES
    if stated is not None and media_type in known and stated != media_type:
        raise errors.ImagePullError(f"its manifest was sent as {media_type} but says that it is {stated}")
    for kind in (media_type, stated):
        if isinstance(kind, str) and kind in known:
            return kind
    # OCI made mediaType optional; a registry may then send it as plain JSON.
    if media_type in ("", "application/json", "text/plain", "application/octet-stream") and stated is None:
        if "manifests" in document:
            return OCI_INDEX
        if "layers" in document:
            return OCI_MANIFEST
    raise errors.ImagePullError(f"it is of type {stated or media_type}, not a container image")


def _manifest(document: dict[str, Any]) -> Manifest:
    config = _descriptor(document.get("config"))
    if document.get("artifactType") or config.media_type not in _CONFIGS:
        what = document.get("artifactType") or config.media_type
        # Old Docker registries serve configurations so.
        if document.get("artifactType") or config.media_type != "application/octet-stream":
            raise errors.ImagePullError(f"it is an OCI artifact ({what}), not a container image")
    if config.size > MAX_CONFIG_BYTES:
        raise errors.ImagePullError(f"its configuration has {config.size} bytes; at most {MAX_CONFIG_BYTES} are taken")
    layers = tuple(_descriptor(item) for item in _list(document, "layers"))
    if len(layers) > MAX_LAYERS:
        raise errors.ImagePullError(f"it has {len(layers)} layers; at most {MAX_LAYERS} can be mounted")
    for layer in layers:
        if layer.media_type.endswith("+encrypted"):
            raise errors.ImagePullError(f"its layer {layer.digest} is encrypted, which is not supported")
        if layer.media_type not in _LAYERS:
            raise errors.ImagePullError(f"its layer {layer.digest} has the unknown type {layer.media_type}")
    return Manifest(config, layers)


def _descriptor(value: Any) -> Descriptor:
    if not isinstance(value, dict):
        raise errors.ImagePullError("its manifest lacks a descriptor")
    digest, size = value.get("digest"), value.get("size")
    if not isinstance(digest, str) or not is_digest(digest):
        raise errors.ImagePullError(f"its manifest has a descriptor without a usable digest: {digest!r}")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size < 2**63:
        raise errors.ImagePullError(f"its manifest gives no size for {digest}")
    platform = value.get("platform")
    return Descriptor(
        media_type=_string(value, "mediaType"),
        digest=digest,
        size=size,
        urls=tuple(url for url in _strings(value, "urls") if url.startswith(("http://", "https://"))),
        platform=Platform.of(_string(platform, "os"), _string(platform, "architecture"), _string(platform, "variant"))
        if isinstance(platform, dict)
        else None,
    )


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise errors.ImagePullError(f"its {what} is not JSON") from None
    if not isinstance(document, dict):
        raise errors.ImagePullError(f"its {what} is not a JSON object")
    return document


def _list(document: dict[str, Any], key: str) -> list[Any]:
    value = document.get(key) or []
    if not isinstance(value, list):
        raise errors.ImagePullError(f"its manifest has no list of {key}")
    return value


def _string(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""


def _strings(document: dict[str, Any], key: str) -> tuple[str, ...]:
    value = document.get(key) or []
    if isinstance(value, str):  # Docker's oldest form of Cmd and Entrypoint
        return (value,)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise errors.ImagePullError(f"its {key} is not a list of strings")
    return tuple(value)
