# SPDX-License-Identifier: Apache-2.0
"""CRI's ImageService. A handler translates and makes one call into `acri.images`."""

from __future__ import annotations

import json
from collections.abc import Iterable

from acri import errors
from acri.api import convert
from acri.images.auth import RegistryAuth
from acri.images.service import FsInfo
from acri.images.service import ImageService as Images
from acri.model.image import Image
from acri.model.records import to_plain
from acri.proto.runtime import v1 as cri
from acri.rpc.router import Call
from acri.wire import Encoded

__all__ = ["ImageService"]


class ImageService:
    """Handlers by RPC name; `rpc.router` finds them by it."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._frames = _Frames()

    async def pull_image(self, request: cri.PullImageRequest, call: Call) -> cri.PullImageResponse:
        spec = _image_spec(request.image)
        auth = request.auth
        credentials = None
        if auth is not None:
            credentials = RegistryAuth(
                username=auth.username,
                password=auth.password,
                auth=auth.auth,
                server_address=auth.server_address,
                identity_token=auth.identity_token,
                registry_token=auth.registry_token,
            )
        image_id = await self._images.pull(spec.image, credentials, runtime_handler=spec.runtime_handler)
        return cri.PullImageResponse(image_ref=image_id)

    async def image_status(self, request: cri.ImageStatusRequest, call: Call) -> cri.ImageStatusResponse:
        """An image that is not here is no error: the answer has none (cri-api, ImageStatus)."""
        image = self._images.find(_image_spec(request.image).image)
        if image is None:
            return cri.ImageStatusResponse()
        info = {"info": json.dumps(to_plain(image))} if request.verbose else {}
        return cri.ImageStatusResponse(image=convert.image_message(image), info=info)

    async def list_images(self, request: cri.ListImagesRequest, call: Call) -> Encoded:
        wanted = request.filter.image.image if request.filter and request.filter.image else ""
        if not wanted:
            return Encoded(self._frames.of(self._images.list()))
        try:
            image = self._images.find(wanted)
        except errors.InvalidArgument:  # what can name no image, or several, selects nothing
            image = None
        return Encoded(convert.image_frame(image) if image else b"")

    async def remove_image(self, request: cri.RemoveImageRequest, call: Call) -> cri.RemoveImageResponse:
        await self._images.remove(_image_spec(request.image).image)
        return cri.RemoveImageResponse()

    async def image_fs_info(self, request: cri.ImageFsInfoRequest, call: Call) -> cri.ImageFsInfoResponse:
        usage = _usage(await self._images.fs_info())
        return cri.ImageFsInfoResponse(image_filesystems=[usage], container_filesystems=[usage])


class _Frames:
    """The list items of all images, each encoded once: an image is a value that is replaced when anything changes."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Image, bytes]] = {}

    def of(self, images: Iterable[Image]) -> bytes:
        """The joined items of `images`; those of images that are not among them are forgotten."""
        self._kept = {image.id: self._framed(image) for image in images}
        return b"".join(frame for _, frame in self._kept.values())

    def _framed(self, image: Image) -> tuple[Image, bytes]:
        kept = self._kept.get(image.id)
        return kept if kept is not None and kept[0] is image else (image, convert.image_frame(image))


def _image_spec(spec: cri.ImageSpec | None) -> cri.ImageSpec:
    if spec is None or not spec.image:
        raise errors.InvalidArgument("image is missing or empty")
    return spec


def _usage(info: FsInfo) -> cri.FilesystemUsage:
    return cri.FilesystemUsage(
        timestamp=info.timestamp_ns,
        fs_id=cri.FilesystemIdentifier(mountpoint=info.mountpoint),
        used_bytes=cri.UInt64Value(value=info.used_bytes),
        inodes_used=cri.UInt64Value(value=info.inodes_used),
    )
