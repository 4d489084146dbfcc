# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oci_samples import PATHS

from acri import errors
from acri.model.config import IDMapping, ImageSpec, Mount, MountPropagation
from acri.oci import paths
from acri.oci.mounts import ContainerPaths, MountInputs, ResolvedMount, build

PRIVATE, TO_CONTAINER, BOTH = MountPropagation
BASE = MountInputs(paths=PATHS, recursive_read_only=True)


def resolved(container: str, host: str = "/h", *, shared: bool = False, slave: bool = False, **more: Any) -> Any:
    return ResolvedMount(Mount(container, host, **more), host, shared, slave)


def built(*mounts: ResolvedMount, **changes: Any) -> dict[str, Any]:
    """Destination → mount; destinations are unique here."""
    found = build(replace(BASE, mounts=mounts, **changes)).mounts
    assert len({mount["destination"] for mount in found}) == len(found)
    return {mount["destination"]: mount for mount in found}


OURS = [
    *("/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/sys/fs/cgroup"),
    *("/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/dev/shm"),
]


def test_the_default_mounts() -> None:
    found = built()
    assert list(found) == OURS
    assert found["/dev/shm"] == {
        "destination": "/dev/shm",
        "type": "bind",
        "source": "/r/shm",
        "options": ["rbind", "rprivate", "rw", "nosuid", "nodev", "noexec"],
    }
    assert "ro" in found["/sys"]["options"]
    assert found["/sys/fs/cgroup"]["options"] == ["nosuid", "noexec", "nodev", "relatime", "ro"]


def test_privileged_sees_sys_and_cgroups_writable() -> None:
    found = built(privileged=True)
    assert "rw" in found["/sys"]["options"]
    assert "rw" in found["/sys/fs/cgroup"]["options"]


def test_the_hosts_cgroup_mount_keeps_its_options() -> None:
    options = ("nsdelegate", "memory_recursiveprot")
    assert set(options) <= set(built(cgroup_options=options)["/sys/fs/cgroup"]["options"])
    private = built(cgroup_options=options, shares_host_cgroups=False)
    assert set(options).isdisjoint(private["/sys/fs/cgroup"]["options"])


def test_files_follow_the_root_but_shm_is_writable() -> None:
    found = built(readonly_rootfs=True)
    assert found["/etc/hosts"]["options"][-1] == "ro"
    assert "rw" in found["/dev/shm"]["options"]


def test_the_hosts_shm_keeps_what_the_host_allows() -> None:
    assert "noexec" not in built(paths=replace(PATHS, shm="/dev/shm"))["/dev/shm"]["options"]


def test_a_pod_without_files() -> None:
    found = built(paths=ContainerPaths())
    assert [name for name in found if name.startswith("/etc")] == []
    assert found["/dev/shm"]["type"] == "tmpfs"


def test_the_requests_mounts_win() -> None:
    found = built(resolved("/etc/hosts/", "/k/etc-hosts"), resolved("/dev/shm", "/big"), resolved("/sys/fs/cgroup"))
    assert found["/etc/hosts"]["source"] == "/k/etc-hosts"
    assert found["/dev/shm"]["source"] == "/big"
    assert found["/sys/fs/cgroup"]["type"] == "bind"
    whole_dev = built(resolved("/dev", "/dev"))
    assert [name for name in whole_dev if name.startswith("/dev")] == ["/dev", "/dev/shm"]
    assert whole_dev["/dev/shm"]["source"] == "/r/shm"


def test_order_by_depth_and_stable() -> None:
    found = list(built(resolved("/a/b/c"), resolved("/a"), resolved("/z"), resolved("/a/b")))
    assert found[len(OURS) - 4 :] == [
        *("/a", "/z", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/dev/shm", "/a/b", "/a/b/c"),
    ]


parts = st.sampled_from(["a", "b", "dev", "shm", "etc", "hosts", "proc", "sys"])
destinations = st.lists(st.lists(parts, min_size=1, max_size=3).map(lambda names: "/" + "/".join(names)), max_size=8)


@given(destinations)
def test_no_parent_comes_after_its_child_and_nothing_is_lost(wanted: list[str]) -> None:
    mounts = tuple(ResolvedMount(Mount(path, f"/host{index}"), f"/host{index}") for index, path in enumerate(wanted))
    found = build(replace(BASE, mounts=mounts)).mounts
    theirs = [mount for mount in found if mount["source"].startswith("/host")]
    assert sorted(mount["destination"] for mount in theirs) == sorted(wanted)
    depths = [paths.depth(mount["destination"]) for mount in theirs]
    assert depths == sorted(depths)
    # Equal destinations: the later one of the request covers the earlier.
    for path in set(wanted):
        order = [int(mount["source"][5:]) for mount in theirs if mount["destination"] == path]
        assert order == sorted(order)
        assert all(mount["source"].startswith("/host") for mount in found if mount["destination"] == path)


@pytest.mark.parametrize(
    ("mount", "options", "rootfs"),
    [
        (resolved("/d"), ["rbind", "rprivate", "rw"], ""),
        (resolved("/d", readonly=True), ["rbind", "rprivate", "ro"], ""),
        (resolved("/d", readonly=True, recursive_read_only=True), ["rbind", "rprivate", "rro"], ""),
        (resolved("/d", shared=True, propagation=TO_CONTAINER), ["rbind", "rslave", "rw"], "rslave"),
        (resolved("/d", slave=True, propagation=TO_CONTAINER), ["rbind", "rslave", "rw"], "rslave"),
        (resolved("/d", shared=True, propagation=BOTH), ["rbind", "rshared", "rw"], "rshared"),
    ],
)
def test_access_and_propagation(mount: ResolvedMount, options: list[str], rootfs: str) -> None:
    made = build(replace(BASE, mounts=(mount,)))
    (found,) = (entry for entry in made.mounts if entry["destination"] == "/d")
    assert found["options"] == options
    assert made.rootfs_propagation == rootfs


def test_shared_wins_over_slave_for_the_root() -> None:
    both = (resolved("/a", shared=True, propagation=BOTH), resolved("/b", shared=True, propagation=TO_CONTAINER))
    assert build(replace(BASE, mounts=both)).rootfs_propagation == "rshared"


@pytest.mark.parametrize(
    "mount",
    [
        resolved("/d", propagation=BOTH),
        resolved("/d", slave=True, propagation=BOTH),
        resolved("/d", propagation=TO_CONTAINER),
    ],
)
def test_propagation_that_the_host_does_not_give(mount: ResolvedMount) -> None:
    with pytest.raises(errors.FailedPrecondition):
        build(replace(BASE, mounts=(mount,)))


@pytest.mark.parametrize(
    "mount",
    [
        *(resolved(path) for path in ("", "d", "/", "//", "/a/../b", "/..", "/a\0", "/a\nb")),
        *(resolved("/d", host) for host in ("", "rel", "/a\0")),
        resolved("/d", recursive_read_only=True),
        resolved("/d", readonly=True, recursive_read_only=True, shared=True, propagation=TO_CONTAINER),
        resolved("/d", readonly=True, recursive_read_only=True, shared=True, propagation=BOTH),
        resolved("/d", image_sub_path="x"),
    ],
)
def test_bad_mounts(mount: ResolvedMount) -> None:
    with pytest.raises(errors.InvalidArgument):
        build(replace(BASE, mounts=(mount,)))


def test_what_is_not_there_yet_says_so() -> None:
    for mount in (resolved("/d", "", image=ImageSpec("i")), resolved("/d", uid_mappings=(IDMapping(1, 0, 1),))):
        with pytest.raises(errors.Unimplemented):
            build(replace(BASE, mounts=(mount,)))
    mount = resolved("/d", readonly=True, recursive_read_only=True)
    with pytest.raises(errors.Unimplemented, match="RROUnsupported"):
        build(replace(BASE, mounts=(mount,), recursive_read_only=False))
