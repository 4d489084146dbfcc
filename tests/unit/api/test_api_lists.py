# SPDX-License-Identifier: Apache-2.0
"""Lists and their filters, as crictl and a kubelet ask for them."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from acri import errors
from acri.api import convert, image_service
from acri.api.image_service import ImageService
from acri.api.runtime_service import RuntimeService
from acri.images.catalog import Catalog, Content
from acri.model import config as model
from acri.model.container import Container, User
from acri.model.image import ImageConfig
from acri.model.sandbox import Phase, Sandbox
from acri.proto.runtime import v1 as cri
from acri.store import Store
from acri.wire import decode, encode

CALL: Any = None
"""What handlers of lists do not look at."""


def runtime() -> RuntimeService:
    """Pods `aa…` (READY) and `ab…`, a running container `ca…` in the first and a created one `cb…` in the second."""
    sandboxes = Store[Sandbox]("pod sandbox", convert.sandbox_frame)
    containers = Store[Container]("container", convert.container_frame)
    for start, phase in (("aa", Phase.READY), ("ab", Phase.STOPPED)):
        config = model.PodSandboxConfig(model.PodSandboxMetadata(start, "u", "ns"), labels={"app": start})
        sandboxes.put(Sandbox(start.ljust(64, "0"), config, "", 1, phase))
    for start, sandbox, started in (("ca", "aa", 5), ("cb", "ab", 0)):
        made = model.ContainerConfig(model.ContainerMetadata(start), labels={"app": start})
        value = Container(start.ljust(64, "0"), sandbox.ljust(64, "0"), made, "", "", 1, "overlayfs", User(0, 0), 15)
        containers.put(dataclasses.replace(value, started_at_ns=started))
    return RuntimeService(SimpleNamespace(sandboxes=sandboxes, containers=containers))  # type: ignore[arg-type]


async def pods(**fields: Any) -> list[str]:
    asked = cri.ListPodSandboxRequest(filter=cri.PodSandboxFilter(**fields))
    answer = await runtime().list_pod_sandbox(decode(cri.ListPodSandboxRequest, encode(asked)), CALL)
    return [item.id[:2] for item in decode(cri.ListPodSandboxResponse, answer).items]


async def containers(**fields: Any) -> list[str]:
    asked = cri.ListContainersRequest(filter=cri.ContainerFilter(**fields))
    answer = await runtime().list_containers(decode(cri.ListContainersRequest, encode(asked)), CALL)
    return [item.id[:2] for item in decode(cri.ListContainersResponse, answer).containers]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, ["aa", "ab"]),
        ({"id": "aa"}, ["aa"]),
        ({"id": "ab".ljust(64, "0")}, ["ab"]),
        ({"id": "a"}, []),  # ambiguous
        ({"id": "ff"}, []),
        ({"id": "../x"}, []),
        ({"state": cri.PodSandboxStateValue(state=cri.PodSandboxState(0))}, ["aa"]),
        ({"state": cri.PodSandboxStateValue(state=cri.PodSandboxState(1))}, ["ab"]),
        ({"label_selector": {"app": "ab"}}, ["ab"]),
        ({"id": "aa", "label_selector": {"app": "ab"}}, []),
    ],
)
async def test_pods_are_filtered(fields: dict[str, Any], found: list[str]) -> None:
    assert await pods(**fields) == found


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, ["ca", "cb"]),
        ({"id": "cb"}, ["cb"]),
        ({"id": "c"}, []),  # ambiguous
        ({"id": "nothing"}, []),
        ({"pod_sandbox_id": "aa"}, ["ca"]),
        ({"pod_sandbox_id": "a"}, []),  # ambiguous
        ({"pod_sandbox_id": "ff"}, []),
        ({"state": cri.ContainerStateValue(state=cri.ContainerState(0))}, ["cb"]),
        ({"state": cri.ContainerStateValue(state=cri.ContainerState(1))}, ["ca"]),
        ({"state": cri.ContainerStateValue(state=cri.ContainerState(3))}, []),
        ({"label_selector": {"app": "ca"}}, ["ca"]),
    ],
)
async def test_containers_are_filtered(fields: dict[str, Any], found: list[str]) -> None:
    assert await containers(**fields) == found


async def test_an_unknown_state_is_the_callers_mistake() -> None:
    pod_filter = decode(cri.ListPodSandboxRequest, b"\x0a\x04\x12\x02\x08\x07")
    with pytest.raises(errors.InvalidArgument, match=r"state: 7 is not one of SANDBOX_READY=0, SANDBOX_NOTREADY=1"):
        await runtime().list_pod_sandbox(pod_filter, CALL)
    container_filter = decode(cri.ListContainersRequest, b"\x0a\x04\x12\x02\x08\x07")
    with pytest.raises(errors.InvalidArgument, match=r"state: 7 is not one of CREATED=0"):
        await runtime().list_containers(container_filter, CALL)


def content(number: int, user: str = "") -> Content:
    digest = f"sha256:{number:064x}"
    return Content(digest, digest, digest, 7, digest, ImageConfig(user=user))


class Images:
    """The part of `acri.images` that lists use, over a real catalog."""

    def __init__(self) -> None:
        self.catalog = Catalog()
        self.list = self.catalog.list
        self.find = self.catalog.find


async def listed(service: ImageService, name: str | None = None) -> list[cri.Image]:
    wanted = None if name is None else cri.ImageFilter(image=cri.ImageSpec(image=name))
    answer = await service.list_images(cri.ListImagesRequest(filter=wanted), CALL)
    return list(decode(cri.ListImagesResponse, answer).images)


async def test_an_image_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []

    def counting(image: Any) -> bytes:
        encoded.append(image.id[-1])
        return convert_frame(image)

    convert_frame = convert.image_frame
    monkeypatch.setattr(image_service.convert, "image_frame", counting)
    images = Images()
    service = ImageService(images)  # type: ignore[arg-type]
    for number in (1, 2):
        images.catalog.put(f"docker.io/library/i{number}:latest", content(number), pinned=False)
    for _ in range(3):
        assert [image.repo_tags for image in await listed(service)] == [
            ["docker.io/library/i1:latest"],
            ["docker.io/library/i2:latest"],
        ]
    assert encoded == ["1", "2"]
    images.catalog.put("docker.io/library/i1:v2", content(1), pinned=False)
    assert [len(image.repo_tags) for image in await listed(service)] == [2, 1]
    assert encoded == ["1", "2", "1"]
    images.catalog.discard("docker.io/library/i2:latest")
    assert [image.id[-1] for image in await listed(service)] == ["1"]
    assert len(service._frames._kept) == 1


@pytest.mark.parametrize(
    "user",
    [
        str(2**63),
        "9" * 30,
        "9" * 5000,  # more digits than int() takes
        "-1",
        "-99999999999999999999",
        "١٢",
        "1_000",
        "+1",
        "--1",
        "a\ud800b",
        "\udcff",
    ],
)
async def test_no_user_of_an_image_breaks_the_list(user: str) -> None:
    images = Images()
    images.catalog.put("docker.io/library/odd:latest", content(1, user), pinned=False)
    images.catalog.put("docker.io/library/good:latest", content(2, f"{2**63 - 1}:0"), pinned=False)
    odd, good = await listed(ImageService(images))  # type: ignore[arg-type]
    assert odd.uid is None
    assert odd.username == user.encode("utf-8", "replace").decode()
    assert good.uid is not None
    assert (good.uid.value, good.username) == (2**63 - 1, "")


@pytest.mark.parametrize(
    ("name", "found"), [("i1", 1), ("i3", 0), ("sha256:" + "0" * 63 + "2", 1), ("000000", 0), ("UPPER//case", 0)]
)
async def test_an_image_filter_that_fits_nothing_selects_nothing(name: str, found: int) -> None:
    images = Images()
    for number in (1, 2):
        images.catalog.put(f"docker.io/library/i{number}:latest", content(number), pinned=False)
    assert len(await listed(ImageService(images), name)) == found  # type: ignore[arg-type]
