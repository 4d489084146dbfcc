# SPDX-License-Identifier: Apache-2.0
"""A user's mistakes: one clear line on stderr, nothing on stdout, exit code 1, nothing left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from up_process import UpProcess

from acri.testing.place import Place


def up(*options: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "acri", *options], capture_output=True, text=True, timeout=60, check=False, **kwargs
    )


def mistake(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_not_root(tmp_path: Path) -> None:
    # Everything is imported first: the interpreter may lie where nobody but root can read.
    code = (
        "import os, sys, encodings.idna, gettext, locale, shutil, acri.cli, acri.cli.up, acri.cli.demo;"
        "os.setresuid(65534, 65534, 65534); sys.exit(acri.cli.main(sys.argv[1:]))"
    )
    for options in (["up", "--dir", str(tmp_path / "up")], ["demo"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *options],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert "must run as root" in mistake(done)


def test_containerd_that_is_not_there(tmp_path: Path) -> None:
    said = mistake(up("up", "--dir", str(tmp_path / "up"), "--containerd-bin", "/nonexistent/containerd"))
    assert "/nonexistent/containerd" in said
    missing = mistake(up("up", "--dir", str(tmp_path / "up"), env={"PATH": "/nonexistent"}))
    # Debian's containerd is found in /usr/bin only by PATH, so the remedy is named.
    assert "apt-get install containerd" in missing
    assert not (tmp_path / "up").exists()


def test_containerd_that_ends_at_once(tmp_path: Path) -> None:
    said = mistake(up("up", "--dir", str(tmp_path / "up"), "--containerd-bin", "/bin/false"))
    assert "containerd ended with code 1" in said


def test_no_cni_plugins(tmp_path: Path) -> None:
    config = tmp_path / "acri.toml"
    config.write_text(f'[cni]\nbin_dirs = ["{tmp_path}/none"]\n')
    said = mistake(up("up", "--dir", str(tmp_path / "up"), "--config", str(config)))
    assert "bridge, host-local, portmap" in said
    assert "apt-get install containernetworking-plugins" in said


def test_a_key_that_nobody_knows(tmp_path: Path) -> None:
    config = tmp_path / "acri.toml"
    config.write_text('[cni]\n\nbindirs = ["/x"]\n')
    assert f"{config}:3" in mistake(up("up", "--dir", str(tmp_path / "up"), "--config", str(config)))


def test_directories_that_are_none(tmp_path: Path) -> None:
    for option in ("--certs-dir", "--cni-conf-dir"):
        said = mistake(up("up", "--dir", str(tmp_path / "up"), option, str(tmp_path / "none")))
        assert f"{option} {tmp_path}/none is not a directory" in said
    (tmp_path / "file").write_text("")
    assert "cannot be made" in mistake(up("up", "--dir", str(tmp_path / "file" / "up")))


async def test_a_directory_in_use(ups: list[UpProcess], tmp_path: Path) -> None:
    first = UpProcess(tmp_path / "up")
    ups.append(first)
    await first.start()
    assert first.process is not None
    said = mistake(up("up", "--dir", str(tmp_path / "up")))
    assert f"in use by another acri up (pid {first.process.pid})" in said
    async with first.client() as client:
        assert (await client.call("Version")).runtime_name == "acri"
    assert await first.stop() == 0


def test_the_users_configuration_is_underneath(tmp_path: Path) -> None:
    from acri.testing.settings import acri_toml

    config = tmp_path / "acri.toml"
    config.write_text('socket = "/elsewhere"\nruntime_name = "mine"\n[cni]\nconf_dir = "/etc/x"\ntimeout = 7\n')
    _, settings = acri_toml(Place.at(tmp_path / "up"), user_file=config)
    assert (settings.socket, settings.runtime_name) == (str(tmp_path / "up" / "acri.sock"), "mine")
    assert (settings.cni.conf_dir, settings.cni.timeout) == (str(tmp_path / "up" / "cni" / "net.d"), 7)
    assert os.path.dirname(settings.state_dir) == str(tmp_path / "up" / "acri")
