# SPDX-License-Identifier: Apache-2.0
"""A container's directories and FIFOs."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from acri import config, errors
from acri.aio.threads import Threads
from acri.model.config import ContainerConfig, ContainerMetadata
from acri.model.container import Container, User
from acri.runtime import container_io
from acri.runtime.paths import Paths


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """The two parts of a node that are used here."""
    threads = Threads()
    settings = config.Settings(state_dir=str(tmp_path / "run"), root_dir=str(tmp_path / "lib"))
    yield SimpleNamespace(threads=threads, paths=Paths(settings))
    threads.close()


def container(**fields: bool) -> Container:
    made = ContainerConfig(ContainerMetadata("web"), **fields)
    return Container("c", "s", made, "", "", 1, "overlayfs", User(0, 0), 15)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, ["stderr", "stdout"]),
        ({"stdin": True}, ["stderr", "stdin", "stdout"]),
        ({"tty": True, "stdin": True}, ["stdin", "stdout"]),
    ],
)
async def test_fifos_are_made_and_may_be_made_again(
    node: SimpleNamespace, fields: dict[str, bool], names: list[str]
) -> None:
    wanted = container(**fields)
    paths = node.paths.container("c")
    for _ in range(2):
        await container_io.make_fifos(node, wanted)  # type: ignore[arg-type]
    assert sorted(os.listdir(paths.io)) == names
    assert all(stat.S_ISFIFO(os.lstat(f"{paths.io}/{name}").st_mode) for name in names)


async def test_what_is_in_the_way_is_named(node: SimpleNamespace, tmp_path: Path) -> None:
    paths = node.paths.container("c")
    os.makedirs(paths.io)
    Path(paths.io, "stdout").write_text("a file")
    with pytest.raises(errors.AcriError, match=f"{paths.io}/stdout: File exists"):
        await container_io.make_fifos(node, container())  # type: ignore[arg-type]
    shutil.rmtree(tmp_path / "lib")
    (tmp_path / "lib").write_text("a file")
    with pytest.raises(errors.AcriError, match=r"lib.*: Not a directory"):
        await container_io.make_fifos(node, container())  # type: ignore[arg-type]
