# SPDX-License-Identifier: Apache-2.0
"""What tests of the host share: fresh threads, a directory whose mounts go with the test."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from acri.host import mountinfo
from acri.host.kernel import LinuxKernel


def in_fresh_thread(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`fn` in a thread of its own that ends with it, as acri.aio does for whatever changes a namespace."""
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append((fn(*args, **kwargs), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


@pytest.fixture
def fresh() -> Callable[..., Any]:
    return in_fresh_thread


@pytest.fixture
def kernel() -> LinuxKernel:
    return LinuxKernel()


@pytest.fixture
def place(tmp_path: Path, kernel: LinuxKernel) -> Iterator[Path]:
    """A directory for pins and mounts; needs root. Whatever is still mounted below it is unmounted at the end."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    yield tmp_path
    for point in mountinfo.mounts_below(mountinfo.read(), str(tmp_path)):
        kernel.umount(point)
