# SPDX-License-Identifier: Apache-2.0
"""ContainerLog on a real loop, with real FIFOs and real writing processes."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from acri import errors
from acri.aio import fifo
from acri.logs import pump
from acri.logs.format import Stream, parse_records, rejoin
from acri.logs.pump import ContainerLog, LogKit

NewLog = Callable[[], ContainerLog]
PROJECT = Path(__file__).parents[3]

# Writes lines of random length, the same for the same seed: FIFO SEED BYTES LONGEST
WRITER = """
import os, random, sys
path, seed, size, longest = sys.argv[1], *map(int, sys.argv[2:5])
rng, fd = random.Random(seed), os.open(path, os.O_WRONLY)
noise = bytes(b for b in rng.randbytes(longest * 2) if b != 10)
while size > 0:
    line = noise[:min(int(longest ** rng.random()), size) - 1] + b"\\n"
    size -= len(line)
    view = memoryview(line)
    while view:
        view = view[os.write(fd, view):]
"""


def expected(seed: int, size: int, longest: int) -> bytes:
    """What WRITER writes."""
    rng = random.Random(seed)
    noise = bytes(b for b in rng.randbytes(longest * 2) if b != 10)
    lines = []
    while size > 0:
        lines.append(noise[: min(int(longest ** rng.random()), size) - 1] + b"\n")
        size -= len(lines[-1])
    return b"".join(lines)


async def start(log: ContainerLog, fifos: dict[str, str]) -> None:
    await log.attach("stdout", fifos["stdout"])
    await log.attach("stderr", fifos["stderr"])
    await log.open()


def spawn(code: str, *args: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)])


def background_child(stdout: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"], stdout=stdout)


async def wait(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        assert await asyncio.to_thread(process.wait) == 0


def read(*paths: Path) -> dict[Stream, bytes]:
    records = [record for path in paths for record in parse_records(path.read_bytes(), 16 * 1024)]
    assert [r.time_ns for r in records] == sorted(r.time_ns for r in records)
    return rejoin(records)


async def test_64_mib_of_random_lines(tmp_path: Path, fifos: dict[str, str], new_log: NewLog) -> None:
    log = new_log()
    await start(log, fifos)
    size = 32 * 2**20
    await wait(
        spawn(WRITER, fifos["stdout"], 1, size, 5_000),
        spawn(WRITER, fifos["stderr"], 2, size, 100_000),
    )
    assert await log.drain(60)
    joined = read(tmp_path / "0.log")
    for stream, seed, longest in (("stdout", 1, 5_000), ("stderr", 2, 100_000)):
        wanted = expected(seed, size, longest)
        assert len(joined[stream]) == len(wanted)
        assert hashlib.sha256(joined[stream]).digest() == hashlib.sha256(wanted).digest()


async def test_many_writers_of_one_stream(tmp_path: Path, fifos: dict[str, str], new_log: NewLog) -> None:
    log = new_log()
    await start(log, fifos)
    code = (
        "import os, sys\nfd, name = os.open(sys.argv[1], 1), sys.argv[2].encode()\n"
        "for i in range(3000): os.write(fd, b'%s %05d\\n' % (name, i))"
    )
    shim = fifo.open_writer(fifos["stdout"])
    await wait(*(spawn(code, fifos["stdout"], name) for name in "abcd"))
    os.close(shim)
    assert await log.drain(30)
    lines = read(tmp_path / "0.log")["stdout"].splitlines()
    assert sorted(lines) == sorted(b"%c %05d" % (name, i) for name in b"abcd" for i in range(3000))


async def test_pieces_of_a_line_stand_together(tmp_path: Path, fifos: dict[str, str], new_log: NewLog) -> None:
    log = new_log()
    await start(log, fifos)
    out, err = (fifo.open_writer(fifos[name]) for name in ("stdout", "stderr"))
    os.write(out, b"a" * 40_000)
    await asyncio.sleep(0.05)
    os.write(err, b"between\n")
    await asyncio.sleep(0.05)
    os.write(out, b"b\n")
    os.close(out)
    os.close(err)
    assert await log.drain(10)
    records = list(parse_records((tmp_path / "0.log").read_bytes()))
    assert [(r.stream, r.partial) for r in records] == [
        ("stdout", True),
        ("stdout", True),
        ("stdout", False),
        ("stderr", False),
    ]


async def test_a_line_that_never_ends_does_not_hold_up_the_other_stream(
    tmp_path: Path, fifos: dict[str, str], new_log: NewLog
) -> None:
    log = new_log()
    await start(log, fifos)
    out, err = (fifo.open_writer(fifos[name]) for name in ("stdout", "stderr"))
    seen = asyncio.Event()
    log.subscribe(lambda stream, data: seen.set() if stream == "stderr" else None)
    os.write(out, b"a" * 40_000)
    await asyncio.sleep(0.02)
    os.write(err, b"between\n")
    await asyncio.wait_for(seen.wait(), 10)
    assert read(tmp_path / "0.log")["stderr"] == b"between\n"
    os.close(out)
    os.close(err)


async def test_rotation_under_a_writer(tmp_path: Path, fifos: dict[str, str], new_log: NewLog) -> None:
    log = new_log()
    await start(log, fifos)
    size = 24 * 2**20
    writers = [spawn(WRITER, fifos[name], seed, size, 3_000) for name, seed in (("stdout", 5), ("stderr", 6))]
    path = tmp_path / "0.log"
    rotated: list[Path] = []
    sizes: list[int] = []
    for number in range(50):
        rotated.append(path.rename(tmp_path / f"0.log.{number:02}"))
        await log.reopen()
        assert path.exists()
        sizes.append(rotated[-1].stat().st_size)
        await asyncio.sleep(0.01)
    await wait(*writers)
    assert await log.drain(60)
    assert [old.stat().st_size for old in rotated] == sizes, "something was written to a file after its rotation"
    for old in rotated:
        records = list(parse_records(old.read_bytes()))
        assert not records or not records[-1].partial
    joined = read(*rotated, path)
    assert joined == {"stdout": expected(5, size, 3_000), "stderr": expected(6, size, 3_000)}


async def test_reopen_in_odd_moments(tmp_path: Path, fifos: dict[str, str], new_log: NewLog) -> None:
    log = new_log()
    with pytest.raises(errors.FailedPrecondition):
        await log.reopen()
    await start(log, fifos)
    path = tmp_path / "0.log"
    out, err = (fifo.open_writer(fifos[name]) for name in ("stdout", "stderr"))
    os.write(out, b"z" * 20_000)  # a line that is open in the file, and never ends
    await asyncio.sleep(0.05)
    path.unlink()
    await log.reopen()
    assert path.exists()
    await log.reopen()  # nothing was renamed
    path.unlink()
    path.symlink_to(tmp_path / "victim")
    with pytest.raises(errors.FailedPrecondition):
        await log.reopen()
    assert not (tmp_path / "victim").exists()
    path.unlink()
    await log.reopen()
    os.close(out)
    os.close(err)
    assert await log.drain(10)
    await log.reopen()  # after the end of both streams
    assert read(path)["stdout"] == b"z" * (20_000 - 16_384)
    await log.close()
    with pytest.raises(errors.FailedPrecondition):
        await log.reopen()


async def test_an_early_empty_read_is_not_the_end(tmp_path: Path, fifos: dict[str, str], new_log: NewLog) -> None:
    log = new_log()
    ended: list[Stream] = []
    log.subscribe(lambda stream, data: None if data else ended.append(stream))
    await start(log, fifos)
    await asyncio.sleep(0.05)
    assert ended == []
    shim_writer = fifo.open_writer(fifos["stdout"])
    shim_reader = fifo.open_reader(fifos["stdout"])
    container = fifo.open_writer(fifos["stdout"])
    os.write(container, b"one\n")
    os.close(container)
    await asyncio.sleep(0.05)
    assert ended == []  # the shim still holds its end
    os.write(shim_writer, b"two")
    os.close(shim_writer)
    os.close(shim_reader)
    await asyncio.sleep(0.1)
    assert ended == ["stdout"]
    assert (tmp_path / "0.log").read_bytes().endswith(b" stdout P two\n")
    assert await log.drain(10)  # stderr never had a writer
    assert sorted(ended) == ["stderr", "stdout"]


async def test_drain_is_bounded_by_a_background_child(tmp_path: Path, fifos: dict[str, str], new_log: NewLog) -> None:
    log = new_log()
    await start(log, fifos)
    writer = fifo.open_writer(fifos["stdout"])
    holder = background_child(writer)
    try:
        os.write(writer, b"line\nprompt> ")
        os.close(writer)
        assert not await log.drain(0.3)
        assert read(tmp_path / "0.log")["stdout"] == b"line\nprompt> "
        assert await log.drain(0.3)  # now it is over
    finally:
        holder.kill()
        holder.wait()


async def test_restart_finds_what_was_written_meanwhile(tmp_path: Path, fifos: dict[str, str], new_log: NewLog) -> None:
    first = new_log()
    await start(first, fifos)
    writer = fifo.open_writer(fifos["stdout"])
    os.write(writer, b"before, half")
    await asyncio.sleep(0.05)
    await first.close()
    os.write(writer, b" after\nlast words")
    os.close(writer)  # the container ends while acri is away; the holder keeps the FIFO
    second = new_log()
    await second.attach("stdout", fifos["stdout"])
    await second.attach("stderr", fifos["stderr"])
    await second.open(recovering=True)
    assert await second.drain(10)
    assert read(tmp_path / "0.log")["stdout"] == b"before, half after\nlast words"


async def test_recovering_without_a_log_directory(
    kit: LogKit, tmp_path: Path, fifos: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "pod" / "0.log"
    log = ContainerLog(kit, "c", log_path=str(path), mark_path=str(tmp_path / "mark"))
    await log.attach("stdout", fifos["stdout"])
    with pytest.raises(errors.FailedPrecondition, match="No such file"):
        await log.open()
    await log.open(recovering=True)
    writer = fifo.open_writer(fifos["stdout"])
    os.write(writer, b"kept\n")
    await asyncio.sleep(0.05)
    path.parent.mkdir()
    await log.reopen()  # the kubelet's way; without it the next try comes by itself
    os.close(writer)
    assert await log.drain(10)
    assert read(path)["stdout"] == b"kept\n"
    await log.close()


async def test_full_disk_holds_the_writer_and_goes_on_by_itself(
    kit: LogKit, tmp_path: Path, small_disk: Path, fifos: dict[str, str]
) -> None:
    path, ballast = small_disk / "0.log", small_disk / "ballast"
    ballast.write_bytes(bytes(200 * 1024))
    log = ContainerLog(kit, "c", log_path=str(path), mark_path=str(tmp_path / "mark"))
    with capture_logs() as events:
        await start(log, fifos)
        size = 90_000
        writer = spawn(WRITER, fifos["stdout"], 21, size, 10_000)
        async with asyncio.timeout(30):
            while not events:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.4)  # a few tries
            ballast.unlink()
            await wait(writer)
            assert await log.drain(30)
        await log.close()
    assert read(path)["stdout"] == expected(21, size, 10_000)
    assert [event["log_level"] for event in events] == ["warning", "info"]


async def test_drain_gives_up_on_a_disk_that_stays_full(
    kit: LogKit, tmp_path: Path, small_disk: Path, fifos: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "LAST_STEP_S", 0.2)
    log = ContainerLog(kit, "c", log_path=str(small_disk / "0.log"), mark_path=str(tmp_path / "mark"))
    with capture_logs() as events:
        await start(log, fifos)
        (small_disk / "ballast").write_bytes(bytes(240 * 1024))
        writer = fifo.open_writer(fifos["stdout"])
        fifo.enlarge(writer)
        os.write(writer, b"0123456789\n" * 4_000)
        os.close(writer)
        assert not await log.drain(0.2)
        await log.close()
    assert [event["event"] for event in events if event["log_level"] == "warning"][-1] == "log output lost"
    assert set(read(small_disk / "0.log")["stdout"].splitlines()) <= {b"0123456789"}


async def test_no_log_path_consumes_and_publishes(kit: LogKit, fifos: dict[str, str]) -> None:
    log = ContainerLog(kit, "c", log_path=None, mark_path=None)
    await log.attach("stdout", fifos["stdout"])
    await log.open()
    got: list[tuple[Stream, bytes]] = []
    leave = log.subscribe(lambda stream, data: got.append((stream, data)))
    log.subscribe(lambda stream, data: 1 / 0)  # a broken one does not disturb the others
    size = 4 * 2**20
    await wait(spawn(WRITER, fifos["stdout"], 9, size, 1_000))
    await log.reopen()
    assert await log.drain(30)
    assert b"".join(data for _, data in got) == expected(9, size, 1_000)
    assert got[-1] == ("stdout", b"")
    leave()
    leave()
    await log.close()
    await log.close()


async def test_attach_refuses_what_is_no_fifo(tmp_path: Path, new_log: NewLog) -> None:
    (tmp_path / "plain").write_bytes(b"")
    with pytest.raises(errors.FailedPrecondition):
        await new_log().attach("stdout", str(tmp_path / "plain"))
    with pytest.raises(errors.FailedPrecondition):
        await new_log().attach("stdout", str(tmp_path / "missing"))


async def test_close_gives_all_descriptors_back(kit: LogKit, tmp_path: Path, fifos: dict[str, str]) -> None:
    async def life() -> None:
        log = ContainerLog(kit, "c", log_path=str(tmp_path / "0.log"), mark_path=str(tmp_path / "mark"))
        await start(log, fifos)
        assert log.fifo_fd("stdout") >= 0
        await log.drain(5)
        await log.close()

    await life()
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(20):
        await life()
    assert sorted(os.listdir("/proc/self/fd")) == before


# The pump in a process of its own, to be killed: FIFO LOG MARK
PUMP = """
import asyncio, functools, sys
from acri.aio.tasks import TaskOwner
from acri.aio.threads import Kind, Threads
from acri.host.kernel import LinuxKernel
from acri.logs.pump import ContainerLog, LogKit

async def main():
    kit = LogKit(functools.partial(Threads().run, Kind.LOG), LinuxKernel().tee, TaskOwner())
    log = ContainerLog(kit, "c", log_path=sys.argv[2], mark_path=sys.argv[3])
    await log.attach("stdout", sys.argv[1])
    await log.open(recovering=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


async def test_killed_again_and_again(tmp_path: Path, fifos: dict[str, str], new_log: NewLog) -> None:
    size, longest, rng = 48 * 2**20, 60_000, random.Random(7)
    writer = spawn(WRITER, fifos["stdout"], 11, size, longest)
    path = tmp_path / "0.log"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    start_pump = functools.partial(subprocess.Popen, env=environment)
    for _ in range(12):
        pump = start_pump([sys.executable, "-c", PUMP, fifos["stdout"], str(path), str(tmp_path / "log.mark")])
        had = path.stat().st_size if path.exists() else 0
        async with asyncio.timeout(30):
            while True:  # until it has come so far as to write
                if path.exists() and (path.stat().st_size != had or writer.poll() is not None):
                    break
                await asyncio.sleep(0.002)
        await asyncio.sleep(rng.random() * 0.03)
        pump.send_signal(signal.SIGKILL)
        await asyncio.to_thread(pump.wait)
    last = new_log()
    await last.attach("stdout", fifos["stdout"])
    await last.open(recovering=True)
    await wait(writer)
    assert await last.drain(60)
    assert read(path)["stdout"] == expected(11, size, longest)
