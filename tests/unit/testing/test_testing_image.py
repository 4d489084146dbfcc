# SPDX-License-Identifier: Apache-2.0
"""The test image, and the registry that has it in memory."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import tomllib
from pathlib import Path

import aiohttp
import pytest

from acri.errors import ConfigError
from acri.testing.image import Image, busybox, find_busybox
from acri.testing.registry import MemoryRegistry


@pytest.fixture(scope="module")
def made() -> Image:
    try:
        return busybox({"www/index.html": "hello\n"})
    except ConfigError as error:
        pytest.skip(str(error))


def test_digests_are_right_and_the_same_every_time(made: Image) -> None:
    for digest, blob in made.blobs.items():
        assert digest == f"sha256:{hashlib.sha256(blob).hexdigest()}"
    manifest = json.loads(made.manifest)
    described = [manifest["config"], *manifest["layers"]]
    assert {item["digest"]: item["size"] for item in described} == {d: len(b) for d, b in made.blobs.items()}
    layer = gzip.decompress(made.blobs[manifest["layers"][0]["digest"]])
    config = json.loads(made.blobs[manifest["config"]["digest"]])
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        assert archive.getmember("bin/sh").linkname == "busybox"
        assert archive.getmember("tmp").mode == 0o1777
    assert busybox({"www/index.html": "hello\n"}).digest == made.digest


def test_a_dynamic_busybox_will_not_do() -> None:
    with pytest.raises(ConfigError, match="busybox-static"):
        find_busybox((os.path.realpath("/bin/sh"), "/etc/passwd", "/none"))


async def test_the_registry_answers(made: Image, tmp_path: Path) -> None:
    async with MemoryRegistry({"acri/busybox:demo": made}) as registry, aiohttp.ClientSession() as session:
        url = f"http://{registry.host}/v2"
        hosts = tomllib.loads(Path(registry.write_certs_dir(str(tmp_path)), "_default/hosts.toml").read_text())
        assert hosts["server"] == f"http://{registry.host}"
        for reference in ("demo", made.digest):
            async with session.get(f"{url}/acri/busybox/manifests/{reference}") as answer:
                assert (answer.status, await answer.read()) == (200, made.manifest)
                assert answer.content_type == "application/vnd.oci.image.manifest.v1+json"
        for digest, blob in made.blobs.items():
            async with session.head(f"{url}/acri/busybox/blobs/{digest}") as answer:
                assert (answer.status, answer.content_length) == (200, len(blob))
            async with session.get(f"{url}/acri/busybox/blobs/{digest}") as answer:
                assert await answer.read() == blob
        for path in ("/acri/busybox/manifests/none", "/other/blobs/sha256:0", "/..", "/_catalog"):
            async with session.get(url + path) as answer:
                assert answer.status == 404
        async with session.post(f"{url}/acri/busybox/blobs/uploads/") as answer:
            assert answer.status == 405
