# SPDX-License-Identifier: Apache-2.0
"""Cgroup paths, and directories on recorded trees (the holder's tests use the real hierarchies)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acri import errors
from acri.host import cgroups
from acri.host.cgroups import CgroupLayout, CgroupMode

V1 = """\
31 23 0:28 / {root}/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / {root}/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / {root}/cgroup/memory rw - cgroup cgroup rw,memory
34 31 0:31 / {root}/cgroup/cpuset rw - cgroup cgroup rw,cpuset,clone_children
35 31 0:32 / {root}/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/x,name=systemd
36 23 0:32 / {root}/again rw - cgroup cgroup rw,xattr,name=systemd
"""
UNIFIED = "40 31 0:38 / {root}/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
V2 = "40 31 0:38 / {root}/cgroup rw - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


def recorded(tmp_path: Path, table: str) -> CgroupLayout:
    """A host tree with that mount table and the directories that it names."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(table.format(root="/sys/fs"))
    for line in table.splitlines():
        (tmp_path / line.split()[4].format(root="sys/fs")).mkdir(parents=True, exist_ok=True)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    return cgroups.detect(str(tmp_path))


def test_v1(tmp_path: Path) -> None:
    layout = recorded(tmp_path, V1)
    assert layout.mode is CgroupMode.V1
    assert not layout.unified
    assert layout.controllers == {"cpu", "cpuacct", "memory", "cpuset"}
    assert [sorted(entry.controllers) for entry in layout.used] == [
        ["cpu", "cpuacct"], ["memory"], ["cpuset"], ["name=systemd"],
    ]  # fmt: skip
    cpu = layout.hierarchy("cpuacct")
    assert cpu is not None
    assert cpu.mount_point == f"{tmp_path}/sys/fs/cgroup/cpu,cpuacct"
    assert layout.hierarchy("hugetlb") is None


def test_hybrid_is_v1_for_containers(tmp_path: Path) -> None:
    layout = recorded(tmp_path, V1 + UNIFIED)
    assert layout.mode is CgroupMode.HYBRID
    assert not layout.unified
    assert all(entry.version == 1 for entry in layout.used)
    assert len(layout.used) == 4


def test_v2(tmp_path: Path) -> None:
    layout = recorded(tmp_path, V2)
    assert layout.mode is CgroupMode.V2
    assert layout.controllers == {"cpuset", "cpu", "io", "memory", "pids"}
    (entry,) = layout.used
    assert entry.mount_point == f"{tmp_path}/sys/fs/cgroup"


def test_none(tmp_path: Path) -> None:
    layout = recorded(tmp_path, "31 23 0:28 / {root}/cgroup rw - tmpfs tmpfs rw\n")
    assert (layout.mode, layout.hierarchies, layout.controllers) == (CgroupMode.V1, (), frozenset())


def test_choice_of_driver(tmp_path: Path) -> None:
    (tmp_path / "v2").mkdir()
    (tmp_path / "v1").mkdir()
    v2, v1 = recorded(tmp_path / "v2", V2), recorded(tmp_path / "v1", V1)
    assert cgroups.choose_driver("auto", v2, systemd=True) == "systemd"
    assert cgroups.choose_driver("auto", v2, systemd=False) == "cgroupfs"
    assert cgroups.choose_driver("auto", v1, systemd=True) == "cgroupfs"
    assert cgroups.choose_driver("systemd", v1, systemd=False) == "systemd"
    assert cgroups.check_parent("systemd", cgroups.default_parent("systemd")) == "acri.slice"
    assert cgroups.check_parent("cgroupfs", cgroups.default_parent("cgroupfs")) == "/acri"


@pytest.mark.parametrize(
    ("driver", "parent", "path", "directory"),
    [
        ("cgroupfs", "/kubepods/burstable/pod1", "/kubepods/burstable/pod1/ID", "/kubepods/burstable/pod1/ID"),
        ("cgroupfs", "kubepods//pod1/", "/kubepods/pod1/ID", "/kubepods/pod1/ID"),
        ("cgroupfs", "", "/ID", "/ID"),
        ("cgroupfs", "/", "/ID", "/ID"),
        (
            "systemd",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice",
            "kubepods-burstable-pod1_2.slice:acri:ID",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/acri-ID.scope",
        ),
        ("systemd", "a-b.slice", "a-b.slice:acri:ID", "/a.slice/a-b.slice/acri-ID.scope"),
        ("systemd", "-.slice", "-.slice:acri:ID", "/acri-ID.scope"),
    ],
)
def test_paths(driver: str, parent: str, path: str, directory: str) -> None:
    kept = cgroups.check_parent(driver, parent)
    assert cgroups.check_parent(driver, kept) == kept
    assert cgroups.cgroups_path(driver, kept, "ID") == path
    assert cgroups.directory(path) == directory


@pytest.mark.parametrize(
    ("driver", "parent", "remedy"),
    [
        ("systemd", "/kubepods/pod1", "cgroupDriver to systemd"),
        ("systemd", "", "cgroupDriver to systemd"),
        ("systemd", ".slice", "cgroupDriver to systemd"),
        ("systemd", "a:b.slice", "cgroupDriver to systemd"),
        ("systemd", "/a/../b.slice", r"\.\."),
        ("systemd", "a--b.slice", "--"),
        ("systemd", "-a.slice", "ends"),
        ("cgroupfs", "/kubepods.slice/kubepods-pod1.slice", "cgroupDriver to cgroupfs"),
        ("cgroupfs", "x.slice:acri:y", "':'"),
        ("cgroupfs", "/a/../../b", r"\.\."),
        ("cgroupfs", "..", r"\.\."),
    ],
)
def test_wrong_parents(driver: str, parent: str, remedy: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=remedy):
        cgroups.check_parent(driver, parent)


@given(st.sampled_from(["cgroupfs", "systemd"]), st.text(alphabet="a-./:.slice", max_size=20))
def test_an_accepted_parent_stays_in_the_hierarchy(driver: str, parent: str) -> None:
    try:
        found = cgroups.directory(cgroups.cgroups_path(driver, parent, "ID"))
    except errors.InvalidArgument:
        return
    assert found.startswith("/")
    assert not {"", ".", ".."} & set(found[1:].split("/"))


@pytest.mark.parametrize("bad", ["", "..", "a/b", "-x", "a\n"])
def test_wrong_ids(bad: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        cgroups.cgroups_path("cgroupfs", "/a", bad)


@pytest.mark.parametrize("table", [V1, V2])
def test_made_and_removed(tmp_path: Path, table: str) -> None:
    layout = recorded(tmp_path, table)
    for entry in layout.used:
        if "cpuset" in entry.controllers and entry.version == 1:
            Path(entry.mount_point, "cpuset.cpus").write_text("0-3\n")
            Path(entry.mount_point, "cpuset.mems").write_text("0\n")
    places = cgroups.make(layout, "/kubepods/pod1/holder")
    assert places == cgroups.make(layout, "/kubepods/pod1/holder")
    assert [Path(place).is_dir() for place in places] == [True] * len(layout.used)
    if table is V1:
        cpuset = Path(places[2])
        assert ((cpuset / "cpuset.cpus").read_text(), (cpuset.parent / "cpuset.mems").read_text()) == ("0-3\n", "0\n")
        for file in [*cpuset.parent.parent.rglob("cpuset.*")]:  # in a real hierarchy files are no hindrance to rmdir
            file.unlink()
    cgroups.remove(layout, "/kubepods/pod1")
    cgroups.remove(layout, "/kubepods/pod1")
    assert not any(Path(place).parent.exists() for place in places)
    assert all(Path(entry.mount_point, "kubepods").is_dir() for entry in layout.used)


def test_what_cannot_be_made_is_not_half_made(tmp_path: Path) -> None:
    layout = recorded(tmp_path, V1)
    Path(layout.used[2].mount_point, "pod").write_text("in the way")
    with pytest.raises(errors.AcriError, match="make the cgroup /pod/x"):
        cgroups.make(layout, "/pod/x")
    assert not Path(layout.used[0].mount_point, "pod").exists()


def test_the_root_is_never_removed(tmp_path: Path) -> None:
    layout = recorded(tmp_path, V2)
    with pytest.raises(errors.InvalidArgument, match="root"):
        cgroups.remove(layout, "/")


def test_processes_and_oom_kills(tmp_path: Path) -> None:
    for name, table, file, text in (
        ("v1", V1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
        ("v2", V2, "memory.events", "low 0\nhigh 0\nmax 9\noom 4\noom_kill 3\noom_group_kill 1\n"),
    ):
        (tmp_path / name).mkdir()
        layout = recorded(tmp_path / name, table)
        memory = layout.hierarchy("memory")
        assert memory is not None
        own = Path(memory.mount_point, "pod/ID")
        (own / "below").mkdir(parents=True)
        (own / "cgroup.procs").write_text("1\n22\n")
        (own / "below/cgroup.procs").write_text("333\n")
        assert cgroups.oom_kill_count(layout, "/pod/ID") == 0
        (own / file).write_text(text)
        assert cgroups.oom_kill_count(layout, "/pod/ID") == 3
        assert cgroups.oom_kill_count(layout, "/pod/none") == 0
        assert cgroups.processes(layout, "/pod/ID") == {1, 22, 333}
        assert cgroups.processes(layout, "/pod/none") == frozenset()
