# SPDX-License-Identifier: Apache-2.0
"""`acri serve`: the daemon in the foreground."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

from acri import config
from acri.errors import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"configuration (default: {config.DEFAULT_PATH}, where it exists)"
    )
    parser.add_argument("--socket", metavar="PATH", help="serve CRI here instead of where the configuration says")
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), help="overrides the configuration"
    )


def run(options: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise ConfigError("must run as root: it makes namespaces, mounts and cgroups")
    settings = config.load(options.config)
    if options.socket:
        settings = dataclasses.replace(settings, socket=options.socket)
    if options.log_level:
        settings = dataclasses.replace(settings, log=dataclasses.replace(settings.log, level=options.log_level))
    # Imported late: `acri serve --help` and mistakes answer at once.
    import uvloop

    from acri.cli import log
    from acri.daemon import Daemon

    log.setup(settings.log.level, settings.log.format)
    uvloop.run(Daemon(settings).run())
    return 0
