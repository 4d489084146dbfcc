# SPDX-License-Identifier: Apache-2.0
"""The result cache: what DEL needs, kept from ADD on, in the files and keys of libcni 1.x so that other tools read it.

One file per attachment, `<cache_dir>/results/<network>-<sandbox id>-<ifname>`, JSON:

    kind "cniCacheV1", containerId, ifName, networkName, netns, config (base64 of the network's JSON),
    cniArgs [[key, value], …], capabilityArgs {…}, result {…}; and `owner`, which libcni passes over

    (no file) ──ADD begins──▶ intent: no `result` ──ADD done──▶ complete
        ▲                          │                               │
        └────────── DEL done ──────┴───────────────────────────────┘

The intent is written before the first plugin runs: a runtime that is killed in between finds what to undo, with the
configuration that was used (containerd#5768). Writes replace the file in one step. They are not synced: after a
power cut the worst is a missing entry, and DEL then uses the current configuration.

Blocking code: call it in a thread.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Cache", "Entry"]

_KIND = "cniCacheV1"


@dataclass(frozen=True, slots=True)
class Entry:
    """One attachment as cached. `result` is None for an ADD that did not finish."""

    network: str
    sandbox_id: str
    ifname: str
    netns: str
    config: bytes
    cni_args: tuple[tuple[str, str], ...] = ()
    capability_args: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None
    owner: str = ""

    @property
    def filename(self) -> str:
        return f"{self.network}-{self.sandbox_id}-{self.ifname}"


class Cache:
    """The `results` directory below `cache_dir` (usually /var/lib/cni)."""

    def __init__(self, cache_dir: str) -> None:
        self._dir = os.path.join(cache_dir, "results")

    def put(self, entry: Entry) -> None:
        """Write `entry`, replacing an older one in one step. Raises OSError."""
        data = json.dumps(_to_json(entry)).encode()
        path = os.path.join(self._dir, entry.filename)
        # One attachment has one writer at a time (network.Networks), so a fixed name is enough. The dot keeps
        # readers, which go by the name's end, from taking a half-written file for an entry.
        temporary = os.path.join(self._dir, f".{entry.filename}.tmp")
        try:
            self._write(temporary, data)
        except FileNotFoundError:
            os.makedirs(self._dir, mode=0o700, exist_ok=True)
            self._write(temporary, data)
        os.replace(temporary, path)

    @staticmethod
    def _write(path: str, data: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)

    def find(self, sandbox_id: str, ifname: str) -> list[Entry]:
        """Entries of an attachment, whatever the network's name was then; unreadable ones are left out."""
        suffix = f"-{sandbox_id}-{ifname}"
        names = [name for name in self._names() if name.endswith(suffix)]
        found = [_from_json(self._read(name), name.removesuffix(suffix), sandbox_id, ifname) for name in names]
        # "-a-eth0" is also the end of the name of sandbox "b-a".
        return [entry for entry in found if entry is not None and entry.sandbox_id == sandbox_id]

    def all(self) -> list[Entry]:
        """Every readable entry, those of other runtimes included."""
        found = [_from_json(self._read(name), "", "", "") for name in self._names()]
        return [entry for entry in found if entry is not None]

    def remove(self, sandbox_id: str, ifname: str) -> None:
        """Remove an attachment's entries, unreadable ones and what a crash left of a write too. Raises OSError."""
        suffix = f"-{sandbox_id}-{ifname}"
        for name in self._names(hidden=True):
            if not name.removesuffix(".tmp").endswith(suffix):
                continue
            entry = _from_json(self._read(name), "", "", "")
            if entry is None or entry.sandbox_id == sandbox_id:
                try:
                    os.unlink(os.path.join(self._dir, name))
                except FileNotFoundError:
                    pass

    def _names(self, *, hidden: bool = False) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._dir) if hidden or not name.startswith("."))
        except FileNotFoundError:
            return []

    def _read(self, name: str) -> bytes:
        try:
            with open(os.path.join(self._dir, name), "rb") as file:
                return file.read()
        except OSError:
            return b""


def _to_json(entry: Entry) -> dict[str, Any]:
    document: dict[str, Any] = {
        "kind": _KIND,
        "containerId": entry.sandbox_id,
        "config": base64.b64encode(entry.config).decode(),
        "ifName": entry.ifname,
        "networkName": entry.network,
    }
    if entry.netns:
        document["netns"] = entry.netns
    if entry.cni_args:
        document["cniArgs"] = [list(pair) for pair in entry.cni_args]
    if entry.capability_args:
        document["capabilityArgs"] = dict(entry.capability_args)
    if entry.result is not None:
        document["result"] = dict(entry.result)
    if entry.owner:
        document["owner"] = entry.owner
    return document


def _from_json(data: bytes, network: str, sandbox_id: str, ifname: str) -> Entry | None:
    """An entry, or None where there is nothing to use. The other arguments identify a file of libcni before 0.8,
    which was the bare result."""
    try:
        document = json.loads(data)
        if not isinstance(document, dict):
            return None
        if document.get("kind") != _KIND:
            if not network or "cniVersion" not in document:
                return None
            return Entry(network, sandbox_id, ifname, "", b"", result=document)
        result = document.get("result")
        return Entry(
            network=_text(document["networkName"]),
            sandbox_id=_text(document["containerId"]),
            ifname=_text(document["ifName"]),
            netns=_text(document.get("netns", "")),
            config=base64.b64decode(_text(document["config"]), validate=True),
            cni_args=tuple((_text(key), _text(value)) for key, value in document.get("cniArgs") or ()),
            capability_args=dict(document.get("capabilityArgs") or {}),
            result=result if isinstance(result, dict) else None,
            owner=_text(document.get("owner", "")),
        )
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error):
        return None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a string was expected")
    return value
