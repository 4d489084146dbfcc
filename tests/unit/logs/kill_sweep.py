# SPDX-License-Identifier: Apache-2.0
"""Kill the copier with SIGKILL at every line of its code, resume, compare: kill_sweep.py DIR SCENARIO [STRIDE].

For k = 1, 2, 3 …: a forked copier dies at its k-th line (a trace function counts), a second one resumes and dies at
some other line, a third one finishes. This process plays the shim and the fd store: it writes, and holds the FIFOs
open. What the log files hold then must be what was written, byte for byte. Ends when k lines no longer happen; prints
the number of kills. With `torn`, the first append takes only half of the bytes and dies, as a kill in write(2) can.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from acri.aio import fifo
from acri.host.kernel import LinuxKernel
from acri.logs import copier
from acri.logs.copier import Copier, Status
from acri.logs.format import STREAMS, Stream, parse_records, rejoin
from acri.logs.scratch import ScratchPool

copier.BLOCK = 20_000  # several blocks, and lines that go over their edges
TEE = LinuxKernel().tee
SHORT = {
    "stdout": [b"one\ntwo\nthr", b"ee\n\nfour\n" * 3, b"no newline"],
    "stderr": [b"x\n", b"", b"y\nz\n"],
}
# Bytes that cannot be told from those before them: only the witness knows whether they were dropped.
SAME = {"stdout": [b"again\n"] * 3, "stderr": [b"x\n"] * 3}
LONG = {
    "stdout": [b"a" * 30_000, b"b" * 9_000 + b"\nshort\n" + b"c" * 16_384 + b"\n", b"d" * 16_385 + b"\n"],
    "stderr": [b"e\n" * 3_000, b"f" * 700, b"\ng\n"],
}


def die_at(count: int) -> Callable[..., Any]:
    left = count

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if "/acri/logs/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def torn_append() -> None:
    writev = os.writev

    def half(fd: int, pieces: Any) -> int:
        data = b"".join(pieces)
        writev(fd, [data[: len(data) // 2]])
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    os.writev = half


def copy(root: Path, paths: dict[str, str], *, rotate_to: Path | None = None, ending: bool = False) -> None:
    log = root / "log"
    work = Copier("c", str(log), str(root / "mark"), TEE, ScratchPool())
    for stream in STREAMS:
        work.attach(stream, paths[stream])
    work.open()
    for stream in (*STREAMS, *STREAMS):
        wanted = Status.EOF if ending else Status.EMPTY
        while (step := work.step(stream, ending=ending)).status is not wanted:
            assert step.status is Status.MORE, step
        if rotate_to is not None:
            if log.exists():
                log.rename(rotate_to)
            work.reopen(at_line_end=False)
            rotate_to = None
    work.close()


def in_child(what: Callable[[], None]) -> bool:
    """Whether the child was killed."""
    pid = os.fork()
    if pid == 0:
        try:
            what()
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("the copier failed")
    return os.WIFSIGNALED(status)


def attempt(root: Path, scenario: str, count: int) -> bool:
    """One run; whether the first copier was killed."""
    output: dict[str, list[bytes]] = {"short": SHORT, "same": SAME, "long": LONG}[scenario.split("-")[0]]
    paths = fifo.make(str(root / "io"), STREAMS)
    readers = [fifo.open_reader(path) for path in paths.values()]
    writers = {name: fifo.open_writer(path) for name, path in paths.items()}
    for reader in readers:
        fifo.enlarge(reader)

    def write(part: int) -> None:
        for name, fd in writers.items():
            assert os.write(fd, output[name][part]) == len(output[name][part])

    def victim(lines: int, rotate_to: Path) -> None:
        if "torn" in scenario and lines == count:
            torn_append()
        else:
            sys.settrace(die_at(lines))
        copy(root, paths, rotate_to=rotate_to if "rotate" in scenario else None)

    write(0)
    killed = in_child(lambda: victim(count, root / "log.1"))
    write(1)
    in_child(lambda: victim(count * 31 % 251 + 1, root / "log.2"))
    write(2)
    for fd in writers.values():
        os.close(fd)
    copy(root, paths, ending=True)
    for fd in readers:
        os.close(fd)
    check(root, output, f"{scenario} {count}")
    return killed


def check(root: Path, output: dict[str, list[bytes]], what: str) -> None:
    records = []
    for name in ("log.1", "log.2", "log"):
        if (root / name).exists():
            records += list(parse_records((root / name).read_bytes(), 16_384))
    joined = rejoin(records)
    for name in STREAMS:
        assert joined[name] == b"".join(output[name]), f"{what}: {name} differs"
    assert [r.time_ns for r in records] == sorted(r.time_ns for r in records), f"{what}: times go back"
    check_pieces(records, "stdout", what)


def check_pieces(records: list[Any], stream: Stream, what: str) -> None:
    for record, after in itertools.pairwise([r for r in records if r.stream == stream]):
        assert not record.partial or len(record.content) == 16_384, f"{what}: a short piece"
        assert not record.partial or after.content, f"{what}: a line's end is missing"


def main() -> None:
    base, scenario, stride = Path(sys.argv[1]), sys.argv[2], int((*sys.argv, "1")[3])
    kills = 0
    for count in itertools.count(1, stride):
        root = base / str(count)
        root.mkdir()
        killed = attempt(root, scenario, count)
        shutil.rmtree(root)
        if not killed or "torn" in scenario:
            break
        kills += 1
    print(kills)


main()
