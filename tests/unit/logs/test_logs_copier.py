# SPDX-License-Identifier: Apache-2.0
"""The copy from FIFO to file: kills at every line, full disks, planted files, torn files, lost FIFOs."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from acri import errors
from acri.aio import fifo
from acri.host.kernel import LinuxKernel
from acri.logs.copier import Copier, Status
from acri.logs.file import LogFile, open_error
from acri.logs.format import Tail, format_time, parse_records, rejoin
from acri.logs.mark import Block, Mark
from acri.logs.scratch import ScratchPool

PROJECT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("scenario", "stride"),
    [
        ("short", 2),
        ("short-rotate", 3),
        ("same", 1),
        ("long", 13),
        ("long-rotate", 17),
        ("short-torn", 1),
        ("long-torn", 1),
        ("short-torn-rotate", 1),
    ],
)
def test_killed_at_every_line(tmp_path: Path, scenario: str, stride: int) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("kill_sweep.py")), str(tmp_path), scenario, str(stride)],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= (0 if "torn" in scenario else 40)


def make_copier(log: Path | None, mark: Path | None) -> Copier:
    return Copier("c", str(log) if log else None, str(mark) if mark else None, LinuxKernel().tee, ScratchPool())


def test_full_disk_keeps_whole_lines_and_loses_nothing(tmp_path: Path, small_disk: Path, fifos: dict[str, str]) -> None:
    log = small_disk / "log"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(208 * 1024))
    copier = make_copier(log, tmp_path / "mark")
    copier.attach("stdout", fifos["stdout"])
    copier.open()
    writer = fifo.open_writer(fifos["stdout"])
    data = b"".join(b"line %05d of a container's output\n" % i for i in range(1500)) + b"x" * 20_000 + b"\nend"
    assert os.write(writer, data) == len(data)
    os.close(writer)

    for _ in range(3):  # each try leaves the file at a line's end and takes nothing out of the FIFO
        step = copier.step("stdout", ending=True)
        assert step.status is Status.STALLED
        assert step.error is not None
        assert step.error.errno == errno.ENOSPC
        assert data.startswith(rejoin(parse_records(log.read_bytes()))["stdout"])
    assert log.stat().st_size > 0

    log.rename(small_disk / "log.1")  # rotation on a full disk, in the middle of a block
    copier.reopen(at_line_end=False)
    assert copier.step("stdout", ending=True).status is Status.STALLED
    old = (small_disk / "log.1").read_bytes()
    ballast.unlink()
    step = copier.step("stdout", ending=True, want_chunks=True)
    assert step.status is Status.EOF
    assert b"".join(chunk for _, chunk in step.chunks) == data
    copier.close()
    records = [*parse_records(old), *parse_records(log.read_bytes())]
    assert rejoin(records)["stdout"] == data
    assert [r.time_ns for r in records] == sorted(r.time_ns for r in records)


def test_log_directory_gone_and_back(tmp_path: Path, fifos: dict[str, str]) -> None:
    copier = make_copier(tmp_path / "logs" / "0.log", tmp_path / "mark")
    copier.attach("stdout", fifos["stdout"])
    with pytest.raises(FileNotFoundError):
        copier.open()
    writer = fifo.open_writer(fifos["stdout"])
    os.write(writer, b"kept\n")
    assert copier.step("stdout").status is Status.STALLED
    (tmp_path / "logs").mkdir()
    assert copier.step("stdout").status is Status.EMPTY
    assert rejoin(parse_records((tmp_path / "logs" / "0.log").read_bytes()))["stdout"] == b"kept\n"
    os.close(writer)
    copier.close()


def test_fifo_content_lost_between_two_lives(tmp_path: Path) -> None:
    """Nobody held the FIFO: what was written of the block stays, as whole lines, and the copy goes on."""
    paths = fifo.make(str(tmp_path / "io"), ["stdout"])
    log, mark_path = tmp_path / "log", tmp_path / "mark"
    log.write_bytes(b"2024-01-01T00:00:00.000000000Z stdout F old\n")
    size = log.stat().st_size
    status = log.stat()
    mark = Mark(str(mark_path))
    mark["stdout"].begin(Block(status.st_dev, status.st_ino, size, 0, 500, 300, 1, 7), Tail(b"rest"), 10)
    mark.close()
    with log.open("ab") as file:
        file.write(b"2024-01-01T00:00:01.000000000Z stdout F whole\n2024-01-01T00:00:01.0000")
    copier = make_copier(log, mark_path)
    copier.attach("stdout", paths["stdout"])
    copier.open()
    writer = fifo.open_writer(paths["stdout"])
    os.write(writer, b"new\n")
    os.close(writer)
    assert copier.step("stdout", ending=True).status is Status.EOF
    copier.close()
    contents = [r.content for r in parse_records(log.read_bytes())]
    assert contents == [b"old", b"whole", b"restnew"]


def test_intent_of_a_stream_that_is_gone(tmp_path: Path, fifos: dict[str, str]) -> None:
    log, mark_path = tmp_path / "log", tmp_path / "mark"
    log.write_bytes(b"2024-01-01T00:00:01.0000")
    mark = Mark(str(mark_path))
    mark["stderr"].begin(Block(log.stat().st_dev, log.stat().st_ino, 0, 0, 500, 300, 1, 7), Tail(), 10)
    mark.close()
    copier = make_copier(log, mark_path)
    copier.attach("stdout", fifos["stdout"])
    copier.open()
    assert log.read_bytes() == b""
    copier.close()


@pytest.mark.parametrize("plant", ["symlink", "dangling", "fifo", "directory", "socket"])
def test_planted_files_are_refused(tmp_path: Path, plant: str) -> None:
    victim, path = tmp_path / "victim", tmp_path / "0.log"
    victim.write_bytes(b"secret\n")
    match plant:
        case "symlink":
            path.symlink_to(victim)
        case "dangling":
            path.symlink_to(tmp_path / "nowhere")
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)
    with pytest.raises(OSError) as caught:  # noqa: PT011
        LogFile.open(str(path)).close()
    error = open_error(caught.value, str(path))
    assert isinstance(error, errors.FailedPrecondition), error
    assert "not a regular file" in error.message
    assert victim.read_bytes() == b"secret\n"
    assert not (tmp_path / "nowhere").exists()


def test_mode_and_append(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    before = os.umask(0o077)
    try:
        LogFile.open(str(path)).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.write_bytes(b"2024-01-01T00:00:00Z stdout F a\n")
    file = LogFile.open(str(path))
    file.append([b"12345", b"678\n"], 5)
    file.close()
    assert path.read_bytes() == b"2024-01-01T00:00:00Z stdout F a\n678\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b"2024-01-01T00:00:00Z stdout F a\n", b"2024-01-01T00:00:00Z stdout F a\n"),
        (b"2024-01-01T00:00:00Z stdout F a\n2024-01", b"2024-01-01T00:00:00Z stdout F a\n"),
        (b"2024-01-01T00:00:00Z stdout F a", b"2024-01-01T00:00:00Z stdout F a\n"),
        (b"2024-01", b""),
        (b"2024-01-01T00:00:00Z stdout F a\n\0\0\0\0", b"2024-01-01T00:00:00Z stdout F a\n"),
        (b"z" * 100_000, b"z" * 100_000 + b"\n"),
    ],
)
def test_torn_files_are_mended(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(before)
    file = LogFile.open(str(path))
    assert file.mend() == (1704067200 * 10**9 if after[:4] == b"2024" else 0)
    file.close()
    assert path.read_bytes() == after


@pytest.mark.parametrize(("ahead_s", "followed"), [(3600, True), (10**10, False)])
def test_time_never_goes_back(tmp_path: Path, fifos: dict[str, str], ahead_s: int, followed: bool) -> None:
    log = tmp_path / "log"
    ahead = format_time(time.time_ns() + ahead_s * 10**9)
    log.write_bytes(ahead + b" stdout F from a clock that was wrong\n")
    copier = make_copier(log, None)
    copier.attach("stdout", fifos["stdout"])
    copier.open()
    writer = fifo.open_writer(fifos["stdout"])
    os.write(writer, b"now\n")
    assert copier.step("stdout").status is Status.EMPTY
    first, second = parse_records(log.read_bytes())
    assert (second.time_ns >= first.time_ns) == followed
    os.close(writer)
    copier.close()


def test_mark_remembers(tmp_path: Path) -> None:
    path = str(tmp_path / "mark")
    for rest in (b"", b"short", b"y" * 512, b"z" * 513, b"w" * 16_384):
        mark = Mark(path)
        assert mark["stderr"].tail == Tail()
        stdout = mark["stdout"]
        block = Block(2**40, 2**60, 2**50, 3, 4, 5, 2**62, 2**32 - 1)
        stdout.begin(block, Tail(rest, True), 0)
        stdout.done()
        stdout.begin(block, Tail(b"never"), 255)
        mark.close()

        mark = Mark(path)
        stdout = mark["stdout"]
        assert (stdout.intent, stdout.tail, stdout.dropped) == (block, Tail(rest, True), False)
        moved = Block(1, 2, 3, 4, 5, 6, 7, 8)
        stdout.move(moved)
        assert (stdout.intent, stdout.tail, stdout.dropped) == (moved, Tail(rest, True), False)
        stdout.witness[0] = 255
        assert stdout.dropped
        stdout.done()
        assert (stdout.intent, stdout.tail) == (None, Tail(b"never"))
        mark.close()


def test_a_file_that_is_no_mark_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    path.write_bytes(b"\xff" * 10_000)
    mark = Mark(str(path))
    assert mark["stdout"].tail == Tail()
    assert mark["stdout"].intent is None
    mark.close()
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        Mark(str(path))
