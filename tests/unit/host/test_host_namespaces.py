# SPDX-License-Identifier: Apache-2.0
"""On the real kernel: pins made, verified, entered, removed; every step failed once."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from acri import errors
from acri.host import mountinfo, namespaces
from acri.host.kernel import MS_BIND, LinuxKernel
from acri.host.namespaces import NamespacePlan, Pinned
from acri.host.recording import RecordingKernel

DEFAULTS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}


def plan_at(place: Path, name: str = "a") -> NamespacePlan:
    return NamespacePlan(
        net=f"{place}/netns/acri-{name}",
        ipc=f"{place}/ns/{name}/ipc",
        uts=f"{place}/ns/{name}/uts",
        hostname="pod-name",
        sysctls={"kernel.shm_rmid_forced": "1", "net/ipv4/ip_local_port_range": "2000 3000", "fs.mqueue.msg_max": "11"},
        default_sysctls=DEFAULTS,
        roots=(f"{place}/netns", f"{place}/ns"),
    )


def mounted(place: Path) -> list[str]:
    return sorted(entry.mount_point for entry in mountinfo.read() if entry.mount_point.startswith(f"{place}/"))


def resources(place: Path) -> tuple[int, int, list[str]]:
    return len(os.listdir("/proc/self/fd")), threading.active_count(), mounted(place)


def inside(kernel: LinuxKernel, pins: Pinned) -> dict[str, str]:
    for name in ("net", "ipc", "uts"):
        namespaces.enter(kernel, getattr(pins, name), name)
    sysctls = ("net/ipv4/ip_unprivileged_port_start", "net/ipv4/ping_group_range", "net/ipv4/ip_local_port_range",
               "kernel/shm_rmid_forced", "fs/mqueue/msg_max")  # fmt: skip
    seen = {name: " ".join(Path("/proc/sys", name).read_text().split()) for name in sysctls}
    seen["hostname"] = socket.gethostname()
    with socket.create_server(("127.0.0.1", 80)):  # refused unless lo is up (and free: it is not the host's)
        seen["interfaces"] = " ".join(name for _, name in socket.if_nameindex())
    return seen


def test_create_and_enter(place: Path, kernel: LinuxKernel, fresh: Callable[..., Any]) -> None:
    host = socket.gethostname(), Path("/proc/sys/kernel/shm_rmid_forced").read_text()
    plan = plan_at(place)
    pins = fresh(namespaces.create, kernel, plan)
    assert pins == Pinned(net=plan.net, ipc=plan.ipc, uts=plan.uts)
    for name in ("net", "ipc", "uts"):
        assert namespaces.check(kernel, getattr(pins, name), name)
    assert not namespaces.check(kernel, pins.net, "ipc")
    assert fresh(inside, kernel, pins) == {
        "net/ipv4/ip_unprivileged_port_start": "0",
        "net/ipv4/ping_group_range": "0 2147483647",
        "net/ipv4/ip_local_port_range": "2000 3000",
        "kernel/shm_rmid_forced": "1",
        "fs/mqueue/msg_max": "11",
        "hostname": "pod-name",
        "interfaces": "lo",
    }
    assert (socket.gethostname(), Path("/proc/sys/kernel/shm_rmid_forced").read_text()) == host
    namespaces.remove(kernel, pins)
    namespaces.remove(kernel, pins)
    assert mounted(place) == [f"{place}/netns", f"{place}/ns"]
    assert os.listdir(place / "netns") == os.listdir(place / "ns") == []
    assert not namespaces.check(kernel, pins.net, "net")


def test_a_hundred_leave_nothing(place: Path, kernel: LinuxKernel, fresh: Callable[..., Any]) -> None:
    warm_up = fresh(namespaces.create, kernel, plan_at(place))
    namespaces.remove(kernel, warm_up)
    before = resources(place)
    for number in range(100):
        pins = fresh(namespaces.create, kernel, plan_at(place, str(number)))
        namespaces.remove(kernel, pins)
    assert resources(place) == before


def test_each_step_failed_once_is_undone(place: Path, kernel: LinuxKernel, fresh: Callable[..., Any]) -> None:
    plan = plan_at(place)
    for root in plan.roots:
        namespaces.prepare_root(kernel, root)
    rehearsal = RecordingKernel(kernel)
    namespaces.remove(kernel, fresh(namespaces.create, rehearsal, plan))
    before = resources(place)
    assert rehearsal.names.count("mount") == 3
    for step, name in enumerate(rehearsal.names):
        recorder = RecordingKernel(kernel, fail_at=step, error=errno.EPERM)
        with pytest.raises(errors.PermissionDenied):
            fresh(namespaces.create, recorder, plan)
        assert recorder.names[step] == name
        assert mounted(place) == [f"{place}/netns", f"{place}/ns"], (step, name)
        assert os.listdir(place / "netns") == os.listdir(place / "ns") == [], (step, name)
    assert resources(place) == before


def test_a_failed_undo_is_told(place: Path, kernel: LinuxKernel, fresh: Callable[..., Any]) -> None:
    class Stubborn(LinuxKernel):
        def namespace_kind(self, fd: int) -> int:
            raise OSError(errno.EPERM, "no")

        def umount(self, target: str, flags: int = 0) -> None:
            raise OSError(errno.EPERM, "no")

    with pytest.raises(errors.PermissionDenied) as failure:
        fresh(namespaces.create, Stubborn(), replace(plan_at(place), roots=()))
    assert "left behind" in failure.value.__notes__[0]


def test_only_what_is_asked(place: Path, kernel: LinuxKernel, fresh: Callable[..., Any]) -> None:
    pins = fresh(namespaces.create, kernel, NamespacePlan(ipc=f"{place}/ns/a/ipc", roots=(f"{place}/ns",)))
    assert pins == Pinned(ipc=f"{place}/ns/a/ipc")
    host = socket.gethostname()
    assert fresh(namespaces.create, kernel, NamespacePlan(hostname="not-the-nodes")) == Pinned()
    assert socket.gethostname() == host
    namespaces.remove(kernel, pins)


@pytest.mark.parametrize(
    "change",
    [
        {"net": ""},  # net.* with host network
        {"ipc": ""},
        {"hostname": "x" * 65},
        {"hostname": "a\nb"},
        {"sysctls": {"kernel.core_pattern": "|/x"}},
        {"sysctls": {"net.no.such": "1"}},
        {"sysctls": {"kernel.shm_rmid_forced": "many"}},
    ],
)
def test_mistakes(place: Path, kernel: LinuxKernel, fresh: Callable[..., Any], change: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidArgument):
        fresh(namespaces.create, kernel, replace(plan_at(place), **change))
    assert all(path in (f"{place}/netns", f"{place}/ns") for path in mounted(place))


def test_a_taken_path_is_never_overwritten(place: Path, kernel: LinuxKernel, fresh: Callable[..., Any]) -> None:
    plan = plan_at(place)
    first = fresh(namespaces.create, kernel, plan)
    inode = os.stat(first.net).st_ino
    with pytest.raises(errors.AlreadyExists):
        fresh(namespaces.create, kernel, plan)
    assert os.stat(first.net).st_ino == inode
    assert namespaces.check(kernel, first.uts, "uts")
    namespaces.remove(kernel, first)


def test_a_pin_of_the_host_is_not_whole(place: Path, kernel: LinuxKernel, fresh: Callable[..., Any]) -> None:
    pin = place / "pin"
    pin.touch()
    assert not namespaces.check(kernel, str(pin), "net")
    with pytest.raises(errors.FailedPrecondition):
        fresh(namespaces.enter, kernel, str(pin), "net")
    with pytest.raises(errors.NotFound):
        fresh(namespaces.enter, kernel, f"{place}/no", "net")
    kernel.mount("/proc/self/ns/net", str(pin), "", MS_BIND)
    assert not namespaces.check(kernel, str(pin), "net")
    with pytest.raises(errors.FailedPrecondition):
        fresh(namespaces.enter, kernel, str(pin), "ipc")
    link = place / "link"
    link.symlink_to("/proc/self/ns/net")
    assert not namespaces.check(kernel, str(link), "net")


def test_removal_finds_any_half(place: Path, kernel: LinuxKernel, fresh: Callable[..., Any]) -> None:
    pins = fresh(namespaces.create, kernel, plan_at(place))
    kernel.umount(pins.net)  # unmounted by somebody, file still there
    kernel.umount(pins.ipc)
    os.unlink(pins.ipc)  # gone altogether
    kernel.mount("/proc/self/ns/uts", pins.uts, "", MS_BIND)  # mounted twice
    namespaces.remove(kernel, pins)
    assert mounted(place) == [f"{place}/netns", f"{place}/ns"]
    assert os.listdir(place / "netns") == os.listdir(place / "ns") == []


def test_removal_survives_ebusy_and_users(place: Path, kernel: LinuxKernel, fresh: Callable[..., Any]) -> None:
    pins = fresh(namespaces.create, kernel, plan_at(place))
    busy = iter((errno.EBUSY, errno.EBUSY))

    class Busy(LinuxKernel):
        def umount(self, target: str, flags: int = 0) -> None:
            number = next(busy, None)
            if number is not None:
                raise OSError(number, os.strerror(number))
            super().umount(target, flags)

    with open(pins.net, "rb"):  # somebody looks at it
        namespaces.remove(Busy(), pins)
    assert os.listdir(place / "netns") == []


def test_a_pin_root_is_made_as_ip_netns_makes_it(place: Path, kernel: LinuxKernel) -> None:
    root = str(place / "netns")
    threads = [threading.Thread(target=namespaces.prepare_root, args=(kernel, root)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (entry,) = [entry for entry in mountinfo.read() if entry.mount_point == root]
    assert entry.shared
    assert kernel.is_mount_root(root)
