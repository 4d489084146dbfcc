# SPDX-License-Identifier: Apache-2.0
"""Registries that fail, clients that leave, pulls that are killed: the image comes whole or nothing is left."""

from __future__ import annotations

import asyncio
import io
import json
import random
import ssl
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest
from fixtures.faulty_registry import Fault, FaultyRegistry
from fixtures.images import Built, build, layer
from images_world import World

from acri import errors
from acri.aio.operation import Operation, Operations
from acri.images.auth import RegistryAuth
from acri.images.reference import parse

_NOISE = random.Random(4).randbytes(3 << 20)
STEPS = ["lease", "resolve", "manifest", "config", "layers", "records"]


@pytest.fixture(scope="session")
def noisy() -> Built:
    """Two layers, the first of 3 MiB that do not compress."""
    return build([layer({"noise": (0o644, _NOISE)}), layer({"top": (0o644, b"top")})], {})


@pytest.fixture(scope="session")
def certs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty: the faulty registries are asked by their own names."""
    return tmp_path_factory.mktemp("empty-certs.d")


@pytest.fixture
async def faulty(noisy: Built) -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry() as registry:
        registry.add("app", "latest", noisy)
        yield registry


def _big(image: Built) -> str:
    return max(image.blobs, key=lambda digest: len(image.blobs[digest]))


@pytest.mark.parametrize("eighth", range(8))
async def test_a_blob_that_breaks_off_is_resumed(
    world: World, faulty: FaultyRegistry, noisy: Built, eighth: int
) -> None:
    digest = _big(noisy)
    at = len(noisy.blobs[digest]) * eighth // 8
    faulty.faults[f"blobs/{digest}"] = [Fault(cut_at=at)]
    assert await world.images.pull(f"{faulty.host}/app") == noisy.config_digest
    asked = [headers for _, path, headers in faulty.requests if path.endswith(f"blobs/{digest}")]
    assert len(asked) == 2
    if eighth:
        resumed = int(asked[1]["Range"].removeprefix("bytes=").rstrip("-"))
        assert 0 < resumed <= at


async def test_a_host_without_ranges_is_read_again(world: World, noisy: Built) -> None:
    async with FaultyRegistry(ranges=False) as registry:
        registry.add("app", "latest", noisy)
        registry.faults[f"blobs/{_big(noisy)}"] = [Fault(cut_at=2 << 20)]
        assert await world.images.pull(f"{registry.host}/app") == noisy.config_digest


@pytest.mark.parametrize(
    ("end", "faults", "requests"),
    [
        ("manifests/latest", [Fault(status=500)] * 3, 4),
        ("manifests/latest", [Fault(status=429, headers={"Retry-After": "0"})], 2),
        ("BIG", [Fault(status=503), Fault(status=408)], 3),
        ("BIG", [Fault(cut_at=0), Fault(status=502), Fault(cut_at=100)], 4),
    ],
)
async def test_what_passes_is_waited_for(
    world: World, faulty: FaultyRegistry, noisy: Built, end: str, faults: list[Fault], requests: int
) -> None:
    end = end.replace("BIG", f"blobs/{_big(noisy)}")
    faulty.faults[end] = list(faults)
    assert await world.images.pull(f"{faulty.host}/app") == noisy.config_digest
    assert sum(1 for _, path, _ in faulty.requests if path.endswith(end)) == requests


@pytest.mark.parametrize(
    ("end", "fault", "text"),
    [
        (
            "manifests/latest",
            Fault(status=404),
            "app:latest not found: http://HOST/v2/app/manifests/latest: 404 Not Found",
        ),
        ("manifests/latest", Fault(status=403), "pull access denied, .*: http://HOST/v2/app/manifests/latest: 403"),
        ("manifests/latest", Fault(status=500), "^RegistryUnavailable: image HOST/app:latest: .*: 500 Internal"),
        ("manifests/MANIFEST", Fault(data=b"{"), "app:latest cannot be pulled: .* not what its digest"),
        ("blobs/CONFIG", Fault(flip=True), "app:latest cannot be pulled: .* not what its digest"),
        ("blobs/BIG", Fault(flip=True), "app:latest: blob BIG from HOST is not what its digest and size say"),
        ("blobs/BIG", Fault(data=_NOISE * 2), "app:latest: blob BIG from HOST is not what its digest and size say"),
        ("blobs/BIG", Fault(data=_NOISE[:1000]), "^RegistryUnavailable: image .*: blob BIG from HOST: "),
        ("blobs/BIG", Fault(status=404), "app:latest not found: http://HOST/v2/app/blobs/BIG: 404"),
        ("blobs/BIG", Fault(cut_at=0), "^RegistryUnavailable: .*: blob BIG from HOST: the connection broke"),
    ],
)
async def test_what_does_not_pass_leaves_nothing(
    world: World, faulty: FaultyRegistry, noisy: Built, end: str, fault: Fault, text: str
) -> None:
    def fill(template: str) -> str:
        words = {"MANIFEST": noisy.digest, "CONFIG": noisy.config_digest, "BIG": _big(noisy), "HOST": faulty.host}
        for word, value in words.items():
            template = template.replace(word, value)
        return template

    faulty.faults[fill(end)] = [fault] * 50
    with pytest.raises(errors.ImagePullError, match=fill(text)):
        await world.images.pull(f"{faulty.host}/app")
    assert await world.everything() == []
    assert list(world.images.list()) == []
    faulty.faults.clear()
    assert await world.images.pull(f"{faulty.host}/app") == noisy.config_digest


async def test_nobody_there(world: World, noisy: Built) -> None:
    async with FaultyRegistry() as registry:
        host = registry.host
    with pytest.raises(errors.ImagePullError, match=f"^RegistryUnavailable: image {host}/app:latest: .*refused"):
        await world.images.pull(f"{host}/app")


async def test_a_bad_mirror_is_passed_over(world: World, faulty: FaultyRegistry, noisy: Built, tmp_path: Path) -> None:
    """A dead mirror, then one with wrong bytes, then the registry itself (user-needs.md A39)."""
    async with FaultyRegistry() as wrong:
        wrong.add("app", "latest", noisy)
        wrong.faults[f"blobs/{_big(noisy)}"] = [Fault(flip=True)] * 9
        directory = tmp_path / "r.example"
        directory.mkdir()
        (directory / "hosts.toml").write_text(
            f'server = "{faulty.url}"\n[host."http://127.0.0.1:9"]\n[host."{wrong.url}"]\n'
        )
        images = world.again(tmp_path)
        assert await images.pull("r.example/app") == noisy.config_digest
        assert wrong.count("HEAD", "manifests/latest") == 1
        assert faulty.count("GET", f"blobs/{_big(noisy)}") == 1


async def test_the_same_pull_and_the_same_layer_are_fetched_once(
    world: World, faulty: FaultyRegistry, noisy: Built
) -> None:
    shared = layer({"noise": (0o644, _NOISE)})
    faulty.add("other", "latest", build([shared, layer({"other": (0o644, b"o")})], {}))
    names = ["app", "app", "other", "app", "other"]
    ids = await asyncio.gather(*(world.images.pull(f"{faulty.host}/{name}") for name in names))
    assert len(set(ids)) == 2
    assert faulty.count("GET", f"blobs/{_big(noisy)}") == 1
    assert faulty.count("HEAD", "app/manifests/latest") == 1


async def test_a_pull_whose_client_leaves_goes_on_while_another_waits(
    world: World, faulty: FaultyRegistry, noisy: Built
) -> None:
    go_on = asyncio.Event()
    faulty.faults[f"blobs/{_big(noisy)}"] = [Fault(stall=go_on)]
    other = asyncio.ensure_future(world.images.pull(f"{faulty.host}/app"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await world.images.pull(f"{faulty.host}/app")
    (progress,) = world.images.pulls()
    assert (progress.phase, progress.layers, progress.host) == ("layers", 2, faulty.host)
    assert list(world.images.list()) == []
    go_on.set()
    assert await other == noisy.config_digest
    assert faulty.count("GET", f"blobs/{_big(noisy)}") == 1


async def test_a_pull_that_nobody_waits_for_is_given_up(world: World, faulty: FaultyRegistry, noisy: Built) -> None:
    go_on = asyncio.Event()
    faulty.faults[f"blobs/{_big(noisy)}"] = [Fault(stall=go_on)]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await world.images.pull(f"{faulty.host}/app")
    go_on.set()
    assert await world.images.pull(f"{faulty.host}/app") == noisy.config_digest, "the next request pulls anew"
    assert list(world.images.pulls()) == []
    assert faulty.count("GET", f"blobs/{_big(noisy)}") == 2


async def test_shutdown_in_the_middle_leaves_nothing(world: World, faulty: FaultyRegistry, noisy: Built) -> None:
    go_on = asyncio.Event()
    faulty.faults[f"blobs/{_big(noisy)}"] = [Fault(stall=go_on)]
    pulling = asyncio.ensure_future(world.images.pull(f"{faulty.host}/app"))
    await faulty.asked(f"blobs/{_big(noisy)}")
    await world.operations.drain(0)
    with pytest.raises(errors.Aborted):
        await pulling
    assert await world.everything() == []
    go_on.set()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", STEPS)
async def test_an_interruption_at_any_step_leaves_nothing(
    world: World, faulty: FaultyRegistry, at: str, when: Literal["before", "after"]
) -> None:
    async def interrupt(operation: Operation, step: str, now: Literal["before", "after"]) -> None:
        if (step, now) == (at, when):
            raise errors.Aborted("interrupted")

    world.operations.on_step = interrupt
    with pytest.raises(errors.Aborted, match="interrupted"):
        await world.images.pull(f"{faulty.host}/app")
    assert await world.everything() == []
    assert list(world.images.list()) == []


async def test_what_a_killed_acri_left_is_removed_at_the_next_start(
    world: World, faulty: FaultyRegistry, noisy: Built
) -> None:
    """A pull that stops where it is and never undoes anything is what kill -9 leaves behind."""
    stuck, never = asyncio.Event(), asyncio.Event()

    async def freeze(operation: Operation, step: str, now: Literal["before", "after"]) -> None:
        if (step, now) == ("records", "before"):
            stuck.set()
            await never.wait()

    frozen = Operations()
    frozen.on_step = freeze
    ghost = world.again(operations=frozen)
    pulling = asyncio.ensure_future(ghost.pull(f"{faulty.host}/app"))
    await stuck.wait()
    content = world.containerd.content
    async with content.write("acri-pull-dead-sha256:x", total=10) as writer:
        await writer.write(b"half")
    assert await world.leftovers() != []
    restarted = world.again()
    await restarted.load()
    await world.collect()
    assert await world.everything() == []
    assert await restarted.pull(f"{faulty.host}/app") == noisy.config_digest
    await frozen.drain(0)
    with pytest.raises(errors.Aborted):
        await pulling


@pytest.mark.parametrize("basic", [False, True])
async def test_credentials(world: World, noisy: Built, basic: bool) -> None:
    async with FaultyRegistry(("user", "s3cret"), basic=basic) as registry:
        registry.add("app", "latest", noisy)
        name = f"{registry.host}/app"
        for auth in (None, RegistryAuth("user", "wrong-one"), RegistryAuth("user", "s3cret", server_address="x.io")):
            with pytest.raises(errors.ImagePullError, match="pull access denied") as caught:
                await world.images.pull(name, auth)
            assert "wrong-one" not in str(caught.value)
            assert "s3cret" not in str(caught.value)
        for auth in (
            RegistryAuth("user", "s3cret"),
            RegistryAuth(auth="dXNlcjpzM2NyZXQ=", server_address=registry.url),
        ):
            assert await world.images.pull(name, auth) == noisy.config_digest
        # The image is here; who has no right to it is refused all the same.
        with pytest.raises(errors.ImagePullError, match="pull access denied"):
            await world.images.pull(name)


async def test_a_token_that_expires_in_the_middle(world: World, noisy: Built) -> None:
    async with FaultyRegistry(("user", "s3cret")) as registry:
        registry.add("app", "latest", noisy)
        big = f"blobs/{_big(noisy)}"
        registry.faults[big] = [Fault(cut_at=100_000)]
        task = asyncio.ensure_future(world.images.pull(f"{registry.host}/app", RegistryAuth("user", "s3cret")))
        await registry.asked(big)
        registry.token = "another"
        assert await task == noisy.config_digest


async def test_a_blob_that_stalls_is_given_up(world: World, faulty: FaultyRegistry, noisy: Built) -> None:
    digest = _big(noisy)
    faulty.faults[f"blobs/{digest}"] = [Fault(stall=asyncio.Event(), cut_at=0) for _ in range(9)]
    images = world.again(pull_progress_timeout=0.2)
    with pytest.raises(errors.ImagePullError, match=f"blob {digest} from {faulty.host}: no byte for"):
        await images.pull(f"{faulty.host}/app")
    assert await world.everything() == []


async def test_credentials_stay_at_home(world: World, noisy: Built, tmp_path: Path) -> None:
    """Neither a mirror nor a redirect's target sees them (user-needs.md A45)."""
    async with FaultyRegistry() as elsewhere, FaultyRegistry(("user", "s3cret")) as home:
        elsewhere.add("app", "latest", noisy)
        home.add("app", "latest", noisy)
        target = {"Location": f"{elsewhere.url}/v2/app/blobs/{_big(noisy)}?signature=a%2Fb"}
        home.faults[f"blobs/{_big(noisy)}"] = [Fault(status=307, headers=target)]
        async with FaultyRegistry(("user", "s3cret")) as mirror:
            directory = tmp_path / home.host.replace(":", "_")
            (tmp_path / f"{directory.name}_").mkdir()
            (tmp_path / f"{directory.name}_" / "hosts.toml").write_text(f'[host."{mirror.url}"]\n')
            images = world.again(tmp_path)
            assert await images.pull(f"{home.host}/app", RegistryAuth("user", "s3cret")) == noisy.config_digest
            assert mirror.requests
            assert not any(path == "/token" and "s3cret" in str(h) for _, path, h in mirror.requests)
            assert mirror.count("POST", "/token") == 0
        assert elsewhere.count("GET", _big(noisy)) == 1
        assert not any("Authorization" in headers for _, _, headers in elsewhere.requests)


async def test_tls(world: World, noisy: Built, tmp_path: Path) -> None:
    """Not trusted, trusted by `ca`, not verified; a client certificate that the registry insists on."""
    pem = tmp_path / "pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{pem}.key"]
    command = ["openssl", "req", "-x509", *key, *subject, "-out", f"{pem}.crt"]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=f"{pem}.crt")
    context.load_cert_chain(f"{pem}.crt", f"{pem}.key")
    context.verify_mode = ssl.CERT_OPTIONAL
    hosts_toml = tmp_path / "certs.d" / "r.example" / "hosts.toml"
    hosts_toml.parent.mkdir(parents=True)
    images = world.again(tmp_path / "certs.d")
    async with FaultyRegistry(tls=context) as registry:
        registry.add("app", "latest", noisy)
        hosts_toml.write_text(f'server = "{registry.url}"\n')
        with pytest.raises(
            errors.ImagePullError, match=r"r.example/app:latest: the registry is not trusted: .*self.signed"
        ):
            await images.pull("r.example/app")
        for how in (f'ca = "{pem}.crt"', "skip_verify = true"):
            hosts_toml.write_text(f'server = "{registry.url}"\n{how}\n')
            assert await images.pull("r.example/app") == noisy.config_digest
    context.verify_mode = ssl.CERT_REQUIRED
    async with FaultyRegistry(tls=context) as registry:
        registry.add("app", "latest", noisy)
        hosts_toml.write_text(f'server = "{registry.url}"\nca = "{pem}.crt"\n')
        with pytest.raises(errors.ImagePullError):
            await images.pull("r.example/app")
        hosts_toml.write_text(f'server = "{registry.url}"\nca = "{pem}.crt"\nclient = [["{pem}.crt", "{pem}.key"]]\n')
        assert await images.pull("r.example/app") == noisy.config_digest


async def test_an_image_that_another_program_brings(world: World, noisy: Built, tmp_path: Path) -> None:
    """`ctr images import` without unpacking: it shows up, gets an id, and is unpacked when a container wants it."""
    archive = tmp_path / "image.tar"
    archive.write_bytes(_oci_archive(noisy, "registry.example/side:1"))
    ctr = ["ctr", "-a", world.containerd.address, "-n", world.containerd.namespace, "images"]
    process = await asyncio.to_thread(
        subprocess.run, [*ctr, "import", "--no-unpack", str(archive)], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    await world.images.refresh("registry.example/side:1")
    image = world.images.find("registry.example/side:1")
    assert image is not None
    assert (image.id, image.repo_tags, image.repo_digests) == (noisy.config_digest, ("registry.example/side:1",), ())
    assert world.images.find(f"registry.example/side@{noisy.digest}") == image
    assert image.id in await world.names()
    assert await world.containerd.snapshots.list("overlayfs") == []
    parents = await asyncio.gather(*(world.images.rootfs_parent(image) for _ in range(3)))
    assert set(parents) == {image.chain_id}
    await world.collect()
    assert len(await world.containerd.snapshots.list("overlayfs")) == 2
    await world.containerd.images.delete("registry.example/side:1")
    await world.images.refresh("registry.example/side:1")
    assert world.images.find("registry.example/side:1") is None
    assert world.images.find(image.id) is not None


def _oci_archive(image: Built, name: str) -> bytes:
    reference = parse(name)
    entry: dict[str, Any] = {
        "mediaType": image.media_type,
        "digest": image.digest,
        "size": len(image.manifest),
        "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": reference.tag},
    }
    files = {f"blobs/sha256/{digest[7:]}": blob for digest, blob in image.blobs.items()}
    files[f"blobs/sha256/{image.digest[7:]}"] = image.manifest
    files["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()
