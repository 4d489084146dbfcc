# SPDX-License-Identifier: Apache-2.0
"""What a request names on the host: found, or refused with one sentence that names the path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from acri import errors
from acri.model.config import Device, Mount, MountPropagation
from acri.oci import seccomp
from acri.runtime import host_inputs


def test_a_missing_mount_source_is_made(tmp_path: Path) -> None:
    mount = Mount("/data", str(tmp_path / "a" / "b"))
    (resolved,) = host_inputs.resolve_mounts((mount,))
    assert resolved.source == str(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_mount_source_is_resolved_and_its_propagation_known(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    mount = Mount("/data", str(tmp_path / "link"), propagation=MountPropagation.BIDIRECTIONAL)
    (resolved,) = host_inputs.resolve_mounts((mount,))
    assert resolved.source == str(tmp_path)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("/proc/none/such", errors.FailedPrecondition),
        ("/etc/hostname/x", errors.FailedPrecondition),
        ("/" + "x" * 300, errors.FailedPrecondition),
        ("/tmp/a\0b", errors.InvalidArgument),
        ("", errors.FailedPrecondition),
    ],
)
def test_a_mount_source_that_cannot_be_is_named(source: str, error: type[errors.AcriError]) -> None:
    with pytest.raises(error, match="mount /data: host path"):
        host_inputs.resolve_mounts((Mount("/data", source),))


def test_a_device_is_found_with_its_numbers() -> None:
    (resolved,) = host_inputs.resolve_devices((Device("/dev/x", "/dev/null", "rwm"),))
    (node,) = resolved.found
    assert (node.type, node.major, node.minor) == ("c", 1, 3)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/dev/none", errors.FailedPrecondition),
        ("/etc/passwd", errors.InvalidArgument),
        ("/dev/nu\0ll", errors.InvalidArgument),
    ],
)
def test_a_device_that_is_none_is_named(path: str, error: type[errors.AcriError]) -> None:
    with pytest.raises(error, match=r"device '/(dev|etc)/"):
        host_inputs.resolve_devices((Device("/dev/x", path, "r"),))


def make_nodes(directory: Path, *names: str) -> None:
    try:
        for name in names:
            os.mknod(directory / name, 0o20600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("needs mknod")


def test_a_directory_of_devices_is_all_of_them_but_a_containers_own(tmp_path: Path) -> None:
    for name in ("b/deep", "pts", "shm"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to("nowhere")
    make_nodes(tmp_path, "b/deep/two", "a", "pts/0", "shm/x")
    (resolved,) = host_inputs.resolve_devices((Device("/dev/x", str(tmp_path), "r"),))
    assert [node.path for node in resolved.found] == [str(tmp_path / "a"), str(tmp_path / "b/deep/two")]


def test_the_hosts_devices_are_listed() -> None:
    assert "/dev/null" in {node.path for node in host_inputs.host_devices()}


def test_a_directory_that_goes_away_meanwhile_is_left_out(tmp_path: Path) -> None:
    make_nodes(tmp_path, "a", "c")
    (tmp_path / "b").mkdir()
    nodes = host_inputs._nodes_below(str(tmp_path))
    assert next(nodes).path == str(tmp_path / "a")
    (tmp_path / "b").rmdir()
    (tmp_path / "c").unlink()
    assert list(nodes) == []


def test_a_dev_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: str) -> None:
        raise PermissionError(13, "Permission denied", "/dev/secret")

    monkeypatch.setattr(host_inputs.os, "scandir", broken)
    with pytest.raises(errors.PermissionDenied, match="/dev/secret: Permission denied"):
        host_inputs.host_devices()


def test_a_seccomp_profile_is_read(tmp_path: Path) -> None:
    profile = tmp_path / "p.json"
    profile.write_bytes(b"{}")
    assert host_inputs.read_seccomp_profile(str(profile)) == b"{}"


def test_a_seccomp_profile_that_is_none_is_named_and_nothing_stays_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with open(tmp_path / "big", "wb") as file:
        file.truncate(seccomp.LOCALHOST_LIMIT + 1)
    before = os.listdir("/proc/self/fd")
    for path, error in [
        ("p.json", errors.InvalidArgument),
        ("/a\0b", errors.InvalidArgument),
        (str(tmp_path), errors.InvalidArgument),
        (str(tmp_path / "fifo"), errors.InvalidArgument),
        (str(tmp_path / "big"), errors.InvalidArgument),
        (str(tmp_path / "none"), errors.FailedPrecondition),
    ]:
        with pytest.raises(error, match="seccomp profile '"):
            host_inputs.read_seccomp_profile(path)
    assert os.listdir("/proc/self/fd") == before
