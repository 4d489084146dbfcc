# SPDX-License-Identifier: Apache-2.0
"""Images through CRI: one string for each, whatever it is called (kubelet-cri.md 5, script 20; critest's images)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from cri_client import Cri
from cri_lab import AcriProcess, Lab, leftovers
from cri_pods import BUSYBOX, Pods
from fixtures.images import Built, build, busybox_files, index, layer

from acri import errors
from acri.proto.runtime import v1 as m


@pytest.fixture
async def clean(cri: Cri, acri: AcriProcess) -> AsyncIterator[Cri]:
    """Whatever a test pulls is removed, BUSYBOX aside."""
    before = {image.id for image in await cri.images()}
    yield cri
    for image in await cri.images():
        if image.id not in before:
            await _remove(cri, image.id)
    assert await leftovers(acri) == []


async def _remove(cri: Cri, name: str) -> None:
    await cri(m.RemoveImageRequest(image=m.ImageSpec(image=name)))


def _image(marker: str, **config: object) -> Built:
    return build([layer({f"{marker}": (0o644, marker.encode())})], {"Cmd": ["x"]} | config)


async def test_one_string_for_an_image(clean: Cri, lab: Lab) -> None:
    image = _image("identity")
    digest = lab.registry.push("test/identity", "v1", image)
    name = "docker.io/test/identity:v1"
    pulled = await clean.pull(name)
    assert pulled == image.config_digest
    repo_digest = f"docker.io/test/identity@{digest}"
    (listed,) = [item for item in await clean.images() if item.id == pulled]
    assert (list(listed.repo_tags), list(listed.repo_digests)) == ([name], [repo_digest])
    assert listed.size > 0
    answers = [await clean.image(asked) for asked in (name, pulled, repo_digest, "test/identity:v1", pulled[7:])]
    assert answers == [listed] * 5


async def test_an_image_that_is_not_there(cri: Cri) -> None:
    """No error: the answer has no image."""
    assert await cri.image("docker.io/test/none:1") is None
    assert await cri.image("sha256:" + "0" * 64) is None
    for _ in range(2):
        await _remove(cri, "sha256:" + "0" * 64)
        await _remove(cri, "docker.io/test/none:1")


async def test_default_tag_and_pull_by_digest(clean: Cri, lab: Lab) -> None:
    image = _image("forms")
    digest = lab.registry.push("test/forms", "latest", image)
    by_digest = await clean.pull(f"docker.io/test/forms@{digest}")
    found = await clean.image(by_digest)
    assert found is not None
    assert list(found.repo_tags) == []
    assert list(found.repo_digests) == [f"docker.io/test/forms@{digest}"]
    assert await clean.pull("test/forms") == by_digest
    found = await clean.image(by_digest)
    assert found is not None
    assert list(found.repo_tags) == ["docker.io/test/forms:latest"]


async def test_many_names_one_image_and_its_removal(clean: Cri, lab: Lab) -> None:
    image = _image("many")
    names = ["docker.io/test/many:1", "docker.io/test/many:2", "registry.example/test/many:1"]
    for tag in ("1", "2"):
        lab.registry.push("test/many", tag, image)
    ids = set(await asyncio.gather(*(clean.pull(name) for name in names)))
    assert len(ids) == 1
    (image_id,) = ids
    (listed,) = [item for item in await clean.images() if item.id == image_id]
    assert sorted(listed.repo_tags) == sorted(names)
    await asyncio.gather(*(_remove(clean, image_id) for _ in range(5)))
    assert image_id not in {item.id for item in await clean.images()}
    for name in (*names, image_id):
        assert await clean.image(name) is None


async def test_a_tag_that_moved(clean: Cri, lab: Lab) -> None:
    name = "docker.io/test/moved:1"
    lab.registry.push("test/moved", "1", _image("old"))
    old = await clean.pull(name)
    lab.registry.push("test/moved", "1", _image("new"))
    new = await clean.pull(name)
    assert new != old
    found, former = await clean.image(name), await clean.image(old)
    assert found is not None
    assert found.id == new
    assert former is not None
    assert list(former.repo_tags) == []


async def test_one_platform_of_an_index(clean: Cri, lab: Lab) -> None:
    ours = _image("amd64")
    other = build([layer({"other": (0o644, b"x")})], {}, architecture="s390x")
    lab.registry.push("test/index", "1", index(other, ours))
    assert await clean.pull("docker.io/test/index:1") == ours.config_digest
    lab.registry.push("test/foreign", "1", index(other))
    with pytest.raises(errors.AcriError, match="platform"):
        await clean.pull("docker.io/test/foreign:1")


@pytest.mark.parametrize(
    ("user", "uid", "username"),
    [
        ("1002", 1002, ""),
        ("www-data", None, "www-data"),
        ("1003:x", 1003, ""),
        ("www-data:x", None, "www-data"),
        ("", None, ""),
    ],
)
async def test_user_of_an_image(clean: Cri, lab: Lab, user: str, uid: int | None, username: str) -> None:
    tag = user.replace(":", "-") or "none"
    lab.registry.push("test/user", tag, _image(f"user-{tag}", User=user))
    name = f"docker.io/test/user:{tag}"
    await clean.pull(name)
    image = await clean.image(name)
    assert image is not None
    assert (image.uid.value if image.uid else None, image.username) == (uid, username)


async def test_pulls_that_cannot_work(cri: Cri, acri: AcriProcess) -> None:
    for name, code in (("docker.io/test/absent:1", errors.NotFound), ("UPPER:x:y", errors.InvalidArgument)):
        with pytest.raises(errors.AcriError) as failed:
            await cri.pull(name)
        assert isinstance(failed.value, code | errors.UnknownError)
        assert name.partition(":")[0].removeprefix("docker.io/") in str(failed.value)
    with pytest.raises(errors.InvalidArgument):
        await cri.pull("")
    with pytest.raises(errors.InvalidArgument):
        await cri(m.PullImageRequest())
    assert await leftovers(acri) == []


async def test_a_client_that_leaves_a_pull(clean: Cri, lab: Lab, acri: AcriProcess) -> None:
    lab.registry.push("test/left", "1", _image("left"))
    request = m.PullImageRequest(image=m.ImageSpec(image="docker.io/test/left:1"))
    with pytest.raises(errors.DeadlineExceeded):
        await clean(request, timeout=0.001)
    assert (await clean(request)).image_ref == await clean.pull("docker.io/test/left:1")


async def test_an_image_that_is_removed_under_its_container(clean: Cri, pods: Pods, lab: Lab) -> None:
    """The container keeps running, its status goes on telling of the image."""
    lab.registry.push("test/used", "1", build([layer(busybox_files())], {"Cmd": ["sleep", "1000"]}))
    name = "docker.io/test/used:1"
    image_id = await clean.pull(name)
    pod = await pods.run()
    container_id = await clean.create(pod.id, pod.container(image=name), pod.config)
    await clean.start(container_id)
    await _remove(clean, image_id)
    assert await clean.image(name) is None
    status = await clean.container_status(container_id)
    assert status.state == m.ContainerState.CONTAINER_RUNNING
    assert status.image_id == image_id
    assert status.image.image
    assert status.image_ref
    assert await pod.exec(container_id, "echo", "on") == "on\n"
    with pytest.raises(errors.NotFound):
        await pod.create("true", name="new", image=name)


async def test_list_with_a_filter(cri: Cri) -> None:
    async def listed(name: str) -> list[str]:
        wanted = m.ImageFilter(image=m.ImageSpec(image=name))
        return [tag for image in (await cri(m.ListImagesRequest(filter=wanted))).images for tag in image.repo_tags]

    assert await listed(BUSYBOX) == [BUSYBOX]
    assert await listed("docker.io/test/none:1") == []
    assert BUSYBOX in await listed("")
