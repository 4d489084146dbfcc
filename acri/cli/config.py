# SPDX-License-Identifier: Apache-2.0
"""`acri config default|check`"""

from __future__ import annotations

import argparse
from pathlib import Path

from acri import config

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("default", help="Print every key with its meaning and its default, as TOML.")
    check = actions.add_parser("check", help="Read a configuration file and say whether it is right.")
    check.add_argument(
        "file", nargs="?", type=Path, default=config.DEFAULT_PATH, help="the file (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    if options.action == "default":
        print(config.default_toml(), end="")
        return 0
    config.load(options.file)
    print(f"{options.file}: ok")
    return 0
