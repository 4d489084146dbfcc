# SPDX-License-Identifier: Apache-2.0
"""The directory of network configurations, re-read when it has changed.

It is looked at when somebody asks (Status, and before each ADD): names, inodes, sizes and times of the files, about
10 µs each. There is no inotify watch, on purpose: a watch follows an inode, so it misses a directory that is deleted
and made again, a symlink that is switched and an overlay that is mounted over it, and it was the source of both
"cni plugin not initialized until restart" and endless reloads elsewhere. A look at the moment of use cannot miss
anything, files moved in included, and never reloads what has not changed.

    unknown ──poll──▶ loaded(fingerprint) ──poll, same fingerprint──▶ loaded (nothing read)
                         └──poll, other fingerprint──▶ files read again, first usable one wins

Blocking code: call it in a thread. Safe to call from several at once (the last one to finish is kept; each is true).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from acri import errors
from acri.cni import config as cni_config
from acri.cni.config import NetworkConfigList, PluginConfig

__all__ = ["ConfDir", "Loaded"]

_SUFFIXES = (".conflist", ".conf", ".json")

_FileId = tuple[str, int, int, int, int]
_Fingerprint = tuple[_FileId, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a directory holds: the first usable network, and a sentence for every file before it that is not."""

    config: NetworkConfigList | None
    complaints: tuple[str, ...]


class ConfDir:
    """A directory like /etc/cni/net.d."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._known: tuple[_Fingerprint, Loaded] | None = None
        self.reloads = 0
        """How often files were read: a number that must not grow while nothing changes."""

    def poll(self) -> Loaded:
        """The network to use now. Never raises: what is wrong is in `complaints`."""
        try:
            fingerprint = _fingerprint(self.path)
        except FileNotFoundError:
            return Loaded(None, (f"{self.path} does not exist",))
        except OSError as error:
            return Loaded(None, (f"{self.path} cannot be read: {error.strerror}",))
        known = self._known
        if known is not None and known[0] == fingerprint:
            return known[1]
        loaded = self._load(sorted({name for name, *_ in fingerprint if "/" not in name}))
        self.reloads += 1
        # The fingerprint was taken before the files were read: a change in between shows at the next poll.
        self._known = (fingerprint, loaded)
        return loaded

    def _load(self, names: list[str]) -> Loaded:
        complaints: list[str] = []
        for name in names:
            path = os.path.join(self.path, name)
            try:
                config = cni_config.parse(_read(path), path)
                if not config.load_only_inlined:
                    config = cni_config.merge_folder(config, self._folder(config.name))
            except errors.FailedPrecondition as error:
                complaints.append(error.message)
                continue
            return Loaded(config, tuple(complaints))
        if not complaints:
            complaints.append(f"{self.path} has no {', '.join('*' + suffix for suffix in _SUFFIXES)} file")
        return Loaded(None, tuple(complaints))

    def _folder(self, network: str) -> tuple[PluginConfig, ...]:
        """Plugins that others drop into the folder named like the network (CNI 1.1), by file name."""
        folder = os.path.join(self.path, network)
        try:
            paths = _folder_files(folder)
        except OSError as error:
            raise errors.FailedPrecondition(f"CNI configuration folder {folder}: {error.strerror}") from None
        return tuple(cni_config.parse_plugin(_read(path), path) for path in paths)


def _fingerprint(path: str) -> _Fingerprint:
    """Identity of every file that could matter: those of the directory, and the *.conf one level below it.

    ctime is in it because a file that is moved in, or copied with its times kept, brings an old mtime along.
    """
    found: list[_FileId] = []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.endswith(_SUFFIXES):
                found.append(_identity(entry.path, entry.name))
            elif entry.is_dir():
                found += [_identity(inner, os.path.relpath(inner, path)) for inner in _folder_files(entry.path)]
    return tuple(sorted(found))


def _folder_files(folder: str) -> list[str]:
    """Paths of the *.conf files in a network's folder, by name. Raises OSError."""
    try:
        return sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".conf"))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _identity(path: str, name: str) -> _FileId:
    try:
        info = os.stat(path)
    except OSError:  # a dangling link, or gone again
        return name, 0, 0, 0, 0
    return name, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _read(path: str) -> bytes:
    try:
        # O_NONBLOCK: a FIFO of that name must not hang the thread.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise errors.FailedPrecondition(f"CNI configuration {path}: it is no regular file")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(cni_config.MAX_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise errors.FailedPrecondition(f"CNI configuration {path}: it cannot be read: {error.strerror}") from None
