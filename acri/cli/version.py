# SPDX-License-Identifier: Apache-2.0
"""`acri version`"""

from __future__ import annotations

import argparse
import platform

import acri

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(options: argparse.Namespace) -> int:
    print(f"acri {acri.__version__} (CRI v1, Python {platform.python_version()})")
    return 0
