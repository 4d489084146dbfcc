# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from acri import errors
from acri.host import mountinfo
from acri.host.kernel import MS_BIND, MS_NODEV, MS_NOSUID, MS_RDONLY, MS_REC, LinuxKernel
from acri.host.rootfs import parse_options, read_from_rootfs, read_only_overlay


@dataclass(frozen=True)
class Mount:
    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


Read = Callable[..., dict[str, bytes | None]]


@pytest.fixture
def read(place: Path, kernel: LinuxKernel, fresh: Callable[..., Any]) -> Read:
    def run(mounts: list[Mount], *paths: str, limit: int = 1 << 20) -> dict[str, bytes | None]:
        before = len(os.listdir("/proc/self/fd"))
        scratch = place / "scratch"
        try:
            result: dict[str, bytes | None] = fresh(read_from_rootfs, kernel, mounts, paths, limit, str(scratch))
        finally:
            assert mountinfo.mounts_below(mountinfo.read(), str(place)) == ()
            assert os.listdir(scratch) == []
            assert len(os.listdir("/proc/self/fd")) == before
        return result

    return run


def layers(place: Path, count: int, long: str = "layer") -> list[str]:
    made = []
    for number in range(count):
        layer = place / f"{long}-{number}"
        (layer / "etc").mkdir(parents=True)
        (layer / "etc" / f"from-{number}").write_text(str(number))
        (layer / "etc" / "passwd").write_text(f"layer {number}")
        made.append(str(layer))
    return made


def test_bind(place: Path, read: Read) -> None:
    (layer,) = layers(place, 1)
    mount = Mount("bind", layer, options=("ro", "rbind"))
    assert read([mount], "/etc/passwd", "etc/from-0", "/no", "/etc", "/etc/passwd/x") == {
        "/etc/passwd": b"layer 0", "etc/from-0": b"0", "/no": None, "/etc": None, "/etc/passwd/x": None,
    }  # fmt: skip


def test_overlay_without_touching_its_upper_and_work_directory(place: Path, read: Read) -> None:
    upper, *lower = layers(place, 3)
    work = place / "work"
    work.mkdir()
    os.mknod(Path(upper, "etc", "from-1"), 0o600 | stat.S_IFCHR, 0)  # a whiteout
    options = ("index=off", f"workdir={work}", f"upperdir={upper}", f"lowerdir={':'.join(lower)}")
    found = read([Mount("overlay", "overlay", options=options)], "/etc/passwd", "/etc/from-1", "/etc/from-2")
    assert found == {"/etc/passwd": b"layer 0", "/etc/from-1": None, "/etc/from-2": b"2"}
    assert list(work.iterdir()) == []


def test_overlay_with_more_layers_than_fit_into_a_page(place: Path, read: Read) -> None:
    lower = layers(place, 60, "x" * 40)
    options = (f"lowerdir={':'.join(lower)}",)
    assert len(options[0]) > 4096
    cwd = os.getcwd()
    found = read([Mount("overlay", "overlay", options=options)], "/etc/passwd", "/etc/from-59")
    assert found == {"/etc/passwd": b"layer 0", "/etc/from-59": b"59"}
    assert os.getcwd() == cwd


def test_a_mount_below_a_mount(place: Path, read: Read) -> None:
    below, above = layers(place, 2)
    mounts = [Mount("bind", below, options=("rbind",)), Mount("bind", above, "/etc", ("rbind", "ro"))]
    assert read(mounts, "/etc/etc/passwd", "/etc/passwd") == {"/etc/etc/passwd": b"layer 1", "/etc/passwd": None}


def test_no_way_out(place: Path, read: Read) -> None:
    """CVE class: what an image may put where a runtime reads as root."""
    (place / "secret").write_text("secret")
    (layer,) = layers(place, 1)
    etc = Path(layer, "etc")
    (etc / "absolute").symlink_to(place / "secret")
    (etc / "relative").symlink_to("../" * 20 + str(place / "secret"))
    (etc / "proc").symlink_to("/proc/self/environ")
    (etc / "loop").symlink_to("loop")
    (etc / "good").symlink_to("/etc/passwd")
    (etc / "up").symlink_to("../../../../etc/passwd")
    (etc / "dir").symlink_to(place)
    os.mkfifo(etc / "fifo")
    os.mknod(etc / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
    bad = ["absolute", "relative", "proc", "loop", "dir/secret", "../../secret", "fifo", "device", "x" * 300]
    found = read([Mount("bind", layer, options=("rbind",))], *(f"/etc/{name}" for name in [*bad, "good", "up"]))
    assert found == {**{f"/etc/{name}": None for name in bad}, "/etc/good": b"layer 0", "/etc/up": b"layer 0"}


def test_too_large(place: Path, read: Read) -> None:
    (layer,) = layers(place, 1)
    with open(Path(layer, "huge"), "wb") as file:
        file.truncate(1 << 40)
    mount = Mount("bind", layer, options=("rbind",))
    assert read([mount], "/etc/passwd", limit=7) == {"/etc/passwd": b"layer 0"}
    with pytest.raises(errors.ResourceExhausted, match="more than 6 bytes"):
        read([mount], "/etc/passwd", limit=6)
    with pytest.raises(errors.ResourceExhausted):
        read([mount], "/huge", limit=1 << 16)


def test_failures_have_names(place: Path, read: Read) -> None:
    with pytest.raises(errors.Unimplemented):
        read([Mount("no-such-file-system", "none")], "/x")
    with pytest.raises(errors.AcriError, match="No such file"):
        read([Mount("bind", f"{place}/no", options=("rbind",))], "/x")
    assert read([], "/etc/passwd") == {"/etc/passwd": None}


def test_options() -> None:
    found = parse_options(["rbind", "ro", "nosuid", "nodev", "dev", "size=1k", "x-systemd.automount", "mode=1777"])
    assert (found.flags, found.data) == (MS_BIND | MS_REC | MS_RDONLY | MS_NOSUID, "size=1k,mode=1777")
    assert parse_options(["ro", "rw"]).flags == 0
    assert parse_options(["nodev", "rw"]).flags == MS_NODEV


def test_read_only_overlay() -> None:
    data = "index=off,userxattr,workdir=/w,upperdir=/u,lowerdir=/a:/b,redirect_dir=on"
    assert read_only_overlay(data) == "lowerdir=/u:/a:/b,userxattr,redirect_dir=on"
    assert read_only_overlay("lowerdir=/a:/b") == "lowerdir=/a:/b"
