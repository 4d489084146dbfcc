# SPDX-License-Identifier: Apache-2.0
"""`acri up`: a private containerd and acri under one directory, in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

from acri.errors import ConfigError

__all__ = ["add_arguments", "run"]

_EPILOG = """\
Once it serves, it prints one line, `ready unix:///…/acri.sock`, on stdout; crictl -r and a kubelet's
--container-runtime-endpoint take that address. Logs are in DIR/logs. Ctrl-C or SIGTERM removes all pods and ends it; a
second one kills them instead. If it was killed itself, the next acri up with the same DIR removes what was left.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument("--dir", required=True, metavar="DIR", help="where all state is kept; made if it is not there")
    parser.add_argument("--containerd-bin", metavar="PATH", help="containerd to run (default: the first on PATH)")
    parser.add_argument("--certs-dir", metavar="DIR", help="registries: a certs.d directory of HOST/hosts.toml files")
    parser.add_argument(
        "--cni-conf-dir",
        metavar="DIR",
        help="CNI configurations to use (default: a bridge network of its own, with a free subnet)",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="configuration for acri; what says where things are is overridden"
    )


def run(options: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise ConfigError("must run as root: it makes namespaces, mounts and cgroups")
    from acri.cli import log

    log.setup("info", "auto")
    return asyncio.run(_up(options))  # not uvloop: it is slow at starting programs, and there is nothing to do here


async def _up(options: argparse.Namespace) -> int:
    # Imported late: `acri up --help` and mistakes answer at once.
    from acri.aio.tasks import TaskOwner
    from acri.testing.embedded import Embedded, Options

    embedded = Embedded(
        Options(options.dir, options.containerd_bin, options.certs_dir, options.cni_conf_dir, options.config)
    )
    ended = asyncio.Event()

    def on_signal() -> None:
        if ended.is_set():
            embedded.hurry()
        ended.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    tasks = TaskOwner()
    try:
        starting = tasks.spawn(embedded.start(), name="start", quiet=True)
        stopping = tasks.spawn(ended.wait(), name="wait for a signal", quiet=True)
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            _say(f"ready {embedded.address}")
            await stopping
    finally:
        await tasks.close()
        wrong = await embedded.stop()
    for line in wrong:
        print(f"acri up: {line}", file=sys.stderr)
    return 1 if wrong else 0


def _say(line: str) -> None:
    try:
        print(line, flush=True)
    except OSError:  # nobody reads stdout any more; the socket is there all the same
        pass
