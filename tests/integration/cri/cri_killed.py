# SPDX-License-Identifier: Apache-2.0
"""`acri serve` that kills itself with SIGKILL after the Nth step of an operation. Run by `test_cri_killed.py`.

python cri_killed.py OPERATION N CONFIG
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from acri import config
from acri.aio.operation import Operation
from acri.cli import log
from acri.daemon import Daemon


async def main(operation: str, number: int, path: str) -> None:
    daemon = Daemon(config.load(Path(path)))
    await daemon.start()
    left = number
    armed = Path(path).with_name("armed")

    async def on_step(running: Operation, step: str, when: str) -> None:
        nonlocal left
        if running.key[0] != operation or when != "after" or not armed.exists():
            return
        left -= 1
        if left == 0:
            print(f"killed after {operation}: {step}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    daemon.node.operations.on_step = on_step
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await daemon.stop()


if __name__ == "__main__":
    log.setup("info", "json")
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
