# SPDX-License-Identifier: Apache-2.0
"""Manifests, platforms, configurations: what is taken, what is refused and why."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acri import errors
from acri.images import manifest
from acri.images.manifest import Index, Manifest
from acri.images.platforms import Platform, rank

D = ["sha256:" + f"{n:064x}" for n in range(10)]
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def _descriptor(n: int, kind: str = LAYER, **more: Any) -> dict[str, Any]:
    return {"mediaType": kind, "digest": D[n], "size": 100 + n, **more}


def _manifest(**changes: Any) -> dict[str, Any]:
    base = {"schemaVersion": 2, "config": _descriptor(0, OCI_CONFIG), "layers": [_descriptor(1), _descriptor(2)]}
    return base | changes


def _parse(document: Any, kind: str = manifest.OCI_MANIFEST) -> Manifest | Index:
    return manifest.parse(json.dumps(document).encode(), kind)


@pytest.mark.parametrize(
    ("kind", "config", "layer"),
    [
        (manifest.OCI_MANIFEST, OCI_CONFIG, LAYER),
        (manifest.OCI_MANIFEST, OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar"),
        (manifest.OCI_MANIFEST, OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar+zstd"),
        (manifest.OCI_MANIFEST, OCI_CONFIG, "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
        (
            manifest.DOCKER_MANIFEST,
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
        (
            manifest.DOCKER_MANIFEST,
            "application/octet-stream",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ),
        ("application/json", OCI_CONFIG, LAYER),
    ],
)
def test_images_of_both_families(kind: str, config: str, layer: str) -> None:
    found = _parse(_manifest(config=_descriptor(0, config), layers=[_descriptor(1, layer)]), kind)
    assert isinstance(found, Manifest)
    assert (found.config.digest, found.layers[0].digest, found.layers[0].size) == (D[0], D[1], 101)


@pytest.mark.parametrize(
    ("document", "kind", "part"),
    [
        ({"schemaVersion": 1}, "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
        ({"schemaVersion": 1}, "application/json", "schema 1"),
        (_manifest(manifests=[]), manifest.OCI_MANIFEST, "ambiguous"),
        (_manifest(mediaType=manifest.OCI_INDEX), manifest.OCI_MANIFEST, "says that it is"),
        (_manifest(), "text/html", "type text/html, not a container image"),
        (_manifest(artifactType="application/x.thing"), manifest.OCI_MANIFEST, r"OCI artifact \(application/x.thing\)"),
        (
            _manifest(config=_descriptor(0, "application/vnd.cncf.helm.config.v1+json")),
            manifest.OCI_MANIFEST,
            "OCI artifact .*helm",
        ),
        (_manifest(layers=[_descriptor(1, "application/x.thing")]), manifest.OCI_MANIFEST, "unknown type"),
        (_manifest(layers=[_descriptor(1, LAYER + "+encrypted")]), manifest.OCI_MANIFEST, "encrypted"),
        (_manifest(layers=[_descriptor(1)] * 501), manifest.OCI_MANIFEST, "501 layers"),
        (_manifest(layers={}), manifest.OCI_MANIFEST, None),
        (_manifest(layers=7), manifest.OCI_MANIFEST, "no list"),
        (_manifest(config=None), manifest.OCI_MANIFEST, "lacks a descriptor"),
        (_manifest(config=_descriptor(0, OCI_CONFIG, size=-1)), manifest.OCI_MANIFEST, "no size"),
        (_manifest(config=_descriptor(0, OCI_CONFIG, size=True)), manifest.OCI_MANIFEST, "no size"),
        (_manifest(config=_descriptor(0, OCI_CONFIG, size=1 << 30)), manifest.OCI_MANIFEST, "at most"),
        (_manifest(config=_descriptor(0, OCI_CONFIG, digest="md5:1")), manifest.OCI_MANIFEST, "usable digest"),
        ([], manifest.OCI_MANIFEST, "not a JSON object"),
    ],
)
def test_what_is_refused_and_why(document: Any, kind: str, part: str | None) -> None:
    if part is None:  # an image without layers is an image
        assert isinstance(_parse(document, kind), Manifest)
        return
    with pytest.raises(errors.ImagePullError, match=part):
        _parse(document, kind)


def test_not_json_too_deep_too_large() -> None:
    for data in (b"", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(errors.ImagePullError, match="not JSON"):
            manifest.parse(data, manifest.OCI_MANIFEST)
    with pytest.raises(errors.ImagePullError, match="at most"):
        manifest.parse(b" " * (manifest.MAX_BYTES + 1), manifest.OCI_MANIFEST)


def _index(*platforms: str | None) -> Index:
    entries = []
    for n, text in enumerate(platforms):
        entry = _descriptor(n, manifest.OCI_MANIFEST)
        if text is not None:
            os_name, architecture, *variant = text.split("/")
            entry["platform"] = {"os": os_name, "architecture": architecture, "variant": (variant or [""])[0]}
        entries.append(entry)
    found = _parse({"schemaVersion": 2, "manifests": entries}, manifest.OCI_INDEX)
    assert isinstance(found, Index)
    return found


@pytest.mark.parametrize(
    ("host", "platforms", "chosen"),
    [
        ("amd64", ["linux/arm64", "linux/amd64", "unknown/unknown"], 1),
        ("x86_64", ["windows/amd64", "linux/x86_64"], 1),
        ("amd64", ["linux/386", "linux/amd64"], 1),
        ("amd64", ["linux/386"], 0),
        ("amd64", ["linux/amd64/v3", "linux/amd64/v1"], 1),
        ("amd64", ["linux/amd64", "linux/amd64"], 0),
        ("aarch64", ["linux/arm/v7", "linux/arm64/v8"], 1),
        ("aarch64", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("armv7l", ["linux/arm/v5", "linux/arm/v6", "linux/arm64"], 1),
        ("armv7l", ["linux/arm/v5", "linux/arm"], 1),
        ("armv6l", ["linux/arm/v7", "linux/arm/v5"], 1),
        ("riscv64", ["linux/amd64", "linux/riscv64"], 1),
        ("amd64", [None, "linux/amd64"], 1),
        ("amd64", ["linux/arm64", None], 1),
    ],
)
def test_the_platform_that_fits_best(host: str, platforms: list[str | None], chosen: int) -> None:
    assert manifest.select(_index(*platforms), Platform.of("linux", host)).digest == D[chosen]


def test_no_matching_platform_lists_what_there_is() -> None:
    index = _index("linux/arm64/v8", "linux/amd64/v3", "windows/amd64", "unknown/unknown")
    with pytest.raises(errors.ImagePullError) as caught:
        manifest.select(index, Platform.of("linux", "amd64"))
    assert str(caught.value) == (
        "no image for platform linux/amd64; there is linux/amd64/v3, linux/arm64, windows/amd64"
    )
    with pytest.raises(errors.ImagePullError, match="none at all"):
        manifest.select(_index(), Platform.of("linux", "amd64"))


@given(
    st.sampled_from(["amd64", "arm64", "arm", "s390x", "386"]), st.sampled_from(["", "v1", "v2", "v7", "v8", "8", "?"])
)
def test_normal_forms_are_stable_and_fit_themselves(architecture: str, variant: str) -> None:
    platform = Platform.of("Linux", architecture, variant)
    assert Platform.of(platform.os, platform.architecture, platform.variant) == platform
    assert rank(platform, platform) == 0


def test_configuration() -> None:
    config = manifest.parse_config(
        json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {
                    "User": "app:1",
                    "Env": ["A=1"],
                    "Entrypoint": ["/e"],
                    "Cmd": None,
                    "WorkingDir": "/w",
                    "Volumes": {"/v2": {}, "/v1": {}},
                    "Labels": {"l": "1"},
                    "StopSignal": "SIGINT",
                    "ExposedPorts": {"80/tcp": {}},
                },
                "rootfs": {"type": "layers", "diff_ids": D[:2]},
            }
        ).encode()
    )
    assert (config.user, config.env, config.entrypoint, config.cmd) == ("app:1", ("A=1",), ("/e",), ())
    assert (config.volumes, config.labels, config.diff_ids) == (("/v1", "/v2"), {"l": "1"}, tuple(D[:2]))
    empty = manifest.parse_config(b'{"config": null, "rootfs": {"type": "layers", "diff_ids": []}}')
    assert (empty.user, empty.env, empty.diff_ids) == ("", (), ())


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "x",
        '{"rootfs": {"type": "layers", "diff_ids": ["x"]}}',
        '{"config": 1, "rootfs": {"type": "layers"}}',
        '{"config": {"Env": [1]}, "rootfs": {"type": "layers"}}',
    ],
)
def test_bad_configurations(text: str) -> None:
    with pytest.raises(errors.ImagePullError):
        manifest.parse_config(text.encode())


def test_chain_ids() -> None:
    # The example of the image-spec: the chain of one layer is its diff id; each next one hashes "parent child".
    import hashlib

    first, second, third = D[:3]
    chain = manifest.chain_ids([first, second, third])
    assert chain[0] == first
    assert chain[1] == "sha256:" + hashlib.sha256(f"{first} {second}".encode()).hexdigest()
    assert chain[2] == "sha256:" + hashlib.sha256(f"{chain[1]} {third}".encode()).hexdigest()
    assert manifest.chain_ids([]) == []


_KEYS = st.sampled_from(["config", "layers", "manifests", "digest", "size", "platform", "mediaType", "rootfs"])
_LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)


@given(st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner)))
def test_any_json_is_read_or_refused(document: Any) -> None:
    for kind in (manifest.OCI_MANIFEST, manifest.OCI_INDEX, "application/json"):
        try:
            _parse(document, kind)
        except errors.ImagePullError:
            pass
    try:
        manifest.parse_config(json.dumps(document).encode())
    except errors.ImagePullError:
        pass
