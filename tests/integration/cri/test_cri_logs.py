# SPDX-License-Identifier: Apache-2.0
"""The log that a kubelet reads: every byte of it parsed strictly, nothing lost (kubelet-cri.md 6, scripts 5 and 19)."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import datetime
from pathlib import Path

import pytest
from cri_client import Cri, eventually
from cri_lab import AcriProcess
from cri_pods import Pods, read_log, rejoin

from acri import errors

PIECE = 16 * 1024


async def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


async def test_streams_times_and_tags(pods: Pods) -> None:
    pod = await pods.run()
    started = time.time()
    status, lines = await pod.run("sh", "-c", "echo out; echo err >&2; echo; printf 'no end'")
    assert os.path.isabs(status.log_path)
    assert [(line.tag, line.content) for line in lines if line.stream == "stdout"] == [
        ("F", b"out"),
        ("F", b""),
        ("P", b"no end"),  # as containerd has it: what the line's end would have been is not known
    ]
    assert [(line.tag, line.content) for line in lines if line.stream == "stderr"] == [("F", b"err")]
    times = [datetime.fromisoformat(line.time[:26] + "+00:00").timestamp() for line in lines]
    assert all(line.time.endswith("Z") for line in lines)
    assert started - 1 <= min(times)
    assert max(times) <= time.time() + 1


async def test_a_log_without_output_exists(pods: Pods) -> None:
    pod = await pods.run()
    _, lines = await pod.run("true")
    assert lines == []


async def test_long_lines_are_cut_and_marked(pods: Pods) -> None:
    pod = await pods.run()
    lengths = (PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 7)
    script = "; ".join(f"head -c {length} /dev/zero | tr '\\0' x; echo" for length in lengths)
    _, lines = await pod.run("sh", "-c", script)
    assert rejoin(lines, "stdout") == b"".join(b"x" * length + b"\n" for length in lengths)
    assert max(len(line.content) for line in lines) == PIECE
    assert all(len(line.content) == PIECE for line in lines if line.tag == "P")


async def test_bytes_are_kept_as_they_are(pods: Pods) -> None:
    pod = await pods.run()
    _, lines = await pod.run("sh", "-c", r"printf '\000\377\r\t\033[1m\303\n'")
    assert rejoin(lines, "stdout") == b"\x00\xff\r\t\x1b[1m\xc3\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_a_megabyte_just_before_the_end(pods: Pods, stream: str) -> None:
    """Complete at the first look that sees EXITED."""
    pod = await pods.run()
    redirect = ">&2" if stream == "stderr" else ""
    _, lines = await pod.run("sh", "-c", f"yes 0123456789abcde | head -c 1048576 {redirect}")
    assert rejoin(lines, stream) == b"0123456789abcde\n" * 65536


async def test_many_writers_at_once(pods: Pods) -> None:
    pod = await pods.run()
    script = "for i in $(seq 2000); do echo out $i; echo err $i >&2; done"
    results = await asyncio.gather(*(pod.run("sh", "-c", script) for _ in range(4)))
    for _, lines in results:
        for stream in ("out", "err"):
            expected = b"".join(b"%s %d\n" % (stream.encode(), i) for i in range(1, 2001))
            assert rejoin(lines, f"std{stream}") == expected


async def test_rotation(cri: Cri, pods: Pods) -> None:
    """As the kubelet does it: rename, Reopen. No line lost, doubled or torn, and the old file is left alone."""
    pod = await pods.run()
    container_id = await pod.start("sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i; done")
    path = pod.log()
    parts: list[Path] = []
    for number in range(20):
        await eventually(lambda: _has_content(path))
        parts.append(path.rename(path.with_suffix(f".log.{number}")))
        await cri.reopen_log(container_id)
        assert path.exists()
        size = parts[-1].stat().st_size
        await asyncio.sleep(0.02)
        assert parts[-1].stat().st_size == size
    await cri.stop(container_id)
    written = [line for part in (*parts, path) for line in rejoin(read_log(part), "stdout").splitlines()]
    assert len(written) > 20
    assert written == [b"line %d" % i for i in range(1, len(written) + 1)]


async def test_a_deleted_log_is_made_anew(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    container_id = await pod.start("sh", "-c", "while :; do echo x; sleep 0.05; done")
    await eventually(lambda: _has_content(pod.log()))
    pod.log().unlink()
    await cri.reopen_log(container_id)
    assert pod.log().exists()
    await eventually(lambda: _has_content(pod.log()))


async def test_reopening_what_does_not_run(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    created = await pod.create("true", name="created")
    exited = await pod.start("true", name="exited")
    await cri.exited(exited)
    for container_id in (created, exited):
        with pytest.raises(errors.FailedPrecondition):
            await cri.reopen_log(container_id)
    with pytest.raises(errors.NotFound):
        await cri.reopen_log("f" * 64)


async def test_a_reopen_that_fails_keeps_the_old_file(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    container_id = await pod.start("sh", "-c", "while :; do echo x; sleep 0.05; done")
    await eventually(lambda: _has_content(pod.log()))
    old = pod.log().rename(pod.log().with_suffix(".old"))
    pod.log().mkdir()
    with pytest.raises(errors.AcriError):
        await cri.reopen_log(container_id)
    size = old.stat().st_size

    async def grown() -> bool:
        return old.stat().st_size > size

    await eventually(grown)
    pod.log().rmdir()
    await cri.reopen_log(container_id)
    await eventually(lambda: _has_content(pod.log()))


async def test_without_a_log_directory_output_is_dropped(cri: Cri, pods: Pods, acri: AcriProcess) -> None:
    """As crictl does it: the container does not stop at a full pipe."""
    pod = await pods.run(log_directory="")
    container_id = await pod.create("sh", "-c", "yes | head -c 1000000", log_path="")
    await cri.start(container_id)
    status = await cri.exited(container_id)
    assert (status.exit_code, status.log_path) == (0, "")


async def test_a_log_directory_that_cannot_be_made(cri: Cri, pods: Pods, tmp_path: Path) -> None:
    """The start fails with the reason, and a new attempt may run."""
    (tmp_path / "file").touch()
    pod = await pods.run(log_directory=str(tmp_path / "file" / "below"))
    container_id = await pod.create("true")
    with pytest.raises(errors.AcriError, match=str(tmp_path / "file")):
        await cri.start(container_id)
    assert (await cri.container_status(container_id)).reason == "StartError"


async def test_a_child_that_holds_stdout_does_not_hold_the_exit(cri: Cri, pods: Pods, acri: AcriProcess) -> None:
    """In a shared PID namespace a child outlives its container's first process, up to the drain timeout."""
    from cri_pods import POD, options

    pod = await pods.run(namespaces=options(pid=POD))
    status, lines = await pod.run("sh", "-c", "sleep 300 & echo done")
    assert status.exit_code == 0
    assert rejoin(lines, "stdout") == b"done\n"
