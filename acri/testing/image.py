# SPDX-License-Identifier: Apache-2.0
"""The test image, made on the spot from Debian's busybox-static: nothing is downloaded.

    busybox()  →  Image(manifest, blobs by digest)      the same busybox gives the same digests

The image is an OCI image of one platform with a single gzip layer: busybox, a symbolic link for each of its programs,
and the few files that programs look for. A pure value; `registry` serves it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from acri.errors import ConfigError

__all__ = ["Image", "busybox", "find_busybox"]

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
_PLACES = ("/bin/busybox", "/usr/bin/busybox", "/sbin/busybox")
_MTIME = 1_700_000_000
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_DIRECTORIES = {"bin": 0o755, "dev": 0o755, "etc": 0o755, "proc": 0o755, "sys": 0o755, "tmp": 0o1777, "www": 0o755}
_FILES = {
    "etc/passwd": "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}
_ELF_INTERPRETER = b"\x03\x00\x00\x00"  # PT_INTERP, a program header's type


@dataclass(frozen=True, slots=True)
class Image:
    """An image as a registry has it; `blobs` are its configuration and layers, by digest."""

    manifest: bytes
    blobs: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        return _digest(self.manifest)


def find_busybox(places: Iterable[str] = _PLACES) -> str:
    """The first of `places` that is a statically linked program.

    Raises:
        ConfigError: there is none.
    """
    for path in places:
        if os.access(path, os.X_OK) and _is_static(path):
            return path
    raise ConfigError("a statically linked busybox was not found: apt-get install busybox-static")


def _is_static(path: str) -> bool:
    """Whether an ELF file names no dynamic loader (elf(5)): another one would not run in an image of its own."""
    with open(path, "rb") as file:
        header = file.read(64)
        if header[:5] != b"\x7fELF\x02":
            return False
        offset = int.from_bytes(header[32:40], "little")
        size, count = (int.from_bytes(header[at : at + 2], "little") for at in (54, 56))
        file.seek(offset)
        table = file.read(size * count)
    return all(table[at : at + 4] != _ELF_INTERPRETER for at in range(0, len(table), size))


def busybox(extra: Mapping[str, str] | None = None) -> Image:
    """The busybox image; `extra` are further text files, by path. Reads files and runs busybox: call it in a thread.

    Raises:
        ConfigError: there is no static busybox.
    """
    raw = _layer(find_busybox(), {**_FILES, **(extra or {})})
    blob = gzip.compress(raw, 1, mtime=0)
    platform = {"os": "linux", "architecture": _ARCHITECTURES.get(os.uname().machine, os.uname().machine)}
    config = _json(
        {
            **platform,
            "created": "2024-01-01T00:00:00Z",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [_digest(raw)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _descriptor(_CONFIG_TYPE, config),
            "layers": [_descriptor(_LAYER_TYPE, blob)],
        }
    )
    return Image(manifest, {_digest(item): item for item in (config, blob)})


def _layer(program: str, files: Mapping[str, str]) -> bytes:
    with open(program, "rb") as file:
        binary = file.read()
    listed = subprocess.run([program, "--list"], capture_output=True, text=True, check=True, timeout=30).stdout
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:

        def add(name: str, mode: int, kind: bytes, data: bytes = b"", target: str = "") -> None:
            entry = tarfile.TarInfo(name)
            entry.mode, entry.type, entry.linkname, entry.size, entry.mtime = mode, kind, target, len(data), _MTIME
            archive.addfile(entry, io.BytesIO(data))

        for name, mode in _DIRECTORIES.items():
            add(name, mode, tarfile.DIRTYPE)
        add("bin/busybox", 0o755, tarfile.REGTYPE, binary)
        for applet in sorted(set(listed.split()) - {"busybox"}):
            add(f"bin/{applet}", 0o777, tarfile.SYMTYPE, target="busybox")
        for name, text in files.items():
            add(name, 0o644, tarfile.REGTYPE, text.encode())
    return out.getvalue()


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
