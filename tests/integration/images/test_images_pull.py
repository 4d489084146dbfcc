# SPDX-License-Identifier: Apache-2.0
"""Pull, list, find and remove with a real registry and a real containerd."""

from __future__ import annotations

import asyncio

import pytest
from fixtures.images import Built, LocalRegistry, build, index, layer
from images_world import World

from acri import errors
from acri.images import manifest


async def test_a_pulled_image_is_whole_and_found_by_every_name(
    world: World, registry: LocalRegistry, busybox: Built
) -> None:
    registry.push("library/busybox", "1.0", busybox)
    image_id = await world.images.pull("busybox:1.0")
    assert image_id == busybox.config_digest
    (image,) = world.images.list()
    tag, digest = "docker.io/library/busybox:1.0", f"docker.io/library/busybox@{busybox.digest}"
    assert (image.id, image.repo_tags, image.repo_digests) == (image_id, (tag,), (digest,))
    assert image.size == len(busybox.manifest) + sum(map(len, busybox.blobs.values()))
    assert (image.config.user_id, image.config.user_name, image.config.cmd) == (1000, "", ("sh",))
    for text in ("busybox:1.0", tag, digest, image_id, image_id[7:], image_id[7:19], f"busybox:9@{busybox.digest}"):
        assert world.images.find(text) == image
    assert world.images.find("busybox:2.0") is None
    assert await world.names() == {image_id, tag, digest}
    parent = await world.images.rootfs_parent(image)
    assert (await world.containerd.snapshots.stat("overlayfs", parent)).name == manifest.chain_ids(
        image.config.diff_ids
    )[-1]
    before = [len(await world.containerd.content.list()), len(await world.containerd.snapshots.list("overlayfs"))]
    await world.collect()
    after = [len(await world.containerd.content.list()), len(await world.containerd.snapshots.list("overlayfs"))]
    assert before == after == [3, 1]


async def test_one_platform_out_of_an_index(world: World, registry: LocalRegistry) -> None:
    images = [
        build([layer({"arch": (0o644, name.encode())})], {}, architecture=name, variant=variant)
        for name, variant in (("arm64", "v8"), ("amd64", ""), ("arm64", ""), ("s390x", ""))
    ]
    host = await asyncio.to_thread(_native, images)
    whole = index(*images)
    registry.push("multi", "latest", whole)
    assert await world.images.pull("quay.io/multi") == host.config_digest
    image = world.images.find("quay.io/multi")
    assert image is not None
    assert image.repo_digests == (f"quay.io/multi@{whole.digest}",)
    assert image.manifest_digest == host.digest
    await world.collect()
    assert len(await world.containerd.content.list()) == 4
    # By the index's digest, and by the manifest's: the same image.
    assert await world.images.pull(f"quay.io/multi@{whole.digest}") == image.id
    assert await world.images.pull(f"quay.io/multi@{host.digest}") == image.id
    again = world.images.find(image.id)
    assert again is not None
    assert set(again.repo_digests) == {f"quay.io/multi@{whole.digest}", f"quay.io/multi@{host.digest}"}


def _native(images: list[Built]) -> Built:
    import os

    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    return next(image for image in images if image.platform["architecture"] == machine)


async def test_no_matching_platform(world: World, registry: LocalRegistry) -> None:
    foreign = build([layer({"x": (0o644, b"x")})], {}, architecture="s390x")
    registry.push("foreign", "latest", index(foreign))
    with pytest.raises(errors.ImagePullError, match=r"foreign:latest: no image for platform .* there is linux/s390x"):
        await world.images.pull("quay.io/foreign")
    assert await world.everything() == []


async def test_two_registries_one_image(world: World, registry: LocalRegistry, busybox: Built) -> None:
    registry.push("pause", "3.9", busybox)
    first = await world.images.pull("registry.k8s.io/pause:3.9")
    assert await world.images.pull("k8s.gcr.io/pause:3.9") == first
    (image,) = world.images.list()
    assert image.repo_tags == ("k8s.gcr.io/pause:3.9", "registry.k8s.io/pause:3.9")
    await world.images.remove("k8s.gcr.io/pause:3.9")
    assert world.images.find("registry.k8s.io/pause:3.9") is None
    assert await world.everything() == []


async def test_a_moved_tag_leaves_the_old_image_without_it(world: World, registry: LocalRegistry) -> None:
    old, new = (build([layer({"v": (0o644, v)})], {}) for v in (b"1", b"2"))
    registry.push("moving", "latest", old)
    await world.images.pull("quay.io/moving")
    registry.push("moving", "latest", new)
    assert await world.images.pull("quay.io/moving") == new.config_digest
    before, after = world.images.find(old.config_digest), world.images.find("quay.io/moving")
    assert before is not None
    assert after is not None
    assert (before.repo_tags, before.repo_digests) == ((), (f"quay.io/moving@{old.digest}",))
    assert (after.id, after.repo_tags) == (new.config_digest, ("quay.io/moving:latest",))
    # The registry's tag is what counts after a restart, too.
    restarted = world.again()
    await restarted.load()
    assert {image.id: image for image in restarted.list()} == {image.id: image for image in world.images.list()}


async def test_removal_frees_what_no_other_image_uses(world: World, registry: LocalRegistry) -> None:
    base = layer({"base": (0o644, b"base")})
    one, two = (build([base, layer({"own": (0o644, own)})], {"Env": [f"X={own!r}"]}) for own in (b"1", b"2"))
    registry.push("one", "latest", one)
    registry.push("two", "latest", two)
    await asyncio.gather(world.images.pull("quay.io/one"), world.images.pull("quay.io/two"))
    assert len(await world.containerd.snapshots.list("overlayfs")) == 3
    results = await asyncio.gather(*(world.images.remove(one.config_digest) for _ in range(5)))
    assert results == [None] * 5
    assert world.images.find(one.config_digest) is None
    assert {blob.digest for blob in await world.containerd.content.list()} == {two.digest, *two.blobs}
    assert len(await world.containerd.snapshots.list("overlayfs")) == 2
    await world.images.remove("quay.io/one")
    await world.images.remove("sha256:" + "0" * 64)
    await world.images.remove("two")  # docker.io/library/two is another
    assert world.images.find("quay.io/two") is not None


async def test_an_image_that_is_used_is_removed_and_comes_back(
    world: World, registry: LocalRegistry, busybox: Built
) -> None:
    registry.push("used", "latest", busybox)
    await world.images.pull("quay.io/used")
    image = world.images.find("quay.io/used")
    assert image is not None
    await world.containerd.leases.create("container")
    await world.containerd.snapshots.prepare(
        "overlayfs", "container", await world.images.rootfs_parent(image), lease="container"
    )
    await world.images.remove("quay.io/used")
    assert {s.name for s in await world.containerd.snapshots.list("overlayfs")} == {"container", image.chain_id}
    assert await world.images.pull("quay.io/used") == image.id
    await world.containerd.leases.delete("container", sync=True)
    assert await world.images.rootfs_parent(image) == image.chain_id


async def test_a_tag_and_an_id_cannot_be_mixed_up(world: World) -> None:
    with pytest.raises(errors.InvalidArgument, match="image id"):
        await world.images.pull("sha256:" + "0" * 64)
    with pytest.raises(errors.InvalidArgument, match="lowercase"):
        await world.images.pull("Busybox")
    with pytest.raises(errors.InvalidArgument, match="not configured"):
        await world.images.pull("busybox", runtime_handler="kata")


async def test_zstd_plain_and_repeated_layers(world: World, registry: LocalRegistry) -> None:
    packings = ["", "gzip"]
    layers = [layer({f"f{n}": (0o644, b"x" * n)}, packing) for n, packing in enumerate(packings)]
    image = build([*layers, layers[0], layer({"last": (0o644, b"l")})], {})
    registry.push("packed", "latest", image)
    await world.images.pull("quay.io/packed")
    assert len(await world.containerd.snapshots.list("overlayfs")) == 4


async def test_an_image_without_layers(world: World, registry: LocalRegistry) -> None:
    registry.push("empty", "latest", build([], {"Cmd": ["/x"]}))
    await world.images.pull("quay.io/empty")
    image = world.images.find("quay.io/empty")
    assert image is not None
    assert image.size > 0
    assert await world.images.rootfs_parent(image) == ""


async def test_pinned_images(world: World, registry: LocalRegistry, busybox: Built) -> None:
    registry.push("pinned", "latest", busybox)
    images = world.again(pinned=("quay.io/pinned",))
    await images.pull("quay.io/pinned")
    (image,) = images.list()
    assert image.pinned
    await world.images.load()
    assert [i.pinned for i in world.images.list()] == [True]


async def test_file_system_before_and_after_an_image(world: World, registry: LocalRegistry, busybox: Built) -> None:
    before = await world.images.fs_info()
    assert before.timestamp_ns > 0
    assert before.used_bytes == 0
    assert before.mountpoint.endswith("io.containerd.snapshotter.v1.overlayfs")
    registry.push("counted", "latest", busybox)
    await world.images.pull("quay.io/counted")
    after = await world.again().fs_info()
    assert after.used_bytes > sum(map(len, busybox.blobs.values()))
    assert after.inodes_used > 10
