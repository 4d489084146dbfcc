# SPDX-License-Identifier: Apache-2.0
"""The holder on the real kernel: what it may, what it reaps, how it ends."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from acri import errors
from acri.host import cgroups, holder, mountinfo, namespaces
from acri.host.holder import Holder, HolderPlan
from acri.host.kernel import CLONE_NEWPID, LinuxKernel
from acri.host.namespaces import NamespacePlan, Pinned
from acri.host.recording import RecordingKernel

# Joins the PID namespace, then a child starts a grandchild and ends first: the grandchild is an orphan in there.
ORPHAN = """
import os, sys, ctypes, time
fd = os.open(sys.argv[1], os.O_RDONLY)
assert ctypes.CDLL(None).setns(fd, 0x20000000) == 0
child = os.fork()
if child == 0:
    grandchild = os.fork()
    if grandchild == 0:
        while os.getppid() != 1:
            time.sleep(0.001)
        os._exit(7)
    os._exit(0)
os.waitpid(child, 0)
"""
SLEEPER = """
import os, sys, ctypes, time
fd = os.open(sys.argv[1], os.O_RDONLY)
assert ctypes.CDLL(None).setns(fd, 0x20000000) == 0
child = os.fork()
if child == 0:
    time.sleep(600)
    os._exit(0)
print(child, flush=True)
sys.exit(-os.waitpid(child, 0)[1])
"""


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: " ".join(value.split()) for key, _, value in (line.partition(":") for line in lines)}


def until(what: Callable[[], bool]) -> None:
    for _ in range(1000):
        if what():
            return
        time.sleep(0.005)
    raise AssertionError("never came true")


@pytest.fixture
def started(place: Path, kernel: LinuxKernel, fresh: Callable[..., Any]) -> Iterator[tuple[Holder, Pinned]]:
    os.makedirs(f"{place}/ns")

    def start() -> tuple[Holder, Pinned]:
        pins = namespaces.create(
            kernel, NamespacePlan(net=f"{place}/netns/a", ipc=f"{place}/ns/a/ipc", uts=f"{place}/ns/a/uts")
        )
        return holder.start(kernel, HolderPlan("sandbox-a", pin=f"{place}/ns/a/pid")), pins

    held, pins = fresh(start)
    yield held, Pinned(pins.net, pins.ipc, pins.uts, f"{place}/ns/a/pid")
    holder.stop(kernel, held)
    namespaces.remove(kernel, Pinned(pins.net, pins.ipc, pins.uts, f"{place}/ns/a/pid"))


def test_it_is_pid_1_in_the_pods_namespaces(started: tuple[Holder, Pinned], kernel: LinuxKernel) -> None:
    held, pins = started
    assert holder.alive(held)
    assert status(held.pid)["NSpid"] == f"{held.pid} 1"
    for name in ("net", "ipc", "uts", "pid"):
        assert os.stat(f"/proc/{held.pid}/ns/{name}").st_ino == os.stat(getattr(pins, name)).st_ino
        assert namespaces.check(kernel, getattr(pins, name), name)
    assert Path(f"/proc/{held.pid}/cmdline").read_bytes() == b"acri-holder\0sandbox-a\0"
    assert Path(f"/proc/{held.pid}/comm").read_text() == "acri-holder\n"
    assert os.getsid(held.pid) == held.pid


def test_it_has_no_privileges_and_sees_nothing(started: tuple[Holder, Pinned]) -> None:
    held, _ = started
    seen = status(held.pid)
    assert seen["Uid"] == seen["Gid"] == "65535 65535 65535 65535"
    assert seen["Groups"] == ""
    assert {seen[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (seen["NoNewPrivs"], seen["Seccomp"], seen["Threads"]) == ("1", "2", "1")
    assert os.listdir(f"/proc/{held.pid}/fd") == []
    (root,) = mountinfo.parse(Path(f"/proc/{held.pid}/mountinfo").read_bytes())
    assert (root.mount_point, root.fs_type) == ("/", "tmpfs")
    assert {"ro", "nosuid", "nodev", "noexec"} <= root.options
    assert not root.shared
    assert not root.slave
    assert os.listdir(f"/proc/{held.pid}/root") == []
    assert os.stat(f"/proc/{held.pid}/ns").st_uid == 0, "not dumpable: nobody without CAP_SYS_PTRACE gets at it"


def test_its_program_cannot_be_written(started: tuple[Holder, Pinned]) -> None:
    held, _ = started
    with pytest.raises(OSError, match=r"."):
        os.close(os.open(f"/proc/{held.pid}/exe", os.O_RDWR))


def test_it_reaps_orphans(started: tuple[Holder, Pinned]) -> None:
    held, pins = started
    for _ in range(5):
        subprocess.run([sys.executable, "-c", ORPHAN, pins.pid], check=True)
    children = Path(f"/proc/{held.pid}/task/{held.pid}/children")
    until(lambda: children.read_text() == "")
    assert holder.alive(held)


def test_its_end_is_the_end_of_its_namespace(started: tuple[Holder, Pinned], kernel: LinuxKernel) -> None:
    held, pins = started
    with subprocess.Popen([sys.executable, "-c", SLEEPER, pins.pid], stdout=subprocess.PIPE) as joined:
        assert joined.stdout is not None
        assert int(joined.stdout.readline()) > 1
        watched = holder.pidfd(kernel, held)
        os.kill(held.pid, signal.SIGKILL)
        assert select.select([watched], [], [], 20)[0]
        holder.reap(watched)
        os.close(watched)
        joined.wait(20)
    assert not holder.alive(held)
    assert not os.path.exists(f"/proc/{held.pid}"), "no zombie"
    with pytest.raises(errors.NotFound):
        holder.pidfd(kernel, held)
    holder.stop(kernel, held)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_asked(started: tuple[Holder, Pinned], kernel: LinuxKernel, number: int) -> None:
    held, _ = started
    os.kill(held.pid, number)
    _, wait_status = os.waitpid(held.pid, 0)
    assert os.waitstatus_to_exitcode(wait_status) == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE, signal.SIGALRM])
def test_other_signals_do_nothing(started: tuple[Holder, Pinned], number: int) -> None:
    held, _ = started
    os.kill(held.pid, number)
    time.sleep(0.02)
    assert holder.alive(held)


def test_another_start_time_is_another_process(started: tuple[Holder, Pinned], kernel: LinuxKernel) -> None:
    held, _ = started
    other = Holder(held.pid, held.start_time + 1)
    assert not holder.alive(other)
    with pytest.raises(errors.NotFound):
        holder.pidfd(kernel, other)
    holder.stop(kernel, other)
    assert holder.alive(held)


def test_one_that_was_not_recorded_is_found(started: tuple[Holder, Pinned], kernel: LinuxKernel) -> None:
    held, _ = started
    assert holder.find("sandbox-a") == held
    assert holder.find("sandbox") is None
    holder.stop(kernel, held)
    assert holder.find("sandbox-a") is None


def test_a_process_of_the_same_name_is_not_found(place: Path) -> None:
    os.mkfifo(place / "sandbox-b")  # what cat is told to read, so that it waits
    with subprocess.Popen(["acri-holder", "sandbox-b"], executable="/bin/cat", cwd=place) as other:
        try:
            # Popen may return a moment before the kernel shows the new program's arguments.
            while Path(f"/proc/{other.pid}/cmdline").read_bytes() != b"acri-holder\0sandbox-b\0":
                assert other.poll() is None
                time.sleep(0.001)
            assert holder.find("sandbox-b") is None
        finally:
            other.kill()


def test_it_outlives_acri(place: Path, kernel: LinuxKernel) -> None:
    """kill -9 of the process that made it: the holder lives on, is found, and can be stopped by a stranger."""
    script = (
        "import os, signal, sys; from acri.host import holder; from acri.host.kernel import LinuxKernel\n"
        "held = holder.start(LinuxKernel(), holder.HolderPlan(sys.argv[1], pin=sys.argv[2]))\n"
        "print(held.pid, held.start_time, flush=True); os.killpg(0, signal.SIGKILL)"
    )
    name, pin = f"outlives-{os.getpid()}", f"{place}/ns/pid"
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", script, name, pin]
    done = subprocess.run(
        command, env={"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=False, start_new_session=True
    )
    assert done.returncode == -signal.SIGKILL
    held = Holder(*map(int, done.stdout.split()))
    assert holder.alive(held)
    assert holder.find(name) == held
    holder.stop(kernel, held)
    assert not holder.alive(held)
    namespaces.remove(kernel, Pinned(pid=pin))


def test_stop_is_idempotent_and_leaves_no_zombie(started: tuple[Holder, Pinned], kernel: LinuxKernel) -> None:
    held, _ = started
    holder.stop(kernel, held)
    holder.stop(kernel, held)
    assert not os.path.exists(f"/proc/{held.pid}")


def test_many_leave_nothing(place: Path, kernel: LinuxKernel, fresh: Callable[..., Any]) -> None:
    def one(name: str) -> None:
        plan = HolderPlan(name, pin=f"{place}/{name}/pid")
        held = fresh(holder.start, kernel, plan)
        holder.stop(kernel, held)
        namespaces.remove(kernel, Pinned(pid=plan.pin))

    def resources() -> tuple[int, int, tuple[str, ...], str]:
        own = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
        below = mountinfo.mounts_below(mountinfo.read(), str(place))
        return len(os.listdir("/proc/self/fd")), threading.active_count(), below, own

    one("warm-up")
    before = resources()
    for number in range(30):
        one(str(number))
    assert resources() == before
    assert os.listdir(place) == []


def test_each_step_failed_once_leaves_nothing(place: Path, kernel: LinuxKernel, fresh: Callable[..., Any]) -> None:
    plan = HolderPlan("failing", pin=f"{place}/ns/pid", oom_score_adj=500)
    before = _children()
    rehearsal = RecordingKernel(kernel)
    holder.stop(kernel, fresh(holder.start, rehearsal, plan))
    namespaces.remove(kernel, Pinned(pid=plan.pin))
    assert rehearsal.names == ["write_file", "mount", "namespace_kind"]
    for step in range(len(rehearsal.names)):
        with pytest.raises(errors.ResourceExhausted):
            fresh(holder.start, RecordingKernel(kernel, fail_at=step, error=errno.ENOMEM), plan)
        assert not os.path.exists(plan.pin)
        assert _children() == before


def test_what_the_program_reports_is_an_error_in_words(
    place: Path, kernel: LinuxKernel, fresh: Callable[..., Any]
) -> None:
    """A directory that is no cgroup: clone3 refuses it."""
    with pytest.raises(errors.AcriError, match=r"holder, clone: "):
        fresh(holder.start, kernel, HolderPlan("failing", cgroups=(str(place),)))


def test_oom_score(place: Path, kernel: LinuxKernel, fresh: Callable[..., Any]) -> None:
    held = fresh(holder.start, kernel, HolderPlan("a", oom_score_adj=700))
    assert Path(f"/proc/{held.pid}/oom_score_adj").read_text() == "700\n"
    holder.stop(kernel, held)


def _writable(layout: cgroups.CgroupLayout) -> bool:
    return bool(layout.hierarchies) and all(os.access(entry.mount_point, os.W_OK) for entry in layout.hierarchies)


@pytest.mark.parametrize("version", [1, 2])
def test_it_is_born_in_the_pods_cgroup(
    place: Path, kernel: LinuxKernel, fresh: Callable[..., Any], version: int
) -> None:
    found = cgroups.detect()
    hierarchies = tuple(entry for entry in found.hierarchies if entry.version == version)
    mode = cgroups.CgroupMode.V2 if version == 2 else cgroups.CgroupMode.V1
    layout = cgroups.CgroupLayout(mode, hierarchies)
    if not _writable(layout):
        pytest.skip(f"no cgroup v{version} hierarchy to write to")
    path = f"/acri-test-{os.getpid()}/holder"
    places = cgroups.make(layout, path)
    try:
        held = fresh(holder.start, kernel, HolderPlan("a", cgroups=places))
        try:
            lines = Path(f"/proc/{held.pid}/cgroup").read_text().splitlines()
            assert sum(line.endswith(f":{path}") for line in lines) == len(hierarchies)
            assert cgroups.processes(layout, path) == {held.pid}
            with pytest.raises(errors.FailedPrecondition, match=str(held.pid)):
                cgroups.remove(layout, path)
        finally:
            holder.stop(kernel, held)
    finally:
        cgroups.remove(layout, os.path.dirname(path))
    cgroups.remove(layout, path)
    assert not any(os.path.exists(place) for place in places)


def test_it_runs_as_an_infra_container_too(place: Path) -> None:
    """An OCI runtime made the namespaces: no launch, no report, the same confinement."""
    command = ["unshare", "--pid", "--fork", "--kill-child", holder.program_path(), "infra"]
    with subprocess.Popen(command, env={"PATH": os.environ["PATH"]}) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until(lambda: children.read_text() != "")
        pid = int(children.read_text())
        until(lambda: status(pid)["Seccomp"] == "2")
        assert (status(pid)["NSpid"], status(pid)["CapEff"]) == (f"{pid} 1", "0" * 16)
        os.kill(pid, signal.SIGTERM)
        assert process.wait(20) == 0


def test_the_flag_is_what_the_kernel_calls_it() -> None:
    assert namespaces.KINDS["pid"] == CLONE_NEWPID


def _children() -> set[int]:
    """Pids of this process's children, zombies included; other tests of the run may have some."""
    children = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == os.getpid():
            children.add(int(name))
    return children
