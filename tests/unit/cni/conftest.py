# SPDX-License-Identifier: Apache-2.0
"""A network of small shell plugins that write down how they were called, run as real processes."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from acri.aio.process import Processes
from acri.aio.threads import Kind, Threads
from acri.cni.network import Networks

# Every call leaves <n>-<plugin>-<command>.{env,in}; a file <plugin>.<command> in `say` is run in place of the default.
SCRIPT = """#!/bin/sh
me=$(basename "$0")
mkdir "{log}/lock" 2>/dev/null || {{ echo overlap >> "{log}/overlaps"; }}
n=$(ls "{log}" | grep -c '\\.in$')
base="{log}/$(printf %03d "$n")-$me-$CNI_COMMAND"
env > "$base.env"
cat > "$base.in"
rmdir "{log}/lock" 2>/dev/null
if [ -e "{say}/$me.$CNI_COMMAND" ]; then . "{say}/$me.$CNI_COMMAND"; exit; fi
case $CNI_COMMAND in
ADD) printf '{{"ips":[{{"address":"10.9.8.7/24"}}]}}' ;;
VERSION) printf '{{"cniVersion":"1.0.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}}' ;;
esac
"""


@dataclass(frozen=True, slots=True)
class Call:
    plugin: str
    command: str
    env: dict[str, str]
    stdin: dict[str, Any]


class Scripted:
    """Directories of a host with scripted plugins."""

    def __init__(self, root: Path) -> None:
        self.conf, self.bin, self.cache, self.log, self.say = (
            root / name for name in ("net.d", "bin", "cache", "log", "say")
        )
        for path in (self.conf, self.bin, self.log, self.say):
            path.mkdir()

    def plugin(self, *names: str) -> None:
        for name in names:
            path = self.bin / name
            path.write_text(SCRIPT.format(log=self.log, say=self.say))
            path.chmod(0o755)

    def network(self, *plugins: str | dict[str, Any], file: str = "10.conflist", **changes: Any) -> None:
        listed = [{"type": item} if isinstance(item, str) else item for item in plugins]
        document = {"cniVersion": "1.0.0", "name": "net", "plugins": listed} | changes
        (self.conf / file).write_text(json.dumps(document))

    def answer(self, plugin: str, command: str, shell: str) -> None:
        (self.say / f"{plugin}.{command}").write_text(shell)

    def calls(self) -> list[Call]:
        found = []
        for path in sorted(self.log.glob("*.in")):
            _, plugin, command = path.stem.split("-")
            lines = path.with_suffix(".env").read_text().splitlines()
            env = dict(line.partition("=")[::2] for line in lines)
            found.append(Call(plugin, command, env, json.loads(path.read_text() or "null")))
        return found

    def order(self) -> list[str]:
        return [f"{call.plugin} {call.command}" for call in self.calls()]

    async def called(self) -> None:
        """Wait for the first call: a file that another process writes."""
        while not self.order():  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    def cached(self) -> list[str]:
        results = self.cache / "results"
        return sorted(path.name for path in results.iterdir()) if results.exists() else []


@pytest.fixture
def scripted(tmp_path: Path) -> Scripted:
    return Scripted(tmp_path)


@pytest.fixture
async def networks(scripted: Scripted) -> AsyncIterator[Networks]:
    threads = Threads()
    made = Networks(
        str(scripted.conf),
        [str(scripted.bin / "empty"), str(scripted.bin)],
        str(scripted.cache),
        run=Processes(threads).run,
        run_in_thread=functools.partial(threads.run, Kind.FILE),
        timeout=20,
        del_timeout=20,
    )
    yield made
    await made.close()
    threads.close()
