# SPDX-License-Identifier: Apache-2.0
"""The kernel's mount table, read from /proc/self/mountinfo (proc_pid_mountinfo(5)).

A line is `id parent major:minor root mount-point options optional-fields… - type source super-options`; space, tab,
newline and backslash in names are written as three octal digits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MountEntry", "mounts_below", "parse", "read"]

_ESCAPE = re.compile(rb"\\([0-7]{3})")
_ESCAPED = re.compile(rb"[ \t\n\\]")
"""What the kernel writes as a backslash and three octal digits."""


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One mount. Names are text as `os.fsdecode` gives it, so that any byte survives the way back."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    mount_point: str
    options: frozenset[str]
    optional: tuple[str, ...]
    fs_type: str
    source: str
    super_options: tuple[str, ...]

    @property
    def shared(self) -> bool:
        """Mounts made below it appear in its peers too."""
        return any(field.startswith("shared:") for field in self.optional)

    @property
    def slave(self) -> bool:
        """Mounts made in its master appear here."""
        return any(field.startswith("master:") for field in self.optional)


def _text(raw: bytes) -> str:
    if b"\\" in raw:
        raw = _ESCAPE.sub(lambda match: bytes((int(match[1], 8) & 0xFF,)), raw)
    return raw.decode("utf-8", "surrogateescape")


def parse(table: bytes) -> tuple[MountEntry, ...]:
    """The entries of a mountinfo text, in its order (a later mount on the same point covers the earlier).

    Lines that do not have the shape are left out: the file is the kernel's own, and a new field must not stop acri.
    """
    entries = []
    for line in table.split(b"\n"):
        fields = line.split(b" ")
        try:
            dash = fields.index(b"-", 6)
            fs_type, source, super_options = fields[dash + 1 : dash + 4]
            entries.append(
                MountEntry(
                    mount_id=int(fields[0]),
                    parent_id=int(fields[1]),
                    device=_text(fields[2]),
                    root=_text(fields[3]),
                    mount_point=_text(fields[4]),
                    options=frozenset(_text(fields[5]).split(",")),
                    optional=tuple(_text(field) for field in fields[6:dash]),
                    fs_type=_text(fs_type),
                    source=_text(source),
                    super_options=tuple(_text(super_options).split(",")),
                )
            )
        except ValueError:
            continue
    return tuple(entries)


def read(root: str = "/", *, naming: str = "") -> tuple[MountEntry, ...]:
    """The mount table of the calling thread.

    Args:
        root: where `proc` is found (tests hand in a recorded tree).
        naming: leave out what does not have this path somewhere in its line. An entry costs 6 µs to parse, a full node
            has thousands, and who asks about one directory needs few of them.
    """
    base = Path(root, "proc")
    path = base / "thread-self" / "mountinfo"
    if not path.exists():
        path = base / "self" / "mountinfo"
    table = path.read_bytes()
    if naming:
        needle = _ESCAPED.sub(lambda match: b"\\%03o" % match[0][0], os.fsencode(naming))
        table = b"\n".join(line for line in table.split(b"\n") if needle in line) if needle in table else b""
    return parse(table)


def mounts_below(entries: Iterable[MountEntry], directory: str) -> tuple[str, ...]:
    """Mount points at or below `directory`, one for each mount, in the order in which they can be unmounted."""
    directory = directory.rstrip("/")
    prefix = directory + "/"
    found = [
        (entry.mount_point.count("/"), order, entry.mount_point)
        for order, entry in enumerate(entries)
        if entry.mount_point == (directory or "/") or entry.mount_point.startswith(prefix)
    ]
    return tuple(point for _, _, point in sorted(found, reverse=True))
