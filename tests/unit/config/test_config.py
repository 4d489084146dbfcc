# SPDX-License-Identifier: Apache-2.0
"""The configuration file: every mistake is one line with file and line number."""

from __future__ import annotations

from pathlib import Path

import pytest

from acri import config
from acri.errors import ConfigError


def test_the_printed_default_is_the_default():
    assert config.parse(config.default_toml()) == config.Settings()


def test_an_empty_file_is_the_default():
    assert config.parse("") == config.Settings()


def test_keys_are_read():
    settings = config.parse(
        """
        socket = "/run/x.sock"
        [cni]
        bin_dirs = ["/a", "/b"]
        timeout = 5
        [runtime]
        default_handler = "kata"
        [runtime.handlers.kata]
        type = "io.containerd.kata.v2"
        privileged_without_host_devices = true
        """
    )
    assert settings.socket == "/run/x.sock"
    assert settings.cni.bin_dirs == ("/a", "/b")
    assert settings.cni.timeout == 5.0
    assert settings.runtime.handlers["kata"].type == "io.containerd.kata.v2"
    assert settings.runtime.handlers["kata"].privileged_without_host_devices


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("socket = 1", r"f.toml:1: socket must be a string, not 1"),
        ("[log]\n\nlevle = 'x'", r"f.toml:3: unknown key 'log.levle'; known here: format, level"),
        ("[log]\nlevel = 'loud'", r"f.toml:2: log.level must be one of debug, info, warning, error, not 'loud'"),
        ("log.level = 7", r"f.toml:1: log.level must be a string, not 7"),
        ("[runtime.handlers.crun]\nbinary = 'crun'\nx = 2", r"f.toml:3: unknown key 'runtime.handlers.crun.x'"),
        ("[cni]\ntimeout = -1", r"f.toml:2: cni.timeout must be a number of seconds"),
        ("[images]\nmax_concurrent_downloads = 0", r"f.toml:2: images.max_concurrent_downloads must be a whole number"),
        ("[cni]\nbin_dirs = [1]", r"f.toml:2: cni.bin_dirs must be a string, not 1"),
        ("cni = 3", r"f.toml:1: cni must be a table"),
        ("runtime.handlers = 3", r"f.toml:1: runtime.handlers must be a table of tables"),
        ("[runtime]\ndefault_handler = 'kata'", r"f.toml: runtime.default_handler is 'kata', but there is no"),
        ("a", r"f.toml: not valid TOML: .*line 1|f.toml: not valid TOML"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, complaint: str):
    with pytest.raises(ConfigError, match=complaint) as caught:
        config.parse(text, "f.toml")
    assert "\n" not in str(caught.value)


def test_an_unreadable_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        config.load(tmp_path / "none.toml")
