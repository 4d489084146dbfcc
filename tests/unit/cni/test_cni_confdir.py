# SPDX-License-Identifier: Apache-2.0
"""The configuration directory: which file wins, and that every kind of change is seen (user-needs.md A22)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from acri.cni.confdir import ConfDir


def network(name: str, **changes: object) -> str:
    return json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": [{"type": "bridge"}]} | changes)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    directory = tmp_path / "net.d"
    directory.mkdir()
    return directory


def name_in(confs: ConfDir) -> str | None:
    config = confs.poll().config
    return None if config is None else config.name


def test_the_first_usable_file_by_name_wins_and_the_others_are_named(conf: Path) -> None:
    (conf / "05-note.txt").write_text("no configuration")
    (conf / "10-broken.conflist").write_text("{")
    (conf / "20-other.json").write_text('{"name": "x"}')
    (conf / "30-single.conf").write_text('{"cniVersion": "0.3.1", "name": "single", "type": "ptp"}')
    (conf / "40-list.conflist").write_text(network("late"))
    loaded = ConfDir(str(conf)).poll()
    assert loaded.config is not None
    assert loaded.config.name == "single"
    assert [complaint.split(":")[0] for complaint in loaded.complaints] == [
        f"CNI configuration {conf}/10-broken.conflist",
        f"CNI configuration {conf}/20-other.json",
    ]


def test_no_directory_no_files(conf: Path) -> None:
    assert "no *.conflist" in ConfDir(str(conf)).poll().complaints[0]
    missing = ConfDir(str(conf / "x"))
    assert missing.poll().complaints == (f"{conf}/x does not exist",)


def test_an_unchanged_directory_is_not_read_again(conf: Path) -> None:
    (conf / "a.conflist").write_text(network("a"))
    confs = ConfDir(str(conf))
    for _ in range(20):
        assert name_in(confs) == "a"
    assert confs.reloads == 1


def test_every_kind_of_change_is_seen(conf: Path, tmp_path: Path) -> None:
    confs = ConfDir(str(conf))
    assert name_in(confs) is None
    (conf / "b.conflist").write_text(network("created"))
    assert name_in(confs) == "created"
    other = tmp_path / "elsewhere"
    other.write_text(network("movedin"))
    os.utime(other, (1, 1))
    os.rename(other, conf / "a.conflist")
    assert name_in(confs) == "movedin"
    other.write_text(network("renamed"))
    os.replace(other, conf / "a.conflist")
    assert name_in(confs) == "renamed"
    (conf / "a.conflist").write_text(network("rewritten"))
    assert name_in(confs) == "rewritten"
    (conf / "a.conflist").unlink()
    assert name_in(confs) == "created"
    shutil.rmtree(conf)
    assert name_in(confs) is None
    conf.mkdir()
    (conf / "c.conflist").write_text(network("again"))
    assert name_in(confs) == "again"


def test_a_switched_symlink_is_seen(conf: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.conflist").write_text(network(name))
    conf.rmdir()
    conf.symlink_to(tmp_path / "one")
    confs = ConfDir(str(conf))
    assert name_in(confs) == "one"
    (tmp_path / "new").symlink_to(tmp_path / "two")
    os.replace(tmp_path / "new", conf)
    assert name_in(confs) == "two"


def test_the_folder_of_a_network_is_part_of_it(conf: Path) -> None:
    (conf / "a.conflist").write_text(network("a", cniVersion="1.1.0"))
    confs = ConfDir(str(conf))
    assert name_in(confs) == "a"
    (conf / "a").mkdir()
    (conf / "a" / "10.conf").write_text('{"type": "tuning"}')
    config = confs.poll().config
    assert config is not None
    assert [plugin.type for plugin in config.plugins] == ["bridge", "tuning"]
    (conf / "a" / "20.conf").write_text("{")
    assert confs.poll().config is None
    (conf / "a.conflist").write_text(network("a", loadOnlyInlinedPlugins=True))
    config = confs.poll().config
    assert config is not None
    assert [plugin.type for plugin in config.plugins] == ["bridge"]


def test_what_is_no_regular_file_does_not_hang_or_win(conf: Path) -> None:
    os.mkfifo(conf / "a.conflist")
    (conf / "b.conf").mkdir()
    (conf / "c.conf").symlink_to(conf / "nowhere")
    (conf / "d.conflist").write_text(network("d"))
    loaded = ConfDir(str(conf)).poll()
    assert loaded.config is not None
    assert loaded.config.name == "d"
    assert len(loaded.complaints) == 3
