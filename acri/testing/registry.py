# SPDX-License-Identifier: Apache-2.0
"""A registry on a loopback port that serves images from memory, so that PullImage runs as it does anywhere.

    async with MemoryRegistry({"acri/busybox:demo": image}) as registry:
        certs_dir = registry.write_certs_dir(directory)        # makes it answer for every registry's name
        … PullImage("registry.example/acri/busybox:demo")

The pull half of the OCI distribution specification 1.1, read-only: /v2/, manifests by tag and digest, blobs; GET and
HEAD; one request per connection. It is on the demo's own event loop and bound to 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from acri.testing.image import MANIFEST_TYPE, Image

__all__ = ["MemoryRegistry"]

_PATH = re.compile(r"/v2/(?P<name>[a-z0-9._/-]+)/(?P<kind>manifests|blobs)/(?P<reference>[A-Za-z0-9._:-]+)")
_MAX_HEAD = 16 * 1024
_TIMEOUT_S = 30.0


class MemoryRegistry:
    """Serves images by `name:tag`."""

    def __init__(self, images: Mapping[str, Image]) -> None:
        self._manifests: dict[tuple[str, str], bytes] = {}
        self._blobs: dict[tuple[str, str], bytes] = {}
        for reference, image in images.items():
            name, _, tag = reference.rpartition(":")
            self._manifests[name, tag] = self._manifests[name, image.digest] = image.manifest
            self._blobs |= {(name, digest): blob for digest, blob in image.blobs.items()}
        self._server: asyncio.Server | None = None

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`, while it runs."""
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> MemoryRegistry:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_MAX_HEAD)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    def write_certs_dir(self, directory: str) -> str:
        """Make `directory` a certs.d that sends every registry's name here, by plain http. Writes a file."""
        default = Path(directory, "_default")
        os.makedirs(default, exist_ok=True)
        url = f"http://{self.host}"
        (default / "hosts.toml").write_text(
            f'server = "{url}"\n\n[host."{url}"]\n  capabilities = ["pull", "resolve"]\n', "utf-8"
        )
        return directory

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                method, _, rest = head.partition(" ")
                status, kind, body = self._answer(method, rest.partition(" ")[0].partition("?")[0])
                lines = (
                    f"HTTP/1.1 {status}",
                    f"Content-Type: {kind}",
                    f"Content-Length: {len(body)}",
                    "Docker-Distribution-Api-Version: registry/2.0",
                    "Connection: close",
                )
                writer.write("\r\n".join((*lines, "", "")).encode() + (b"" if method == "HEAD" else body))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client's affair: it went away, was too slow, or sent no request
        finally:
            writer.close()

    def _answer(self, method: str, path: str) -> tuple[str, str, bytes]:
        """Status line, content type and body."""
        if method not in ("GET", "HEAD"):
            return "405 Method Not Allowed", "application/json", b"{}"
        if path == "/v2/":
            return "200 OK", "application/json", b"{}"
        if match := _PATH.fullmatch(path):
            key = match["name"], match["reference"]
            if match["kind"] == "manifests" and key in self._manifests:
                return "200 OK", MANIFEST_TYPE, self._manifests[key]
            if match["kind"] == "blobs" and key in self._blobs:
                return "200 OK", "application/octet-stream", self._blobs[key]
        return "404 Not Found", "application/json", b'{"errors":[{"code":"NAME_UNKNOWN"}]}'
