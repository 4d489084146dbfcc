# SPDX-License-Identifier: Apache-2.0
"""How fast container output becomes a log: `python tests/perf/bench_logs.py [MiB]`.

A child writes lines into a FIFO by 64 KiB writes; the pump copies them to a file under --dir (default: a temporary
directory). Prints MiB/s of container output (in) and of log (out), and the daemon's CPU seconds per GiB in.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import subprocess
import sys
import tempfile
import time

import uvloop

from acri.aio import fifo
from acri.aio.tasks import TaskOwner
from acri.aio.threads import Kind, Threads
from acri.host.kernel import LinuxKernel
from acri.logs.pump import ContainerLog, LogKit

WRITER = """
import os, sys
line, size = int(sys.argv[2]), int(sys.argv[3])
fd = os.open(sys.argv[1], os.O_WRONLY)
block = (b"x" * (line - 1) + b"\\n") * max(1, 65536 // line)
left = size
while left > 0:
    left -= os.write(fd, block[:left])
"""


async def run(directory: str, line: int, size: int) -> tuple[float, float, float]:
    """One run: seconds, MiB of log, CPU seconds of this process."""
    threads, tasks = Threads(), TaskOwner()
    kit = LogKit(functools.partial(threads.run, Kind.LOG), LinuxKernel().tee, tasks)
    paths = fifo.make(os.path.join(directory, "io"), ["stdout"])
    path = os.path.join(directory, "0.log")
    container = ContainerLog(kit, "bench", log_path=path, mark_path=os.path.join(directory, "mark"))
    await container.attach("stdout", paths["stdout"])
    await container.open()
    used, start = time.process_time(), time.perf_counter()
    writer = subprocess.Popen([sys.executable, "-c", WRITER, paths["stdout"], str(line), str(size)])  # noqa: ASYNC220
    await asyncio.to_thread(writer.wait)
    assert await container.drain(60)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    written = (await asyncio.to_thread(os.stat, path)).st_size
    await container.close()
    kit.close()
    threads.close()
    for name in (path, os.path.join(directory, "mark")):
        os.unlink(name)
    fifo.remove(os.path.join(directory, "io"), ["stdout"])
    return seconds, written / 2**20, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mib", nargs="?", type=int, default=512)
    parser.add_argument("--dir", help="where the log goes (its file system is part of the figure)")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        for line in (100, 16 * 1024):
            runs = [uvloop.run(run(directory, line, options.mib * 2**20)) for _ in range(options.repeats)]
            seconds, written, used = min(runs)
            print(
                f"{line:6}-byte lines: {options.mib / seconds:7.0f} MiB/s in, {written / seconds:7.0f} MiB/s of log, "
                f"{used * 1024 / options.mib:.2f} CPU-s per GiB"
            )


if __name__ == "__main__":
    main()
