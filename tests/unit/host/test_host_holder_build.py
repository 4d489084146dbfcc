# SPDX-License-Identifier: Apache-2.0
"""The committed holder binaries are what their source makes, and what they are said to be."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

import acri.host

HERE = Path(acri.host.__file__).parent / "holder"
MACHINES = {"x86_64": 62, "aarch64": 183}  # elf.h: EM_*


@pytest.mark.parametrize("machine", MACHINES)
def test_small_static_and_without_writable_memory(machine: str) -> None:
    path = HERE / f"holder-{machine}"
    program = path.read_bytes()
    assert path.stat().st_mode & 0o111
    assert len(program) < 4096
    assert program[:6] == b"\x7fELF\x02\x01"
    kind, found = struct.unpack_from("<HH", program, 16)
    assert (kind, found) == (2, MACHINES[machine])
    offset, count = struct.unpack_from("<Q", program, 32)[0], struct.unpack_from("<H", program, 56)[0]
    segments = [struct.unpack_from("<II", program, offset + 56 * number) for number in range(count)]
    loaded = [flags for segment, flags in segments if segment == 1]
    assert loaded == [5], "one segment, readable and executable"
    assert all(segment != 3 for segment, _ in segments), "no interpreter"
    assert (0x6474E551, 6) in segments, "the stack is not executable"


def test_a_new_build_gives_the_same_bytes(tmp_path: Path) -> None:
    if not shutil.which("gcc"):
        pytest.skip("no compiler")
    version = subprocess.run(["gcc", "-dumpfullversion"], check=True, capture_output=True, text=True).stdout.strip()
    if version != "12.2.0":
        pytest.skip(f"the committed binaries are gcc 12.2.0's, this is {version}")
    built = subprocess.run(
        [str(HERE / "build.sh"), str(tmp_path)], check=True, capture_output=True, text=True
    ).stdout.split()
    assert built
    for name in built:
        assert (tmp_path / name).read_bytes() == (HERE / name).read_bytes(), name
