# SPDX-License-Identifier: Apache-2.0
"""`acri demo` from end to end, plain and by rich, and after one that was killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest
from up_process import eventually

from acri.testing import process_table, rendezvous

DEMO = [sys.executable, "-m", "acri", "demo"]


def spawn() -> subprocess.Popen[str]:
    return subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


async def until_web_runs() -> subprocess.Popen[str]:
    process = spawn()
    assert process.stdout is not None
    while "web RUNNING" not in (line := await asyncio.to_thread(process.stdout.readline)):
        assert line
    return process


def test_all_of_it_is_true() -> None:
    done = subprocess.run(DEMO, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for seen in ("sandbox READY", "IP 10.", "web RUNNING", "line 2 of the second", "host demo, uid 0", "200 OK"):
        assert seen in done.stdout
    assert "All of it was true" in done.stdout


def test_without_rich() -> None:
    code = "import sys; sys.modules['rich'] = None; from acri.cli import report; report.make = report._Plain; " + (
        "from acri.cli import main; sys.exit(main(['demo']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "RunPodSandbox" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted(number: int) -> None:
    process = await until_web_runs()
    process.send_signal(number)
    out, _ = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode not in (0, None)
    assert "ok" in next(line for line in out.splitlines() if "acri up ended" in line)


async def test_the_next_one_cleans_up_after_one_that_was_killed() -> None:
    before = set(rendezvous.abandoned())
    process = await until_web_runs()
    process.kill()
    process.communicate()
    place = await eventually(lambda: next(iter(set(rendezvous.abandoned()) - before), None))
    assert process_table.find(place)
    test_all_of_it_is_true()
    assert process_table.find(place) == []
    assert not os.path.exists(place.directory)
