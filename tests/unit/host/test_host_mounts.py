# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from acri import errors
from acri.host import mountinfo, mounts
from acri.host.kernel import LinuxKernel
from acri.host.recording import RecordingKernel


def mounted(path: Path) -> tuple[str, ...]:
    return mountinfo.mounts_below(mountinfo.read(), str(path))


def test_shm(place: Path, kernel: LinuxKernel) -> None:
    shm = place / "sandbox" / "shm"
    mounts.mount_shm(kernel, str(shm))
    mounts.mount_shm(kernel, str(shm))
    (entry,) = [entry for entry in mountinfo.read() if entry.mount_point == str(shm)]
    assert {"nosuid", "nodev", "noexec"} <= entry.options
    assert shm.stat().st_mode & 0o7777 == 0o1777
    found = os.statvfs(shm)
    assert found.f_frsize * found.f_blocks == 64 << 20
    (shm / "used").touch()
    with (shm / "used").open("rb"):
        mounts.unmount(kernel, str(shm))
    mounts.unmount(kernel, str(shm))
    mounts.unmount(kernel, str(place / "never"))
    assert mounted(place) == ()


def test_a_bind_of_the_same_file_system_is_a_mount_point(place: Path, kernel: LinuxKernel) -> None:
    assert not mounts.is_mount_point(kernel, str(place))
    mounts.bind(kernel, str(place), str(place))
    mounts.bind(kernel, str(place), str(place))
    assert mounts.is_mount_point(kernel, str(place))
    mounts.unmount(kernel, str(place))
    assert not mounts.is_mount_point(kernel, str(place))
    assert not mounts.is_mount_point(kernel, str(place / "never"))


def test_an_old_kernel_is_asked_another_way(place: Path, kernel: LinuxKernel) -> None:
    mounts.bind(kernel, str(place), str(place))
    old = RecordingKernel(kernel, fail_at=0, error=errno.ENOSYS)
    assert mounts.is_mount_point(old, str(place))


def test_a_tree_goes_and_what_is_mounted_or_linked_stays(place: Path, kernel: LinuxKernel) -> None:
    volume = place / "volume"
    (volume / "deep").mkdir(parents=True)
    (volume / "deep" / "precious").write_text("data")
    tree = place / "a tree"
    for name in ("bound", "deeper/bound twice", "empty"):
        (tree / name).mkdir(parents=True)
    (tree / "file").write_text("x")
    (tree / "link").symlink_to(volume)
    (tree / "dangling").symlink_to("/no/where")
    os.mkfifo(tree / "fifo")
    for _ in range(2):
        mounts.bind(kernel, str(volume), str(tree / "deeper" / "bound twice"))
    mounts.bind(kernel, str(volume), str(tree / "bound"))
    mounts.mount_shm(kernel, str(tree / "shm"))
    mounts.bind(kernel, str(volume / "deep" / "precious"), str(tree / "file"))
    mounts.remove_tree(kernel, str(tree))
    mounts.remove_tree(kernel, str(tree))
    assert not tree.exists()
    assert (volume / "deep" / "precious").read_text() == "data"
    assert mounted(place) == ()


def test_a_symlink_as_the_tree_is_only_unlinked(place: Path, kernel: LinuxKernel) -> None:
    (place / "real").mkdir()
    (place / "real" / "file").touch()
    mounts.mount_shm(kernel, str(place / "real" / "shm"))
    (place / "link").symlink_to(place / "real")
    mounts.remove_tree(kernel, str(place / "link"))
    assert (place / "real" / "file").exists()
    assert mounted(place) == (f"{place}/real/shm",)


def test_a_mount_that_cannot_be_unmounted_is_not_walked_into(
    place: Path, kernel: LinuxKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst case: the mount is there but the table did not show it in time."""
    (place / "volume").mkdir()
    (place / "volume" / "precious").touch()
    (place / "tree" / "bound").mkdir(parents=True)
    mounts.bind(kernel, str(place / "volume"), str(place / "tree" / "bound"))
    monkeypatch.setattr(mounts, "_ATTEMPTS", 2)
    monkeypatch.setattr(mounts, "_unmount_below", lambda kernel, path: None)
    with pytest.raises(errors.FailedPrecondition, match="still in use"):
        mounts.remove_tree(kernel, str(place / "tree"))
    assert (place / "volume" / "precious").exists()


@pytest.mark.parametrize("path", ["/", "relative", "", "/..", "//", "///", "//..", "/./", "/tmp/.."])
def test_senseless_trees(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_remove", "_unmount_below"):  # if the check under test were wrong, this would be the machine's end
        monkeypatch.setattr(mounts, name, lambda *_: pytest.fail(f"would have removed {path!r}"))
    with pytest.raises(errors.InvalidArgument):
        mounts.remove_tree(RecordingKernel(), path)


def test_what_the_kernel_refuses_has_a_name() -> None:
    with pytest.raises(errors.PermissionDenied, match="unmount /x"):
        mounts.unmount(RecordingKernel(fail_at=0, error=errno.EPERM), "/x")
    with pytest.raises(errors.ResourceExhausted, match="bind /a to /b"):
        mounts.bind(RecordingKernel(fail_at=0, error=errno.ENOSPC), "/a", "/b")
