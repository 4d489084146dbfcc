# SPDX-License-Identifier: Apache-2.0
"""The holder: the tiny program that is PID 1 of a pod that shares its PID namespace (source: holder/holder.c).

    start ─▶ launcher ─clone3─▶ holder ─privileges gone, reported─▶ pinned, known by (pid, start time)
                                   │
          killed, SIGTERM, stop() ─┴─▶ the kernel kills everything in its PID namespace ─▶ reaped

The holder is a child of acri, so acri reaps it (`reap`), and becomes a child of init or of the nearest subreaper when
acri dies; it does not die with acri (a session of its own, no parent-death signal, in the pod's cgroup). A pid alone
says nothing after a restart: everything here checks the start time too, and signals go through a pidfd.

The program runs from a sealed memfd: a package upgrade cannot replace it, a container cannot write to it
(CVE-2019-5736), and neither a lost x bit nor a noexec mount matters. Where the node forbids that
(vm.memfd_noexec=2), it runs from the package's file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from acri import errors
from acri.host import namespaces
from acri.host.failures import host_error
from acri.host.kernel import Kernel

__all__ = ["Holder", "HolderLike", "HolderPlan", "alive", "find", "pidfd", "program_path", "reap", "start", "stop"]

_REPORT = struct.Struct("=BBHi")
_START_TIMEOUT_S = 20.0
_HOLDER_ID = 65535  # holder.c: NOBODY
_STEPS = {
    1: "clone",
    2: "new session",
    3: "empty root",
    4: "close files",
    5: "drop the bounding set",
    6: "change user",
    7: "drop capabilities",
    8: "no_new_privs",
    9: "seccomp",
    10: "block signals",
}
_MFD_EXEC = 0x10
_F_ADD_SEALS = 1033
_SEAL_ALL = 0x1 | 0x2 | 0x4 | 0x8  # seal, shrink, grow, write
_program_lock = threading.Lock()
_program_fd = -1


class HolderLike(Protocol):
    """A holder as it is known: `Holder`, or a record of the same shape."""

    @property
    def pid(self) -> int: ...
    @property
    def start_time(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Holder:
    """`pid` in acri's PID namespace; `start_time` in clock ticks since boot (field 22 of proc_pid_stat(5))."""

    pid: int
    start_time: int


@dataclass(frozen=True, slots=True)
class HolderPlan:
    """What to start.

    sandbox_id     shown by ps: `acri-holder ID`
    pin            where its PID namespace is pinned, e.g. /run/acri/ns/ID/pid; "" pins nothing
    cgroups        existing cgroup directories to be in: one of cgroup v2, or one of each v1 hierarchy; may be empty
    oom_score_adj  None leaves acri's own; one lower than acri may set is left at acri's own too
    """

    sandbox_id: str
    pin: str = ""
    cgroups: tuple[str, ...] = ()
    oom_score_adj: int | None = None


def program_path() -> str:
    """The program for this machine, as a file of the package (an infra container runs it too).

    Raises:
        errors.Unimplemented: acri carries none for this machine.
    """
    machine = os.uname().machine
    path = Path(__file__).with_name("holder") / f"holder-{machine}"
    if not path.is_file():
        raise errors.Unimplemented(
            f"acri carries no holder program for {machine}: pods cannot share their PID namespace on this node"
        )
    return str(path)


def start(kernel: Kernel, plan: HolderPlan) -> Holder:
    """Start a holder in the calling thread's network, IPC and UTS namespaces, and a new PID namespace of its own.

    Call it in the same fresh thread as `namespaces.create`, after it: on cgroup v1 the thread itself moves to the
    cgroups, because that is where its children are born. Returns when the holder has given up every privilege.

    Raises:
        errors.AcriError: it could not be started, confined or pinned; nothing is left.
    """
    doing = f"start the holder of pod sandbox {plan.sandbox_id}"
    try:
        pid = _launch(kernel, plan)
    except OSError as error:
        raise host_error(doing, error) from error
    try:
        holder = Holder(pid, _stat(pid)[1])
        if plan.oom_score_adj is not None:
            _set_oom_score_adj(kernel, pid, plan.oom_score_adj)
        if plan.pin:
            # The pid cannot be another process: the holder is our child and nobody has reaped it.
            namespaces.pin(kernel, f"/proc/{pid}/ns/pid", plan.pin, "pid")
    except BaseException as error:
        _kill_child(pid)
        if isinstance(error, OSError):
            raise host_error(doing, error) from error
        raise
    return holder


def alive(holder: HolderLike) -> bool:
    """Whether this very process lives (a zombie does not)."""
    try:
        state, start_time = _stat(holder.pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return start_time == holder.start_time and state not in "ZXx"


def find(sandbox_id: str) -> Holder | None:
    """The living holder of a sandbox whose record does not name it: acri died between starting and recording it.

    A name in a command line proves nothing, so it also has to be PID 1 of a PID namespace, run as the holder's user
    under a seccomp filter, and be the very program. Reads all of /proc.
    """
    command = f"acri-holder\0{sandbox_id}\0".encode()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if file.read(len(command) + 1) != command:
                    continue
            state, start_time = _stat(int(name))
            if state not in "ZXx" and _is_confined_holder(name):
                return Holder(int(name), start_time)
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # it ended, or belongs to another world
            continue
    return None


def _is_confined_holder(pid: str) -> bool:
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        status = {key: value.split() for key, _, value in (line.partition(":") for line in file)}
    program = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    return (
        len(status["NSpid"]) > 1
        and status["NSpid"][-1] == "1"
        and set(status["Uid"]) == {str(_HOLDER_ID)}
        and status["Seccomp"] == ["2"]
        and (program == "/memfd:acri-holder" or program == program_path())
    )


def pidfd(kernel: Kernel, holder: HolderLike) -> int:
    """A pidfd for this very process, readable when it is dead. The caller closes it.

    Raises:
        errors.NotFound: it is gone, or its pid belongs to another process now.
    """
    gone = errors.NotFound(f"the holder with pid {holder.pid} is gone")
    try:
        fd = kernel.pidfd_open(holder.pid)
    except ProcessLookupError:
        raise gone from None
    except OSError as error:
        raise host_error(f"watch the holder with pid {holder.pid}", error) from error
    try:
        # First the fd, then the start time: a successor with this pid has a later one, and then this fails; if the
        # time is right, the process was there before and after the fd was made, so the fd is its.
        if _stat(holder.pid)[1] == holder.start_time:
            return fd
    except (FileNotFoundError, ProcessLookupError):
        pass
    os.close(fd)
    raise gone


def reap(fd: int) -> None:
    """Take the dead holder's zombie away if it is our child; call it when its pidfd is readable. Never blocks."""
    try:
        os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:  # init's child by now, or reaped already
        pass


def stop(kernel: Kernel, holder: HolderLike, timeout: float = 10.0) -> None:
    """Kill the holder and with it everything in its PID namespace, wait for its end, reap it. Gone already is fine.

    Raises:
        errors.DeadlineExceeded: `timeout` seconds were not enough (a process in the namespace hangs in the kernel).
    """
    try:
        fd = pidfd(kernel, holder)
    except errors.NotFound:
        return
    try:
        try:
            kernel.pidfd_send_signal(fd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        except OSError as error:
            raise host_error(f"kill the holder with pid {holder.pid}", error) from error
        if not _readable(fd, timeout):
            raise errors.DeadlineExceeded(
                f"the holder with pid {holder.pid} was killed but did not end within {timeout:g} s: "
                "a process of its PID namespace hangs in the kernel"
            )
        reap(fd)
    finally:
        os.close(fd)


def _stat(pid: int) -> tuple[str, int]:
    """State letter and start time of a process; FileNotFoundError or ProcessLookupError if there is none."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The name in parentheses may contain anything, also parentheses and blanks.
        fields = file.read().rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[19])


def _readable(fd: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def _program() -> str:
    """A path that runs the program: of the sealed memfd that is made once in acri's life, else of the file."""
    global _program_fd
    with _program_lock:
        if _program_fd < 0:
            path = program_path()
            try:
                _program_fd = _sealed_copy(Path(path).read_bytes())
            except PermissionError:
                return path
        return f"/proc/self/fd/{_program_fd}"


def _sealed_copy(program: bytes) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        writable = os.memfd_create("acri-holder", flags | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        writable = os.memfd_create("acri-holder", flags)  # Linux before 6.3 knows no such flag and always allows it
    try:
        os.write(writable, program)
        fcntl.fcntl(writable, _F_ADD_SEALS, _SEAL_ALL)
        # A file that is open for writing cannot be executed (ETXTBSY), so it is opened again.
        return _high(os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC))
    finally:
        os.close(writable)


def _launch(kernel: Kernel, plan: HolderPlan) -> int:
    """The pid of a confined holder in its cgroup; OSError and errors.* if there is none."""
    unified = [path for path in plan.cgroups if not os.path.exists(f"{path}/tasks")]
    for path in plan.cgroups:
        if path not in unified:
            # "0" is the writing thread, and moving one's own thread costs no grace period (cgroup-v1's tasks file).
            kernel.write_file(f"{path}/tasks", "0")
    if len(unified) > 1:
        raise OSError(errno.EINVAL, f"more than one cgroup v2 directory: {unified}")
    ours: list[int] = []
    try:
        ours.extend(_high(fd) for fd in os.pipe())
        if unified:
            ours.append(_high(os.open(unified[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)))
        launcher = _spawn(plan.sandbox_id, *ours[1:])
        os.close(ours.pop(1))
        pid, born_in_cgroup = _await_reports(ours[0], launcher)
    finally:
        for fd in ours:
            os.close(fd)
    if unified and not born_in_cgroup:
        try:
            kernel.write_file(f"{unified[0]}/cgroup.procs", str(pid))
        except OSError:
            _kill_child(pid)
            raise
    return pid


def _high(fd: int) -> int:
    """The same open file at a number above the standard streams, which `_spawn` arranges."""
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def _spawn(sandbox_id: str, report: int, cgroup: int = -1) -> int:
    actions: list[tuple[int, ...]] = [(os.POSIX_SPAWN_DUP2, report, 0)]
    actions.append((os.POSIX_SPAWN_DUP2, cgroup, 1) if cgroup >= 0 else (os.POSIX_SPAWN_CLOSE, 1))
    actions.append((os.POSIX_SPAWN_CLOSE, 2))
    for attempt in range(20):
        try:
            return os.posix_spawn(
                _program(), ("acri-holder", sandbox_id), {"ACRI_LAUNCH": "1"}, file_actions=actions, setsigmask=()
            )
        except OSError as error:
            # Another thread's child may hold the memfd's writable side for the moment between its fork and exec.
            if error.errno != errno.ETXTBSY or attempt == 19:
                raise
            time.sleep(0.005)
    raise AssertionError("unreachable")


def _await_reports(fd: int, launcher: int) -> tuple[int, bool]:
    """What the program reported up to the end of its pipe: the holder's pid, and whether it was born in its cgroup.

    Raises errors.* if that is anything but success; then neither process is left.
    """
    deadline = time.monotonic() + _START_TIMEOUT_S
    data = b""
    timely = True
    while timely := _readable(fd, max(0.0, deadline - time.monotonic())):
        piece = os.read(fd, 256)
        if not piece:
            break
        data += piece
    whole = len(data) // _REPORT.size * _REPORT.size
    reports = [(chr(kind), step, value) for kind, step, _, value in _REPORT.iter_unpack(data[:whole])]
    born = next(((value, step == 1) for kind, step, value in reports if kind == "P"), None)
    _kill_child(launcher)  # it has said what it had to say
    if timely and born and sorted(kind for kind, _, _ in reports) == ["P", "R"]:
        return born
    if born:
        _kill_child(born[0])
    failed = next(((step, value) for kind, step, value in reports if kind == "E"), None)
    if failed:
        raise host_error(f"holder, {_STEPS.get(failed[0], failed[0])}", OSError(failed[1], os.strerror(failed[1])))
    if not timely:
        raise errors.DeadlineExceeded(f"the holder was not ready within {_START_TIMEOUT_S:g} s")
    raise errors.UnknownError("the holder died while it started")


def _kill_child(pid: int) -> None:
    """Kill and reap an unreaped child of ours (so the pid is certainly its)."""
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def _set_oom_score_adj(kernel: Kernel, pid: int, value: int) -> None:
    try:
        kernel.write_file(f"/proc/{pid}/oom_score_adj", str(value))
    except PermissionError:  # lower than acri's own without CAP_SYS_RESOURCE: it keeps what it inherited
        pass
