# SPDX-License-Identifier: Apache-2.0
"""`acri serve`: the daemon in the foreground."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from acri import config
from acri.errors import AcriError, ConfigError

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
    """Serve until told to end. Answers nothing: the process ends here, once the daemon was started."""
    if os.geteuid() != 0:
        raise ConfigError("must run as root: it makes namespaces, mounts and cgroups")
    settings = _settings(options)
    # Imported late: `acri serve --help` and mistakes answer at once. The log first: see there.
    from acri.cli import log

    log.setup(settings.log.level, settings.log.format)

    import uvloop

    from acri.daemon import Daemon

    code = 1
    try:
        uvloop.run(Daemon(settings).run())
        code = 0
    except (AcriError, ConfigError) as error:
        print(f"acri serve: {error}", file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    _leave(code)


def _settings(options: argparse.Namespace) -> config.Settings:
    """The configuration, and what the command line changes of it."""
    settings = config.load(options.config)
    if options.socket is not None:
        if not options.socket:
            raise ConfigError("--socket is empty")
        settings = dataclasses.replace(settings, socket=os.path.abspath(options.socket))
    if options.log_level:
        settings = dataclasses.replace(settings, log=dataclasses.replace(settings.log, level=options.log_level))
    return settings


def _leave(code: int) -> NoReturn:
    """End the process without waiting for its threads.

    Python joins the threads of every pool before it exits (`concurrent.futures.thread`), and one that is stuck in the
    kernel (a mount source on a dead NFS server) never returns: systemd would wait out its stop timeout, at each update,
    for a daemon that has long ended in order. Whatever had to be written is written; what is left is to flush.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # nobody reads it any more, or it is closed
            pass
    os._exit(code)
