# SPDX-License-Identifier: Apache-2.0
"""What containerd keeps: containers, leases, content, snapshots, images, namespaces; and what it says of itself."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from containerd_helpers import NAMESPACE, container_object
from containerd_process import ContainerdProcess

from acri import errors
from acri.containerd.client import Containerd
from acri.containerd.types import (
    GC_EXPIRE,
    AnyValue,
    ContainerObject,
    Descriptor,
    ImageObject,
    LeaseResource,
    Mount,
    SnapshotKind,
)


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def write_blob(client: Containerd, ref: str, data: bytes, *, expected: str = "", size: int = 0) -> None:
    async with client.content.write(ref, expected=expected) as writer:
        await writer.write(data)
        await writer.commit(size)


def file_of(mount: Mount, name: str) -> Path:
    return Path(mount.source, name)


async def test_version_and_introspection(client: Containerd) -> None:
    assert (await client.version()).version.lstrip("v")[0] in "12"
    assert len((await client.introspection.server()).uuid) == 36
    snapshotters = {p.id: p for p in await client.introspection.plugins("type==io.containerd.snapshotter.v1")}
    assert snapshotters["overlayfs"].error == ""
    assert snapshotters["overlayfs"].exports["root"]  # 1.6 does not say it of "native"
    assert snapshotters["overlayfs"].platforms[0].startswith("linux/")


async def test_namespaces(client: Containerd, unique: str) -> None:
    await client.namespaces.create(unique, {"a": "b"})
    assert (await client.namespaces.get(unique)).labels == {"a": "b"}
    assert unique in [n.name for n in await client.namespaces.list()]
    with pytest.raises(errors.AlreadyExists):
        await client.namespaces.create(unique)
    await client.namespaces.delete(unique)
    assert unique not in [n.name for n in await client.namespaces.list()]
    with pytest.raises(errors.NotFound):
        await client.namespaces.delete(unique)


async def test_container_records(client: Containerd, unique: str) -> None:
    record = AnyValue("acri.dev/record", b'{"v":1}')
    wanted = replace(container_object(unique, "true"), extensions={"io.acri.record": record})
    made = await client.containers.create(wanted)
    assert made.created_at_ns > 0
    read = await client.containers.get(unique)
    assert read == made
    assert replace(read, created_at_ns=0, updated_at_ns=0) == wanted

    # A field mask changes what it names and nothing else.
    changed = AnyValue("acri.dev/record", b"\x00\xff")
    await client.containers.update(
        ContainerObject(id=unique, extensions={"io.acri.record": changed}), fieldpaths=("extensions.io.acri.record",)
    )
    read = await client.containers.get(unique)
    assert read.extensions == {"io.acri.record": changed}
    assert read.labels == wanted.labels
    assert read.spec == wanted.spec
    await client.containers.update(ContainerObject(id=unique, labels={"x.y/z": "1"}), fieldpaths=("labels.x.y/z",))
    assert (await client.containers.get(unique)).labels == {**wanted.labels, "x.y/z": "1"}

    assert unique in [c.id for c in await client.containers.list()]
    assert [c.id for c in await client.containers.list(f"id=={unique}")] == [unique]
    assert [c.id for c in await client.containers.list('labels."io.acri.kind"==nobody')] == []
    with pytest.raises(errors.AlreadyExists):
        await client.containers.create(wanted)
    await client.containers.delete(unique)
    with pytest.raises(errors.NotFound):
        await client.containers.get(unique)
    with pytest.raises(errors.NotFound):
        await client.containers.delete(unique)


async def test_containers_of_other_namespaces_are_not_seen(
    client: Containerd, containerd_process: ContainerdProcess, unique: str
) -> None:
    async with Containerd(containerd_process.address, f"{NAMESPACE}-other") as other:
        await other.containers.create(container_object(unique, "true"))
        assert unique not in [c.id for c in await client.containers.list()]
        await other.containers.delete(unique)


async def test_leases(client: Containerd, unique: str) -> None:
    made = await client.leases.create(unique, {"a": "b"}, expire_s=3600)
    assert made.id == unique
    assert made.labels["a"] == "b"
    assert made.labels[GC_EXPIRE].endswith("Z")
    assert unique in [lease.id for lease in await client.leases.list()]
    with pytest.raises(errors.AlreadyExists):
        await client.leases.create(unique)
    await client.leases.delete(unique)
    with pytest.raises(errors.NotFound):
        await client.leases.delete(unique)

    async with client.leases.lease(expire_s=60) as lease:
        await client.snapshots.prepare("native", unique, lease=lease)
        assert await client.leases.resources(lease) == (LeaseResource(unique, "snapshots/native"),)
        await client.snapshots.remove("native", unique)
    assert lease not in [x.id for x in await client.leases.list()]


async def test_a_lease_keeps_content_and_its_end_frees_it(client: Containerd, unique: str) -> None:
    data = unique.encode()
    await client.leases.create(unique, expire_s=3600)
    async with client.content.write(unique, expected=sha256(data), lease=unique) as writer:
        await writer.write(data)
        await writer.commit()
    async with client.leases.lease(expire_s=60) as other:
        await client.leases.delete(other, sync=True)  # a garbage collection that must not take it
    assert (await client.content.info(sha256(data))).size == len(data)
    await client.leases.delete(unique, sync=True)
    with pytest.raises(errors.NotFound):
        await client.content.info(sha256(data))


async def test_content_written_and_read(client: Containerd, unique: str) -> None:
    data = (unique.encode() * 500_000)[: 5 * 2**20 + 17]
    digest = sha256(data)
    async with client.leases.lease(expire_s=60) as lease:
        async with client.content.write(unique, total=len(data), expected=digest, lease=lease) as writer:
            assert writer.offset == 0
            await writer.write(data)
            assert await writer.status() == len(data)
            assert await writer.commit(len(data), digest, {"a": "b"}) == digest
        info = await client.content.info(digest)
        assert (info.size, info.labels["a"]) == (len(data), "b")
        assert await client.content.read_all(digest, len(data)) == data
        part = [piece async for piece in client.content.read(digest, 10, 20)]
        assert b"".join(part) == data[10:30]
        with pytest.raises(errors.ResourceExhausted):
            await client.content.read_all(digest, len(data) - 1)
        updated = await client.content.update(digest, {"containerd.io/x": "y"}, ["labels.containerd.io/x"])
        assert updated.labels == {"a": "b", "containerd.io/x": "y"}
        assert digest in [c.digest for c in await client.content.list()]
        with pytest.raises(errors.AlreadyExists):
            async with client.content.write(unique, expected=digest, lease=lease):
                pass
        await client.content.delete(digest)
        with pytest.raises(errors.NotFound):
            await client.content.read_all(digest, 1)


async def test_a_write_goes_on_where_it_ended(client: Containerd, unique: str) -> None:
    data = unique.encode() * 1000
    async with client.leases.lease(expire_s=60) as lease:
        async with client.content.write(unique, lease=lease) as writer:
            await writer.write(data[:100])
            await writer.status()
        assert [(s.ref, s.offset) for s in await client.content.statuses(f"ref=={unique}")] == [(unique, 100)]
        async with client.content.write(unique, lease=lease) as writer:
            assert writer.offset == 100
            await writer.truncate()
            assert writer.offset == 0
            await writer.write(data[:50])
            assert await writer.status() == 50
            await writer.write(data[50:])
            assert await writer.commit(len(data)) == sha256(data)
        await client.content.delete(sha256(data))


async def test_wrong_digest_is_refused_and_aborted(client: Containerd, unique: str) -> None:
    with pytest.raises(errors.FailedPrecondition):
        await write_blob(client, unique, b"what came", expected=sha256(b"something else"))
    await client.content.abort(unique)
    with pytest.raises(errors.NotFound):
        await client.content.status(unique)
    with pytest.raises(errors.FailedPrecondition):
        await write_blob(client, unique, b"short", size=1000)
    await client.content.abort(unique)


async def test_snapshots(client: Containerd, unique: str) -> None:
    base, child = f"{unique}-base", f"{unique}-child"
    async with client.leases.lease(expire_s=60) as lease:
        mounts = await client.snapshots.prepare("overlayfs", unique, "", {"a": "b"}, lease=lease)
        assert mounts[0].type == "bind"
        file_of(mounts[0], "file").write_text("hello")
        assert await client.snapshots.mounts("overlayfs", unique) == mounts
        info = await client.snapshots.stat("overlayfs", unique)
        assert (info.kind, info.parent, info.labels["a"]) == (SnapshotKind.ACTIVE, "", "b")
        with pytest.raises(errors.AlreadyExists):
            await client.snapshots.prepare("overlayfs", unique, lease=lease)
        await client.snapshots.commit("overlayfs", base, unique, lease=lease)
        assert (await client.snapshots.usage("overlayfs", base)).inodes >= 2
        await client.snapshots.view("overlayfs", child, base, lease=lease)
        assert (await client.snapshots.stat("overlayfs", child)).kind is SnapshotKind.VIEW
        updated = await client.snapshots.update("overlayfs", child, {"c": "d"}, ["labels.c"])
        assert updated.labels["c"] == "d"
        assert {base, child} <= {s.name for s in await client.snapshots.list("overlayfs")}
        with pytest.raises(errors.FailedPrecondition):
            await client.snapshots.remove("overlayfs", base)
        await client.snapshots.remove("overlayfs", child)
        await client.snapshots.remove("overlayfs", base)
    with pytest.raises(errors.NotFound):
        await client.snapshots.stat("overlayfs", base)
    with pytest.raises(errors.NotFound):
        await client.snapshots.prepare("overlayfs", unique, "no-parent")
    with pytest.raises(errors.InvalidArgument):
        await client.snapshots.stat("no-snapshotter", base)


async def test_a_layer_is_applied_and_diffed(client: Containerd, unique: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("etc/motd")
        member.size = len(unique)
        archive.addfile(member, io.BytesIO(unique.encode()))
    plain = packed.getvalue()
    layer = gzip.compress(plain)
    media_type = "application/vnd.oci.image.layer.v1.tar+gzip"
    async with client.leases.lease(expire_s=60) as lease:
        async with client.content.write(unique, expected=sha256(layer), lease=lease) as writer:
            await writer.write(layer)
            await writer.commit()
        mounts = await client.snapshots.prepare("overlayfs", unique, lease=lease)
        applied = await client.diff.apply(Descriptor(media_type, sha256(layer), len(layer)), mounts, lease=lease)
        assert applied.digest == sha256(plain)
        assert file_of(mounts[0], "etc/motd").read_text() == unique
        await client.snapshots.remove("overlayfs", unique)
        with pytest.raises(errors.NotFound):
            await client.diff.apply(Descriptor(media_type, sha256(b"absent"), 6), mounts, lease=lease)


async def test_images(client: Containerd, unique: str) -> None:
    name = f"example.com/{unique}:latest"
    async with client.leases.lease(expire_s=60) as lease:
        data = unique.encode()
        async with client.content.write(unique, lease=lease) as writer:
            await writer.write(data)
            await writer.commit(labels={"containerd.io/gc.root": "now"})
        target = Descriptor("application/vnd.oci.image.manifest.v1+json", sha256(data), len(data))
        made = await client.images.create(ImageObject(name, target, {"foreign": "label"}), lease=lease)
        assert made.created_at_ns > 0
        with pytest.raises(errors.AlreadyExists):
            await client.images.create(ImageObject(name, target))
        await client.images.update(ImageObject(name, labels={"io.acri": "1"}), ["labels.io.acri"])
        read = await client.images.get(name)
        assert read.target == target
        assert read.labels == {"foreign": "label", "io.acri": "1"}
        assert [i.name for i in await client.images.list(f"name=={name}")] == [name]
        await client.images.delete(name, sync=True)
        with pytest.raises(errors.NotFound):
            await client.images.get(name)
        with pytest.raises(errors.NotFound):
            await client.images.delete(name)
        await client.content.delete(sha256(data))


async def test_bad_arguments_are_the_callers_fault(client: Containerd) -> None:
    with pytest.raises(errors.InvalidArgument):
        await client.containers.create(container_object("not/an/id", "true"))
    with pytest.raises(errors.InvalidArgument):
        await client.containers.create(replace(container_object("no-runtime", "true"), runtime_name=""))
    with pytest.raises(errors.InvalidArgument):
        await client.containers.list("this is no filter")
