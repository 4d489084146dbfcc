# SPDX-License-Identifier: Apache-2.0
"""The `acri` command: one file per subcommand, imported only when it is the one that runs."""

from __future__ import annotations

import argparse
import importlib
import sys

import acri
from acri.errors import AcriError, ConfigError

__all__ = ["main"]

_COMMANDS = {
    "serve": "Serve CRI on a unix socket in front of containerd: the daemon, in the foreground.",
    "up": "Run a private containerd with acri in front of it under one directory: for demos and test clusters.",
    "demo": "Run a pod on a private acri, show each step with its time, and clean up.",
    "config": "Print the default configuration, or check a file.",
    "version": "Print the version.",
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; answers the exit code: 0 done, 1 failed, 2 a mistake in the command line."""
    parser = argparse.ArgumentParser(
        prog="acri",
        description="acri: a Kubernetes container runtime endpoint (CRI v1) over containerd's native API.",
        epilog="acri COMMAND --help tells more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"acri {acri.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    arguments = sys.argv[1:] if argv is None else argv
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    for name, text in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name == chosen:
            importlib.import_module(f"acri.cli.{name}").add_arguments(command)
    options = parser.parse_args(arguments)
    try:
        code: int = importlib.import_module(f"acri.cli.{options.command}").run(options)
    except (ConfigError, AcriError) as error:
        print(f"acri {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code
