# SPDX-License-Identifier: Apache-2.0
"""The configuration file: every mistake is one line with file and line number."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from acri import config
from acri.errors import ConfigError


def test_the_printed_default_is_the_default():
    assert config.parse(config.default_toml()) == config.Settings()


def test_every_default_path_is_marked_as_one():
    def unmarked(settings: object) -> list[str]:
        found = []
        for spec in dataclasses.fields(settings):
            value = getattr(settings, spec.name)
            if dataclasses.is_dataclass(value):
                found += unmarked(value)
            elif not spec.metadata["path"]:
                texts = value if isinstance(value, tuple) else (value,)
                found += [spec.name for text in texts if isinstance(text, str) and text.startswith("/")]
        return found

    assert unmarked(config.Settings()) == []


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
        ("[cni]\n\ntimeout = nan", r"f.toml:3: cni.timeout must be a number of seconds, 0 to 1000000000, not nan"),
        ("[cni]\ntimeout = inf", r"f.toml:2: cni.timeout must be a number of seconds, .* not inf"),
        ("[cni]\ntimeout = -inf", r"f.toml:2: cni.timeout must be a number of seconds, .* not -inf"),
        ("[cni]\ntimeout = 1e300", r"f.toml:2: cni.timeout must be a number of seconds, .* not 1e\+300"),
        (f"[cni]\ntimeout = {'9' * 400}", r"f.toml:2: cni.timeout must be a number of seconds, .* not 99+…"),
        ("[runtime]\ndrain_timeout = nan", r"f.toml:2: runtime.drain_timeout must be a number of seconds"),
        ("[images]\npull_progress_timeout = inf", r"f.toml:2: images.pull_progress_timeout must be a number"),
        ("socket = 'acri.sock'", r"f.toml:1: socket must be an absolute path, not 'acri.sock'"),
        ("socket = ''", r"f.toml:1: socket must be an absolute path, not ''"),
        ("socket = 'unix:///run/acri.sock'", r"f.toml:1: socket must be an absolute path"),
        ("\nstate_dir = './run'", r"f.toml:2: state_dir must be an absolute path, not './run'"),
        ("root_dir = '~/acri'", r"f.toml:1: root_dir must be an absolute path"),
        ('root_dir = "/a\\u0000b"', r"f.toml:1: root_dir must be an absolute path"),
        ("[containerd]\naddress = 'containerd.sock'", r"f.toml:2: containerd.address must be an absolute path"),
        ("[cni]\nconf_dir = 'net.d'", r"f.toml:2: cni.conf_dir must be an absolute path"),
        ("[cni]\nnetns_dir = 'netns'", r"f.toml:2: cni.netns_dir must be an absolute path"),
        ("[cni]\ncache_dir = 'cni'", r"f.toml:2: cni.cache_dir must be an absolute path"),
        ("[cni]\nbin_dirs = ['/a', 'b']", r"f.toml:2: cni.bin_dirs must be an absolute path, not 'b'"),
        ("[images]\ncerts_dir = 'certs.d'", r"f.toml:2: images.certs_dir must be an absolute path"),
        ("a = " + "[" * 10000, r"f.toml: not valid TOML"),
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
