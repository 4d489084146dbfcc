# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from acri.host import mountinfo
from acri.host.kernel import LinuxKernel

LINE = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n"


def test_a_line_is_read_whole() -> None:
    (entry,) = mountinfo.parse(LINE)
    assert (entry.mount_id, entry.parent_id, entry.device, entry.root) == (36, 35, "98:0", "/mnt1")
    assert entry.mount_point == "/mnt2"
    assert entry.options == {"rw", "noatime"}
    assert entry.shared
    assert entry.slave
    assert (entry.fs_type, entry.source, entry.super_options) == ("ext3", "/dev/root", ("rw", "errors=continue"))


def test_optional_fields_may_be_absent() -> None:
    (entry,) = mountinfo.parse(LINE.replace(b" master:1 shared:7", b""))
    assert not entry.shared
    assert not entry.slave


def test_octal_escapes() -> None:
    (entry,) = mountinfo.parse(LINE.replace(b"/mnt2", rb"/a\040b\011c\012d\134e"))
    assert entry.mount_point == "/a b\tc\nd\\e"


@given(st.binary(min_size=1).filter(lambda raw: b"\0" not in raw))
def test_any_name_survives(raw: bytes) -> None:
    escaped = b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes((byte,)) for byte in raw)
    (entry,) = mountinfo.parse(LINE.replace(b"/mnt2", b"/" + escaped))
    assert os.fsencode(entry.mount_point) == b"/" + raw


@given(st.binary())
def test_garbage_is_left_out_or_read_but_never_raises(table: bytes) -> None:
    mountinfo.parse(table)


def test_own_table_has_a_root() -> None:
    assert any(entry.mount_point == "/" for entry in mountinfo.read())


def test_below_is_deepest_first_and_respects_names() -> None:
    points = (b"/a", b"/a/b", b"/a/b/c", b"/a/b", b"/ab")
    entries = mountinfo.parse(b"".join(LINE.replace(b"/mnt2", point) for point in points))
    assert mountinfo.mounts_below(entries, "/a") == ("/a/b/c", "/a/b", "/a/b", "/a")
    assert mountinfo.mounts_below(entries, "/a/b/") == ("/a/b/c", "/a/b", "/a/b")


def test_a_table_read_for_one_path_has_its_mounts(tmp_path: Path, kernel: LinuxKernel) -> None:
    """Also where the kernel escapes the name."""
    place = tmp_path / "a b\\c\n"
    place.mkdir()
    kernel.mount("test", str(place), "tmpfs", 0)
    try:
        (entry,) = mountinfo.read(naming=str(place))
        assert entry.mount_point == str(place)
        assert entry in mountinfo.read()
        assert mountinfo.read(naming=str(tmp_path / "none")) == ()
    finally:
        kernel.umount(str(place))
